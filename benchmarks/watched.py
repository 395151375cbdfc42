"""A pytest plugin that watches the controller of a session, and its agents while they start.

With ``-p benchmarks.watched`` the session writes what was seen, a `Seen`, as JSON to the file that
`REPORT` names. Bytes and frames are counted where the controller reads and writes them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
import types
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_deepspeed.controller import CONTROLLER
from pytest_deepspeed.processes import channel, client
from pytest_deepspeed.values import role

#: Environment variable with the file that is written.
REPORT = "BENCHMARK_REPORT"

#: Questions to one agent, of which each is timed, with pauses, in seconds: as the frames of tests.
_QUESTIONS = 30
_PAUSE = 0.05

#: Characters of a long question; a failure's report has as many.
_LONG = 5000


@dataclasses.dataclass
class Agent:
    """How an agent started.

    Attributes:
        begun, up: `time.monotonic` when it was started, and when it served.
        cpu: seconds of a processor until then.
        read: bytes that it had read until then, from disk or the page cache.
        reads: its read calls until then.
    """

    begun: float
    up: float = 0.0
    cpu: float = 0.0
    read: int = 0
    reads: int = 0


@dataclasses.dataclass
class Test:
    """What a test took of the controller.

    Attributes:
        name: its name.
        cpu: seconds of a processor.
        frames_out, frames_in: frames that it wrote to agents and read from them.
        bytes_out, bytes_in: their bytes.
    """

    name: str
    cpu: float = 0.0
    frames_out: int = 0
    frames_in: int = 0
    bytes_out: int = 0
    bytes_in: int = 0


@dataclasses.dataclass
class Seen:
    """What was seen of a session.

    Attributes:
        agents: in the order of their nodes.
        tests: in the order in which they ran.
        trips: seconds from the question `clocks` to the answer, each time.
        long_trips: the same with a question of `_LONG` characters.
        descriptors: open files of the controller before there were agents, and with all of them.
    """

    agents: list[Agent] = dataclasses.field(default_factory=list)
    tests: list[Test] = dataclasses.field(default_factory=list)
    trips: list[float] = dataclasses.field(default_factory=list)
    long_trips: list[float] = dataclasses.field(default_factory=list)
    descriptors: list[int] = dataclasses.field(default_factory=list)

    @classmethod
    def load(cls, file: Path) -> Seen:
        """What a session has written."""
        told = json.loads(file.read_text())
        agents, tests = told.pop("agents"), told.pop("tests")
        return cls([Agent(**each) for each in agents], [Test(**each) for each in tests], **told)


def pytest_configure(config: pytest.Config) -> None:
    """Watches the controller alone: agents have this plugin too."""
    if role.current() == "controller":
        config.pluginmanager.register(_Watch(), "benchmark_watch")


class _Watch:
    def __init__(self) -> None:
        self.seen = Seen()
        self.test = Test("before all tests")
        self._count()
        self._watch_agents()

    def _count(self) -> None:
        def read(fd: int, size: int) -> bytes:
            data = os.read(fd, size)
            self.test.bytes_in += len(data)
            self.test.frames_in += data.count(b"\n")
            return data

        def write(fd: int, data: memoryview) -> int:
            written = os.write(fd, data)
            self.test.bytes_out += written
            self.test.frames_out += data[written - 1] == ord("\n")
            return written

        own: Any = types.SimpleNamespace(**{**vars(os), "read": read, "write": write})
        channel.os = own

    def _watch_agents(self) -> None:
        begin, is_up = client.AgentClient.__init__, client.AgentClient.is_up

        @functools.wraps(begin)
        def noted_begin(one: client.AgentClient, *args: Any) -> None:
            self.seen.agents.append(Agent(time.monotonic()))
            begin(one, *args)

        @functools.wraps(is_up)
        def noted_up(one: client.AgentClient, frame: channel.Frame) -> None:
            is_up(one, frame)
            agent = self.seen.agents[one.node_rank]
            agent.up = time.monotonic()
            process = psutil.Process(frame["pid"])
            agent.cpu = sum(process.cpu_times()[:2])
            agent.read, agent.reads = process.io_counters()[4], process.io_counters()[0]

        client.AgentClient.__init__ = noted_begin  # type: ignore[assignment, method-assign]
        client.AgentClient.is_up = noted_up  # type: ignore[method-assign]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self) -> None:
        self._note_descriptors()

    def _note_descriptors(self) -> None:
        self.seen.descriptors.append(len(os.listdir("/proc/self/fd")))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Agents are waited for before the first test, so that it is like all others."""
        session.config.stash[CONTROLLER]._agents.wait_up()
        self._note_descriptors()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.test = Test(item.name)
        before = time.process_time()
        result = yield
        self.test.cpu = time.process_time() - before
        self.seen.tests.append(self.test)
        self.test = Test("after a test")
        return result

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        agents = session.config.stash[CONTROLLER]._agents
        for padding, trips in (("", self.seen.trips), (_LONG * "x", self.seen.long_trips)):
            for _ in range(_QUESTIONS):
                time.sleep(_PAUSE)
                asked = time.perf_counter()
                agents._ask({agents._clients[-1]: {"type": "clocks", "padding": padding}})
                trips.append(time.perf_counter() - asked)
        Path(os.environ[REPORT]).write_text(json.dumps(dataclasses.asdict(self.seen)))
