"""The config of a test: the reference config as its marker changes it, fit for the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reference_training import configs
from reference_training.adapt import adapt

_DTYPES = ("fp32", "bf16", "fp16")


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
        return dict(given)
    if isinstance(given, (str, Path)):
        return read(base / given)
    raise ConfigError(f"ds_config takes a dict or a path, got {given!r}; write ds_config(stage=2)")


def read(path: Path) -> dict[str, Any]:
    """A config file, parsed with hjson as DeepSpeed does.

    Raises:
        ConfigError: no such file, or no object in it.
    """
    import hjson

    try:
        config = hjson.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from None
    except hjson.HjsonDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}:{error.colno}: {error.msg}") from None
    if not isinstance(config, Mapping):
        raise ConfigError(f"{path} holds no DeepSpeed config: a JSON object is expected")
    return dict(config)


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
