"""The matrix of ZeRO stages, offloads, dtypes and gradient accumulation: what there is of it.

Three questions with one place for each answer: does DeepSpeed have a mode (`exists`), can this
machine run it (`unrunnable`), and which config trains it so that it engages (`config`). Nothing
here imports torch: pytest's controller asks at collection.
"""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pytest_deepspeed.training.machine import Machine
from pytest_deepspeed.values.modes import case_id

Device = Literal["none", "cpu", "nvme"]
DType = Literal["fp32", "bf16", "fp16"]
Optimizer = Literal["Adam", "AdamW", "SGD"]

#: DeepSpeed swaps no tensor of fewer bytes than this, nor than ``aio.block_size``
#: (deepspeed/runtime/swap_tensor/utils.py, MIN_AIO_BYTES).
MIN_SWAPPABLE_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Mode:
    """One cell of the matrix; it need not be one that DeepSpeed has.

    `pinned` is whether what goes to CPU memory is page-locked there, which a GPU's copies need.
    """

    stage: int
    offload_optimizer: Device = "none"
    offload_param: Device = "none"
    dtype: DType = "fp32"
    gradient_accumulation_steps: int = 1
    pinned: bool = False

    @property
    def id(self) -> str:
        """Stable from release to release: ``zero3-optimizer_nvme-param_cpu-bf16-gas2``."""
        accumulation = self.gradient_accumulation_steps
        more = f"-gas{accumulation}" * (accumulation > 1) + "-pinned" * self.pinned
        return case_id(_blocks(self)) + more

    @property
    def swaps(self) -> bool:
        """Whether it keeps something on NVMe."""
        return "nvme" in (self.offload_optimizer, self.offload_param)


def exists(mode: Mode) -> str | None:
    """Why DeepSpeed has no such mode, with the source of it; ``None`` where it has."""
    if mode.stage == 0 and mode.offload_optimizer != "none":
        return (
            "stage 0 offloads nothing: offload_optimizer only makes it take DeepSpeedCPUAdam, which"
            " refuses parameters on a GPU (runtime/engine.py, zero_use_cpu_optimizer)"
        )
    if mode.stage < 3 and mode.offload_param != "none":
        return (
            "offload_param is read at stage 3 only and ignored in silence below"
            " (runtime/zero/offload_config.py)"
        )
    if mode.stage in (1, 2) and mode.offload_optimizer == "nvme":
        return (
            "stages 1 and 2 take nvme for cpu in silence and write nothing to nvme_path"
            " (runtime/zero/stage_1_and_2.py:220)"
        )
    return None


def _every() -> tuple[Mode, ...]:
    devices: tuple[Device, ...] = ("none", "cpu", "nvme")
    dtypes: tuple[DType, ...] = ("fp32", "bf16", "fp16")
    cells = product(range(4), devices, devices, dtypes, (1, 2))
    every = [mode for cell in cells if exists(mode := Mode(*cell)) is None]
    pinned = [
        dataclasses.replace(mode, pinned=True)
        for mode in every
        if (mode.dtype, mode.gradient_accumulation_steps) == ("bf16", 1)
        and "cpu" in (mode.offload_optimizer, mode.offload_param)
        and not mode.swaps
    ]
    return (*every, *pinned)


def unrunnable(mode: Mode, machine: Machine) -> str | None:
    """Why this machine cannot run a mode, and how to get it; ``None`` where it can."""
    if mode.dtype == "fp16" and machine.device == "cpu":
        return "a CPU does not train in fp16: run it on a machine with a GPU, or use bf16"
    if mode.pinned and machine.device == "cpu":
        return (
            "memory is page-locked for the copies of a GPU: run it on a machine with a GPU, or"
            " without pin_memory"
        )
    if mode.dtype == "fp32" and mode.offload_param == "nvme" and machine.device == "cpu":
        return (
            "without fp16 arithmetic DeepSpeed swaps parameters as bf16 whatever they are, and fp32"
            " ones then fail with 'self and mat2 must have the same dtype'"
            " (runtime/zero/partition_parameters.py:409): run it on a machine with a GPU, or use"
            " bf16"
        )
    return machine.no_nvme if mode.swaps else None


