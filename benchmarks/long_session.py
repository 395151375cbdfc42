"""Whether a long session stays as it began: ``python -m benchmarks.long_session``.

Expected before anything was measured, of 500 tests on two ranks in one session:

- the last hundred take as long as the first (ratio of the medians at most 1.1);
- the memory of controller and agent that is their own grows by less than 2 MiB over the last 400;
- they have as many file descriptors, threads and children at the end as after the first test, and
  nothing more lies in /dev/shm.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import ranks, sessions


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_session", description=__doc__)
    parser.add_argument("--tests", type=int, default=500, help="(default 500)")
    tests = parser.parse_args().tests
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        plugin = ("-p", "benchmarks.long_session_watch")
        sessions.over_nodes(tests, [2], *plugin, WATCH_LOG=str(log))
        seen = [json.loads(line) for line in log.read_text().splitlines()]
    print(ranks.machine())
    hundred = max(tests // 5, 1)
    first, last = (_median(part) for part in (seen[1 : hundred + 1], seen[-hundred:]))
    print(f"{tests} tests on two ranks in one session, {hundred} at each end:")
    print(
        f"  a test            {1000 * first:.1f} ms -> {1000 * last:.1f} ms, {last / first:.2f} x"
    )
    for process in ("controller", "agent"):
        a, b = seen[hundred][process], seen[-1][process]
        print(f"  {process:<17} {a['memory'] / 2**20:.1f} MiB -> {b['memory'] / 2**20:.1f} MiB")
        for what in ("descriptors", "threads", "children"):
            print(f"    {what:<15} {seen[1][process][what]} -> {b[what]}")
    print(f"  in /dev/shm       {seen[1]['segments']} -> {seen[-1]['segments']}")
    print(f"load at the end: {ranks.load()}")


def _median(part: list[dict[str, Any]]) -> float:
    return statistics.median(seen["seconds"] for seen in part)


def state(pid: int) -> dict[str, int]:
    """What a process holds: bytes of its own, descriptors, threads, children."""
    home = Path(f"/proc/{pid}")
    rollup = dict(
        line.split()[:2] for line in home.joinpath("smaps_rollup").read_text().splitlines()[1:]
    )
    tasks = [task.name for task in home.joinpath("task").iterdir()]
    children = [home.joinpath("task", task, "children").read_text().split() for task in tasks]
    return {
        "memory": 1024 * (int(rollup["Private_Dirty:"]) + int(rollup["Private_Clean:"])),
        "descriptors": len(os.listdir(home / "fd")),
        "threads": len(tasks),
        "children": sum(map(len, children)),
    }


if __name__ == "__main__":
    main()
