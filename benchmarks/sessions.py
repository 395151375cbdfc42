"""pytest sessions, started as a user starts them."""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.on_request import Contender

_HERE = Path(__file__).parent

#: Order and cache of the tests are the benchmark's own, and no output is captured but by ranks.
_OPTIONS = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider"]


def environment(**more: str) -> dict[str, str]:
    """What every process of the benchmark gets: one thread, the CPU, compiled Python files."""
    own = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return own | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"} | more


def on_request(name: str, test: str, count: int, *options: str, **more: str) -> Contender:
    """A warm session that runs ``test`` of `ranked_tests` once for each of ``count`` requests.

    Args:
        options: more of pytest's.
        more: environment variables.
    """
    tests = str(_HERE / "ranked_tests.py")
    arguments = ["pytest", *_OPTIONS, "-p", "benchmarks.on_request", *options, tests, "-k", test]
    return Contender(name, arguments, environment(BENCHMARK_TESTS=str(count), **more))


def over_nodes(rounds: int, sizes: Sequence[int], *options: str, **more: str) -> None:
    """A session that runs `node_tests`: in each round on as many nodes as each of ``sizes`` says.

    Raises:
        RuntimeError: the session failed.
    """
    own = {"BENCHMARK_TESTS": str(rounds), "BENCHMARK_SIZES": ",".join(map(str, sizes))}
    _run("-m", "pytest", *_OPTIONS, *options, str(_HERE / "node_tests.py"), **own, **more)


def systems(rounds: int, *options: str, **more: str) -> None:
    """A session that runs `system_tests`: in each round each of the wiki's systems.

    Raises:
        RuntimeError: the session failed.
    """
    own = {"BENCHMARK_TESTS": str(rounds)}
    _run("-m", "pytest", *_OPTIONS, *options, str(_HERE / "system_tests.py"), **own, **more)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds that a process took: on the clock, and of a processor, user and system."""

    wall: float
    cpu: float


def plain(*plugins: str) -> Cost:
    """What a session of `plain_tests` costs that loads these plugin modules and no other.

    Raises:
        RuntimeError: the session failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    own = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": ",".join(plugins)}
    _run("-m", "pytest", "-q", str(_HERE / "plain_tests.py"), **own)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Cost(wall, cpu)


def controller_imports_torch(test: str) -> bool:
    """Whether torch is in a session's `sys.modules` after it ran ``test`` of this folder.

    Raises:
        RuntimeError: the session failed.
    """
    code = (
        "import sys, pytest; failed = pytest.main(sys.argv[1:]);"
        " print('torch imported:', 'torch' in sys.modules); sys.exit(failed)"
    )
    return "torch imported: True" in _run("-c", code, *_OPTIONS, str(_HERE / test))


def _run(*arguments: str, **more: str) -> str:
    ended = subprocess.run(
        [sys.executable, *arguments],
        env=environment(**{"BENCHMARK_TESTS": "1", **more}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"{arguments} failed:\n{ended.stdout}")
    return ended.stdout
