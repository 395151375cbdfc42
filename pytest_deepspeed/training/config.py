"""The config of a test: the reference config as its marker changes it, fit for the machine."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reference_training import configs
from reference_training.adapt import adapt

_DTYPES = ("fp32", "bf16", "fp16")

#: Changes that are no key of DeepSpeed's, but say what shall be in one.
_CHANGES = ("stage", "dtype", "offload_optimizer", "offload_param")


class ConfigError(ValueError):
    """A ``ds_config`` marker that describes no config."""


def from_mark(args: Sequence[Any], kwargs: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The config that ``ds_config(*args, **kwargs)`` describes.

    Any other change is a top-level key of the config; ``None`` takes the key away.

    Args:
        base: where a relative path starts: the directory of the test file.

    Raises:
        ConfigError: says what is wrong and what to write instead.
    """
    changes = dict(kwargs)
    if len(args) > 1:
        raise ConfigError("ds_config takes one dict or path; write ds_config(stage=2)")
    _refuse_typos(changes)
    config = _whole(args[0], base) if args else configs.load(_stage(changes.pop("stage", 0)))
    if args and "stage" in changes:
        config.setdefault("zero_optimization", {})["stage"] = _stage(changes.pop("stage"))
    if "dtype" in changes:
        _set_dtype(config, changes.pop("dtype"))
    for what in ("optimizer", "param"):
        device = changes.pop(f"offload_{what}", None)
        if device is not None:
            block = device if isinstance(device, dict) else {"device": device}
            config.setdefault("zero_optimization", {})[f"offload_{what}"] = block
    merged = {**config, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def _whole(given: Any, base: Path) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return copy.deepcopy(dict(given))
    if isinstance(given, (str, Path)):
        try:
            return configs.read(base / given)
        except configs.ConfigError as error:
            raise ConfigError(str(error)) from None
    raise ConfigError(f"ds_config takes a dict or a path, got {given!r}; write ds_config(stage=2)")


def _refuse_typos(changes: Mapping[str, Any]) -> None:
    """DeepSpeed ignores a top-level key that it does not know: one that is nearly a key is refused.

    Keys of DeepSpeed that are like none of these pass as they are.
    """
    known = [*_CHANGES, *configs.load(3), "fp16", "bf16", "train_batch_size", "aio", "checkpoint"]
    for key in changes:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if near and key not in known:
            raise ConfigError(f"ds_config has no {key!r}; did you mean {near[0]!r}?")


def _stage(stage: Any) -> int:
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        raise ConfigError(
            f"ZeRO stage must be 0, 1, 2 or 3, got {stage!r}; write ds_config(stage=2)"
        )
    return int(stage)


def _set_dtype(config: dict[str, Any], dtype: Any) -> None:
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    for name in ("fp16", "bf16"):
        config.pop(name, None)
    if dtype != "fp32":
        config[dtype] = {"enabled": True}


def adapted(config: dict[str, Any], device: str) -> tuple[dict[str, Any], list[str]]:
    """The config as this machine can run it, and a sentence for each change; none in silence."""
    return adapt(config, device)
