"""Sessions of pytest that are struck, and what stands in their directory when they have ended."""

import contextlib
import dataclasses
import functools
import html.parser
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path

import inner
from campaign_strikes import MEMORY_GROUPS
from marked import processes, wait_for

HERE = Path(__file__).parent

#: What all processes of a session have in their environment, and its files in their name.
MARK = "CAMPAIGN_MARK"


@functools.cache
def can_unshare(*flags):
    """Whether a command can have namespaces of its own: root can, but not in every container."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", *flags, "true"], capture_output=True, check=False)
    return tried.returncode == 0


#: Runs a session with a /dev/shm of its own, so that it can be told what it leaves there, however
#: many others run; root may.
OWN_SHM = (
    ("unshare", "--mount", "sh", "-c", 'mount --bind shm /dev/shm && exec "$@"', "sh")
    if can_unshare("--mount")
    else ()
)

_INI = "[pytest]\naddopts = -p no:randomly -p no:asyncio -p no:cacheprovider\n"


def environment(folder, mark):
    """For a session in ``folder``: what it leaves in the temporary directory lies there."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return inner.environment(TMPDIR=str(temporary), **{MARK: mark})


@dataclasses.dataclass(frozen=True)
class Ended:
    """A session that has ended, and what it left.

    Attributes:
        status: its exit status, negative for a signal.
        left: a line for each process, segment or file that is still there.
        folder: where it ran.
    """

    status: int
    left: tuple[str, ...]
    folder: Path

    @property
    def output(self):
        """All that it wrote to its terminal."""
        return self.folder.joinpath("output").read_text(errors="replace")

    def report(self):
        """The JSON report.

        Raises:
            OSError, ValueError: there is none, or it is cut.
        """
        return json.loads(self.folder.joinpath("report.json").read_text())

    def broken_files(self):
        """A line for each report that is missing, cut, or not well formed."""
        found = []
        for name, parse in {
            "junit.xml": ET.fromstring,
            "report.json": json.loads,
            "report.html": _parse_html,
            "report.md": str,
        }.items():
            try:
                text = self.folder.joinpath(name).read_bytes().decode()
                parse(text)
                found += [] if text.strip() else [f"{name}: it is empty"]
            except (OSError, ValueError, ET.ParseError) as error:
                found.append(f"{name}: {error}")
        return found


def _parse_html(text):
    parser = html.parser.HTMLParser()
    parser.feed(text)
    parser.close()
    if not text.rstrip().endswith("</html>"):
        raise ValueError("it does not end")


def write(folder, plan, source="campaign_victims.py"):
    """The files of a session with this plan, or with other tests."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.joinpath("pytest.ini").write_text(_INI)
    folder.joinpath("plan.json").write_text(json.dumps(plan, indent=1))
    shutil.copy(HERE / source, folder / "test_victims.py")
    for name in ("campaign_strikes.py", "campaign_meetings.py"):
        shutil.copy(HERE / name, folder)


def reports(folder="."):
    """Arguments for all kinds; pytest's own stays, since pytest dies of a full disk."""
    return (
        "--junitxml=junit.xml",
        *(f"--ds-report={folder}/report.{kind}" for kind in ("json", "html", "md")),
    )


@contextlib.contextmanager
def session(folder, *arguments, prefix=(), prepare=None, more=None):
    """A session under way in ``folder``: its process and its mark; nothing of it outlives this.

    Args:
        arguments: of pytest.
        prefix: a command that runs it.
        prepare: called in its process before it begins.
        more: variables for its environment.
    """
    mark = f"campaign_{uuid.uuid4().hex}"
    command = [*prefix, sys.executable, "-m", "pytest", *arguments]
    if OWN_SHM:
        folder.joinpath("shm").mkdir(exist_ok=True)
        command = [*OWN_SHM, *command]
    with folder.joinpath("output").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder, mark) | (more or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_begin(prepare),  # noqa: PLW1509 (there are no threads here)
        )
    try:
        yield process, mark
    finally:
        process.kill()
        process.wait()
        for pid in processes(mark):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def ended(folder, process, mark, before, patience):
    """Waits for the end of a session, and looks at what it left.

    Args:
        before: what lay in /dev/shm before it began.
        patience: seconds that it may take; it is killed then, and that is something left.
    """
    left = []
    try:
        status = process.wait(patience)
    except subprocess.TimeoutExpired:
        left.append(f"the session itself, after {patience:.0f} s")
        process.kill()
        status = process.wait()

    def left_segments():
        return set(os.listdir(folder / "shm")) if OWN_SHM else segments() - before

    wait_for(lambda: not processes(mark) and not left_segments(), 5)
    for group in MEMORY_GROUPS.glob("campaign-*"):
        with contextlib.suppress(OSError):  # of a campaign beside this one
            group.rmdir()
    left += [f"process {command(pid)}" for pid in processes(mark)]
    left += [f"/dev/shm/{name}" for name in sorted(left_segments())]
    left += [
        f"{path.name} in the temporary directory"
        for path in folder.joinpath("tmp").iterdir()
        # That of pytest, and torch's own cache.
        if not path.name.startswith(("pytest-of-", "torchinductor_"))
    ]
    return Ended(status, tuple(left), folder)


def command(pid):
    """Its command line."""
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    return "gone"


def segments():
    """What lies in /dev/shm and no process has mapped or open: other sessions have theirs."""
    names = {path.name for path in Path("/dev/shm").iterdir()}
    if not names:
        return names
    used = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            used.update(
                part for part in process.joinpath("maps").read_text().split("/dev/shm/")[1:]
            )
            for fd in process.joinpath("fd").iterdir():
                with contextlib.suppress(OSError):
                    used.add(os.readlink(fd).removeprefix("/dev/shm/"))
    return names - {text.split("\n")[0] for text in used}


def _begin(prepare):
    """For the session's process: signals reach it, also where this is a job in the background."""

    def begin():
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if prepare is not None:
            prepare()

    return begin


def limited(**limits):
    """For ``prepare``: sets limits of `resource` before the session begins, as a shell's ulimit."""

    def prepare():
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))

    return prepare
