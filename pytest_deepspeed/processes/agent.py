"""The agent: a pytest session that has collected what the controller collected, and forks ranks.

Started as ``python -c "…main()"`` with frames on stdin and stdout, on another node by srun. One
thread, one selector; the frames it takes are ``start`` (once), ``run``, ``news``, ``abort``,
``drop``, ``stop``, and before the first test those of the roll call. Imports nothing heavy at the
top: what ranks start by *spawn* import this module again.
"""

from __future__ import annotations

import gc
import importlib
import os
import selectors
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import pytest

from pytest_deepspeed.processes import (
    builds,
    channel,
    containment,
    dialing,
    hugepages,
    preload,
    presence,
    rendezvous,
    seeds,
    setting_up,
    slurm,
)
from pytest_deepspeed.processes.gang import Gang, not_started
from pytest_deepspeed.processes.items import item_for, unknown
from pytest_deepspeed.processes.member import Surroundings, Task
from pytest_deepspeed.values import role
from pytest_deepspeed.values.world import Place, World

#: Seconds between two signs of life while a world runs; the controller waits for `client.SILENCE`.
HEARTBEAT = 10.0

#: Seconds that imports can take on a machine that is busy, or from a network disk.
_IMPORTS = 300.0


def main() -> None:
    """Entry point of the agent process."""
    commands, events = _claim_stdio()
    pipe = channel.FrameReader(commands)
    start = _first(pipe)
    if start is None:
        return
    if start["parent"] is not None:
        containment.die_with_parent(int(start["parent"]), signal.SIGTERM)
    containment.adopt_orphans()
    slurm.scrub(os.environ)
    role.become("agent")
    line = _Line(pipe, events)
    try:
        config = setting_up.prepare(start)
    except BaseException:
        line.send({"type": "broken", "text": traceback.format_exc()})
        raise
    agent = _Agent(config, start, line)
    config.pluginmanager.register(agent, "pytest_deepspeed_agent")
    status = config.hook.pytest_cmdline_main(config=config)
    # Taking torch's modules apart would cost each session 0.4 s, and seconds on a busy machine.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(status))


def _claim_stdio() -> tuple[int, int]:
    """Moves the pipes away, so that no library's print can break a frame."""
    commands = os.dup(0)
    events = os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return commands, events


def _first(reader: channel.FrameReader) -> channel.Frame | None:
    while not reader.closed:
        for frame in reader.read():
            return frame
    return None


class _Line:
    """The agent's connection to its controller: the pipes that it was started with, or a socket.

    Attributes:
        reader: where commands come from.
        pipe: the pipe from whoever started this process; its end is the end of the session.
    """

    def __init__(self, pipe: channel.FrameReader, events: int) -> None:
        self.pipe = self.reader = pipe
        self._events = events
        self.lost = False

    def dial(self, invitation: channel.Frame, node_rank: int) -> None:
        """Changes over to a socket, where the controller can be reached by one."""
        dialled = dialing.dial(invitation)
        if isinstance(dialled, socket.socket):
            self._events = dialled.detach()
            self.reader = channel.FrameReader(os.dup(self._events))
            self.send({"type": "hello", "node_rank": node_rank})
        else:
            self.send({"type": "not dialled", "why": dialled})

    def send(self, frame: channel.Frame) -> None:
        """Writes a frame."""
        try:
            channel.write(self._events, frame)
        except OSError:  # the controller was killed: end as at the end of its pipe, and clean up
            self.lost = True

    @property
    def fds(self) -> list[int]:
        """Its descriptors, which no rank may hold open."""
        return list({self.pipe.fd, self.reader.fd, self._events} - {-1})


