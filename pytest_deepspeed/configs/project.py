"""What a project says of its configs: ``[tool.pytest_deepspeed]`` in ``pyproject.toml``.

The table holds for all configs; each ``[[tool.pytest_deepspeed.configs]]`` for those that match its
``files``, where a later one wins. What it says of changes to them: see `gate`.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_deepspeed.configs import gate
from pytest_deepspeed.configs.gate import Accepted, Against, Parsers
from pytest_deepspeed.configs.huggingface import ARGUMENTS
from pytest_deepspeed.values.finding import ITEMS
from pytest_deepspeed.values.size import RANK_MEMORY, parse_size

TABLE = "tool.pytest_deepspeed"

#: What may be compared more loosely or more strictly than by default.
TOLERANCES = ("loss", "grad_norm", "parameters", "moments")


class ProjectError(ValueError):
    """A key of the table is wrong; the message names it and says what to write."""


@dataclasses.dataclass(frozen=True)
class FileSettings:
    """What holds for one config.

    Attributes:
        select: ids of rules, or how they begin; empty for all.
        ignore: the same, to the reason why; the reason may be empty.
        checks: of `pytest_deepspeed.values.finding.ITEMS`.
        world_sizes: that the checks train at, here; empty where nothing is said.
        target_world_sizes: that the config is meant for, on the cluster: only the arithmetic of
            batches is checked at them.
        nodes: of the cluster.
        device: of the cluster.
        huggingface: whether Hugging Face fills in ``"auto"``; ``None`` where nothing is said.
        hidden_size: of the model, from which Hugging Face computes bucket sizes.
        training_arguments: of Hugging Face's Trainer, that fill in ``"auto"``; defaults for others.
        steps: optimizer steps of a training; ``None`` for the default.
        arguments: of the command line, for a script.
        tolerances: of `TOLERANCES`.
        limit_rank_memory: what is limited, to bytes.
    """

    select: tuple[str, ...] = ()
    ignore: Mapping[str, str] = dataclasses.field(default_factory=dict)
    checks: tuple[str, ...] = ITEMS
    world_sizes: tuple[int, ...] = ()
    target_world_sizes: tuple[int, ...] = ()
    nodes: int = 1
    device: str = "cuda"
    huggingface: bool | None = None
    hidden_size: int | None = None
    training_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int | None = None
    arguments: tuple[str, ...] = ()
    tolerances: Mapping[str, float] = dataclasses.field(default_factory=dict)
    limit_rank_memory: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def reports(self, rule_id: str) -> bool:
        """Whether findings of a rule count."""
        chosen = not self.select or rule_id.startswith(self.select)
        return chosen and not rule_id.startswith(tuple(self.ignore))


def _integers(value: Any) -> tuple[int, ...]:
    numbers = value if isinstance(value, list) else [value]
    if not numbers or any(type(n) is not int or n < 1 for n in numbers):
        raise ValueError("a whole number of 1 or more, or a list of such: [2, 4]")
    return tuple(numbers)


def _integer(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("a whole number of 1 or more")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _device(value: Any) -> str:
    if value not in ("cuda", "cpu"):
        raise ValueError('"cuda" or "cpu"')
    return str(value)


def _checks(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not set(value) <= set(ITEMS):
        raise ValueError(f"a list of some of {', '.join(ITEMS)}")
    return tuple(item for item in ITEMS if item in value)


_RULE = re.compile(r"(?:DS|PL)\d{0,3}")


def _rules(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(_is_rule(v) for v in value):
        raise ValueError('a list of rules, or of how their ids begin: ["DS101", "DS4"]')
    return tuple(value)


def _reasons(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping) and all(_is_rule(k) for k in value):
        reasons = list(value.values())
        if all(isinstance(reason, str) and reason.strip() for reason in reasons):
            return dict(value)
    elif isinstance(value, list) and all(_is_rule(v) for v in value):
        return dict.fromkeys(value, "")
    raise ValueError('rules, with reasons: {DS601 = "the base config is for stage 3 too"}')


def _is_rule(value: Any) -> bool:
    return isinstance(value, str) and _RULE.fullmatch(value) is not None


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError('a list of texts: ["--batch_size", "8"]')
    return tuple(value)


def _tolerances(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ValueError("a table: {loss = 1e-4}")
    for name, number in value.items():
        if name not in TOLERANCES:
            raise ValueError(f"some of {', '.join(TOLERANCES)}, not {name!r}")
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not number > 0:
            raise ValueError(f"a number above 0 for {name}")
    return {name: float(number) for name, number in value.items()}


def _arguments(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not set(value) <= set(ARGUMENTS):
        raise ValueError(f"a table with some of {', '.join(ARGUMENTS)}")
    return dict(value)


def _memory(value: Any) -> dict[str, int]:
    sizes = value if isinstance(value, Mapping) else {"host": value}
    if not set(sizes) <= set(RANK_MEMORY):
        raise ValueError(f"a size, or a table with some of {', '.join(RANK_MEMORY)}")
    return {name: parse_size(size) for name, size in sizes.items()}


#: Tables of their own.
_TABLES = ("configs", "against", "accepted")

_PARSERS: Parsers = {
    "select": _rules,
    "ignore": _reasons,
    "checks": _checks,
    "world_sizes": _integers,
    "target_world_sizes": _integers,
    "nodes": _integer,
    "device": _device,
    "huggingface": _boolean,
    "hidden_size": _integer,
    "training_arguments": _arguments,
    "steps": _integer,
    "arguments": _strings,
    "tolerances": _tolerances,
    "limit_rank_memory": _memory,
}


@dataclasses.dataclass(frozen=True)
class Project:
    """What a project says of all its configs.

    Attributes:
        root: what patterns are relative to.
        every: what holds for all.
        some: patterns, with what holds for the configs that match one of them, in order.
        against: how far a changed config's training may be from what it was.
        accepted: changes that are meant.
    """

    root: Path
    every: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    some: tuple[tuple[tuple[str, ...], Mapping[str, Any]], ...] = ()
    against: Against = dataclasses.field(default_factory=Against)
    accepted: tuple[Accepted, ...] = ()

    def of(self, path: Path) -> FileSettings:
        """What holds for a file."""
        shown = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        values = dict(self.every)
        for patterns, more in self.some:
            if any(fnmatch.fnmatch(name, p) for p in patterns for name in (str(shown), path.name)):
                values |= more
        return FileSettings(**values)


def read(root: Path) -> Project:
    """What ``pyproject.toml`` in a directory says; nothing where there is none, or no such table.

    Raises:
        ProjectError: a key is wrong.
    """
    file = root / "pyproject.toml"
    try:
        table: Any = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        return Project(root)
    except (OSError, ValueError) as error:
        raise ProjectError(f"{file}: {error}") from None
    for key in TABLE.split("."):
        table = table.get(key, {}) if isinstance(table, Mapping) else table
    if not isinstance(table, Mapping):
        raise ProjectError(f"{file}: [{TABLE}] is no table")
    every = {key: value for key, value in table.items() if key not in _TABLES}
    some = tuple(_some(*of) for of in _tables(table, "configs", "its files", file))
    accepted = tuple(_accepted(*of) for of in _tables(table, "accepted", "change and reason", file))
    where = f"{file}: [{TABLE}.against]"
    against = table.get("against", {})
    if not isinstance(against, Mapping):
        raise ProjectError(f"{where}: a table: [{TABLE}.against]")
    return Project(
        root,
        _values(every, f"{file}: [{TABLE}]"),
        some,
        Against(**_values(against, where, gate.AGAINST)),
        accepted,
    )


def _tables(
    table: Mapping[str, Any], name: str, what: str, file: Path
) -> Iterator[tuple[Any, str]]:
    """The tables of that name, each with where it stands."""
    tables = table.get(name, [])
    if not isinstance(tables, list):
        raise ProjectError(f"{file}: write [[{TABLE}.{name}]], in double brackets, with {what}")
    for number, one in enumerate(tables, 1):
        yield one, f"{file}: [[{TABLE}.{name}]] number {number}"


def _accepted(table: Any, where: str) -> Accepted:
    values = _values(dict(table) if isinstance(table, Mapping) else {}, where, gate.ACCEPTED)
    for name in ("change", "reason"):
        if name not in values:
            raise ProjectError(f"{where}: {name} is missing: say which change is meant, and why")
    return Accepted(**values)


def _some(table: Any, where: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    values = dict(table) if isinstance(table, Mapping) else {}
    files = values.pop("files", None)
    patterns = [files] if isinstance(files, str) else files
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise ProjectError(f'{where}: files: a pattern, or a list of such: files = "conf/*.json"')
    return tuple(patterns), _values(values, where)


def _values(table: Mapping[str, Any], where: str, parsers: Parsers = _PARSERS) -> dict[str, Any]:
    values = {}
    for key, value in table.items():
        if key not in parsers:
            near = difflib.get_close_matches(key, parsers, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(parsers)}"
            raise ProjectError(f"{where}: there is no key {key!r}; {hint}")
        try:
            values[key] = parsers[key](value)
        except ValueError as error:
            raise ProjectError(f"{where}: {key}: {error}, got {value!r}") from None
    return values
