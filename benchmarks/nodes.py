"""What tests over nodes cost: ``python -m benchmarks.nodes``.

Expected before anything was measured, as in `AIMS`:

- With agents up, an all-reduce test on 2 nodes of one rank takes at most 50 ms more than one on 2
  ranks of one node, and as much more on a real Slurm, where agents dial back to the controller.
- A frame there and back takes under 1 ms over that connection, and some 90 ms over srun's pipes, as
  it did before there was a choice; a test over the pipes takes two such trips more.
- Agents start side by side: with 8 of them, at least 7 start at any time, and each takes the CPU
  time of one alone.
- The controller's CPU time, frames and bytes for a test grow by as much for each node from 4 to 8
  as from 1 to 4 (at most 1.3 times as much), and a node costs at most 2 ms.

What is compared is measured in turns, round by round, in one run. The nodes are emulated on this
machine, or those of the test suite's Slurm cluster, whose nodes are on one machine too.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ranks, sessions, table
from benchmarks.on_request import Contender
from benchmarks.watched import REPORT, Seen, Test

AIMS = {
    "emulated - one": table.Aim("<=", 50),
    "slurm - one": table.Aim("<=", 50),
    "pipes - slurm": table.Aim(">=", 100),
    "trip": table.Aim("<", 1),
    "pipe's trip": table.Aim(">=", 50),
    "side by side": table.Aim(">=", 7),
    "CPU of each": table.Aim("<=", 1.2),
    "node": table.Aim("<=", 2),
    "growth": table.Aim("<=", 1.3),
}

#: Numbers of emulated nodes.
NODES = (1, 2, 4, 8)

_CLUSTER = Path(__file__).parents[1] / "tests" / "slurm"
_WATCHED = ("-p", "benchmarks.watched")

_NAMES = {
    "one": "one node",
    "emulated": "2 emulated nodes",
    "slurm": "2 of Slurm, socket",
    "pipes": "2 of Slurm, pipes",
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nodes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="of all contenders (default 15)")
    parser.add_argument(
        "--only", choices=("channels", "agents"), help="one half of it (default: both)"
    )
    arguments = parser.parse_args()
    print(ranks.machine())
    print(table.HEADER, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for half in (channels, agents):
            if arguments.only in {None, half.__name__}:
                for row in half(Path(folder), arguments.rounds):
                    print(row, flush=True)
    print(f"load at the end: {ranks.load()}")


def channels(folder: Path, rounds: int) -> Iterator[table.Row]:
    """A test on 2 ranks of one node, of two emulated ones, and of Slurm's by both channels."""
    with contextlib.ExitStack() as stack:
        contenders = [
            _contender("one", folder, rounds),
            _contender("emulated", folder, rounds, "--ds-nodes=2", "--ds-launcher=local"),
        ]
        if job := stack.enter_context(_allocation(folder)):
            contenders += [
                _contender("slurm", folder, rounds, "--ds-nodes=2", **job),
                _contender("pipes", folder, rounds, "--ds-nodes=2", *_PIPES, **job),
            ]
        for contender in contenders:
            stack.callback(contender.stop)
        for _ in range(2):
            for contender in contenders:
                contender.run()
        took = ranks.in_turns(contenders, rounds)
        for contender in contenders:
            contender.stop()
    ms = {name: [1000 * seconds for seconds in samples] for name, samples in took.items()}
    yield from _tests(ms)
    for name, aim in (("slurm", AIMS["trip"]), ("pipes", AIMS["pipe's trip"])):
        if name in ms:
            yield from _trips(Seen.load(folder / name), _NAMES[name].rpartition(" ")[2], aim)
    for name in [name for name in ("emulated", "slurm") if name in ms]:
        before, after = Seen.load(folder / name).descriptors
        what = f"open files for {_NAMES[name].removesuffix(', socket')}"
        yield table.Row(what, "", None, [after - before])


def _trips(seen: Seen, channel: str, aim: table.Aim) -> Iterator[table.Row]:
    for what, unit_aim, trips in (("", aim, seen.trips), (", 5 KB", None, seen.long_trips)):
        ms = [1000 * seconds for seconds in trips]
        yield table.Row(f"a frame and its answer, {channel}{what}", "ms", unit_aim, ms)


_PIPES = ("-p", "benchmarks.on_pipes")


def _contender(name: str, folder: Path, rounds: int, *options: str, **more: str) -> Contender:
    more[REPORT] = str(folder / name)
    # As in a long suite, and two tests to warm up.
    count = max(rounds + 3, 30)
    return sessions.on_request(name, "test_all_reduce", count, *_WATCHED, *options, **more)


