"""Options, with their ini and environment twins, settled once into `Settings`.

One stem, three spellings: ``--ds-timeout``, ``ds_timeout`` in the ini file, ``PYTEST_DS_TIMEOUT``.
A marker on the test wins over the command line, then the environment, the ini file, the default.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed import nodes
from pytest_deepspeed.processes import devices
from pytest_deepspeed.processes.devices import Capacity
from pytest_deepspeed.processes.launch import LAUNCHERS, Launch
from pytest_deepspeed.reporting import targets
from pytest_deepspeed.reporting.targets import Target
from pytest_deepspeed.values.errors import WorldSizeError
from pytest_deepspeed.values.finding import ITEMS
from pytest_deepspeed.values.world import BODY_BUDGET, World

#: What `--ds-require` can ask for.
REQUIREMENTS = ("exact", "cuda", "nvme", "slurm")

#: What ``--ds-workload`` takes beside a function: the trap model, whatever hooks there are.
TRAP = "trap"

#: How much ``--ds-effective`` shows.
EFFECTIVE = ("changes", "all")


def _positive_seconds(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise pytest.UsageError(
            f"{where}: seconds, more than 0, got {text!r}: {_example(where)}=60"
        )
    return seconds


def _integer(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise pytest.UsageError(
            f"{where}: a whole number, got {text!r}: {_example(where)}=0"
        ) from None


def _nodes(text: str, where: str) -> int:
    if not text.strip().isdecimal() or not int(text):
        raise pytest.UsageError(
            f"{where}: nodes must be a positive integer, got {text!r}: {_example(where)}=2"
        )
    return int(text)


def _world_size(text: str, _where: str) -> int | str:
    # What it may be at most depends on the nodes: see `settle`.
    return int(text) if text.strip().lstrip("-").isdecimal() else text


def _one_of(choices: tuple[str, ...]) -> Callable[[str, str], str]:
    def check(text: str, where: str) -> str:
        if text not in choices:
            raise pytest.UsageError(
                f"{where}: unknown value {text!r}: use one of {', '.join(choices)}"
            )
        return text

    return check


def _requirements(text: str, where: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    for name in sorted(names):
        _one_of(REQUIREMENTS)(name, where)
    return names


def _checks(text: str, where: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        _one_of(ITEMS)(name, where)
    return names


def _ref(text: str, where: str) -> str:
    if not text.strip() or text.startswith("-"):
        raise pytest.UsageError(
            f"{where}: a branch or a commit, got {text!r}: {_example(where)}=origin/main"
        )
    return text


def _data(text: str, where: str) -> str:
    from reference_training import datasource

    try:
        datasource.check(text)
    except datasource.DataError as error:
        raise pytest.UsageError(f"{where}: {error}") from None
    return text


def _workload(text: str, where: str) -> str:
    if text != TRAP and not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", text):
        raise pytest.UsageError(
            f"{where}: a function that returns a Workload, got {text!r}:"
            f" {_example(where)}=package.module:function"
        )
    return text


def _nvme_path(text: str, where: str) -> Path:
    from pytest_deepspeed.training import machine

    path = Path(text).expanduser().absolute()
    if problem := machine.not_swappable(path):
        raise pytest.UsageError(f"{where}: {problem}: give a writable directory on a local disk")
    return path


def _example(where: str) -> str:
    return where.split(" ", maxsplit=1)[0]


@dataclasses.dataclass(frozen=True)
class _Option:
    stem: str
    parse: Callable[[str, str], Any]
    default: Any
    metavar: str
    help: str
    repeated: bool = False

    @property
    def flag(self) -> str:
        return "--ds-" + self.stem.replace("_", "-")

    @property
    def ini(self) -> str:
        return f"ds_{self.stem}"

    @property
    def environment(self) -> str:
        return f"PYTEST_DS_{self.stem.upper()}"


OPTIONS = (
    _Option(
        "nodes",
        _nodes,
        None,
        "N",
        "nodes that ranks are spread over, those of the Slurm job that pytest runs in",
    ),
    _Option(
        "launcher",
        _one_of(LAUNCHERS),
        None,
        "|".join(LAUNCHERS),
        "what starts an agent on each of --ds-nodes: srun in a Slurm job (default), or this machine"
        " itself, which emulates them",
    ),
    _Option(
        "world_size",
        _world_size,
        None,
        "N",
        "ranks of every marked test, in place of the size in its marker",
    ),
    _Option(
        "device",
        _one_of(devices.DEVICES),
        "auto",
        "auto|cpu|cuda",
        "what ranks compute on; auto: CUDA where this process has a GPU",
    ),
    _Option(
        "backend",
        _one_of(devices.BACKENDS),
        "auto",
        "auto|gloo|nccl",
        "backend of the process groups; auto: nccl on CUDA, gloo on CPU",
    ),
    _Option(
        "timeout",
        _positive_seconds,
        BODY_BUDGET,
        "S",
        "seconds that fixtures, body and teardown of one test may take on its ranks"
        f" (default {BODY_BUDGET:g}; op builds do not count)",
    ),
    _Option(
        "data",
        _data,
        "synthetic",
        "DIR|digits|synthetic",
        "training images: a directory with cifar-10-batches-py, scikit-learn's handwritten digits,"
        " or a synthetic set (default)",
    ),
    _Option(
        "workload",
        _workload,
        "",
        "MODULE:FUNCTION|trap",
        "what checks train: a function that returns a pytest_deepspeed.Workload (default: what the"
        " hook pytest_ds_workload returns, else the trap model)",
    ),
    _Option(
        "nvme_path",
        _nvme_path,
        None,
        "DIR",
        "an existing directory for what is offloaded to NVMe (default: in the session's temporary"
        " directory)",
    ),
    _Option(
        "checks",
        _checks,
        (),
        "LIST",
        f"which checks of a config file run, comma-separated, of {', '.join(ITEMS)} (default: all)",
    ),
    _Option(
        "against",
        _ref,
        None,
        "REF",
        "run the tests of config files only where these, or the code and the settings that they"
        " depend on, differ from where HEAD and this branch or commit have parted, and ::against,"
        " which trains both and says what has become of the training",
    ),
    _Option(
        "effective",
        _one_of(EFFECTIVE),
        None,
        "|".join(EFFECTIVE),
        "show what DeepSpeed made of each config file that is trained: what it changed or dropped,"
        " or all defaults too",
    ),
    _Option(
        "report",
        targets.parse,
        (),
        "[FORMAT:]FILE",
        "write a report of the session, once or more: FILE ends in .html, .md, .sarif or .json, or"
        " has html:, md:, sarif:, json: or codequality: (GitLab) before it; github alone prints"
        " GitHub's annotations",
        repeated=True,
    ),
    _Option("seed", _integer, 0, "N", "seed of random, NumPy and torch on each rank (default 0)"),
    _Option(
        "require",
        _requirements,
        frozenset(),
        "LIST",
        "what must run, comma-separated: exact (a config that cannot run as written fails instead"
        " of being adapted), cuda (a machine without a GPU is an error), nvme (where nothing can be"
        " offloaded to NVMe, tests that do fail instead of being skipped), slurm (where there is"
        " no Slurm or too few nodes, tests that need them fail instead of being skipped)",
    ),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of this session, settled.

    Attributes:
        nodes: how many nodes ranks are spread over, or ``None`` for this machine alone.
        launcher: of `LAUNCHERS`, where there are nodes.
        launches: how an agent is started on each; empty where this process is one.
        capacity: how many ranks they may hold.
        world_size: ranks of every marked test, or ``None`` for what each marker says.
        device: ``"cpu"`` or ``"cuda"``.
        backend: ``"gloo"`` or ``"nccl"``.
        timeout: body budget in seconds.
        data: what `reference_training.data.load` takes.
        checks: of config files, of `pytest_deepspeed.values.finding.ITEMS`; empty for all.
        against: a branch or a commit: only what differs from it is looked at; ``None`` for all.
        effective: of `EFFECTIVE`; ``None`` for nothing but with failures.
        report: what is written of the session.
        fix: whether config files are mended.
        workload: where the user's own workload comes from; `TRAP`; or empty for hooks to say.
        seed: seed of each rank.
        require: what must run, of `REQUIREMENTS`.
        given: flags whose value is not the default, with the place it came from.
    """

    nodes: int | None
    launcher: str | None
    launches: tuple[Launch, ...]
    capacity: Capacity
    world_size: int | None
    device: str
    backend: str
    timeout: float
    data: str
    workload: str
    nvme_path: Path | None
    checks: tuple[str, ...]
    against: str | None
    effective: str | None
    report: tuple[Target, ...]
    seed: int
    require: frozenset[str]
    given: dict[str, str]
    fix: bool = False

    def world(
        self,
        world_size: int,
        timeout: float | None,
        init_process_group: bool,
        backend: str | None = None,
    ) -> World:
        """A world under these settings.

        Args:
            timeout: the body budget that a marker asks for, in seconds, or ``None``.
            backend: another than that of the session.
        """
        return World(
            world_size=world_size,
            init_process_group=init_process_group,
            backend=backend or self.backend,
            device=self.device,
            body_budget=timeout or self.timeout,
            seed=self.seed,
        )


