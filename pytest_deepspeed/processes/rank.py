"""The forked side: become a rank, join the world, run one item as pytest would, report, exit.

Knows its agent only as a pipe. Whatever happens, the process ends in `os._exit`: returning would
run the agent's own stack a second time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pytest_deepspeed.processes import (
    builds,
    channel,
    collectives,
    containment,
    coverage,
    devices,
    gpu,
    ops,
    progress,
    rendezvous,
    seeds,
    tmp,
)
from pytest_deepspeed.processes.items import FIXTURE
from pytest_deepspeed.values import role
from pytest_deepspeed.values.world import Place, World, torchrun_environment

#: Where a rank keeps its private descriptors, out of the way of tests that close low ones.
_HIGH_FD = 900


@dataclasses.dataclass
class RankJob:
    """All that a rank needs to know, made by the agent before the fork.

    Attributes:
        rank: global rank.
        world: the world it joins.
        place: where this node's ranks stand in it.
        interface: network interface that leads to the other nodes, empty where there is none.
        events: descriptor it writes frames to.
        replies: descriptor it reads answers from.
        stdout, stderr, stack: descriptors for its output and its stack on request.
        segments: descriptor that the names of the shared memory it opens are written to.
        page: descriptor of the memory where its collectives are recorded.
        addr, port: the rendezvous.
        run_id: names the world, unique in the session.
        basetemp: temporary directory that all ranks of the world share.
        agent: process id of the agent.
        threads: OpenMP threads of the rank.
        coverage: how to measure coverage, or ``None``.
        progress: arguments of `progress.tell_in` for rank 0, or ``None``.
        fixture: name of a distributed fixture that runs in the item's place, or empty.
        gpus: those that its world has leased; all of the agent's if empty.
    """

    rank: int
    world: World
    place: Place
    interface: str
    events: int
    replies: int
    stdout: int
    stderr: int
    stack: int
    segments: int
    page: int
    addr: str
    port: int
    run_id: str
    basetemp: str
    agent: int
    threads: int
    coverage: dict[str, Any] | None
    progress: dict[str, str] | None
    fixture: str
    gpus: list[str]

    @property
    def local_rank(self) -> int:
        """Its rank among those of its node."""
        return self.rank - self.place.first_rank


def become_rank(job: RankJob, item: pytest.Item) -> NoReturn:
    """Runs an item as the job says, in this process, fresh for it, and ends the process."""
    status, began = 1, time.monotonic()
    try:
        _detach(job)
        send = _Sender(job.events)
        reporter = _Reporter(item.config, send)
        try:
            with coverage.measured(job.coverage):
                _prepare(job)
                _join(job)
                send(type="ready", at=time.monotonic(), began=began)
                _run(job, item, send, reporter)
            send(**_finished())
            status = 0
        except BaseException as error:  # noqa: BLE001 (pytest.exit and KeyboardInterrupt too)
            send(**_failed_outside(item, reporter.when, error))
            send(**_finished())
            status = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        _end_daemons()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _finished() -> dict[str, Any]:
    return {
        "type": "finished",
        "at": time.monotonic(),
        "deepspeed": "deepspeed" in sys.modules,
        "ops": ops.loaded(),
    }


def _end_daemons() -> None:
    """What `multiprocessing` does at exit, which `os._exit` leaves out: DataLoader workers end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises when a worker is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


