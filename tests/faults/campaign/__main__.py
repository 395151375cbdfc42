"""Makes faults happen, many times over, and judges what pytest says of each.

    python tests/faults/campaign [--seeds N] [--folder DIR] [--only FAULT,...]
    python tests/faults/campaign soak [--seeds N]
    python tests/faults/campaign harnesses --checkout DIR [--seeds N]
    python tests/faults/campaign table

``soak`` runs long sessions, and sees whether anything drifts; see `campaign_soak`.
``harnesses`` strikes ranks of DeepSpeed's own harness, which lies in a checkout of its repository,
and of torch.multiprocessing as well; see `campaign_harnesses`.

A round has one seed, which decides which fault strikes when and whom: a session of victims, and a
session for each fault that strikes a session as a whole, most of these in every fourth round. What
a round found is added to DIR (.faults); rounds that are there are not run again, so the numbers of
several runs add up. ``table`` prints them as the docs have them. The exit status is 1 where a
verdict was wrong or something was left.
"""

import argparse
import sys
import time
from pathlib import Path

# What the tests that run pytest inside pytest share.
sys.path.append(str(Path(__file__).parents[2]))

import campaign_controller
import campaign_harnesses
import campaign_judge
import campaign_ops
import campaign_plan
import campaign_sessions as sessions
import campaign_slurm
import campaign_soak
import campaign_storage
import campaign_struck
from campaign_catalogue import RANKS
from campaign_table import Log, table
from filelock import FileLock, Timeout

#: Faults that strike a session as a whole, each with what makes it happen.
STRUCK = [
    *(
        (fault, campaign_struck.run)
        for group in (campaign_controller, campaign_ops, campaign_storage)
        for fault in group.FAULTS
    ),
    *((fault, campaign_slurm.run) for fault in campaign_slurm.FAULTS),
]
ALL = [*RANKS, *(fault for fault, _ in STRUCK)]


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python tests/faults/campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", nargs="?", choices=["run", "soak", "harnesses", "table"], default="run"
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many rounds (default 1)")
    parser.add_argument("--first", type=int, help="seed of the first (default: the next in DIR)")
    parser.add_argument("--folder", type=Path, default=Path(".faults"))
    parser.add_argument("--only", default="", help="names of faults (default: all)")
    parser.add_argument("--checkout", type=Path, help="of DeepSpeed's repository")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    try:
        # Sessions of one kind run in the same directory, one after the other.
        with FileLock(given.folder / f"{given.what}.lock", timeout=0):
            return do(given)
    except Timeout:
        sys.exit(f"{given.what}: another one runs in {given.folder}; name another --folder")


def do(given):
    """What was asked for; the exit status."""
    if given.what == "harnesses":
        return harnesses(given)
    log = Log(given.folder.absolute())
    if given.what == "run":
        only = [name for name in given.only.split(",") if name]
        first = log.next_seed() if given.first is None else given.first
        for seed in range(first, first + given.seeds):
            run(seed, log, only)
    if given.what == "soak":
        first = campaign_soak.next_seed(log) if given.first is None else given.first
        for seed in range(first, first + given.seeds):
            campaign_soak.run(seed, log)
        print("\n".join(campaign_soak.table(campaign_soak.drifts(log))))
    print("\n".join(table(log.tries(), ALL)))
    wrong = [line for line in log.lines() if line.get("wrong") or line.get("left")]
    return 1 if wrong else 0


def harnesses(given):
    """The three side by side."""
    if given.checkout is None:
        sys.exit("harnesses: name a checkout of DeepSpeed's repository: --checkout DIR")
    all_three = campaign_harnesses.Harnesses(given.folder.absolute(), given.checkout.absolute())
    first = given.first or 0
    for seed in range(first, first + given.seeds):
        all_three.run(seed)
    print("\n".join(campaign_harnesses.table(all_three.tries())))
    return 0


def run(seed, log, only):
    """One round."""
    began = time.monotonic()
    struck = [
        fault.name for fault in RANKS if (fault.name in only if only else seed % fault.every == 0)
    ]
    kind = "victims" if not only else "victims " + ",".join(struck)
    if struck and not log.has(kind, seed):
        log.add(kind, seed, *run_victims(seed, log.folder / "session", struck))
    for fault, strike in STRUCK:
        wanted = fault.name in only if only else seed % fault.every == 0
        if not wanted or log.has(fault.name, seed):
            continue
        done = strike(fault, seed, log.folder / "session")
        if done is not None:
            log.add(fault.name, seed, [done], [])
    print(f"seed {seed}: {time.monotonic() - began:.0f} s", flush=True)


def run_victims(seed, folder, names, number=None):
    """A session of victims; its tries, and what else was wrong."""
    plan = campaign_plan.victims(seed, number or len(names), names)
    sessions.write(folder, plan)
    before = sessions.segments()
    with sessions.session(folder, *sessions.reports()) as (process, mark):
        ended = sessions.ended(folder, process, mark, before, campaign_struck.PATIENCE * 4)
    return campaign_judge.victims(ended, plan, seed)


if __name__ == "__main__":
    sys.exit(main())
