"""The controller: decides which tests run on ranks, and stands in for them in this process."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed import distributed, repeat, sharing
from pytest_deepspeed import report as reports
from pytest_deepspeed.ending import Ending
from pytest_deepspeed.errors import RankLeakWarning, RanksFailed, RankSpawnWarning
from pytest_deepspeed.live import session as live
from pytest_deepspeed.markers import config_of, timeout_of, world_of
from pytest_deepspeed.options import SETTINGS, Settings
from pytest_deepspeed.requirements import lacks_gpus
from pytest_deepspeed.values.errors import (
    AgentError,
    GpusLackingError,
    NodesLostError,
    SessionEndingError,
)
from pytest_deepspeed.values.outcome import WorldResult
from pytest_deepspeed.values.verdict import Verdict, judge
from pytest_deepspeed.values.world import World

#: Frozen at import, as pytest-xdist does: what tests add later is not for the agent.
_SYS_PATH = list(sys.path)

_MERGED = pytest.StashKey[dict[str, reports.PhaseReport]]()
_LEAKS = pytest.StashKey[list[str]]()

_OWN_CONTEXT = (
    "a GPU context was left in pytest's own process, which holds memory of the GPU until the"
    " session ends: compute on ranks instead, with @pytest.mark.world_size(1) or ds_run"
)


class Controller:
    """Owns the agent, and runs items and functions on it.

    Args:
        config: the session's config.
        settings: its settled options.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._agents: Any = None
        self._trains = False
        self._worlds = 0
        self._lightning = False
        self._context_told = False

    # Collection

    @classmethod
    def take_over(
        cls, config: pytest.Config, items: list[pytest.Item], callers: list[pytest.Item]
    ) -> None:
        """Lets ranked tests run on ranks, and starts the agent for them.

        Args:
            config: the session's config.
            items: its ranked tests.
            callers: those that stay in the controller and start worlds.
        """
        controller = config.stash[CONTROLLER] = cls(config, config.stash[SETTINGS])
        config.pluginmanager.register(controller, "pytest_deepspeed_controller")
        config.add_cleanup(controller.close)
        ops: set[str] = set()
        for item in items:
            world = world_of(item)
            if world is not None:
                controller._replace(item, world)
                ops.update(controller._ops_of(item))
                controller._worlds += 1
                controller._trains |= "ds_train" in getattr(item, "fixturenames", ())
        controller._lightning = any(
            item.get_closest_marker("lightning") for item in [*items, *callers]
        )
        for item in callers:
            ops.update(controller._ops_of(item))
        controller._start(sorted(ops))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """The ranks' outcome in place of what stood for it; outermost, so the last word."""
        report = yield
        merged = item.stash.get(_MERGED, {}).get(report.when or "")
        # A leak's warning that was turned into an error is the controller's own failure.
        if merged is not None and not (merged.outcome == "passed" and report.failed):
            merged.apply(report)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Tells the test that makes a CUDA context in this process, which keeps it to its end."""
        result = yield
        torch = sys.modules.get("torch")
        if self._context_told or torch is None or self._settings.device != "cuda":
            return result
        a_rank = self._config.pluginmanager.hasplugin("pytest_deepspeed_inprocess")
        if torch.cuda.is_initialized() and not a_rank:
            self._context_told = True
            _warn_at(item, RankLeakWarning(_OWN_CONTEXT))
        return result

    def _replace(self, item: pytest.Item, world: World) -> None:
        # Instance attributes: everything around them (marks, reruns, timeouts, reports) stays
        # pytest's own.
        item.setup = functools.partial(self._setup, item, world)  # type: ignore[method-assign]
        item.runtest = functools.partial(self._stand_for, item, "call")  # type: ignore[method-assign]
        item.teardown = functools.partial(self._stand_for, item, "teardown")  # type: ignore[method-assign]

    def _ops_of(self, item: pytest.Item) -> list[str]:
        from pytest_deepspeed.processes import ops

        return ops.needed(config_of(item), self._settings.device)

    # The agent

    def _start(self, ops: list[str]) -> None:
        from pytest_deepspeed.processes.agents import Agents, Listener

        line = live.of(self._config)
        self._agents = Agents(
            self._settings.launches,
            {
                **agent_start(self._config, self._settings),
                "warm": self._warm(),
                "worlds": self._worlds,
                "ops": ops,
                "progress": str(live.folder(self._config) or ""),
            },
            _SYS_PATH,
            Listener(
                progress=self._progress,
                output=self._output,
                waiting=line.waiting if line else None,
            ),
            self._config._tmp_path_factory.getbasetemp(),  # type: ignore[attr-defined]
        )
        self._ending = Ending.take_over(self._config)
        self._ending.interrupts(self._agents.end)

    def _warm(self) -> list[list[Any]]:
        """What the agent computes once for all ranks: function, arguments."""
        warm: list[list[Any]] = []
        if self._trains:
            images = [self._settings.data, self._settings.seed]
            warm.append(["pytest_deepspeed.training.run:dataset", images])
        if self._lightning:
            warm.append(["pytest_deepspeed.training.lightning.warm:warm", []])
        return warm

    def _progress(self, text: str) -> None:
        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        if terminal is None or hasattr(self._config, "workerinput"):
            return
        capture = self._config.pluginmanager.getplugin("capturemanager")
        # A test is being set up: what is written now would be its captured output.
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            terminal.ensure_newline()
            terminal.write_line(text)

    def _output(self, rank: int, node: str, stream: str, text: str) -> None:
        who = f"[rank {rank} on {node}]" if node else f"[rank {rank}]"
        print(f"{who} {text}", file=sys.stderr if stream == "stderr" else sys.stdout)

    def close(self) -> None:
        """Ends the agents and all that they started."""
        if self._agents is None:  # a test's marker was wrong, and none were started
            return
        self._ending.interrupts(lambda _: None)
        self._agents.stop()

    def remove(self, path: Path) -> None:
        """Removes a directory on this node and all others."""
        shutil.rmtree(path, ignore_errors=True)
        self._agents.remove(path)

    # Running

    def run(
        self,
        item: pytest.Item,
        world: World,
        call: dict[str, Any] | None = None,
        nodes: int | None = None,
        fixture: str = "",
        base: Path | None = None,
    ) -> tuple[WorldResult, Verdict]:
        """Runs an item, or a function in its place, on fresh ranks.

        Args:
            nodes: how many nodes they may be spread over; all of the session if ``None``.
            fixture: name of a distributed fixture that runs in the item's place.
            base: temporary directory of the ranks; one of their own if ``None``.

        Skips the test, or fails it, where it has too few GPUs.

        Raises:
            AgentError: with a text for the user.
        """
        __tracebackhide__ = True
        from pytest_deepspeed.processes.world_run import Order

        asked_at = time.monotonic()
        try:
            with self._leased(world) as gpus, live.world(item) as progress:
                queued = time.monotonic() - asked_at
                base = base or self._basetemp(item)
                order = Order(item.nodeid, world, base, call, progress, fixture, gpus)
                result = self._agents.run(order, nodes)
                result.queued = queued
        except GpusLackingError as error:
            lacks_gpus(item, str(error))
        except NodesLostError as error:
            self._ending.stop(str(error).splitlines()[0])
            raise
        except SessionEndingError as error:
            where = ", ".join(filter(None, self._agents.nodes))
            raise AgentError(f"{error} while this test ran{' on ' * bool(where)}{where}") from None
        self._pass_on_warnings(result)
        if result.spawned:
            _warn_at(item, RankSpawnWarning(f"{result.spawned}: ranks are spawned, not forked"))
        return result, judge(result)

    @contextlib.contextmanager
    def _leased(self, world: World) -> Iterator[list[str]]:
        """Room for a world among those of xdist's other workers; its GPUs."""
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        if workers == 1 or any(launch.remote for launch in self._settings.launches):
            yield []
            return
        from pytest_deepspeed.processes import leases

        home = sharing.folder(self._config, "ds_leases")
        mine = leases.of_worker(home, self._settings.device)
        with mine.of(world.world_size, lambda: self._agents.ending) as slots:
            yield slots if world.device == "cuda" else []

    def _basetemp(self, item: pytest.Item) -> Path:
        name = re.sub(r"\W", "_", item.name)[:30]
        factory = self._config._tmp_path_factory  # type: ignore[attr-defined]
        path: Path = factory.mktemp(f"ranks_{name}", numbered=True)
        return path

    def _setup(self, item: pytest.Item, world: World) -> None:
        """In place of the item's set-up: the ranks do all of it, and set-up, call and teardown."""
        item.stash.setdefault(_MERGED, {}).clear()
        item.stash[_LEAKS] = []
        try:
            # A test finds in its `tmp_path` what its fixtures have left there.
            base = self._basetemp(item)
            passed = self._run_fixtures(item, base)
            if passed:
                result, verdict = self.run(item, world, base=base)
        except (AgentError, pytest.UsageError) as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        if passed:
            again = repeat.of_test(item, world, self._settings.launches)
            item.stash[_MERGED].update(reports.merge(item, result, verdict, again))
            item.stash[_LEAKS] += result.leaks
        self._stand_for(item, "setup")

    def _run_fixtures(self, item: pytest.Item, base: Path) -> bool:
        """The item's distributed fixtures, each in a world of its own, until one does not pass."""
        for name, world in distributed.fixtures_of(item):
            result, verdict = self.run(item, world, fixture=name, base=base)
            item.stash[_LEAKS] += result.leaks
            if verdict.kind != "pass":
                again = repeat.of_fixture(item, world)
                merged = reports.merge(item, result, verdict, again)
                item.stash[_MERGED]["setup"] = merged[verdict.when]
                return False
        return True

    def _stand_for(self, item: pytest.Item, when: str) -> None:
        """Raises what stands for the ranks in this phase, so that hooks see an exception."""
        __tracebackhide__ = True
        merged = item.stash.get(_MERGED, {}).get(when)
        if when == "teardown":
            for leak in item.stash.get(_LEAKS, []):
                _warn_at(item, RankLeakWarning(leak))
        if merged is None or merged.outcome == "passed":
            return
        if merged.outcome == "failed":
            raise RanksFailed(merged.reason)
        if merged.wasxfail is not None:
            raise pytest.xfail.Exception(merged.reason)
        raise pytest.skip.Exception(merged.reason)

    def _pass_on_warnings(self, result: WorldResult) -> None:
        """Records the ranks' warnings as pytest's own, each once."""
        seen = set()
        for frame in result.warnings:
            data = frame["warning"]
            key = (
                data["message_str"],
                data["category_class_name"],
                data["filename"],
                data["lineno"],
            )
            if key in seen:
                continue
            seen.add(key)
            from xdist.workermanage import unserialize_warning_message

            self._config.hook.pytest_warning_recorded.call_historic(
                kwargs={
                    "warning_message": unserialize_warning_message(data),
                    "when": frame["when"],
                    "nodeid": frame["nodeid"],
                    "location": frame["location"] and tuple(frame["location"]),
                }
            )

    def call(
        self,
        item: pytest.Item,
        function: Callable[..., Any],
        world_size: int,
        timeout: float | None,
        init_process_group: bool,
        nodes: int | None,
        kwargs: dict[str, Any],
    ) -> list[Any]:
        """What `DsRun` does; see there."""
        __tracebackhide__ = True
        from pytest_deepspeed.processes import call, channel, devices

        devices.check_world_size(world_size, "ds_run", self._settings.capacity)
        budget = timeout or timeout_of(item)
        world = self._settings.world(world_size, budget, init_process_group)
        asked = call.reference(function, kwargs)
        try:
            result, verdict = self.run(item, world, asked, nodes)
        except AgentError as error:
            raise RanksFailed(str(error)) from None
        for leak in result.leaks:
            warnings.warn(RankLeakWarning(f"{function.__qualname__}: {leak}"), stacklevel=3)
        if verdict.kind == "skip":
            pytest.skip(verdict.reason)
        if verdict.kind != "pass":
            launches = self._settings.launches[:nodes]
            again = repeat.of_call(asked, world, result.folder, launches)
            raise RanksFailed(self._describe(item, result, verdict, again))
        return [channel.unpack(result.values[r]) for r in range(world_size)]

    def _describe(
        self, item: pytest.Item, result: WorldResult, verdict: Verdict, again: str
    ) -> str:
        merged = reports.merge(item, result, verdict, again)[verdict.when]
        first, _, rest = str(merged.longrepr or "").partition("\n")
        text = rest if first.removeprefix("E   ") in verdict.reason else f"{first}\n{rest}"
        output = [f"{name}:\n{text}" for name, text in merged.sections]
        return "\n".join([verdict.reason, text, *output])


