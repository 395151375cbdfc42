"""Worlds that NCCL would refuse, in sessions that are told of one GPU and need none for it."""

import pytest
from inner import text

#: Both the controller and the agent load it.
CONFTEST = """
from pytest_deepspeed.processes import devices

devices.granted_gpus = lambda: 1
devices.torch_without_cuda = lambda: ""
"""

SOURCE = """
import pytest


@pytest.mark.world_size(2)
def test_marked():
    raise AssertionError("never runs")


def body():
    raise AssertionError("never runs")


def test_called(ds_run):
    ds_run(body, world_size=3)
"""

ONLY_ONE = (
    "with NCCL, which refuses two ranks on one, and this process has 1: --ds-backend=gloo lets"
    " ranks share a GPU, --ds-world-size=1 runs marked tests and configs on fewer ranks"
)


@pytest.fixture
def one_gpu(tmp_path, inner_session):
    """Runs the source on a machine that seems to have one GPU."""

    def run(*args):
        tmp_path.joinpath("conftest.py").write_text(CONFTEST)
        return inner_session(SOURCE, args=["--ds-device=cuda", *args])

    return run


def test_skipped(one_gpu):
    """Protects: a skip says how many GPUs are needed, how many there are, and the ways out."""
    session = one_gpu()

    assert session.section("short test summary info") == text(
        f"""
        SKIPPED [1] test_marked.py:4: world_size 2 needs 2 GPUs {ONLY_ONE}
        SKIPPED [1] test_marked.py:13: world_size 3 needs 3 GPUs {ONLY_ONE}
        """
    )
    assert session.status == 0


def test_required(one_gpu):
    """Protects: with --ds-require=cuda what GPUs are too few for is a failure."""
    session = one_gpu("--ds-require=cuda", "-k", "marked")

    assert f"--ds-require=cuda: world_size 2 needs 2 GPUs {ONLY_ONE}" in (
        session.section("FAILURES") + session.section("ERRORS")
    )
    assert session.status == 1
