"""The tests that faults strike: copied as ``test_victims.py`` into the directory of a session.

``plan.json`` beside it lists them in their order, as `campaign_plan` has made them: between two
victims stands a control, which finds everything as it was before the first of them.
"""

import json
import os
from pathlib import Path

import campaign_strikes
import pytest
import torch.distributed as dist
from campaign_meetings import Meetings

HERE = Path(__file__).parent
PLAN = json.loads(HERE.joinpath("plan.json").read_text())


def _case(entry):
    marks = [pytest.mark.world_size(entry["world_size"]), pytest.mark.ds_timeout(entry["budget"])]
    return pytest.param(entry, id=entry["id"], marks=marks)


@pytest.fixture
def meetings(entry, rank):
    """Ranks meet in the set-up and in the teardown as well."""
    meetings = Meetings(entry, rank)
    meetings.hold()
    yield meetings
    meetings.hold()


@pytest.mark.parametrize("entry", [_case(entry) for entry in PLAN])
def test_case(entry, meetings, rank):
    """A victim, or a control."""
    meetings.hold()
    if not entry["fault"]:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # which has an environment of its own
        known = HERE / f"clean-{worker}{rank}.json"
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
