"""PL1xx: flags of the command line that have no effect, or another one than their default."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from pytest_deepspeed.configs.lightning.script import UNREAD, Script
from pytest_deepspeed.configs.problem import Found
from pytest_deepspeed.configs.rule import script_rule

#: Launchers give it to each rank, whether the script wants it or not.
_OF_LAUNCHERS = "local_rank"


@script_rule("PL101", "unused-flag", "error", source="Python's argparse.ArgumentParser.parse_args")
def unused_flag(script: Script) -> Iterator[Found]:
    """The script takes a flag, and reads its value nowhere."""
    read = _attributes_read(script)
    if read is None:
        return
    for call, flag in _flags(script):
        name = _destination(script, call, flag)
        if name and name not in (*read, _OF_LAUNCHERS):
            yield Found(
                script.at(call),
                f"{flag} is read nowhere: whatever is given, the script trains the same",
                f"use args.{name}, or take the flag away",
            )


@script_rule("PL102", "untyped-flag", "warning", source="Python's argparse, type=")
def untyped_flag(script: Script) -> Iterator[Found]:
    """A flag has a number for default and no type: what is given for it is a text."""
    for call, flag in _flags(script):
        default = script.argument(call, "default")
        if type(default) not in (int, float) or script.keyword(call, "type"):
            continue
        if script.argument(call, "action", "store") == "store":
            kind = type(default).__name__
            yield Found(
                script.at(call),
                f'{flag} has no type: "{flag} {default}" gives the text "{default}", and only the'
                " default is a number",
                f"add type={kind}",
            )


def _flags(script: Script) -> Iterator[tuple[ast.Call, str]]:
    """The calls that add an argument, with the name that the user types."""
    for call in script.calls:
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "add_argument":
            continue
        names = [script.names.value(node) for node in call.args]
        if names and all(isinstance(name, str) for name in names):
            long = [name for name in names if name.startswith("--")]
            yield call, (long or names)[0]


def _destination(script: Script, call: ast.Call, flag: str) -> str:
    """The attribute that a flag becomes; empty where none, or where it cannot be told."""
    given = script.argument(call, "dest", flag.lstrip("-").replace("-", "_"))
    stops = script.argument(call, "action") in ("help", "version", UNREAD)
    return "" if stops or not isinstance(given, str) else given


def _attributes_read(script: Script) -> set[str] | None:
    """All attributes that are read of any name; `None` where the arguments are handed on whole."""
    names: set[str] = set()
    parsed: set[ast.AST] = set()
    for node in ast.walk(script.tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=call) if _parses(call, "args"):
                names.add(name)
                parsed.add(call)
            case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id=name), _])], value=call) if (
                _parses(call, "known_args")
            ):
                names.add(name)
                parsed.add(call)
    everywhere = {call for call in script.calls if _parses(call, "args", "known_args")}
    if not names or everywhere - parsed:
        return None
    return _read_of(script, names)


def _parses(node: ast.AST, *what: str) -> bool:
    attributes = {f"parse_{each}" for each in what}
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in attributes
    )


def _read_of(script: Script, names: set[str]) -> set[str] | None:
    functions = {n.name: n for n in ast.walk(script.tree) if isinstance(n, ast.FunctionDef)}
    read: set[str] = set()
    plain: set[ast.AST] = set()
    followed = set(names)
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            plain.add(node.value)
            if isinstance(node.ctx, ast.Load):
                read.add(node.attr)
    for call in script.calls:
        name = script.names.dotted(call.func)
        if name in ("getattr", "hasattr") and len(call.args) > 1:
            attribute = script.names.value(call.args[1])
            if isinstance(attribute, str):
                plain.add(call.args[0])
                read.add(attribute)
        for number, argument in enumerate(call.args if name in functions else ()):
            parameters = functions[name].args.args
            if isinstance(argument, ast.Name) and argument.id in names and number < len(parameters):
                # The function has it under a name of its own, which must not go further.
                plain.add(argument)
                followed.add(parameters[number].arg)
    whole = {
        node.id
        for node in ast.walk(script.tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node not in plain
    }
    return None if whole & followed else read
