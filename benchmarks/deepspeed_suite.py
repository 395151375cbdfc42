"""DeepSpeed's own tests, as DeepSpeed runs them and on ranks of this plugin.

    python -m benchmarks.deepspeed_suite CHECKOUT [--folder=DIR] [TEST...]

CHECKOUT is one of DeepSpeed's repository, of the release that is installed or near it; only its
``tests`` folder is used, copied twice to DIR. In one copy a line at the end of
``tests/unit/common.py`` replaces the two base classes; nothing else differs. What has been run lies
in DIR and is not run again, so that a run can be continued.

"As DeepSpeed runs them" is its harness under pytest below 8.4, which it is pinned to (installed to
DIR, beside this environment's packages), with ``DS_ACCELERATOR=cpu LOCAL_SIZE=2``. The ops that the
tests load are compiled first, for both, as DeepSpeed compiles them. A hang should end its session
after ``DS_UNITTEST_TIMEOUT``, 30 seconds here; where the session hangs as well, it is killed after
60. The tests left are run in another.

Expected, before it was measured: five times faster at least and ten as the aim, since a test there
starts and imports its ranks (2.7 to 3 s on two ranks) and one here forks them (0.1 s); what a test
computes itself takes as long in both.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TESTS = (
    "unit/runtime/zero",
    "unit/checkpoint",
    "unit/runtime/half_precision",
    "unit/comm",
    "unit/runtime/test_ds_initialize.py",
)

_REPLACED = (
    "\nfrom pytest_deepspeed import DistributedFixture, DistributedTest  # noqa: E402,F401\n"
)

#: Takes seven minutes the first time, and seconds afterwards.
_COMPILE = """
from deepspeed.accelerator import get_accelerator
for name in ("AsyncIOBuilder", "CPUAdamBuilder", "FusedAdamBuilder", "ShareMemCommBuilder"):
    get_accelerator().create_op_builder(name).load(verbose=False)
"""

#: Seconds after which a test that hangs is given up, in both; and a session that then hangs.
_TIMEOUT, _STUCK = 30, 60

#: Sessions that a hang may end before this gives up.
_SESSIONS = 100


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a test: ``"passed"`` and so on, after how long, and the reason otherwise."""

    outcome: str
    seconds: float
    text: str


