"""What DeepSpeed cannot save, load or convert, with the place in its source (0.19.8) that says so.

Found by trying: each refusal here is an error, an empty file or an empty directory there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

What = Literal["resume", "without_optimizer", "consolidate", "export", "reshard"]

#: Whose states `ds_to_universal` knows, in lower case.
_ADAMS = ("adam", "adamw", "lamb")


def why_not(ds_config: Mapping[str, Any], what: What) -> str | None:
    """Why DeepSpeed cannot do something to a checkpoint of this config; ``None`` where it can.

    Args:
        ds_config: as DeepSpeed is given it.
        what: ``"resume"``: load it at all; ``"without_optimizer"``: load it with
            ``load_optimizer_states=False``; ``"consolidate"``: make one file of it;
            ``"export"``: `save_16bit_model`; ``"reshard"``: convert it to a universal checkpoint
            and load that.
    """
    stage = stage_of(ds_config)
    swapped = stage == 3 and _device(ds_config, "offload_optimizer") == "nvme"
    if what == "resume":
        return _no_resume(ds_config)
    if what == "export":
        return _no_export(ds_config)
    if swapped and what in ("consolidate", "without_optimizer"):
        return (
            "with the optimizer on NVMe the shards hold no fp32 weights: those are in"
            " offloaded_tensors/, which zero_to_fp32 does not read (utils/zero_to_fp32.py,"
            " runtime/engine.py save_checkpoint)"
        )
    return _no_reshard(ds_config, swapped) if what == "reshard" else None


def why_not_across(saved_stage: int, stage: int) -> str | None:
    """Why a universal checkpoint of one ZeRO stage cannot be loaded at another."""
    if (saved_stage == 3) == (stage == 3):
        return None
    return (
        "no universal checkpoint crosses between stage 3 and the others, which name the module's"
        " files otherwise (runtime/engine.py _get_all_ckpt_names)"
    )


def why_not_at(ds_config: Mapping[str, Any], saved_world_size: int, world_size: int) -> str | None:
    """Why the batch of a config cannot be divided over another world."""
    batch, accumulation = batch_of(ds_config, saved_world_size)
    if batch % (world_size * accumulation) == 0:
        return None
    return (
        f"train_batch_size {batch} is no multiple of {world_size} ranks x {accumulation}"
        " micro-batches"
    )


def stage_of(ds_config: Mapping[str, Any]) -> int:
    """The ZeRO stage; 0 where the config has none."""
    return int((ds_config.get("zero_optimization") or {}).get("stage", 0))


def batch_of(ds_config: Mapping[str, Any], world_size: int) -> tuple[int, int]:
    """`train_batch_size` and `gradient_accumulation_steps`, whichever two of the three are given.

    Raises:
        ValueError: fewer are given.
    """
    batch: int | None = ds_config.get("train_batch_size")
    micro: int | None = ds_config.get("train_micro_batch_size_per_gpu")
    accumulation: int | None = ds_config.get("gradient_accumulation_steps")
    if batch is not None:
        if accumulation is None:
            accumulation = batch // (micro * world_size) if micro else 1
        return batch, accumulation
    if micro is None:
        raise ValueError(
            "the config has neither train_batch_size nor train_micro_batch_size_per_gpu: add one"
        )
    return micro * (accumulation or 1) * world_size, accumulation or 1


def _no_resume(ds_config: Mapping[str, Any]) -> str | None:
    swaps = _device(ds_config, "offload_param") == "nvme" and stage_of(ds_config) == 3
    if not swaps or _device(ds_config, "offload_optimizer") == "nvme":
        return None
    return (
        "with the parameters on NVMe and the optimizer elsewhere load_checkpoint raises"
        " AttributeError: 'NoneType' object has no attribute 'data' (runtime/zero/stage3.py"
        " _rigid_load_state_dict)"
    )


def _no_export(ds_config: Mapping[str, Any]) -> str | None:
    zero = ds_config.get("zero_optimization") or {}
    key = "stage3_gather_16bit_weights_on_model_save"
    if stage_of(ds_config) < 3 or zero.get(key):
        return None
    return f"save_16bit_model writes nothing without {key} (runtime/engine.py)"


def _no_reshard(ds_config: Mapping[str, Any], swapped: bool) -> str | None:
    if stage_of(ds_config) == 0:
        return "stage 0 saves no shards, and ds_to_universal reads no others"
    if swapped:
        return (
            "with the optimizer on NVMe the shards that ds_to_universal reads hold no fp32 weights"
            " (checkpoint/ds_to_universal.py dump_param_fragment)"
        )
    name = str((ds_config.get("optimizer") or {}).get("type", ""))
    if name.lower() not in _ADAMS:
        return (
            f"ds_to_universal converts exp_avg and exp_avg_sq alone, which {name or 'an optimizer'}"
            f"{'' if name else ' that the config does not name'} does not keep both"
            " (checkpoint/ds_to_universal.py extract_zero_shards)"
        )
    return None


def _device(ds_config: Mapping[str, Any], key: str) -> str:
    zero = ds_config.get("zero_optimization") or {}
    return str((zero.get(key) or {}).get("device", "none"))
