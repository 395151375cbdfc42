"""The checks find a rank that drifts and an optimizer that does not step, in real engines."""

import pytest
import torch

from pytest_deepspeed.training import run as training

ONE_ULP = 2.0**-20


@pytest.mark.world_size(2)
@pytest.mark.ds_config(stage=1)
def test_a_rank_that_drifts_is_found(ds_train, monkeypatch, rank):
    """Protects: weights that differ on one rank at the end are seen in the loss of one batch."""
    real = training._common_loss

    def drift(engine, images):
        if rank == 1:
            with torch.no_grad():
                next(engine.module.parameters()).add_(ONE_ULP)
        return real(engine, images)

    monkeypatch.setattr(training, "_common_loss", drift)

    (finding,) = ds_train(steps=10).check()

    assert finding.startswith("the loss of the same images after training differs between ranks:")


@pytest.mark.world_size(2)
@pytest.mark.ds_config(stage=2, optimizer={"type": "Adam", "params": {"lr": 0.0}}, scheduler=None)
def test_a_training_that_learns_nothing_is_found(ds_train):
    """Protects: a learning rate of 0 is red, although the optimizer takes each step."""
    (finding,) = ds_train(steps=10).check()

    assert finding.startswith("the loss does not fall: its mean over the last 2 of 10 steps is")
