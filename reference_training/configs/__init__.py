"""The reference DeepSpeed configs, one for each ZeRO stage, and how config files are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hjson

NAMES = ("zero0", "zero1", "zero2", "zero3")


class ConfigError(ValueError):
    """A DeepSpeed config cannot be read; the message says which and why."""


def path(name: str | int) -> Path:
    """Return the file of a reference config, given as `zero2` or as the stage, 2.

    Raises:
        ConfigError: there is no such config.
    """
    known = f"zero{name}" if isinstance(name, int) else name
    if known not in NAMES:
        raise ConfigError(f"there is no reference config {name!r}: take one of {', '.join(NAMES)}")
    return Path(__file__).with_name(f"{known}.json")


def load(name: str | int) -> dict[str, Any]:
    """Return a reference config, given as `zero2` or as the stage, 2, as a new dict.

    Raises:
        ConfigError: there is no such config.
    """
    return read(path(name))


def read(file: str | Path) -> dict[str, Any]:
    """Read a config as DeepSpeed does: hjson, so with comments, and no key twice.

    Raises:
        ConfigError: the file cannot be read, is not hjson, or is not an object.
    """
    try:
        config = hjson.loads(
            Path(file).read_text(encoding="utf-8"), object_pairs_hook=_reject_duplicates
        )
    except FileNotFoundError:
        raise ConfigError(f"the DeepSpeed config {file} does not exist") from None
    except OSError as error:
        raise ConfigError(f"the DeepSpeed config {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"the DeepSpeed config {file} is not valid: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"the DeepSpeed config {file} is not a JSON object")
    return config


def require_optimizer(config: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if the config names no optimizer.

    DeepSpeed then builds an engine that cannot train, or fails in an assertion, by stage.
    """
    if not config.get("optimizer"):
        raise ConfigError(
            'the DeepSpeed config has no "optimizer" block, and this training brings none of its '
            'own: add one, such as {"type": "Adam", "params": {"lr": 0.001}}'
        )


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    block = dict(pairs)
    if len(block) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"given twice: {', '.join(twice)}")
    return block
