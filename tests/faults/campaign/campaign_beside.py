"""A test that a fault strikes, one before and one after it, for each of three harnesses.

Copied as ``test_victims.py`` into the directory of a session. ``plan.json`` beside it says what
strikes which rank when, and ``CAMPAIGN_HARNESS`` whose ranks these are.
"""

import json
import os
import socket
from pathlib import Path

import campaign_meetings
import torch.distributed as dist
import torch.multiprocessing

HARNESS = os.environ["CAMPAIGN_HARNESS"]
WORLD_SIZE = 2
PLAN = json.loads(Path(__file__).with_name("plan.json").read_text())


def _meet(entry):
    """What each rank does."""
    meetings = campaign_meetings.Meetings(entry, dist.get_rank())
    for _ in range(3):
        meetings.hold()


if HARNESS == "mp":

    def _rank(rank, port, entry):
        dist.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD_SIZE
        )
        _meet(entry)
        dist.destroy_process_group()

    def _run(entry):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(_rank, args=(port, entry), nprocs=WORLD_SIZE)

    def test_before():
        """As any test."""
        _run(PLAN[0])

    def test_victim():
        """The one that is struck."""
        _run(PLAN[1])

    def test_after():
        """As any test."""
        _run(PLAN[2])

else:
    if HARNESS == "deepspeed":
        from unit.common import DistributedTest
    else:
        from pytest_deepspeed import DistributedTest

    class TestOf(DistributedTest):
        """The base class is what differs."""

        world_size = WORLD_SIZE
        exec_timeout = 30

        def test_before(self):
            """As any test."""
            _meet(PLAN[0])

        def test_victim(self):
            """The one that is struck."""
            _meet(PLAN[1])

        def test_after(self):
            """As any test."""
            _meet(PLAN[2])
