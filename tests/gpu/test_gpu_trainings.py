"""Trainings on a GPU: fp16 and its loss scale, the fused optimizer, pinned offload, memory.

With one GPU all of them want ``--ds-world-size=1``.
"""

import math

import pytest

from pytest_deepspeed.training import matrix, state
from pytest_deepspeed.training.matrix import Mode
from reference_training.train import build_engine, run_steps
from reference_training.trap import Trap

TRAITS = ("tied", "frozen", "odd_shapes", "buffer")


def config(*mode, **named):
    """The marker of a mode's config."""
    return pytest.mark.ds_config(matrix.config(Mode(*mode, **named), optimizer="AdamW"))


@pytest.mark.world_size(1)
@pytest.mark.ds_config(stage=2, dtype="fp16")
def test_fp16_trains(ds_train):
    """Protects: ZeRO-2 in fp16 with a dynamic loss scale learns, as it is written."""
    run = ds_train(steps=20)

    assert run.check() == []
    assert run.ds_config["fp16"]["enabled"] is True


@pytest.mark.world_size(1)
@pytest.mark.ds_config(stage=2, fp16={"enabled": True, "initial_scale_power": 24})
def test_a_loss_scale_that_is_too_high_falls(ds_config):
    """Protects: steps that overflow are skipped, counted as such, and lower the scale."""
    workload = Trap(TRAITS)
    engine = build_engine(workload, ds_config)
    try:
        record = run_steps(engine, workload, steps=30)
        scale = state.loss_scale(engine)
    finally:
        engine.destroy()

    assert 0 < record.skipped_steps < 30
    assert record.optimizer_steps == 30 - record.skipped_steps
    assert [norm is None for norm in record.grad_norm].count(True) == record.skipped_steps
    assert scale < 2**24
    assert all(map(math.isfinite, record.loss))


@pytest.mark.world_size(1)
@pytest.mark.ds_config(stage=1)
def test_fused_adam(ds_config):
    """Protects: Adam on a GPU is DeepSpeed's CUDA kernel, from the op that was built ahead."""
    from deepspeed.ops.op_builder.builder import OpBuilder

    workload = Trap(TRAITS)
    engine = build_engine(workload, ds_config)
    try:
        run_steps(engine, workload, steps=2)
        optimizer = state.innermost_optimizer(engine)
    finally:
        engine.destroy()

    assert type(optimizer).__name__ == "FusedAdam"
    assert "fused_adam" in OpBuilder._loaded_ops


CHECKS = ("parity", "ranks", "engagement", "memory", "checkpoint")


@pytest.mark.parametrize("check", CHECKS)
@config(0)
def test_stage_0(ds_check, check):
    """Protects: FusedAdam beside plain torch on the same GPU, in fp32 without TF32."""
    ds_check(check)


@pytest.mark.parametrize("check", CHECKS)
@config(2)
def test_stage_2(ds_check, check):
    """Protects: all checks of ZeRO-2 in fp32 on a GPU."""
    ds_check(check)


@pytest.mark.parametrize("check", CHECKS)
@config(3)
def test_stage_3(ds_check, check):
    """Protects: all checks of ZeRO-3 in fp32 on a GPU."""
    ds_check(check)


@pytest.mark.parametrize("check", CHECKS)
@config(2, "cpu", dtype="bf16", pinned=True)
def test_pinned_offload(ds_check, check):
    """Protects: masters and states are in page-locked CPU memory, and train as plain torch does."""
    ds_check(check)


@pytest.mark.parametrize("check", CHECKS)
@config(3, "cpu", "cpu", dtype="bf16", pinned=True)
def test_pinned_offload_of_parameters(ds_check, check):
    """Protects: ZeRO-3 with all in page-locked CPU memory."""
    ds_check(check)


@pytest.mark.parametrize("check", ["ranks", "engagement", "memory", "checkpoint"])
@config(2, dtype="fp16")
def test_fp16(ds_check, check):
    """Protects: what can be said of fp16 without a twin: ranks, engagement, bytes, checkpoints."""
    ds_check(check)


@config(2)
def test_peak_of_the_device(ds_check):
    """Protects: the peak of a GPU is measured, and is no less than what is held there."""
    for rank in ds_check.evidence().memory.ranks:
        held = sum(h.devices.get("cuda", 0) for h in rank.held.values())
        assert 0 < held <= rank.device <= rank.device_reserved