@contextlib.contextmanager
def _allocation(folder: Path) -> Iterator[dict[str, str]]:
    """A job on two nodes of a Slurm cluster, as variables; empty where Slurm is missing."""
    sys.path.insert(0, str(_CLUSTER))
    import cluster

    if missing := cluster.missing():
        print(missing)
        yield {}
        return
    with cluster.Cluster(folder / "cluster", nodes=2) as slurm:
        asked = ("--nodes=2", "--ntasks-per-node=1", f"--cpus-per-task={cluster.CPUS}")
        slurm.run("salloc", "--no-shell", *asked)
        yield {
            "SLURM_CONF": slurm.env["SLURM_CONF"],
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_CPUS_PER_NODE": f"{cluster.CPUS}(x2)",
        }
        slurm.settle()


def _tests(ms: dict[str, list[float]]) -> Iterator[table.Row]:
    for name, samples in ms.items():
        yield table.Row(f"2-rank all-reduce, {_NAMES[name]}", "ms", None, samples)
    for above, below in (("emulated", "one"), ("slurm", "one"), ("pipes", "slurm")):
        if above in ms:
            more = [a - b for a, b in zip(ms[above], ms[below], strict=True)]
            what = f"  {above} - {below}"
            yield table.Row(what, "ms", AIMS[what.strip()], more)
            ratios = table.pairwise_ratios(ms[above], ms[below])
            yield table.Row(f"  {above} / {below}", "", None, ratios)


def agents(folder: Path, rounds: int) -> Iterator[table.Row]:
    """Agents of emulated nodes: how they start, and what the controller has to do for a test."""
    seen = {}
    for count in NODES:
        last = count == NODES[-1]
        seen[count] = _session(folder, count, rounds + 1 if last else 1, NODES if last else [1])
    yield from _starts(seen)
    yield from _controller(seen[NODES[-1]].tests)


def _session(folder: Path, nodes: int, rounds: int, sizes: Sequence[int]) -> Seen:
    report = folder / f"agents{nodes}"
    options = (*_WATCHED, f"--ds-nodes={nodes}", "--ds-launcher=local")
    sessions.over_nodes(rounds, sizes, *options, **{REPORT: str(report)})
    return Seen.load(report)


def _starts(seen: dict[int, Seen]) -> Iterator[table.Row]:
    for count, session in seen.items():
        own = [agent.up - agent.begun for agent in session.agents]
        wall = max(a.up for a in session.agents) - min(a.begun for a in session.agents)
        cpu = [agent.cpu for agent in session.agents]
        yield table.Row(f"agents of {count}, all up after", "s", None, [wall])
        yield table.Row("  CPU time of all", "s", None, [sum(cpu)])
        if count > 1:
            aim = AIMS["side by side"] if count == NODES[-1] else None
            yield table.Row("  starting at a time", "", aim, [sum(own) / wall])
    alone, last = seen[1].agents[0], seen[NODES[-1]].agents
    each = [agent.cpu / alone.cpu for agent in last]
    yield table.Row("CPU time of each of 8 / of one alone", "", AIMS["CPU of each"], each)
    yield table.Row("an agent reads", "MB", None, [agent.read / 1e6 for agent in last])
    yield table.Row("  in calls", "", None, [agent.reads for agent in last])


def _controller(tests: Sequence[Test]) -> Iterator[table.Row]:
    by_nodes: dict[int, list[Test]] = {count: [] for count in NODES}
    for test in tests:
        by_nodes[int(test.name.rpartition("_")[2].removesuffix("]"))].append(test)
    quantities: tuple[tuple[str, str, Callable[[Test], float]], ...] = (
        ("CPU", "ms", lambda test: 1000 * test.cpu),
        ("frames written", "", lambda test: test.frames_out),
        ("frames read", "", lambda test: test.frames_in),
        ("written", "KB", lambda test: test.bytes_out / 1000),
        ("read", "KB", lambda test: test.bytes_in / 1000),
    )
    for what, unit, of in quantities:
        # The first of each warms up.
        values = {count: [of(test) for test in found[1:]] for count, found in by_nodes.items()}
        yield from _growth(what, unit, values)


def _growth(what: str, unit: str, values: dict[int, list[float]]) -> Iterator[table.Row]:
    """The line through the medians, by the number of nodes, and whether it is one."""
    medians = [statistics.median(values[count]) for count in NODES]
    line: Any = statistics.linear_regression(NODES, medians)
    if unit == "ms":
        for count, samples in values.items():
            yield table.Row(f"controller, {what}, {count} nodes", unit, None, samples)
        yield table.Row("  of a test, whatever its nodes", unit, None, [line.intercept])
        yield table.Row("  of each node (least squares)", unit, AIMS["node"], [line.slope])
    else:
        yield table.Row(f"controller, {what} for each node", unit, None, [line.slope])
    one, _, four, eight = medians
    later, sooner = (eight - four) / 4, (four - one) / 3
    yield table.Row("  a node from 4 to 8 / from 1 to 4", "", AIMS["growth"], [later / sooner])


if __name__ == "__main__":
    main()