@dataclasses.dataclass(frozen=True)
class Harness:
    """One of the two ways to run the tests.

    Attributes:
        name: of its folder and its column.
        folder: where its copy of the tests lies, and what became of them.
        arguments: of pytest.
        environment: what it needs to be set.
    """

    name: str
    folder: Path
    arguments: tuple[str, ...]
    environment: dict[str, str]

    def run(self, tests: list[str]) -> None:
        """Runs what has not been run, in as many sessions as that takes."""
        for _ in range(_SESSIONS):
            before = len(self.outcomes())
            began = time.monotonic()
            status = self._session(tests)
            with self._file("sessions").open("a") as log:
                log.write(json.dumps([status, time.monotonic() - began]) + "\n")
            if status in (0, 1, 5) and not self._ended_early(before):
                return
            if len(self.outcomes()) == before:
                sys.exit(f"{self.name}: status {status} before a test; see {self._file('output')}")

    def _ended_early(self, before: int) -> bool:
        """Whether a test has ended the session, which pytest calls a failure like any other."""
        new = list(self.outcomes().values())[before:]
        return bool(new) and new[-1].outcome == "ended the session"

    def _session(self, tests: list[str]) -> int:
        env = {
            **os.environ,
            "SUITE_LOG": str(self._file("outcomes")),
            "DS_ACCELERATOR": "cpu",
            "LOCAL_SIZE": "2",
            "DS_UNITTEST_TIMEOUT": str(_TIMEOUT),
            "OMP_NUM_THREADS": "1",
            **self.environment,
        }
        env["PYTHONPATH"] = os.pathsep.join(
            filter(None, [self.environment.get("PYTHONPATH"), str(Path(__file__).parent)])
        )
        argv = [sys.executable, "-m", "pytest", "-p", "suite_recorder", "-p", "no:cacheprovider"]
        argv += ["--color=no", "--continue-on-collection-errors", *self.arguments, *tests]
        with self._file("output").open("a") as output:
            session = subprocess.Popen(
                argv,
                cwd=self.folder / "tests",
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            return self._watch(session)

    def _watch(self, session: subprocess.Popen[bytes]) -> int:
        """Waits for a session, and kills it where it has told nothing for too long."""
        log, last, since = self._file("outcomes"), -1, time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return session.wait(1)
            size = log.stat().st_size if log.exists() else 0
            if size != last:
                last, since = size, time.monotonic()
            elif time.monotonic() - since > _STUCK:
                os.killpg(session.pid, signal.SIGKILL)

    def _file(self, name: str) -> Path:
        return self.folder / name

    def outcomes(self) -> dict[str, Outcome]:
        """What became of each test so far, by id."""
        found: dict[str, Outcome] = {}
        if self._file("outcomes").exists():
            for line in self._file("outcomes").read_text().splitlines():
                read = json.loads(line)
                found[read["test"]] = Outcome(read["outcome"], read["seconds"], read["text"])
        return found

    @property
    def seconds(self) -> float:
        """Wall time of all its sessions."""
        return sum(json.loads(x)[1] for x in self._file("sessions").read_text().splitlines())

    @property
    def sessions(self) -> int:
        """How many it took."""
        return len(self._file("sessions").read_text().splitlines())


def main() -> None:
    """Runs both, and prints what they say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="of DeepSpeed's repository")
    parser.add_argument("tests", nargs="*", help="below its tests folder", default=[*TESTS])
    parser.add_argument("--folder", type=Path, default=Path(".deepspeed-suite"))
    given = parser.parse_intermixed_args()
    ours, theirs = _prepare(given.checkout, given.folder.absolute())
    ours.run(given.tests)
    theirs.run(given.tests)
    print("\n".join(report(theirs, ours)))


def _prepare(checkout: Path, folder: Path) -> tuple[Harness, Harness]:
    for name in ("ours", "theirs"):
        if not folder.joinpath(name).exists():
            shutil.copytree(checkout / "tests", folder / name / "tests")
            if name == "ours":
                with folder.joinpath(name, "tests/unit/common.py").open("a") as common:
                    common.write(_REPLACED)
    # Or the first tests would be killed while they compile, and the next wait for them: those that
    # start an engine in pytest's own process here, and all of them there.
    ops = {"TORCH_EXTENSIONS_DIR": str(folder / "ops"), "PATH": _path(), "DS_ACCELERATOR": "cpu"}
    subprocess.run([sys.executable, "-c", _COMPILE], env={**os.environ, **ops}, check=True)
    pinned = folder / "pytest"
    if not pinned.exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", f"--target={pinned}", "pytest<8.4"]
        subprocess.run(pip, check=True)
    return (
        Harness("ours", folder / "ours", ("-p", "no:randomly", f"--ds-timeout={_TIMEOUT}"), ops),
        Harness(
            "theirs",
            folder / "theirs",
            (),
            {
                "PYTHONPATH": str(pinned),
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                **ops,
            },
        ),
    )


def _path() -> str:
    """``PATH`` with this interpreter's ninja."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def _by_test(outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
    """The worst of the tests that are here one for each size of a list, and one there for all."""
    order = ("skipped", "passed", "failed", "error", "ended the session")
    found: dict[str, Outcome] = {}
    for test, outcome in outcomes.items():
        name = re.sub(r"world_size_\d+-|-?world_size_\d+", "", test).replace("[]", "")
        other = found.get(name, outcome)
        worst = max(other, outcome, key=lambda o: order.index(o.outcome))
        seconds = outcome.seconds + (other.seconds if name in found else 0)
        found[name] = dataclasses.replace(worst, seconds=seconds)
    return found


def report(theirs: Harness, ours: Harness) -> Iterator[str]:
    """The lines of the result: counts, times, and each test with another outcome."""
    a, b = _by_test(theirs.outcomes()), _by_test(ours.outcomes())
    yield f"{'':<22}{'tests':>7}  {'seconds':>8}  sessions  outcomes"
    for name, harness, found in (("DeepSpeed's harness", theirs, a), ("this plugin", ours, b)):
        counts = Counter(o.outcome for o in found.values())
        shown = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
        head = f"{name:<22}{len(found):>7}  {harness.seconds:>8.0f}"
        yield f"{head}  {harness.sessions:>8}  {shown}"
    yield f"wall time: {theirs.seconds / ours.seconds:.1f} times"
    both = [t for t in a if t in b and a[t].outcome == b[t].outcome == "passed"]
    alike = [t for t in a if t in b and a[t].outcome == b[t].outcome]
    if both:
        ratio = sum(a[t].seconds for t in both) / sum(b[t].seconds for t in both)
        yield f"of the {len(both)} that pass in both: {ratio:.1f} times"
    yield f"{len(alike)} of {len(a.keys() | b.keys())} tests have the same outcome; the others:"
    for test in sorted((a.keys() | b.keys()) - set(alike)):
        yield test
        for name, found in (("theirs", a), ("ours", b)):
            outcome = found.get(test)
            text = outcome.text.strip().splitlines()[:1] if outcome else []
            what = outcome.outcome if outcome else "not collected"
            yield f"  {name:<7}{': '.join([what, *text])[:200]}"


if __name__ == "__main__":
    main()
