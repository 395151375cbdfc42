"""The wiki's claims about speed: ``python -m benchmarks.systems``.

The Alliance wiki (https://docs.alliancecan.ca/wiki/Deepspeed) says of its systems: ZeRO-3 with
FusedAdam "is comparable with pure Data Parallelism", with offload to the CPU it "remains at par",
and with offload to NVMe it "will significantly degrade". The aims, written down before measuring,
are these claims: at most 1.25 times the time of a step at stage 0, the same, and at least 1.5.

Expected before anything was measured, on two CPU ranks:

- ZeRO-3 misses its aim: at each step it gathers what stage 0 has at hand, and copies within one
  memory are all that there is to hide it behind.
- CPU offload takes as long as ZeRO-3: "device" and "host" are the same memory, so what it moves it
  copies for nothing, and both optimizers are DeepSpeed's compiled ones.
- NVMe takes at least twice as long as CPU offload.
- Lightning adds at most a tenth to a step of plain DeepSpeed.

So on a CPU only the third claim is put to the test, and of the first two no more than that nothing
absurd happens: whether a GPU hides gathering behind computing, and what PCIe costs, shows on a GPU,
``--ds-device=cuda``, where this runs alike (with ``--ds-world-size=1`` on one GPU, which gathers
nothing). All systems take turns, round by round, in one session of pytest, each training in fresh
processes. A sample is the median of a training's steps, from the end of one to the end of the next.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import ranks, sessions, table

AIMS: dict[tuple[str, str], table.Aim | None] = {
    ("plain zero3", "plain zero0"): table.Aim("<=", 1.25),
    ("plain offload_cpu", "plain zero0"): table.Aim("<=", 1.25),
    ("plain offload_nvme", "plain zero0"): table.Aim(">=", 1.5),
    ("plain offload_cpu", "plain zero3"): table.Aim("<=", 1.25),
    ("plain offload_nvme", "plain offload_cpu"): table.Aim(">=", 2),
    ("lightning zero3", "plain zero3"): table.Aim("<=", 1.1),
    ("lightning offload_cpu", "plain offload_cpu"): table.Aim("<=", 1.1),
    ("lightning offload_nvme", "plain offload_nvme"): table.Aim("<=", 1.1),
    # Found by the first run: see `system_tests`.
    ("nested zero3", "lightning zero3"): None,
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.systems",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Further options go to pytest: --ds-device=cuda, --ds-nvme-path=DIR, ...",
    )
    parser.add_argument("--rounds", type=int, default=10, help="of all systems (default 10)")
    arguments, options = parser.parse_known_args()
    print(ranks.machine())
    print(table.HEADER, flush=True)
    for row in rows(measured(arguments.rounds, options)):
        print(row, flush=True)
    print(f"load at the end: {ranks.load()}")


def measured(rounds: int, options: Sequence[str]) -> dict[str, list[float]]:
    """Milliseconds of a step in each round, by system.

    Args:
        options: more of pytest's.

    Raises:
        RuntimeError: the session failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report")
        sessions.systems(rounds, f"--basetemp={folder}/tmp", *options, BENCHMARK_REPORT=str(report))
        lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    took: dict[str, list[float]] = {}
    for line in sorted(lines, key=lambda line: int(line["round"])):
        took.setdefault(line["system"], []).append(1000 * statistics.median(line["periods"]))
    return took


def rows(took: dict[str, list[float]]) -> Iterator[table.Row]:
    """The table; a system that this machine cannot run has no line."""
    for system, samples in sorted(took.items()):
        yield table.Row(f"a step, {system}", "ms", None, samples)
    for (above, below), aim in AIMS.items():
        if above in took and below in took:
            ratios = table.pairwise_ratios(took[above], took[below])
            yield table.Row(f"{above} / {_short(above, below)}", "", aim, ratios)


def _short(above: str, below: str) -> str:
    """Without what both have."""
    pairs = itertools.zip_longest(above.split(), below.split())
    return " ".join(b for a, b in pairs if a != b)


if __name__ == "__main__":
    main()
