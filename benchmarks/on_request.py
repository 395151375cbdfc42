"""Both ends of a contender: a process that does one thing whenever it is asked, and is timed.

The clock is that of the process that asks, so every contender is timed alike and from outside. A
contender writes one line when it is ready and one after each request: empty, or what went wrong.
As a pytest plugin (``-p benchmarks.on_request``) this module makes a contender of a session: it
holds each test back until there is a request.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator

import pytest

_PIPES = "BENCHMARK_PIPES"


class Contender:
    """A started contender, ready for requests.

    Args:
        name: for the table and for messages.
        arguments: after ``python -m``.
        environment: its whole environment.

    Raises:
        RuntimeError: it did not get ready; the text ends with its output.
    """

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        requests, self._ask = os.pipe()
        self._answers, answers = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=environment | {_PIPES: f"{requests},{answers}"},
            pass_fds=(requests, answers),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        os.close(requests)
        os.close(answers)
        self._expect_answer()

    def run(self) -> float:
        """Seconds from the request to the answer.

        Raises:
            RuntimeError: what it did failed, or it is gone.
        """
        start = time.perf_counter()
        os.write(self._ask, b"\n")
        self._expect_answer()
        return time.perf_counter() - start

    def _expect_answer(self) -> None:
        answer = b""
        while not answer.endswith(b"\n"):
            data = os.read(self._answers, 4096)
            if not data:
                self._fail("is gone")
            answer += data
        if answer != b"\n":
            self._fail(answer.decode().strip())

    def _fail(self, what: str) -> None:
        self.stop()
        self._log.seek(0)
        raise RuntimeError(f"{self.name}: {what}\n{self._log.read().decode(errors='replace')}")

    def stop(self) -> None:
        """Ends it: its requests are at an end."""
        if self._process.returncode is None:
            os.close(self._ask)
            self._process.wait()
            os.close(self._answers)


def requests() -> Iterator[None]:
    """In a contender: says that it is ready, then yields for each request until there are no more.

    What happens before the iterator is advanced is the answer's time.
    """
    answer()
    while _wait():
        yield
        answer()


def answer(problem: str = "") -> None:
    """In a contender: answers the last request, or says that it is ready."""
    os.write(_pipes()[1], problem.replace("\n", " ").encode() + b"\n")


def _wait() -> bool:
    return bool(os.read(_pipes()[0], 1))


def _pipes() -> tuple[int, int]:
    requests, answers = os.environ[_PIPES].split(",")
    return int(requests), int(answers)


def pytest_configure(config: pytest.Config) -> None:
    """Holds the tests of this session back; its agent, which is started alike, must not wait."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_HoldBack())


class _HoldBack:
    def __init__(self) -> None:
        self._passed = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self) -> None:
        """Ready, and the agent not started yet: the first answer tells how long that takes."""
        answer()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        if not _wait():
            pytest.exit("no more requests", returncode=0)
        self._passed = False
        result = yield
        answer("" if self._passed else f"{item.nodeid} did not pass")
        return result

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._passed = report.passed
