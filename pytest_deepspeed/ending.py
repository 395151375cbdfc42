"""A session that must end early does so in order: reports are written, and what did not run named.

Slurm tells a job with SIGTERM that it will be killed (scancel, preemption, its time limit).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

#: Of more tests than these that were not run, the others are counted.
_NAMED = 20


class Ending:
    """Stops a session before its next test.

    Args:
        config: the session's config.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._why = ""
        self._reported: set[str] = set()
        self._interrupt: Callable[[str], None] | None = None
        self._before: Any = signal.SIG_DFL

    @classmethod
    def take_over(cls, config: pytest.Config) -> Ending:
        """Lets SIGTERM end this session in order."""
        ending = cls(config)
        config.pluginmanager.register(ending, "pytest_deepspeed_ending")
        # Elsewhere, such as in a thread of an IDE, Python takes no signals.
        if threading.current_thread() is threading.main_thread():
            ending._before = signal.signal(signal.SIGTERM, ending.on_sigterm)
            config.add_cleanup(ending._restore)
        return ending

    def _restore(self) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def on_sigterm(self, *_: object) -> None:
        """Slurm, or somebody else, wants this process to end."""
        job = os.environ.get("SLURM_JOB_ID")
        sender = f"; Slurm sends it to job {job} for scancel, preemption and its time limit"
        why = "pytest was told to end (SIGTERM" + (sender if job else "") + ")"
        if _has_workers(self._config):
            pytest.exit(why, returncode=pytest.ExitCode.INTERRUPTED)
        self.stop(why)
        if self._interrupt is not None:
            self._interrupt(why)

    def interrupts(self, interrupt: Callable[[str], None]) -> None:
        """What is to be called with the reason, so that a running world ends."""
        self._interrupt = interrupt

    def stop(self, why: str) -> None:
        """Lets no further test begin."""
        self._why = self._why or why
        session: Any = self._config.pluginmanager.getplugin("session")
        if session is not None:
            session.shouldstop = why

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes which tests were run."""
        self._reported.add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Names the tests that were not run."""
        session: Any = self._config.pluginmanager.getplugin("session")
        ids = [item.nodeid for item in getattr(session, "items", [])]
        missing = [nodeid for nodeid in ids if nodeid not in self._reported]
        if not self._why or not missing:
            return
        terminalreporter.write_sep("=", f"{len(missing)} of {len(ids)} tests were not run")
        terminalreporter.write_line(self._why)
        for nodeid in missing[:_NAMED]:
            terminalreporter.write_line(f"NOT RUN {nodeid}")
        if len(missing) > _NAMED:
            terminalreporter.write_line(f"and {len(missing) - _NAMED} more")


def _has_workers(config: pytest.Config) -> bool:
    """Whether this is the process that hands tests to xdist's workers."""
    return bool(getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput"))
