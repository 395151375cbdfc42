"""The modes of a DeepSpeed config: its ZeRO stage and what it offloads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Deprecated keys that DeepSpeed still reads, where the block of today is not there.
_OLD_OFFLOADS = {"optimizer": "cpu_offload", "param": "cpu_offload_param"}


def stage_of(ds_config: Mapping[str, Any]) -> int | None:
    """The ZeRO stage, 0 without ``zero_optimization``; ``None`` if what stands there is none."""
    zero = ds_config.get("zero_optimization") or {}
    if zero is True:  # deprecated spelling of stage 1
        return 1
    stage = zero.get("stage", 0) if isinstance(zero, Mapping) else None
    return stage if isinstance(stage, int) and 0 <= stage <= 3 else None


def offloads(ds_config: Mapping[str, Any]) -> dict[str, str]:
    """Where what goes: ``{"optimizer": "cpu", "param": "nvme"}``, without what stays."""
    zero = ds_config.get("zero_optimization")
    if not isinstance(zero, Mapping):
        return {}
    found: dict[str, str] = {}
    for what, old in _OLD_OFFLOADS.items():
        block = zero.get(f"offload_{what}")
        device = block.get("device") if isinstance(block, Mapping) else None
        if block is None and zero.get(old) is True:
            device = "cpu"
        if device in ("cpu", "nvme"):
            found[what] = str(device)
    return found


def dtype_of(ds_config: Mapping[str, Any]) -> str:
    """``"fp16"``, ``"bf16"`` or ``"fp32"``."""
    for name in ("fp16", "bf16"):
        block = ds_config.get(name)
        if isinstance(block, Mapping) and block.get("enabled") is True:
            return name
    return "fp32"


def scales_loss(ds_config: Mapping[str, Any]) -> bool:
    """Whether fp16 scales the loss by a factor that DeepSpeed finds, at the price of steps."""
    return dtype_of(ds_config) == "fp16" and not ds_config["fp16"].get("loss_scale")


def mode_names(ds_config: Mapping[str, Any]) -> list[str]:
    """The mode markers of a config; none for an empty one."""
    if not ds_config:
        return []
    stage = stage_of(ds_config)
    names = [] if stage is None else [f"zero{stage}"]
    return names + [f"offload_{device}" for device in sorted(set(offloads(ds_config).values()))]


def case_id(ds_config: Mapping[str, Any]) -> str:
    """The stable id of a case, such as ``zero3-optimizer_nvme-param_cpu-bf16-gas2``."""
    parts = [f"zero{stage_of(ds_config)}"]
    parts += [f"{what}_{device}" for what, device in offloads(ds_config).items()]
    parts.append(dtype_of(ds_config))
    accumulation = ds_config.get("gradient_accumulation_steps")
    if isinstance(accumulation, int) and accumulation > 1:
        parts.append(f"gas{accumulation}")
    return "-".join(parts)