class _Sender:
    """Writes frames to the agent."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, **frame: Any) -> None:
        channel.write(self._fd, frame)


def _detach(job: RankJob) -> None:
    """Own session, death with the agent, own descriptors 0, 1 and 2, default signals."""
    os.setsid()
    containment.die_with_parent(job.agent)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (job.stdout, 1), (job.stderr, 2)):
        os.dup2(source, target)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    faulthandler.register(signal.SIGUSR1, file=job.stack, all_threads=True, chain=False)
    faulthandler.enable(file=job.stack)


def _prepare(job: RankJob) -> None:
    """Environment, generators, threads: the same at the start of every test."""
    role.become("rank")
    world = job.world
    os.environ.update(
        torchrun_environment(job.rank, world.world_size, job.place, job.addr, job.port, job.run_id)
    )
    if job.interface:
        # gloo would take the one that this machine's name resolves to: on Debian, the loopback.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", job.interface)
    if job.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(job.gpus)
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    # DeepSpeed's CPU accelerator asks `numactl` for its device count where this is not set.
    os.environ["LOCAL_SIZE"] = str(job.place.local_world_size)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    seeds.seed(world.seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(job.threads)
        if world.device == "cuda":
            gpu.take(job.local_rank, job.place.local_world_size)
    collectives.record_to(collectives.Page(job.page))
    containment.record_shared_memory(job.segments)
    builds.connect(job.events, job.replies)
    if job.rank == 0 and job.progress:
        progress.tell_in(**job.progress)
    sys.breakpointhook = _no_terminal


def _no_terminal(*_args: Any, **_kwargs: Any) -> None:
    raise RuntimeError(
        "breakpoint() on a rank: it has no terminal. Run the test in this process, as the only"
        " rank: pytest --ds-world-size=1 --pdb"
    )


def _join(job: RankJob) -> None:
    """Meets the other ranks; forms the default process group where the test wants it."""
    world = job.world
    patience = world.startup_budget + world.body_budget + 60
    store = rendezvous.join_store(world.world_size, job.addr, job.port, patience)
    _keep.append(store)
    if not world.init_process_group:
        return
    device = devices.of_rank(world.device, job.local_rank)
    rendezvous.form_process_group(
        store, world.backend, job.rank, world.world_size, patience, device
    )


#: The connection to the store lives as long as the process.
_keep: list[Any] = []


class _Reporter:
    """Sends each report and warning the moment it is made."""

    def __init__(self, config: pytest.Config, send: _Sender) -> None:
        self._config = config
        self._send = send
        self._at = 0.0
        self.when = ""  # the phase that the item is in, empty before it has begun
        self.failed = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self.when = "setup"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        self.when = "call"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        self.when = "teardown"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Any:
        # Before the report is made: building the text of a failure takes time, and who failed
        # first decides what is shown.
        self._at = time.monotonic()
        return (yield)

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.outcome == "failed" or hasattr(report, "wasxfail")
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._send(
            type="report", when=report.when, outcome=report.outcome, at=self._at, report=data
        )

    @pytest.hookimpl
    def pytest_warning_recorded(
        self, warning_message: Any, when: str, nodeid: str, location: Any
    ) -> None:
        if when != "runtest":  # the agent's own, replayed to whoever registers
            return
        from xdist.remote import serialize_warning_message

        self._send(
            type="warning",
            warning=serialize_warning_message(warning_message),
            when=when,
            nodeid=nodeid,
            location=location,
        )


def _run(job: RankJob, item: pytest.Item, send: _Sender, reporter: _Reporter) -> None:
    config = item.config
    manager = config.pluginmanager
    terminal = manager.getplugin("terminalreporter")
    if terminal is not None:
        manager.unregister(terminal)
    manager.register(reporter, "pytest_deepspeed_rank")
    on_gpu = job.world.device == "cuda"
    if on_gpu:
        manager.register(gpu.Synchronised(), "pytest_deepspeed_synchronised")
    tmp.share(config._tmp_path_factory, Path(job.basetemp))  # type: ignore[attr-defined]
    gc.enable()
    item.stash[FIXTURE] = job.fixture
    config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    if on_gpu and not reporter.failed:
        gpu.leave()
    value = getattr(item, "returned", None)
    if value is not None:
        send(type="value", value=value)


def _failed_outside(item: pytest.Item, when: str, error: BaseException) -> dict[str, Any]:
    """A failure that pytest's own protocol did not take: start-up, `pytest.exit`, Ctrl-C."""
    at = time.monotonic()
    excinfo = pytest.ExceptionInfo.from_exception(error)
    # The item's own way leaves out the frames of pytest above the test.
    longrepr: Any = item.repr_failure(excinfo) if when else excinfo.getrepr(style="short")
    when = when or "setup"
    report = pytest.TestReport(item.nodeid, item.location, {}, "failed", longrepr, when)  # type: ignore[arg-type]
    data = item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
    return {"type": "report", "when": when, "outcome": "failed", "at": at, "report": data}