def _warn_at(item: pytest.Item, warning: Warning) -> None:
    """Warns at the test's own line."""
    __tracebackhide__ = True
    warnings.warn_explicit(warning, None, str(item.path), (item.location[1] or 0) + 1)


CONTROLLER = pytest.StashKey[Controller]()


def agent_start(config: pytest.Config, settings: Settings) -> dict[str, Any]:
    """The ``start`` frame: what an agent needs to collect what this controller has collected."""
    manager = config.pluginmanager
    extra = ["-o", "log_cli=false", "--capture=no"]
    # The agent imports this package before pytest can rewrite its assertions.
    extra += ["-W", "ignore:Module already imported so cannot be rewritten"]
    if manager.hasplugin("pytest_cov"):
        extra.append("--no-cov")
    return {
        "args": [str(arg) for arg in config.invocation_params.args],
        "extra_args": extra,
        "device": settings.device,
        "engines": False,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or 1),
        "live": config.option.capture == "no",
        "coverage": _coverage(config),
        "loadgroup": bool(getattr(config.option, "loadgroup", False)),
        "workerinput": _workerinput(config),
    }


def _workerinput(config: pytest.Config) -> dict[str, Any]:
    """What plugins of a worker look at; the seed is pytest-randomly's."""
    own = getattr(config, "workerinput", {})
    seed = getattr(config.option, "randomly_seed", None)
    return {
        "workerid": own.get("workerid", "master"),
        "workercount": own.get("workercount", 1),
        "testrunuid": own.get("testrunuid", ""),
        "mainargv": sys.argv,
        **({"randomly_seed": seed} if isinstance(seed, int) else {}),
    }


def _coverage(config: pytest.Config) -> dict[str, Any] | None:
    """How pytest-cov measures, for the ranks to do the same; ``None`` where it does not."""
    plugin = config.pluginmanager.getplugin("_cov")
    measuring = getattr(getattr(plugin, "cov_controller", None), "cov", None)
    if measuring is None:
        return None
    with contextlib.suppress(AttributeError):
        own = measuring.config
        return {
            "data_file": str(Path(own.data_file).absolute()),
            "branch": own.branch,
            "source": list(own.source) if own.source else None,
            "source_pkgs": list(own.source_pkgs) if own.source_pkgs else None,
            "config_file": own.config_file or False,
        }
    return None
