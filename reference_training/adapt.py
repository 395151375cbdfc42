"""Change a DeepSpeed config so that an accelerator can run it, and say what was changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

_FP16_NAMES = ("fp16", "float16", "half")
_TRUE = ("true", "1", "yes", "on", "y", "t")  # what pydantic, and so DeepSpeed, takes for true


def adapt(ds_config: Mapping[str, Any], accelerator: str) -> tuple[dict[str, Any], list[str]]:
    """Return a copy of the config that `accelerator` can run, and one sentence for each change.

    Only fp16 on a CPU is changed, to bf16. The few CPUs with fp16 arithmetic are treated as any
    other: what is changed depends on the arguments alone.

    Args:
        ds_config: A DeepSpeed config; it is not modified.
        accelerator: Its name as DeepSpeed has it: `cpu`, `cuda`, ...

    Returns:
        The config, and the changes: empty where it can run as written.
    """
    config: dict[str, Any] = copy.deepcopy(dict(ds_config))
    if accelerator != "cpu" or not uses_fp16(config) or _enabled(config, "bf16"):
        return config, []  # DeepSpeed rejects fp16 and bf16 together, and shall
    config["fp16"] = {"enabled": False}
    config["bf16"] = {**config.get("bf16", {}), "enabled": True}
    changes = [
        "fp16 -> bf16 (a CPU does not train in fp16; the fp16 block's loss scaling is not used)."
    ]
    places = (
        (config, "", "communication_data_type"),
        (config.get("data_types"), "data_types.", "grad_accum_dtype"),
        (config.get("data_types"), "data_types.", "param_dtype"),
    )
    for block, prefix, key in places:
        if isinstance(block, dict) and block.get(key) in _FP16_NAMES:
            changes.append(f"{prefix}{key}: {block[key]} -> bf16, to match.")
            block[key] = "bf16"
    return config, changes


def uses_fp16(ds_config: Mapping[str, Any]) -> bool:
    """Say whether the config enables fp16 as DeepSpeed reads it."""
    return _enabled(ds_config, "fp16")


def _enabled(ds_config: Mapping[str, Any], name: str) -> bool:
    block = ds_config.get(name)
    return isinstance(block, Mapping) and str(block.get("enabled")).lower() in _TRUE
