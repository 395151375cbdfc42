"""What a test on ranks costs, beside other ways to start ranks: ``python -m benchmarks.ranks``.

All that is compared is measured in one run, in turns, round by round, so that each pair saw the
same load; the table has medians and quartiles. What was expected stands here, in `AIMS`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version

from benchmarks import sessions, table
from benchmarks.on_request import Contender

#: Stated before measuring. A quantity that is here for comparison alone has no aim.
AIMS = {
    "plugin": table.Aim("<=", 100),
    "short": table.Aim("<=", 100),
    "plugin/fork": table.Aim("<=", 3),
    "short/fork": table.Aim("<=", 3),
    "spawn/plugin": table.Aim(">=", 30),
    "spawn/short": table.Aim(">=", 30),
    "zero2": table.Aim("<", 1000),
    "start": table.Aim("<", 10),
    "unused cpu": table.Aim("<", 20),
    "unused wall": table.Aim("<", 20),
    "torch": table.Aim("<=", 0),
}

#: Tests of a long suite, for which the agent puts its heap into huge pages, and of a short one.
LONG, SHORT = 200, 20

_NAMES = {
    "plugin": "long suite",
    "short": "short suite",
    "fork": "floor",
    "forkserver": "forkserver",
    "spawn": "spawn",
}

Samples = dict[str, list[float]]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="of all contenders (default 10)")
    parser.add_argument(
        "--starts", type=int, default=40, help="pairs of plain sessions (default 40)"
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.rounds <= SHORT - 2:
        parser.error(f"--rounds: 1 to {SHORT - 2}, got {arguments.rounds}")
    print(machine())
    print(table.HEADER, flush=True)
    for row in itertools.chain(unused(arguments.starts), ranked(arguments.rounds)):
        print(row, flush=True)
    print(f"load at the end: {load()}")


def machine() -> str:
    """What the figures were taken on, for the head of a table."""
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "deepspeed", "pytest"))
    return (
        f"{os.cpu_count()} cores, CPU, gloo, Python {platform.python_version()}\n{versions}\n"
        f"load at the start: {load()}\n"
    )


def load() -> str:
    """How busy the machine is."""
    return f"{os.getloadavg()[0]:.1f} processes wanted a core in the last minute"


def unused(rounds: int) -> Iterator[table.Row]:
    """What the plugin costs a suite that never uses it; the order changes from round to round."""
    # pytest-xdist is a dependency; an empty plugin, so that pytest searches for as many in both.
    without = ("xdist.plugin", "benchmarks")
    with_it = ("xdist.plugin", "pytest_deepspeed.plugin")
    sessions.plain(*without)
    sessions.plain(*with_it)
    cpu, wall = [], []
    for number in range(rounds):
        if number % 2:
            base, own = sessions.plain(*without), sessions.plain(*with_it)
        else:
            own, base = sessions.plain(*with_it), sessions.plain(*without)
        cpu.append(1000 * (own.cpu - base.cpu))
        wall.append(1000 * (own.wall - base.wall))
    imports = [sessions.controller_imports_torch(f) for f in ("plain_tests.py", "ranked_tests.py")]
    yield table.Row("added to an unrelated session, CPU", "ms", AIMS["unused cpu"], cpu)
    yield table.Row("added to an unrelated session, wall", "ms", AIMS["unused wall"], wall)
    yield table.Row("controllers that import torch, of 2", "", AIMS["torch"], [sum(imports)])


def ranked(rounds: int) -> Iterator[table.Row]:
    """What a test on two ranks takes, and what the same body takes otherwise."""
    with contextlib.ExitStack() as stack:

        def started(contender: Contender) -> Contender:
            stack.callback(contender.stop)
            return contender

        environment = sessions.environment()
        contenders = [
            started(Contender(name, ["benchmarks.contenders", name], environment))
            for name in ("fork", "forkserver", "spawn")
        ]
        starts = []
        for name, test, count in (
            ("plugin", "test_all_reduce", LONG),
            ("short", "test_all_reduce", SHORT),
            ("zero2", "test_zero2", LONG),
        ):
            contender = started(sessions.on_request(name, test, count))
            starts.append(contender.run())
            contenders.insert(0, contender)
        for contender in contenders:
            contender.run()
        took = in_turns(contenders, rounds)
    yield from _rows(took)
    yield table.Row(f"agent start-up, suite of {LONG}", "s", AIMS["start"], starts[:1])
    yield table.Row(f"  suite of {SHORT}", "s", AIMS["start"], starts[1:2])


def in_turns(contenders: list[Contender], rounds: int) -> Samples:
    """Seconds by contender, one of each per round; another one begins each round."""
    took: Samples = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        first = number % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            took[contender.name].append(contender.run())
    return took


def _rows(took: Samples) -> Iterator[table.Row]:
    ms = {name: [1000 * seconds for seconds in samples] for name, samples in took.items()}
    yield table.Row(f"2-rank all-reduce, suite of {LONG}", "ms", AIMS["plugin"], ms["plugin"])
    yield table.Row(f"  suite of {SHORT}", "ms", AIMS["short"], ms["short"])
    yield table.Row("  bare fork, no test (the floor)", "ms", None, ms["fork"])
    yield table.Row("  forkserver, nothing preloaded", "ms", None, ms["forkserver"])
    yield table.Row("  torch.multiprocessing spawn", "ms", None, ms["spawn"])
    for above, below in (
        ("plugin", "fork"),
        ("short", "fork"),
        ("forkserver", "plugin"),
        ("spawn", "plugin"),
        ("spawn", "short"),
    ):
        samples = table.pairwise_ratios(took[above], took[below])
        aim = AIMS.get(f"{above}/{below}")
        yield table.Row(f"  {_NAMES[above]} / {_NAMES[below]}", "", aim, samples)
    yield table.Row("2-rank ZeRO-2, engine and 20 steps", "ms", AIMS["zero2"], ms["zero2"])


if __name__ == "__main__":
    main()
