"""Faults of a session as a whole: its agent while it starts, pytest itself, its surroundings.

Each try is a session of its own with a few tests on ranks, one that fails, and one without ranks.
"""

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import campaign_plan
import campaign_sessions as sessions
from campaign_judge import Try
from marked import wait_for

#: Seconds that a session may take, on a machine that is busy.
PATIENCE = 240.0

#: Seconds in which a struck session has to end.
PROMPT = 30.0

RED, INTERRUPTED, USAGE = 1, 2, 4


@dataclasses.dataclass(frozen=True)
class Fault:
    """One of them; right verdicts were written down before the first run.

    Attributes:
        name, what: as in `campaign_catalogue`.
        strike: what happens to the running session; it gets the controller's process, the mark, and
            where moments are drawn from.
        statuses: exit statuses that are right.
        says: what the session's output or a test's failure must say, any of them; nothing if empty.
        harmed: how many tests may be errors for it.
        reports: whether the report files must be whole.
        ends: whether the session ends by it, and need not run all its tests.
        inside: a command that the session runs under, such as ``unshare``; or ``None`` where this
            machine has it not.
        limits: of `resource`, for the session.
        arguments: of pytest, in place of those for reports in its directory.
        every: as in `campaign_catalogue`.
    """

    name: str
    what: str
    strike: Callable[..., None] | None = None
    statuses: Sequence[int] = (RED,)
    says: Sequence[str] = ()
    harmed: int = 0
    reports: bool = True
    ends: bool = False
    inside: Sequence[str] | None = ()
    limits: dict[str, int] = dataclasses.field(default_factory=dict)
    arguments: Sequence[str] = ()
    every: int = 4


def _wait(condition):
    wait_for(condition, PATIENCE)


def _agent(process, mark):
    """The process id of its agent, or None."""
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{process.pid}/task"):
            children = Path(f"/proc/{process.pid}/task/{task}/children").read_text()
            for pid in map(int, children.split()):
                if "pytest_deepspeed" in sessions.command(pid):
                    return pid
    return None


def _kill_agent(process, mark):
    with contextlib.suppress(ProcessLookupError, TypeError):
        os.kill(_agent(process, mark), signal.SIGKILL)


def _agent_at_start(process, mark, folder, choice):
    _wait(lambda: _agent(process, mark) or process.poll() is not None)
    time.sleep(choice.uniform(0, 5))
    _kill_agent(process, mark)


def _agent_between_tests(process, mark, folder, choice):
    _wait(lambda: folder.joinpath("clean-1.json").exists() or process.poll() is not None)
    time.sleep(choice.uniform(0, 1))
    _kill_agent(process, mark)


def _signal(number, times=1):
    """Sent to pytest alone, at any time from its header on."""

    def strike(process, mark, folder, choice):
        _wait(
            lambda: (
                b"collected" in folder.joinpath("output").read_bytes() or process.poll() is not None
            )
        )
        if choice.random() < 0.7:  # else while the agent starts
            _wait(lambda: folder.joinpath("clean-1.json").exists() or process.poll() is not None)
        time.sleep(choice.uniform(0, 2))
        for _ in range(times):
            process.send_signal(number)
            time.sleep(choice.uniform(0, 0.5))

    return strike


def _mounted(*commands):
    """Runs a session in a mount namespace of its own, after these commands; needs root."""
    if os.geteuid() or shutil.which("unshare") is None:
        return None
    script = " && ".join([*commands, 'exec "$@"'])
    return ("unshare", "--mount", "sh", "-c", script, "sh")


def _elsewhere(folder):
    """Reports of ours in another directory; pytest's own stays, since it dies of a full disk."""
    return (
        "--junitxml=junit.xml",
        f"--ds-report={folder}/report.json",
        f"--ds-report={folder}/report.html",
    )


_LOST = "the agent that forks the ranks was killed by SIGKILL"

