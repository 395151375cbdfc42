"""What the installed Lightning takes and sets by default, read from its source, never imported."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from pytest_deepspeed.configs.known.keys import MISSING
from pytest_deepspeed.configs.known.source import Module, Source, SourceUnknown

#: The packages that Lightning comes in, with the folder of its trainer; the first is taken.
_PACKAGES = (("pytorch_lightning", ""), ("lightning", "pytorch/"))


@dataclasses.dataclass(frozen=True)
class Lightning:
    """What is known of Lightning.

    Attributes:
        strategy: the parameters of ``DeepSpeedStrategy``, in order, with their defaults; `MISSING`
            for one that is no plain value.
        registered: by name, ``"deepspeed_stage_3"``, the arguments that it stands for.
        trainer: the parameters of ``Trainer``, likewise.
    """

    strategy: Mapping[str, Any]
    registered: Mapping[str, Mapping[str, Any]]
    trainer: Mapping[str, Any]


@functools.cache
def load() -> Lightning:
    """What the installed Lightning takes; read once in a process, in some hundredths of a second.

    Raises:
        SourceUnknown: it is not installed, or not as this release of the plugin knows it.
    """
    for package, folder in _PACKAGES:
        try:
            source = Source.of(package)
        except SourceUnknown:
            continue
        return _read(source, folder)
    raise SourceUnknown(
        "Lightning is not installed, whose defaults a script is judged by:"
        " pip install pytorch-lightning"
    )


def _read(source: Source, folder: str) -> Lightning:
    module, strategy = source.definition(f"{folder}strategies/deepspeed.py", "DeepSpeedStrategy")
    file, trainer = source.definition(f"{folder}trainer/trainer.py", "Trainer")
    registered = {}
    for call in ast.walk(_method(strategy, "register_strategies")):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args:
            name = source.value(module, call.args[0])
            arguments = {k.arg: source.value(module, k.value) for k in call.keywords if k.arg}
            arguments.pop("description", None)
            registered[str(name)] = arguments
    return Lightning(
        strategy=_parameters(source, module, _method(strategy, "__init__")),
        registered=registered,
        trainer=_parameters(source, file, _method(trainer, "__init__")),
    )


def _method(class_: ast.AST, name: str) -> ast.FunctionDef:
    for node in class_.body if isinstance(class_, ast.ClassDef) else ():
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise SourceUnknown(f"the installed Lightning has no {name} where it was in 2.6")


def _parameters(source: Source, module: Module, function: ast.FunctionDef) -> dict[str, Any]:
    given = function.args
    names = [argument.arg for argument in given.args]
    values: list[ast.expr | None] = [None] * (len(names) - len(given.defaults))
    found = dict(zip(names, [*values, *given.defaults], strict=True))
    found |= {a.arg: v for a, v in zip(given.kwonlyargs, given.kw_defaults, strict=True)}
    found.pop("self", None)
    return {k: MISSING if v is None else source.value(module, v) for k, v in found.items()}
