"""A fault of a session as a whole: made to happen once, and judged.

Each try is a session of its own, or two beside each other: with a few tests on ranks, one that
fails, and one without ranks; or with the tests of a `Scene`.
"""

import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import campaign_plan
import campaign_sessions as sessions
from campaign_judge import Try, text_of
from marked import wait_for

#: Seconds that a session may take, on a machine that is busy.
PATIENCE = 240.0

#: Seconds in which a struck session has to end.
PROMPT = 30.0

RED, INTERRUPTED, USAGE = 1, 2, 4

#: The tests of a session without a scene, beside its controls.
_USUAL = {"test_that_fails": "as expected", "test_without_ranks": ""}


@dataclasses.dataclass(frozen=True)
class Scene:
    """Tests other than the usual ones.

    Attributes:
        source: the file that has them, copied as ``test_victims.py``.
        expected: ``{test: pattern}``: what its failure must say, or nothing where it passes.
        set_up: called with the session's directory and where moments are drawn from before it
            begins; returns variables for its environment.
        left: called with the directory after it has ended; yields what should not be there.
    """

    source: str
    expected: Mapping[str, str]
    set_up: Callable[[Path, random.Random], Mapping[str, str]] = lambda folder, choice: {}
    left: Callable[[Path], Sequence[str]] = lambda folder: ()


