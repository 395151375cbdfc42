"""The reference CIFAR10 training under each ZeRO stage, on two ranks."""

from __future__ import annotations

import pytest

from pytest_deepspeed.fixtures import DsTrain

CASES = [
    pytest.param(
        f"zero{stage}-{dtype}",
        marks=pytest.mark.ds_config(stage=stage, dtype=dtype),
        id=f"zero{stage}-{dtype}",
    )
    for stage in range(4)
    for dtype in ("fp32", "bf16")
]


@pytest.mark.world_size(2)
@pytest.mark.parametrize("mode", CASES)
def test_loss_falls(mode: str, ds_train: DsTrain) -> None:
    """Protects: the stage trains. The loss falls, ranks agree, the optimizer takes each step."""
    run = ds_train(steps=20)

    assert run.check() == []