def config(
    mode: Mode,
    *,
    nvme_path: str | Path | None = None,
    optimizer: Optimizer = "Adam",
    bucket_elements: int = 600,
    world_size: int = 2,
    train_batch_size: int = 8,
    largest_parameter: int = 2**20,
) -> dict[str, Any]:
    """The config of a trial of a mode, in which everything that can be forced to engage is.

    Args:
        mode: one that exists.
        nvme_path: an existing directory; ``None`` leaves it to whoever trains.
        optimizer: offloaded, Adam and AdamW run as `DeepSpeedCPUAdam`, SGD as torch's.
        bucket_elements: size of all communication buckets, in elements.
        world_size: data-parallel ranks.
        train_batch_size: samples of one optimizer step, on all ranks.
        largest_parameter: elements of the model's largest parameter; the buffers that parameters
            are read into from NVMe have to hold a partition of it.

    Raises:
        ValueError: the batch cannot be divided so.
    """
    accumulation = mode.gradient_accumulation_steps
    if train_batch_size % (world_size * accumulation):
        raise ValueError(
            f"train_batch_size {train_batch_size} is no multiple of {world_size} ranks x"
            f" {accumulation} micro-batches"
        )
    found = {
        "train_batch_size": train_batch_size,
        "gradient_accumulation_steps": accumulation,
        "optimizer": {"type": optimizer, "params": _OPTIMIZERS[optimizer]},
        "scheduler": {
            "type": "WarmupLR",
            "params": {
                "warmup_min_lr": 0.001,
                "warmup_max_lr": 0.01,
                "warmup_num_steps": 4,
                "warmup_type": "linear",
            },
        },
        "gradient_clipping": 0.1,
        **_blocks(mode),
    }
    zero = found["zero_optimization"]
    zero |= _buckets(mode.stage, bucket_elements)
    if mode.stage == 3:
        # One parameter each where the optimizer swaps: DeepSpeed spoils the gradient of one that
        # does not start at a block's border of its sub-group (faults.py, nvme-misaligned-gradient).
        zero["sub_group_size"] = 1 if mode.offload_optimizer == "nvme" else bucket_elements
    if mode.offload_param == "nvme":
        zero["offload_param"] |= {
            "buffer_count": 5,
            "buffer_size": -(-largest_parameter // world_size) + 1024,
            # Elements that stay in memory after all: 1e9 unless said.
            "max_in_cpu": 0,
        }
    for what in ("optimizer", "param"):
        if nvme_path is not None and getattr(mode, f"offload_{what}") == "nvme":
            zero[f"offload_{what}"]["nvme_path"] = str(nvme_path)
    if mode.swaps:
        found["aio"] = {
            "block_size": MIN_SWAPPABLE_BYTES // 4,
            "queue_depth": 8,
            "intra_op_parallelism": 1,
            "single_submit": False,
            "overlap_events": True,
        }
    if optimizer == "SGD":
        found |= {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    return found


_OPTIMIZERS: dict[str, dict[str, Any]] = {
    # "Adam" is AdamW to DeepSpeed unless adam_w_mode says otherwise (runtime/config.py).
    "Adam": {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}
    | {"adam_w_mode": False},
    "AdamW": {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}
    | {"adam_w_mode": True},
    "SGD": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01},
}


def _blocks(mode: Mode) -> dict[str, Any]:
    """What of a config makes it this mode."""
    zero: dict[str, Any] = {"stage": mode.stage}
    for what in ("optimizer", "param"):
        device = getattr(mode, f"offload_{what}")
        if device != "none":
            zero[f"offload_{what}"] = {"device": device, "pin_memory": mode.pinned}
    blocks: dict[str, Any] = {"zero_optimization": zero}
    if mode.dtype != "fp32":
        blocks[mode.dtype] = {"enabled": True}
    if mode.dtype == "fp16":
        # DeepSpeed's own start, 2**16, makes the first steps overflow: they would all be skipped.
        blocks["fp16"]["initial_scale_power"] = 12
    return blocks


def _buckets(stage: int, elements: int) -> dict[str, Any]:
    """All that DeepSpeed does in pieces, in pieces of so many elements."""
    if stage == 0:
        return {}
    pieces: dict[str, Any] = {
        "reduce_bucket_size": elements,
        "contiguous_gradients": True,
        # The order of reductions is then the same in each run.
        "overlap_comm": False,
        "reduce_scatter": True,
    }
    if stage < 3:
        return pieces | {"allgather_bucket_size": elements}
    return pieces | {
        "stage3_prefetch_bucket_size": elements,
        "stage3_max_live_parameters": 2 * elements,
        "stage3_max_reuse_distance": elements,
        # Parameters below this are kept whole on each rank.
        "stage3_param_persistence_threshold": 8,
        "stage3_gather_16bit_weights_on_model_save": True,
    }


#: All modes that DeepSpeed has.
MODES = _every()
