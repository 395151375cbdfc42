"""A training is cut where DeepSpeed's Adam resumes bit by bit."""

import pytest

from pytest_deepspeed.training import matrix
from pytest_deepspeed.training.checkpoint import check, equivalence
from pytest_deepspeed.training.checkpoint.rounding import cut
from pytest_deepspeed.training.trial import Trial


@pytest.mark.parametrize(
    ("betas", "at"),
    [((0.9, 0.999), 3), ((0.9, 0.95), 3), ((0.8, 0.9), 3), ((0.9, 0.98), 1)],
)
def test_cut(betas, at):
    """Protects: the cut is at a step after which the power is the product."""
    assert cut({"optimizer": {"params": {"betas": list(betas)}}}, more=2) == at


def test_config_without_betas():
    """Protects: DeepSpeed's default betas are meant where the config has none."""
    assert cut({}, more=2) == 3


@pytest.mark.parametrize(("at", "found"), [(2, {"resume_weights"}), (3, set())])
def test_the_rounding_is_the_cause(ds_run, tmp_path, at, found):
    """Protects: what is said of DeepSpeed's arithmetic: after step 2 the next differs, after 3
    not.
    """
    config = matrix.config(matrix.Mode(2), optimizer="AdamW", nvme_path=None)
    trial = Trial(config, 2, only=())

    evidence = equivalence.equivalence(
        ds_run, config, trial.workload, tmp_path, at=at, more=1, damages=()
    )

    assert {finding.name for finding in check.check(evidence)} == found