FAULTS = (
    Fault(
        "agent_at_start",
        "agent: SIGKILL while it starts",
        _agent_at_start,
        says=(_LOST,),
        harmed=99,
    ),
    Fault(
        "agent_between",
        "agent: SIGKILL between tests",
        _agent_between_tests,
        says=(_LOST,),
        harmed=1,
    ),
    Fault("ctrl_c", "pytest: Ctrl-C", _signal(signal.SIGINT), (INTERRUPTED,), ends=True, harmed=1),
    Fault(
        "ctrl_c_twice",
        "pytest: Ctrl-C twice",
        _signal(signal.SIGINT, 2),
        # The second one may end pytest itself, in the middle of what it does at the first.
        (INTERRUPTED, -signal.SIGINT),
        ends=True,
        harmed=1,
        reports=False,
    ),
    Fault(
        "sigterm_pytest",
        "pytest: SIGTERM",
        _signal(signal.SIGTERM),
        (INTERRUPTED,),
        ends=True,
        harmed=1,
    ),
    Fault(
        "sigkill_pytest",
        "pytest: SIGKILL",
        _signal(signal.SIGKILL),
        (-signal.SIGKILL,),
        ends=True,
        reports=False,
    ),
    Fault(
        "hangup",
        "pytest: terminal closed (SIGHUP)",
        _signal(signal.SIGHUP),
        (-signal.SIGHUP, INTERRUPTED),
        ends=True,
        reports=False,
    ),
    Fault(
        "report_disk_full",
        "report: disk full",
        says=("No space left on device",),
        inside=_mounted("mkdir full", "mount -t tmpfs -o size=4k none full"),
        arguments=_elsewhere("full"),
        reports=False,
    ),
    Fault(
        "report_read_only",
        "report: directory read-only",
        statuses=(USAGE,),
        says=("cannot be written: name a file elsewhere",),
        inside=_mounted("mkdir ro", "mount -t tmpfs -o ro none ro"),
        arguments=_elsewhere("ro"),
        reports=False,
    ),
    Fault(
        "shm_full",
        "no space in /dev/shm",
        inside=_mounted("mount -t tmpfs -o size=4k none /dev/shm"),
    ),
    Fault("few_descriptors", "ulimit -n 64", limits={"NOFILE": 64}),
    Fault(
        "two_addresses",
        "host name with two addresses",
        inside=_mounted(
            'echo "127.0.0.1 localhost $(hostname)" > hosts',
            'echo "192.0.2.7 $(hostname)" >> hosts',
            "mount --bind hosts /etc/hosts",
        ),
    ),
)

BY_NAME = {fault.name: fault for fault in FAULTS}


def run(fault, seed, folder):
    """Makes it happen once.

    Returns:
        the `Try`; ``None`` where this machine has not what it takes.
    """
    if fault.inside is None:
        return None
    choice = random.Random(f"{fault.name} {seed}")
    # What ends the session must find it running: 16 tests last longer than any moment drawn.
    plan = campaign_plan.controls(16 if fault.ends else 4)
    sessions.write(folder, plan)
    before, began = sessions.segments(), time.monotonic()
    prepare = sessions.limited(**fault.limits) if fault.limits else None
    reports = fault.arguments or sessions.REPORTS
    with sessions.session(folder, *reports, prefix=fault.inside, prepare=prepare) as (
        process,
        mark,
    ):
        if fault.strike is not None:
            fault.strike(process, mark, folder, choice)
            began = time.monotonic()
        ended = sessions.ended(folder, process, mark, before, PROMPT if fault.ends else PATIENCE)
    seconds = time.monotonic() - began
    wrong = tuple(_wrong(fault, ended, plan))
    return Try(fault.name, seed, "", seconds, wrong, ended.left)


def _wrong(fault, ended, plan):
    output = ended.output
    if ended.status not in fault.statuses:
        yield f"exit status {ended.status}: {output[-3000:]}"
    killed = fault.ends and not fault.reports
    trace = "INTERNALERROR" in output or "Traceback (most recent call last):\n  File" in output
    if trace and not killed:
        yield f"an internal error: {output[-3000:]}"
    if fault.reports:
        yield from ended.broken_files()
        yield from _tests(fault, ended, plan)
    elif fault.says and not any(words in output for words in fault.says):
        yield f"says none of {fault.says}: {output[-3000:]}"


def _tests(fault, ended, plan):
    """Each test has the outcome that it has without the fault, or is told to have been harmed."""
    try:
        report = ended.report()
    except (OSError, ValueError):
        return  # told already
    tests = {test["nodeid"].partition("::")[2]: test for test in report["tests"]}
    expected = {f"test_case[{entry['id']}]": "passed" for entry in plan}
    expected |= {"test_that_fails": "failed", "test_without_ranks": "passed"}
    if missing := [name for name in expected if name not in tests]:
        yield f"not in the report: {', '.join(missing)}"
        return
    harmed = {
        name: tests[name] for name, outcome in expected.items() if tests[name]["outcome"] != outcome
    }
    if fault.ends:
        harmed = {name: test for name, test in harmed.items() if test["outcome"] != "not run"}
        if report["complete"] and len(harmed) == 0 and ended.status == INTERRUPTED:
            yield "it was interrupted, and the report does not say so"
    if len(harmed) > fault.harmed:
        yield f"{len(harmed)} tests are harmed, not {fault.harmed}: {ended.output[-3000:]}"
    for name, test in harmed.items():
        text = f"{test['message']}\n{test['text']}"
        if (
            test["outcome"] != "interrupted"
            and fault.says
            and not any(w in text for w in fault.says)
        ):
            yield f"{name} does not say what happened: {text[-1500:]}"
