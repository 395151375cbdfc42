"""What a DeepSpeed config asks for, as far as engagement is concerned, with its defaults."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from pytest_deepspeed.training.engagement.expect import Swapping


@dataclasses.dataclass(frozen=True)
class Asked:
    """A config in the terms of the evidence.

    Attributes:
        dtype: of the weights that the forward pass uses.
        master_dtype: of those that the optimizer updates.
        clipping: ``None`` where the config does not say.
        optimizer: the block's ``type``; empty where there is none.
        pin_memory: of ``offload_optimizer``; ``None`` without that block.
    """

    stage: int
    dtype: str
    master_dtype: str
    offload_optimizer: str
    offload_param: str
    pin_memory: bool | None
    accumulation_steps: int
    clipping: float | None
    optimizer: str
    optimizer_params: Mapping[str, Any]
    scheduler: str
    sub_group_size: int
    persistence_threshold: int
    model_persistence_threshold: int
    parameter_alignment: bool
    round_robin: bool
    swapping: Swapping


def read(ds_config: Mapping[str, Any], world_size: int) -> Asked:
    """Reads what a config asks for.

    Args:
        ds_config: parsed, without ``"auto"``.
        world_size: data-parallel ranks.
    """
    zero = _block(ds_config, "zero_optimization")
    optimizer = _block(ds_config, "optimizer")
    aio = _block(ds_config, "aio")
    dtype = next(
        (full for block, full in _DTYPES.items() if _block(ds_config, block).get("enabled")),
        "float32",
    )
    lean = any(_block(ds_config, name).get(f"{name}_master_weights_and_grads") for name in _DTYPES)
    clipping = ds_config.get("gradient_clipping")
    return Asked(
        stage=int(zero.get("stage", 0)),
        dtype=dtype,
        master_dtype=dtype if lean else "float32",
        offload_optimizer=_device(zero, "offload_optimizer", "cpu_offload"),
        offload_param=_device(zero, "offload_param", "cpu_offload_param"),
        pin_memory=_pin_memory(_block(zero, "offload_optimizer")),
        accumulation_steps=_accumulation(ds_config, world_size),
        clipping=None if clipping is None else float(clipping),
        optimizer=str(optimizer.get("type", "")),
        optimizer_params=_block(optimizer, "params"),
        scheduler=str(_block(ds_config, "scheduler").get("type") or ""),
        sub_group_size=int(zero.get("sub_group_size", 1e9)),
        persistence_threshold=int(
            zero.get(
                "stage3_param_persistence_threshold", zero.get("param_persistence_threshold", 1e5)
            )
        ),
        model_persistence_threshold=int(
            zero.get(
                "stage3_model_persistence_threshold",
                zero.get("model_persistence_threshold", sys.maxsize),
            )
        ),
        parameter_alignment=bool(zero.get("parameter_alignment", False)),
        round_robin=bool(zero.get("round_robin_gradients", False)),
        swapping=Swapping(
            block_size=int(aio.get("block_size", 1024**2)),
            threads=int(aio.get("intra_op_parallelism", 1)),
        ),
    )


_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def _block(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return value if isinstance(value, Mapping) else {}


def _device(zero: Mapping[str, Any], name: str, legacy: str) -> str:
    if zero.get(legacy) is True:
        return "cpu"
    return str(_block(zero, name).get("device") or "none")


def _pin_memory(offload: Mapping[str, Any]) -> bool | None:
    return bool(offload.get("pin_memory", True)) if offload else None


def _accumulation(config: Mapping[str, Any], world_size: int) -> int:
    if "gradient_accumulation_steps" in config:
        return int(config["gradient_accumulation_steps"])
    whole = config.get("train_batch_size")
    micro = config.get("train_micro_batch_size_per_gpu")
    return int(whole) // (int(micro) * world_size) if whole and micro else 1
