"""What is checked of a user's own Lightning code: found out by running it up to its `fit`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_deepspeed.case import Case
from pytest_deepspeed.limits import limits_of_item
from pytest_deepspeed.markers import where_of
from pytest_deepspeed.options import SETTINGS, Settings
from pytest_deepspeed.training import nvme
from pytest_deepspeed.training.lightning.target import Target
from pytest_deepspeed.training.memory.limits import Limits
from pytest_deepspeed.values import modes
from pytest_deepspeed.values.finding import Finding

if TYPE_CHECKING:
    from pytest_deepspeed.configs.project import FileSettings
    from pytest_deepspeed.studies import Studies

#: The directory that the code names is left alone: another job may use it.
SWAPS = "nvme_path: a directory of the test is swapped to in its place, and removed after it"


def target_of(item: pytest.Item) -> str:
    """The target of a test's ``lightning`` marker, scripts from where the test is; empty without.

    Fails the test where the marker is wrong.
    """
    __tracebackhide__ = True
    mark = item.get_closest_marker("lightning")
    if mark is None or not (mark.args or mark.kwargs):
        return ""
    text = mark.args[0] if len(mark.args) == 1 and not mark.kwargs else None
    if not isinstance(text, str) or not text.strip():
        pytest.fail(
            f"{where_of(item)}: lightning takes a script with its arguments, or a function: write"
            " lightning('train.py --batch_size 8') or lightning('package.module:function')",
            pytrace=False,
        )
    name, *arguments = shlex.split(text)
    beside = item.path.parent / name
    if beside.is_file():
        name = _shown(beside, item)
    return shlex.join([name, *arguments])


def case_of_lightning(
    item: pytest.Item,
    target: str,
    studies: Studies,
    *,
    world_size: int | None = None,
    shown: str = "",
    own: FileSettings | None = None,
) -> Case:
    """The code's config and the world that it is checked on.

    Args:
        item: the test.
        target: as `pytest_deepspeed.training.lightning.target.Target` has it.
        studies: of the test.
        world_size: ranks; the session's, or 2, unless given.
        shown: what to call it; its case id unless given.
        own: what ``pyproject.toml`` says of the script.
    """
    __tracebackhide__ = True
    settings: Settings = item.config.stash[SETTINGS]
    size = world_size or settings.world_size or 2
    described = studies.described(target, size)
    config = described.ds_config
    limits = limits_of_item(item, case_id=modes.case_id(config), config_path=shown)
    if own:
        where = dict.fromkeys(own.limit_rank_memory, "limit_rank_memory in pyproject.toml")
        limits = Limits({**limits.sizes, **own.limit_rank_memory}, {**limits.sources, **where})
    return Case(
        ds_config=config,
        shown=shown or modes.case_id(config),
        changes=described.changes,
        world_size=size,
        limits=limits,
        notes=(SWAPS,) if nvme.asked(config) else (),
        steps=own.steps if own else None,
        tolerances=own.tolerances if own else {},
        lightning=target,
        uncovered=described.uncovered,
        strategy_config=described.strategy_config,
        strict=False,
        of_file=True,
    )


def rules_broken(case: Case) -> list[Finding]:
    """What the rules find in the live strategy's config, but not in the source."""
    target = Target(case.lightning)
    path = Path(target.name) if target.is_script else None
    return [
        Finding("engagement", "config", line) for line in problems_of(case.strategy_config, path)
    ]


def hints(case: Case, findings: Iterable[Finding]) -> list[str]:
    """What of Lightning may lie behind findings, a sentence each."""
    accumulation = case.ds_config.get("gradient_accumulation_steps", 1)
    if accumulation == 1 or not any(one.name == "grad_norm" for one in findings):
        return []
    hint = (
        f"this may be PL407: Lightning divides the loss by accumulate_grad_batches, {accumulation},"
        " and DeepSpeed divides it again (python -m pytest_deepspeed.explain PL407)"
    )
    return [hint]


def problems_of(
    config: Mapping[str, Any], path: Path | None = None, *, warnings: bool = False
) -> list[str]:
    """The errors that the rules find in a live strategy's config, a line each.

    Args:
        config: ``strategy.config``.
        path: of the script that made it; what is found in that without running it is left out.
        warnings: whether these count too.
    """
    from pytest_deepspeed.configs.lightning import lint, reading
    from pytest_deepspeed.configs.rule import RULES

    script = reading.parse("", Path("strategy.py"))
    told: set[tuple[str, str]] = set()
    if path is not None:
        script = reading.read(path)
        told = {(one.rule, one.does) for one in lint.problems(script)}
    # Lightning fills it in, from the loader, when a Trainer has the strategy.
    live = {"train_micro_batch_size_per_gpu": "auto", **config}
    found = lint.problems(script, live=live, only=RULES.keys())
    count = ("error", "warning") if warnings else ("error",)
    new = [one for one in found if one.severity in count and (one.rule, one.does) not in told]
    return [f"{one.rule} {one.message}" for one in new]


def _shown(path: Path, item: pytest.Item) -> str:
    invoked = item.config.invocation_params.dir
    return str(path.relative_to(invoked) if path.is_relative_to(invoked) else path)
