"""What a config says of the arithmetic of a training, and whether the twin can do the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_deepspeed.training.twin import optimizers, schedules

#: Of deepspeed/runtime/constants.py: a config that says nothing clips.
DEFAULT_CLIPPING = 1.0

#: Keys that change the arithmetic, not only where things are, with what the twin does.
_OTHER_ARITHMETIC = (
    ("fp16", "enabled", "trains in fp32 and bf16"),
    ("torch_autocast", "enabled", "trains in fp32 and bf16"),
    ("zero_optimization", "zenflow", "updates all parameters at each step"),
    ("zero_optimization", "zero_quantized_weights", "quantizes nothing"),
    ("zero_optimization", "zero_quantized_gradients", "quantizes nothing"),
    ("bf16", "bf16_master_weights_and_grads", "keeps master weights in fp32"),
    ("bf16", "bf16_optimizer_states", "keeps moments in fp32"),
    ("data_types", "param_dtype", "has one dtype for all parameters, that of fp16 or bf16"),
    ("data_types", "buffer_dtype", "leaves buffers as they are"),
    ("data_types", "keep_in_fp32_modules", "has one dtype for all parameters"),
)


def uncovered(ds_config: Mapping[str, Any]) -> str | None:
    """Why there is no twin of a config, in a few words; ``None`` where there is."""
    for block, key, instead in _OTHER_ARITHMETIC:
        if (ds_config.get(block) or {}).get(key):
            return f"the twin {instead}, and {block}.{key} is set"
    scheduler = (ds_config.get("scheduler") or {}).get("type")
    if scheduler is not None and scheduler not in schedules.SCHEDULERS:
        known = ", ".join(schedules.SCHEDULERS)
        return f"the twin has no scheduler {scheduler!r}: it has {known}"
    if str(ds_config.get("gradient_allreduce_op", "mean")).lower() not in ("mean", "avg"):
        return "the twin averages gradients, and gradient_allreduce_op says otherwise"
    if is_zero_muon(ds_config) and clipping(ds_config) > 0:
        return (
            "the twin clips gradients, and ZeRO's stages clip Muon's update in their stead:"
            " it needs gradient_clipping 0"
        )
    return optimizers.uncovered(ds_config.get("optimizer"))


def is_zero_muon(ds_config: Mapping[str, Any]) -> bool:
    """Whether Muon runs in ZeRO's stages 1 to 3, which put its update in the gradient's place.

    Their gradient norm is that of the update. Stages 1 and 2 keep the momentum outside of the
    optimizer's state.
    """
    kind = (ds_config.get("optimizer") or {}).get("type")
    zero = ds_config.get("zero_optimization") or {}
    return str(kind).lower() == "muon" and bool(zero.get("stage"))


def clipping(ds_config: Mapping[str, Any]) -> float:
    """The largest global norm of the gradients; 0 where they are not clipped."""
    return float(ds_config.get("gradient_clipping", DEFAULT_CLIPPING))


def dtype_of(ds_config: Mapping[str, Any]) -> str:
    """Of forward and backward passes: ``"fp32"`` or ``"bf16"``."""
    return "bf16" if (ds_config.get("bf16") or {}).get("enabled") else "fp32"


def batch_sizes(ds_config: Mapping[str, Any], world_size: int) -> tuple[int, int]:
    """Samples of a micro-batch and micro-batches of a step: `train = micro * steps * world`.

    Raises:
        ValueError: the config gives neither total nor micro-batch, or they do not divide.
    """
    total: int | None = ds_config.get("train_batch_size")
    micro: int | None = ds_config.get("train_micro_batch_size_per_gpu")
    accumulation: int | None = ds_config.get("gradient_accumulation_steps")
    if micro is None:
        if total is None:
            raise ValueError("the config has no train_batch_size or train_micro_batch_size_per_gpu")
        micro = total // ((accumulation or 1) * world_size)
    if accumulation is None:
        accumulation = 1 if total is None else total // (micro * world_size)
    if total is not None and micro * accumulation * world_size != total:
        raise ValueError(
            f"train_batch_size {total} is not {micro} samples x {accumulation} micro-batches"
            f" x {world_size} ranks"
        )
    return micro, accumulation
