"""Reads Lightning scripts, which are never run or imported here."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_deepspeed.configs.document import Document, KeyPath, Spans
from pytest_deepspeed.configs.known.keys import MISSING
from pytest_deepspeed.configs.lightning import arguments, given, source
from pytest_deepspeed.configs.lightning.names import UNREAD, Names
from pytest_deepspeed.configs.lightning.script import Script, Strategy, is_strategy
from pytest_deepspeed.configs.unreadable import Unreadable

_MAX_BYTES = 2**20
_OLD_END = re.compile(r"\r\n?")
_OF_TRAINER = ("precision", "accumulate_grad_batches", "gradient_clip_val")


def read(path: Path) -> Script:
    """A script, from its file.

    Raises:
        Unreadable: it cannot be read, or is no Python.
        SourceUnknown: Lightning is not installed, or not as this release of the plugin knows it.
    """
    try:
        if not path.is_file():
            raise Unreadable("PL002", "it is no file", "give the path of a Python file")
        if path.stat().st_size > _MAX_BYTES:
            raise Unreadable("PL002", "it has more than 1 MiB, as no script does", "check the path")
        return parse(path.read_bytes().decode("utf-8"), path)
    except UnicodeDecodeError as error:
        raise Unreadable("PL002", f"it is no text in UTF-8: {error}", "save it as UTF-8") from None
    except OSError as error:
        does = f"it cannot be opened ({error.strerror})"
        raise Unreadable("PL002", does, "let your user read it") from None


def parse(text: str, path: Path) -> Script:
    """The same, from its text.

    Args:
        text: the script.
        path: of it; a config file that it names is looked for from there, too.
    """
    text = _OLD_END.sub("\n", text.removeprefix("\ufeff"))
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _no_python(error) from None
    script = Script(path, text, tree, Names(tree), source.load())
    found = sorted(_strategies(script), key=lambda each: script.offset(each.node))
    return dataclasses.replace(script, strategies=tuple(found))


def of_live(config: Mapping[str, Any], script: Script | None = None) -> Document:
    """The config of a running strategy, with the places of what the script gives of it.

    What is otherwise than Lightning's defaults, and is not given there, is at the strategy.

    Args:
        config: after Lightning has formatted it: ``strategy.config``.
        script: that made it; of several strategies in it, the one that is most like the config.
    """
    strategy = like(config, script) if script is not None and script.strategies else None
    whole = strategy.document.spans[()] if strategy else Spans(0, 0, 0, 0)
    places = strategy.places if strategy else {}
    spans = dict.fromkeys(_unlike_defaults(config), whole)
    spans |= {path: place for path, place in places.items() if _has(config, path)}
    return Document(script.text if script else "", config, {**spans, (): whole})


def _unlike_defaults(config: Mapping[str, Any]) -> Iterator[KeyPath]:
    """The paths of what Lightning does not set by itself."""
    values = dict(source.load().strategy) | {"offload_optimizer": True, "offload_parameters": True}
    default = arguments.formatted(arguments.config(values), values, {})
    left: list[tuple[KeyPath, Any]] = [((), config)]
    while left:
        path, value = left.pop()
        if isinstance(value, Mapping):
            left += [((*path, key), inner) for key, inner in value.items()]
            if path in arguments.SWITCHED or (path and not _has(default, path)):
                yield path
        elif _at(default, path) != value:
            yield from (path[:length] for length in range(1, len(path) + 1))


def like(config: Mapping[str, Any], script: Script) -> Strategy:
    """The strategy of a script whose literals differ least from a config; it has to have one."""
    unlike = set(_unlike_defaults(config))

    def differences(strategy: Strategy) -> int:
        written = [path for path in strategy.document.spans if path]
        data = strategy.document.data
        missing = () if strategy.open else unlike - strategy.places.keys()
        return len([*missing, *(p for p in (*written, _STAGE) if _at(data, p) != _at(config, p))])

    return min(script.strategies, key=differences)


_STAGE: KeyPath = ("zero_optimization", "stage")


def _at(config: Any, path: KeyPath) -> Any:
    for key in path:
        if not isinstance(config, Mapping) or key not in config:
            return MISSING
        config = config[key]
    # What the script has besides is found at the paths below.
    return "a block" if isinstance(config, Mapping) else config


def _has(config: Mapping[str, Any], path: KeyPath) -> bool:
    return _at(config, path) is not MISSING


def _no_python(error: Exception) -> Unreadable:
    line = getattr(error, "lineno", None) or 1
    column = getattr(error, "offset", None) or 1
    does = f"Python cannot read it: {getattr(error, 'msg', None) or error}"
    shown = (getattr(error, "text", None) or "").strip("\n")
    instead = "mend the line; a script that lost its indentation has to get it back"
    return Unreadable("PL001", does, instead, line=line, column=max(column, 1), shown=shown)


def _strategies(script: Script) -> Iterator[Strategy]:
    for call in script.calls:
        name = script.names.dotted(_class(script, call.func))
        own = script.classes.get(name)
        if is_strategy(name) or (own and _is_strategy_class(script, own)):
            yield _of_call(script, call, name)
    for trainer in script.trainers:
        keyword = script.keyword(trainer, "strategy")
        node = script.names.followed(keyword.value) if keyword else None
        if isinstance(node, ast.Constant) and node.value in script.lightning.registered:
            yield _of_name(script, node, str(node.value), trainer)


def _class(script: Script, function: ast.expr) -> ast.AST:
    """What is called, through a name for it; of a choice by a condition the first."""
    followed = script.names.followed(function)
    if isinstance(followed, ast.IfExp):
        return followed.body
    return followed if isinstance(followed, ast.Name | ast.Attribute) else function


def _is_strategy_class(script: Script, class_: ast.ClassDef) -> bool:
    return any(is_strategy(script.names.dotted(base)) for base in class_.bases)


def _of_name(script: Script, node: ast.expr, name: str, trainer: ast.Call) -> Strategy:
    values = dict(script.lightning.registered[name])
    nodes: dict[str, ast.expr] = dict.fromkeys(values, node)
    # The name is the value of each argument that it stands for; it has no name of its own.
    start, end = script.offset(node), script.offset(node, end=True)
    spans = dict.fromkeys(nodes, Spans(start, end, start, end))
    return _made(script, Strategy(node, name, nodes, values, _NOTHING, {}), spans, trainer)


def _of_call(script: Script, call: ast.Call, name: str) -> Strategy:
    order = list(script.lightning.strategy)
    nodes: dict[str, ast.expr] = {}
    spans: dict[str, Spans] = {}
    for parameter, node in zip(order, call.args, strict=False):
        nodes[parameter] = node
        start, end = script.offset(node), script.offset(node, end=True)
        spans[parameter] = Spans(start, start, start, end)
    for keyword in call.keywords:
        if keyword.arg is not None:
            nodes[keyword.arg] = keyword.value
            start = script.offset(keyword)
            value = (script.offset(keyword.value), script.offset(keyword.value, end=True))
            spans[keyword.arg] = Spans(start, start + len(keyword.arg), *value)
    values = {parameter: script.names.value(node) for parameter, node in nodes.items()}
    more = any(keyword.arg is None for keyword in call.keywords)
    more = more or any(isinstance(node, ast.Starred) for node in call.args)
    last = name.rpartition(".")[2]
    strategy = Strategy(call, last, nodes, values, _NOTHING, {}, open=more)
    return _made(script, strategy, spans, _trainer_of(script, call))


_NOTHING = Document("", {}, {})


def _made(
    script: Script, strategy: Strategy, spans: Mapping[str, Spans], trainer: ast.Call | None
) -> Strategy:
    """A strategy with its config."""
    defaults = {k: UNREAD if v is MISSING else v for k, v in script.lightning.strategy.items()}
    values = {**defaults, **strategy.arguments}
    start, end = script.offset(strategy.node), script.offset(strategy.node, end=True)
    whole = Spans(start, start, start, end)
    places: dict[KeyPath, Spans] = {}
    unread: set[KeyPath] = set()
    open_ = strategy.open
    if values.get("config") is not None:
        made, places, open_ = given.config(script, strategy.given["config"], spans["config"])
    else:
        made = arguments.config(values)
        for name in strategy.given:
            for path in arguments.paths(values, name):
                places[path] = spans[name]
                if values[name] is UNREAD:
                    unread.add(path)
    of_trainer = _of_trainer(script, trainer)
    unread |= {(key,) for key, name in _FROM_TRAINER.items() if of_trainer.get(name) is UNREAD}
    made = arguments.formatted(made, values, of_trainer)
    read = {path: found for path, found in places.items() if path not in unread}
    document = Document(script.text, made, {**read, (): whole})
    return dataclasses.replace(
        strategy,
        arguments=values,
        document=document,
        places=places,
        unread=frozenset(unread),
        open=open_,
        trainer=trainer,
    )


_FROM_TRAINER = {
    "gradient_accumulation_steps": "accumulate_grad_batches",
    "gradient_clipping": "gradient_clip_val",
}


def _of_trainer(script: Script, trainer: ast.Call | None) -> dict[str, Any]:
    if trainer is None:
        return {}
    return {name: script.argument(trainer, name) for name in _OF_TRAINER}


def _trainer_of(script: Script, strategy: ast.Call) -> ast.Call | None:
    for trainer in script.trainers:
        keyword = script.keyword(trainer, "strategy")
        value = script.names.followed(keyword.value) if keyword else None
        if value is not None and any(node is strategy for node in ast.walk(value)):
            return trainer
    return script.trainers[0] if len(script.trainers) == 1 else None