SETTINGS = pytest.StashKey[Settings]()


def add_options(parser: pytest.Parser) -> None:
    """Adds each option with its ini twin; the default is ``None`` so that a twin is seen."""
    group = parser.getgroup("deepspeed", "ranks and DeepSpeed (pytest-deepspeed)")
    for option in OPTIONS:
        group.addoption(
            option.flag,
            dest=f"ds_{option.stem}",
            default=None,
            action="append" if option.repeated else "store",
            metavar=option.metavar,
            help=f"{option.help}. Environment: {option.environment}",
        )
        parser.addini(option.ini, help=option.help, default=None)

    group.addoption(
        "--ds-fix",
        action="store_true",
        dest="ds_fix",
        help="mend in config files what can be mended safely, and show the difference; trains"
        " nothing",
    )
    group.addoption(
        "--ds-doctor",
        action="store_true",
        dest="ds_doctor",
        help="say in one screen what this machine can run, and what brings the rest; runs no test",
    )


def settle(config: pytest.Config) -> Settings:
    """Settles the options.

    Raises:
        pytest.UsageError: a value is wrong; says where it came from and what to type instead.
    """
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    places: dict[str, str] = {}
    for option in OPTIONS:
        text, where = look_up(config, option)
        places[option.stem] = where
        values[option.stem] = option.default if text is None else option.parse(text, where)
        if text is not None:
            given[option.stem] = f"{text} ({where})" if where != option.flag else text
    values["launcher"], values["launches"], values["capacity"] = nodes.settle(
        values["nodes"], values["launcher"], places["launcher"], config
    )
    _check_world_size(values, places["world_size"])
    in_slurm = bool(values["nodes"]) and values["launcher"] == "slurm"
    try:
        values["device"], values["backend"] = devices.resolve(
            values["device"], values["backend"], in_slurm
        )
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if "cuda" in values["require"] and values["device"] != "cuda":
        raise pytest.UsageError(
            "--ds-require=cuda, but ranks would run on the CPU: this process has no GPU, or"
            " --ds-device=cpu is given"
        )
    return Settings(**values, given=given, fix=bool(config.getoption("ds_fix")))


def _check_world_size(values: dict[str, Any], where: str) -> None:
    if values["world_size"] is None:
        return
    try:
        devices.check_world_size(values["world_size"], where, values["capacity"])
    except WorldSizeError as error:
        message = str(error).replace("world_size(2)", "--ds-world-size=2")
        raise pytest.UsageError(message) from None


def look_up(config: pytest.Config, option: _Option) -> tuple[str | None, str]:
    """The text that holds, and where it stands."""
    if (value := config.getoption(f"ds_{option.stem}")) is not None:
        return ",".join(value) if option.repeated else str(value), option.flag
    if value := os.environ.get(option.environment):
        return value, option.environment
    if value := config.getini(option.ini):
        return str(value), f"{option.ini} in {config.inipath.name if config.inipath else 'ini'}"
    return None, ""
