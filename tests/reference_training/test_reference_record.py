"""The record as JSON."""

import json
import math

import pytest

from reference_training.record import Record

RECORD = Record(
    loss=(2.5, math.inf),
    local_loss=(2.25, math.inf),
    lr=(0.1, 0.2),
    grad_norm=(1.5, None),
    step_time=(0.5, 0.25),
    samples_per_second=64.0,
    optimizer_steps=1,
    skipped_steps=1,
    world_size=2,
    rank=0,
    train_batch_size=16,
    data="synthetic (2,048 images)",
    parameters=62_006,
    start_step=3,
)


def test_json_and_back():
    """Nothing is lost, neither a diverged loss nor a norm that was not computed."""
    assert Record.from_json(RECORD.to_json()) == RECORD


def test_not_a_record():
    """A file of another kind or version says which fields it has and should have."""
    with pytest.raises(ValueError, match=r"^not a training record") as error:
        Record.from_json(json.dumps({"loss": [], "steps": 3}))
    assert str(error.value) == (
        "not a training record: it has loss, steps, not loss, local_loss, lr, grad_norm, "
        "step_time, samples_per_second, optimizer_steps, skipped_steps, world_size, rank, "
        "train_batch_size, data, parameters, start_step"
    )
