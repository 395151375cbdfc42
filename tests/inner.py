"""A pytest session inside a test, and what a person sees of it.

The session is the real one: a subprocess with a directory of its own, the installed plugins and a
real agent. Only what differs from run to run is replaced in its output: process ids, milliseconds,
addresses, the directory, and the line numbers of torch's own source.
"""

import contextlib
import dataclasses
import functools
import os
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path

#: pytest-randomly and pytest-asyncio say nothing about ranks, and cost start-up time.
_INI = "[pytest]\naddopts = -p no:randomly -p no:asyncio\n"

#: What the outer session tells its own workers and agents, and the inner one must not hear.
_OUTER = re.compile(
    r"PYTEST_(?!DS_OPS_CACHE$)|COV_CORE_|COVERAGE_|TORCHELASTIC_|FORCE_COLOR|PY_COLORS"
    # Where these are set, pytest cuts no line of its summary and no diff.
    r"|CI$|BUILD_NUMBER$"
    # Where this is set, this plugin prints annotations.
    r"|GITHUB_ACTIONS$"
)

_VOLATILE = (
    (r"\(pid \d+\)", "(pid N)"),
    (r"(?<!\S)/\S*?pytest-of-\S+?/pytest-\d+/", "TMP/"),
    (r"\d+ ms later", "N ms later"),
    (r"0x[0-9a-f]+", "0xN"),
    (r"(?<!\S)[./]\S*?/site-packages/torch/(\S+?):\d+(:?) in", r"torch/\1:N\2 in"),
    (r"(?<!\S)[./]\S*?/lib/python3\.\d+/(?!site-packages)(\S+?):\d+(:?) in", r"python/\1:N\2 in"),
    (r"\(\d+ frames of", "(N frames of"),
    (r"(127\.0\.0\.1\]?):\d+", r"\1:PORT"),
    (r" +$", ""),
)


def environment(**more):
    """This process's environment without what belongs to the session that it is in."""
    kept = {name: value for name, value in os.environ.items() if not _OUTER.match(name)}
    return {**kept, "COLUMNS": "80", "OMP_NUM_THREADS": "1", **more}


def write(folder, *sources):
    """Writes each source to a file that is named after its first test; returns the files."""
    folder.joinpath("pytest.ini").write_text(_INI)
    files = []
    for source in sources:
        text = textwrap.dedent(source).lstrip("\n")
        name = re.search(r"def (test_\w+)", text)[1]
        files.append(folder / f"{name}.py")
        files[-1].write_text(text)
    return files


def start(folder, *args, **env):
    """Starts pytest in ``folder``; its output goes to the file ``output`` there."""
    with folder.joinpath("output").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "-rfEsxXp", "--junitxml=junit.xml", *args],
            cwd=folder,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def run(folder, *sources, args=(), timeout=500):
    """Runs the sources in one session and waits for its end."""
    write(folder, *sources)
    process = start(folder, *args)
    try:
        process.wait(timeout)
    finally:
        process.kill()
    folder.joinpath("status").write_text(str(process.wait()))
    return Session(folder)


@dataclasses.dataclass(frozen=True)
class Session:
    """An inner session that has ended, read from its directory."""

    folder: Path

    @property
    def status(self):
        return int(self.folder.joinpath("status").read_text())

    @functools.cached_property
    def output(self):
        return normalised(self.folder.joinpath("output").read_text(), self.folder)

    @functools.cached_property
    def _sections(self):
        headline = r"^(?:=+ (.+) =+|-+ generated xml file: .+)\n"
        parts = re.split(headline, self.output, flags=re.MULTILINE)
        return dict(zip(parts[1::2], parts[2::2], strict=True))

    def section(self, title):
        """The lines below ``==== title ====``, up to the next such line."""
        return self._sections.get(title, "")

    def failures(self, file):
        """Each failure of the tests of one file, as text: ``{headline: block}``."""
        blocks = {}
        for title in ("ERRORS", "FAILURES"):
            parts = re.split(r"^_{3,} (.+) _{3,}\n", self.section(title), flags=re.MULTILINE)
            blocks.update(zip(parts[1::2], parts[2::2], strict=True))
        tests = re.findall(r"def (test_\w+)", file.read_text())
        return {head: block for head, block in blocks.items() if _test_of(head) in tests}

    def test(self, file):
        """What the session says of the tests of one file."""
        return Shown(self, file)


def _test_of(headline):
    return headline.partition("[")[0].split()[-1].rpartition(".")[2]


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a person sees of the tests of one file."""

    session: Session
    file: Path

    @property
    def failure(self):
        """The one failure: its headline, and the text below it."""
        ((head, text),) = self.session.failures(self.file).items()
        return f"{head}\n{text}"

    @property
    def summary(self):
        """Its lines of the short summary."""
        lines = self.session.section("short test summary info").splitlines()
        return [line for line in lines if self.file.name in line]

    @property
    def warnings(self):
        """Its part of the warnings summary, without pytest's own last line."""
        blocks = self.session.section("warnings summary").split("\n\n")
        own = [block for block in blocks if block.startswith(self.file.name)]
        return "".join(f"{block.rstrip()}\n" for block in own)

    @property
    def left(self):
        """The command lines of processes that still run in the session's directory."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if process.joinpath("cwd").readlink() == self.session.folder:
                    found.append(process.joinpath("cmdline").read_text().replace("\0", " "))
        return found

    @property
    def seconds(self):
        """Wall time of its tests, set-up and teardown included."""
        cases = ET.parse(self.session.folder / "junit.xml").iter("testcase")
        return sum(float(c.get("time")) for c in cases if c.get("classname") == self.file.stem)


def normalised(text, folder):
    """Without what differs from run to run."""
    text = text.replace(str(folder), "DIR")
    for pattern, replacement in _VOLATILE:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def text(block):
    """An indented block as the text that it shows."""
    return textwrap.dedent(block).lstrip("\n")
