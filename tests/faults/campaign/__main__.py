"""Makes faults happen, many times over, and judges what pytest says of each.

    python tests/faults/campaign [--seeds N] [--folder DIR] [--only FAULT,...]
    python tests/faults/campaign table

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

import campaign_catalogue
import campaign_controller
import campaign_judge
import campaign_plan
import campaign_sessions as sessions
from campaign_table import Log, table


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python tests/faults/campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=["run", "table"], default="run")
    parser.add_argument("--seeds", type=int, default=1, help="how many rounds (default 1)")
    parser.add_argument("--first", type=int, help="seed of the first (default: the next in DIR)")
    parser.add_argument("--folder", type=Path, default=Path(".faults"))
    parser.add_argument("--only", default="", help="names of faults (default: all)")
    given = parser.parse_args()
    log = Log(given.folder.absolute())
    if given.what == "run":
        only = [name for name in given.only.split(",") if name]
        first = log.next_seed() if given.first is None else given.first
        for seed in range(first, first + given.seeds):
            run(seed, log, only)
    print("\n".join(table(log.tries())))
    wrong = [line for line in log.lines() if line.get("wrong") or line.get("left")]
    return 1 if wrong else 0


def run(seed, log, only):
    """One round."""
    began = time.monotonic()
    struck = [
        fault.name
        for fault in campaign_catalogue.RANKS
        if (fault.name in only if only else seed % fault.every == 0)
    ]
    kind = "victims" if not only else "victims " + ",".join(struck)
    if struck and not log.has(kind, seed):
        log.add(kind, seed, *run_victims(seed, log.folder / "session", struck))
    for fault in campaign_controller.FAULTS:
        wanted = fault.name in only if only else seed % fault.every == 0
        if not wanted or log.has(fault.name, seed):
            continue
        done = campaign_controller.run(fault, seed, log.folder / "session")
        if done is not None:
            log.add(fault.name, seed, [done], [])
    print(f"seed {seed}: {time.monotonic() - began:.0f} s", flush=True)


def run_victims(seed, folder, names, number=None):
    """A session of victims; its tries, and what else was wrong."""
    plan = campaign_plan.victims(seed, number or len(names), names)
    sessions.write(folder, plan)
    before = sessions.segments()
    with sessions.session(folder, *sessions.REPORTS) as (process, mark):
        ended = sessions.ended(folder, process, mark, before, campaign_controller.PATIENCE * 4)
    return campaign_judge.victims(ended, plan, seed)


if __name__ == "__main__":
    sys.exit(main())
