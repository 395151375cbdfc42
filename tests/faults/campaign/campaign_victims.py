"""The tests that faults strike: copied as ``test_victims.py`` into the directory of a session.

``plan.json`` beside it lists them in their order, as `campaign_plan` has made them: between two
victims stands a control, which finds everything as it was before the first of them.
"""

import json
import os
import threading
import time
from pathlib import Path

import campaign_strikes
import pytest
import torch
import torch.distributed as dist

HERE = Path(__file__).parent
PLAN = json.loads(HERE.joinpath("plan.json").read_text())

#: Meetings of the ranks in each of set-up, body and teardown; seconds between two.
MEETINGS, PAUSE = 15, 0.01


def _case(entry):
    marks = [pytest.mark.world_size(entry["world_size"]), pytest.mark.ds_timeout(entry["budget"])]
    return pytest.param(entry, id=entry["id"], marks=marks)


class _Meetings:
    """What the ranks of a test do, and when its fault strikes one of them."""

    def __init__(self, entry, rank):
        self.strike = getattr(campaign_strikes, entry["fault"]) if entry["rank"] == rank else None
        self.step, self.count = entry["step"], 0
        if self.strike and self.step is None:
            threading.Timer(entry["moment"], self.strike).start()

    def hold(self):
        """Computes a little and waits for the others, some times over."""
        for _ in range(MEETINGS):
            if self.strike and self.count == self.step:
                self.strike()
            self.count += 1
            time.sleep(PAUSE)
            ones = torch.ones(64, dtype=torch.float32)
            dist.all_reduce(ones)
            assert ones.sum() == 64 * dist.get_world_size()


@pytest.fixture
def meetings(entry, rank):
    """Ranks meet in the set-up and in the teardown as well."""
    meetings = _Meetings(entry, rank)
    meetings.hold()
    yield meetings
    meetings.hold()


@pytest.mark.parametrize("entry", [_case(entry) for entry in PLAN])
def test_case(entry, meetings, rank):
    """A victim, or a control."""
    meetings.hold()
    if not entry["fault"]:
        known = HERE / f"clean-{rank}.json"
        state = campaign_strikes.state()
        if not known.exists():
            known.write_text(json.dumps(state))
        assert state == json.loads(known.read_text())


@pytest.mark.world_size(2)
def test_that_fails(rank):
    """Fails as it does without any fault."""
    assert rank == 0, "as expected"
    dist.barrier()


def test_without_ranks():
    """Runs in pytest's own process."""
    assert os.getpid() != os.getppid()