class _Agent:
    """The serving loop, in place of pytest's own run-test loop."""

    def __init__(self, config: pytest.Config, start: channel.Frame, line: _Line) -> None:
        self._config = config
        self._line = line
        self._send = line.send
        self._start = start
        self._selector = selectors.DefaultSelector()
        self._items: dict[str, pytest.Item] = {}
        self._errors: dict[str, str] = {}
        self._gang: Gang | None = None
        self._running = ""
        self._stopped = False
        self._engines_came_up = False
        self._queue: list[channel.Frame] = []
        self._beat_at = 0.0
        self._builds = builds.Builds(start["device"], self._selector, self._send, start["progress"])
        self._terminated, self._terminate = os.pipe()
        self._around = Surroundings(
            threads=int(start["threads"]),
            live=bool(start["live"]),
            coverage=start["coverage"],
            setup=start,
            private=[*line.fds, self._terminated, self._terminate],
        )
        self._stores = rendezvous.StoreServer()
        self._probe: socket.socket | None = None

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._errors[report.nodeid] = f"{report.nodeid}:\n{report.longreprtext}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        if self._engines_are_named():
            self._preload_engines()
        for name, arguments in self._start["warm"]:
            module, _, function = name.partition(":")
            getattr(importlib.import_module(module), function)(*arguments)
        self._builds.prepare(self._start["ops"])
        # The first call imports and formats what the later ones only use: 5 ms less in each rank.
        seeds.seed(0)
        self._settle_heap()
        self._listen()
        self._send(
            {"type": "up", "pid": os.getpid(), "items": len(self._items), **presence.facts()}
        )
        while not self._stopped and not self._line.lost:
            self._turn()
        if self._gang is not None:
            self._gang.abort("the controller is gone")
            while not self._gang.ended:
                self._turn()
            self._gang.close()
        self._builds.close()
        self._stores.close()
        return True

    def _engines_are_named(self) -> bool:
        """Whether a rank will build an engine, as far as the modules of this session say."""
        if self._start["warm"] or self._start["ops"] or "deepspeed" in sys.modules:
            return True
        own = (getattr(item, "module", None) for item in self._items.values())
        if any(getattr(m, "__name__", "").startswith("pytest_deepspeed.") for m in own):
            return True
        return preload.name_engines(list(sys.modules.values()), self._config.rootpath)

    def _preload_engines(self) -> None:
        preload.preload_engines()
        self._start["engines"] = True

    def _settle_heap(self) -> None:
        """No collection in a rank touches what the agent made, and forks map few pages."""
        gc.collect()
        gc.freeze()
        if self._start["worlds"] >= hugepages.WORTH_IT:
            hugepages.collapse()

    def _listen(self) -> None:
        pipe = self._line.pipe
        self._selector.register(pipe, selectors.EVENT_READ, lambda: self._read(pipe))
        # Slurm says it before it ends a step; the controller's death, of which a child is told so
        # too, is the end of its pipe from here on, which leaves time to clean up.
        signal.signal(signal.SIGTERM, lambda *_: os.write(self._terminate, b"!"))
        self._selector.register(self._terminated, selectors.EVENT_READ, self._on_sigterm)

    def _on_sigterm(self) -> None:
        os.read(self._terminated, 16)
        self._send({"type": "terminated"})

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._wait()):
            # A callback may have unregistered a later one of the same batch.
            if key.fd in self._selector.get_map():
                key.data()
        if self._gang is not None:
            self._gang.tick()
            if self._gang.ended:
                self._finish()
        if self._gang is None and self._queue and not self._stopped:
            self._run(self._queue.pop(0))

    def _wait(self) -> float | None:
        """Seconds until there is something to do that no descriptor tells; says that it lives."""
        if self._gang is None:
            return None
        now = time.monotonic()
        if now >= self._beat_at:
            self._send({"type": "alive"})
            self._beat_at = now + HEARTBEAT
        budget = self._gang.timeout()
        beat = self._beat_at - now
        return beat if budget is None else min(budget, beat)

    def _finish(self) -> None:
        assert self._gang is not None
        frame = self._gang.close()
        alone = self._gang.alone
        self._engines_came_up |= self._gang.used_deepspeed
        used_ops = self._gang.used_ops
        self._gang = None
        self._send(frame)
        # What this test's ranks have loaded, the next one's have by fork: a second for cpu_adam.
        if self._start["engines"]:
            self._builds.keep(used_ops)
        if alone:
            self._stores.drop()

    def _read(self, reader: channel.FrameReader) -> None:
        for frame in reader.read():
            self._on_command(frame)
        if reader.closed:
            self._selector.unregister(reader)
            self._stopped = True

    def _on_command(self, frame: channel.Frame) -> None:
        match frame["type"]:
            case "run":
                self._queue.append(frame)
            case "news":
                if self._gang is not None and frame["run_id"] == self._running:
                    self._gang.hear_of(frame["news"])
            case "drop":
                self._stores.drop()
            case "abort":
                self._abort(frame)
            case "dial":
                self._dial(frame)
            case "remove":
                shutil.rmtree(frame["path"], ignore_errors=True)
            case "stop":
                self._stopped = True
            case asked:
                self._answer(asked, frame)

    def _dial(self, invitation: channel.Frame) -> None:
        """Changes over to a socket; the controller asks for it while it waits for connections."""
        self._line.dial(invitation, self._start["node_rank"])
        reader = self._line.reader
        if reader is not self._line.pipe:
            self._around.private.extend(set(self._line.fds) - set(self._around.private))
            self._selector.register(reader, selectors.EVENT_READ, lambda: self._read(reader))

    def _answer(self, asked: str, frame: channel.Frame) -> None:
        """The roll call."""
        answer: channel.Frame = {}
        match asked:
            case "clocks":
                answer = presence.clocks()
            case "look":
                path = Path(frame["path"])
                answer = {"text": path.read_text() if path.is_file() else None}
            case "listen":
                self._probe = presence.listen()
                answer = {"hosts": presence.addresses(), "port": self._probe.getsockname()[1]}
                answer["interfaces"] = presence.interfaces()
            case "reach":
                answer["reached"], answer["failed"] = presence.reach(frame["hosts"], frame["port"])
            case "listened" if self._probe is not None:
                self._probe.close()
        self._send({"type": "answer", **answer})

    def _abort(self, frame: channel.Frame) -> None:
        if self._gang is not None:
            if frame["stacks"]:
                self._gang.dump()
            self._gang.abort(frame["why"])
        elif self._queue:
            self._queue.clear()
            self._send({"type": "ended", "hang": "", "hang_at": 0.0, "leaks": [], "ranks": []})

    def _run(self, frame: channel.Frame) -> None:
        try:
            item = item_for(self._items, frame)
        except KeyError:
            text = unknown(frame["nodeid"], self._items, self._errors)
            self._send({"type": "refused", "text": text})
            return
        own = (frame["call"] or {"module": ""})["module"].startswith("pytest_deepspeed.")
        if (own or self._engines_came_up) and not self._start["engines"]:
            self._send({"type": "alive", "patience": _IMPORTS})
            self._preload_engines()
            self._settle_heap()
        place = Place(**frame["place"])
        self._running = frame["run_id"]
        self._beat_at = time.monotonic() + HEARTBEAT
        try:
            address = self._meet(place, frame)
            frame["interface"] = frame["interface"] or rendezvous.interface_to(address[0])
            task = Task(World(**frame["world"]), place, item, frame, address)
            gang = Gang(task, self._around, self._selector, self._send, self._builds)
            gang.start()
        except OSError as error:
            self._send({"type": "refused", "text": not_started(error)})
            return
        self._gang = gang

    def _meet(self, place: Place, frame: channel.Frame) -> tuple[str, int]:
        """Where the ranks meet: a store here, of which the other nodes are told, or theirs."""
        if place.node_rank > 0:
            host, port = frame["store"]
            return host, port
        host = frame["host"]
        if host == rendezvous.LOOPBACK:
            host = rendezvous.loopback()
        address = self._stores.open(host)
        if place.num_nodes > 1:
            self._send({"type": "store", "address": address})
        return address
