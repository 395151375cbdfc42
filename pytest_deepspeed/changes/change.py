"""One config, beside what it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pytest_deepspeed.configs.document import Document
from pytest_deepspeed.configs.project import FileSettings

#: ``same``: nothing that it depends on has changed; ``text``: only the layout of the file has;
#: ``changed``: it is compared with its base; ``new``, ``undecided``: there is no base to compare
#: it with, so that all its own checks have to do.
Kind = Literal["same", "text", "changed", "new", "undecided"]

#: What of `FileSettings` makes a difference to a training, or to what is allowed of one.
_TRAINING = (
    *("world_sizes", "target_world_sizes", "huggingface", "hidden_size", "training_arguments"),
    *("steps", "arguments", "tolerances", "limit_rank_memory", "checks"),
)


@dataclasses.dataclass(frozen=True)
class Base:
    """What a config was.

    Attributes:
        path: from the repository's root.
        document: the config.
        settings: what ``pyproject.toml`` said of it.
        workload: the reference of the user's own workload; empty for the trap model.
        world_size: what the ini file said of all worlds; ``None`` where it said nothing.
        code: whether its workload's modules were others.
    """

    path: str
    document: Document
    settings: FileSettings
    workload: str
    world_size: int | None
    code: bool


@dataclasses.dataclass(frozen=True)
class Change:
    """What has become of a file.

    Attributes:
        path: the file.
        kind: see `Kind`.
        reasons: what has changed, or why nothing can be compared; empty where it is the same.
        base: what it was, where it is ``changed`` or ``text``.
        digest: twelve digits, of all that differs; the same for the same change, whatever commit
            it is made from.
    """

    path: Path
    kind: Kind
    reasons: tuple[str, ...] = ()
    base: Base | None = None
    digest: str = ""


def differing_settings(base: FileSettings, head: FileSettings) -> list[str]:
    """A sentence for each setting that makes a difference."""
    return [
        f"{name} in pyproject.toml is {_shown(now)}, and was {_shown(was)}"
        for name in _TRAINING
        if (was := getattr(base, name)) != (now := getattr(head, name))
    ]


def digest(*parts: Any) -> str:
    """Twelve digits of plain values."""
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else str(value)  # type: ignore[arg-type]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "not said"
    return "not said" if value is None or value == {} else str(value)