@dataclasses.dataclass(frozen=True)
class Fault:
    """One of them; right verdicts were written down before the first run.

    Attributes:
        name, what: as in `campaign_catalogue`.
        strike: what happens to the running session; it gets the controller's process, the mark, its
            directory, and where moments are drawn from, and returns ``False`` where it came late.
        statuses: exit statuses that are right.
        says: what the session's output or a test's failure must say, any of them; nothing if empty.
        harmed: how many tests may be errors for it.
        reports: whether the report files must be whole.
        ends: whether the session ends by it, and need not run all its tests.
        inside: a command that the session runs under, such as ``unshare``; or ``None`` where this
            machine has it not.
        limits: of `resource`, for the session.
        arguments: of pytest, more of them.
        report_to: a directory of the session where this plugin's reports go.
        scene: its tests, where they are not the usual ones.
        copies: how many sessions run at once.
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
    report_to: str = "."
    scene: Scene | None = None
    copies: int = 1
    every: int = 4


# Where a session runs.


def inside(*commands, unshare=()):
    """A command that runs another one after these, in namespaces of its own, where it can."""
    if unshare and not sessions.can_unshare(*unshare):
        return None
    script = " && ".join([*commands, 'exec "$@"'])
    unshared = ("unshare", *unshare) if unshare else ()
    return (*unshared, "sh", "-c", script, "sh")


def mounted(*commands):
    """In a mount namespace."""
    return inside(*commands, unshare=["--mount"])


def own_network(*commands):
    """In a network namespace, whose loopback is up."""
    if shutil.which("ip") is None:
        return None
    return inside("ip link set lo up", *commands, unshare=["--net"])


#: Groups of processes whose number the kernel can limit (version 1 of cgroups).
_PIDS = Path("/sys/fs/cgroup/pids")


def few_tasks(number):
    """In a cgroup that may have so many processes and threads."""
    if not os.access(_PIDS / "cgroup.procs", os.W_OK):
        return None
    group = _PIDS / f"campaign-{os.getpid()}"
    return inside(
        f"mkdir -p {group}", f"echo {number} > {group}/pids.max", f"echo $$ > {group}/cgroup.procs"
    )


def _no_group():
    """Removes the group, which is busy until the last of its processes is reaped."""
    with contextlib.suppress(OSError):
        for group in _PIDS.glob(f"campaign-{os.getpid()}"):
            group.rmdir()
        return True
    return False


# One try.


def run(fault, seed, folder):
    """Makes it happen once.

    Returns:
        the `Try`; ``None`` where this machine has not what it takes, or the strike came too late.
    """
    if fault.inside is None:
        return None
    choice = random.Random(f"{fault.name} {seed}")
    before = sessions.segments()
    with contextlib.ExitStack() as stack:
        folders = [folder / str(i) for i in range(fault.copies)] if fault.copies > 1 else [folder]
        running = [stack.enter_context(_session(fault, each, choice)) for each in folders]
        began, missed = time.monotonic(), False
        if fault.strike is not None:
            missed = fault.strike(*running[0], folders[0], choice) is False
            began = time.monotonic()
        patience = PROMPT if fault.ends else PATIENCE * fault.copies
        ended = [
            sessions.ended(each, process, mark, before, patience)
            for each, (process, mark) in zip(folders, running, strict=True)
        ]
    seconds = time.monotonic() - began
    wait_for(_no_group, 5)
    if missed:
        return None
    wrong = tuple(text for each in ended for text in _wrong(fault, each))
    left = [text for each in ended for text in each.left]
    if fault.scene is not None:
        left += [text for each in folders for text in fault.scene.left(each)]
    return Try(fault.name, seed, "", seconds, wrong, tuple(left))


def _session(fault, folder, choice):
    # What ends the session must find it running: 16 tests last longer than any moment drawn.
    plan = campaign_plan.controls(16 if fault.ends else 4)
    sessions.write(folder, plan, fault.scene.source if fault.scene else "campaign_victims.py")
    more = fault.scene.set_up(folder, choice) if fault.scene else {}
    prepare = sessions.limited(**fault.limits) if fault.limits else None
    arguments = [*sessions.reports(fault.report_to), *fault.arguments]
    return sessions.session(folder, *arguments, prefix=fault.inside, prepare=prepare, more=more)


def _wrong(fault, ended):
    output = ended.output
    if ended.status not in fault.statuses:
        yield f"exit status {ended.status}: {output[-3000:]}"
    killed = fault.ends and not fault.reports
    trace = "INTERNALERROR" in output or "Traceback (most recent call last):\n  File" in output
    if trace and not killed and fault.scene is None:
        yield f"an internal error: {output[-3000:]}"
    if fault.reports:
        yield from ended.broken_files()
        yield from _tests(fault, ended)
    elif fault.says and not any(words in output for words in fault.says):
        yield f"says none of {fault.says}: {output[-3000:]}"


def _expected(fault, ended):
    if fault.scene is not None:
        return dict(fault.scene.expected)
    plan = json.loads(ended.folder.joinpath("plan.json").read_text())
    return {f"test_case[{entry['id']}]": "" for entry in plan} | _USUAL


def _tests(fault, ended):
    """Each test has the outcome that it has without the fault, or is told to have been harmed."""
    try:
        report = ended.report()
    except (OSError, ValueError):
        return  # told already
    tests = {test["nodeid"].partition("::")[2]: test for test in report["tests"]}
    expected = _expected(fault, ended)
    if missing := [name for name in expected if name not in tests]:
        yield f"not in the report: {', '.join(missing)}"
        return
    harmed = {name: test for name, test in tests.items() if not _as(expected[name], test)}
    if fault.ends:
        harmed = {name: test for name, test in harmed.items() if test["outcome"] != "not run"}
        if report["complete"] and len(harmed) == 0 and ended.status == INTERRUPTED:
            yield "it was interrupted, and the report does not say so"
    if len(harmed) > fault.harmed:
        shown = "\n".join(text_of(test)[-1500:] for test in harmed.values())
        yield f"{', '.join(harmed)} are harmed, not {fault.harmed}: {shown}"
    for name, test in harmed.items():
        text = text_of(test)
        if (
            test["outcome"] != "interrupted"
            and fault.says
            and not any(w in text for w in fault.says)
        ):
            yield f"{name} does not say what happened: {text[-1500:]}"


def _as(pattern, test):
    """Whether a test has passed, or failed and said what it had to."""
    if not pattern:
        return test["outcome"] == "passed"
    return (
        test["outcome"] == "failed" and re.search(pattern, text_of(test), re.MULTILINE) is not None
    )
