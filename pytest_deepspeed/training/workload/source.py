"""Where a workload comes from: a function that is named, or a hook, found on the ranks.

The controller knows a *reference* alone: ``""`` for the trap model, ``"module:function"``, or
``"hook of FILE"``. A rank makes the workload of it. Ranks are told at their start what only pytest
knows: see `provide`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_deepspeed.training.workload.contract import Workload, WorkloadError

#: How the reference of a hook begins; the files follow, with ``, `` between them.
HOOK = "hook of "

Hook = Callable[[str, Mapping[str, Any]], Any]


@dataclasses.dataclass
class _Provided:
    hook: Hook | None = None
    root: str = ""
    where: str = "ds_workload"


_provided = _Provided()


def provide(*, hook: Hook, root: str, where: str) -> None:
    """Tells this process what only pytest knows; in the agent, for all of its ranks.

    Args:
        hook: calls the hooks of a reference with a config.
        root: the project's directory, where modules are looked for first.
        where: what named the function: ``--ds-workload`` or its twin.
    """
    _provided.hook, _provided.root, _provided.where = hook, root, where


def find(reference: str, ds_config: Mapping[str, Any], code: str = "") -> Workload | None:
    """The workload that a reference means for a config; ``None`` where a hook has none for it.

    Args:
        reference: see above.
        ds_config: of which it may make use.
        code: a directory that stands for the project's from now on, in this process; empty for
            the project's own.

    Raises:
        WorkloadError: there is no such function, or what it returned is no workload.
    """
    if code:
        _import_from(code)
    if reference.startswith(HOOK):
        if _provided.hook is None:
            raise WorkloadError(
                f"{shown(reference)}: only ranks that pytest started can call a hook"
            )
        found = _provided.hook(reference, ds_config)
        name = f"pytest_ds_workload, the {shown(reference)},"
    else:
        found = _call(_function(reference), reference, ds_config)
        name = reference
    if found is None and reference.startswith(HOOK):
        return None
    if not isinstance(found, Workload):
        raise WorkloadError(
            f"{name} returned a {type(found).__name__}, not a pytest_deepspeed.Workload: end it"
            " with return Workload(model=..., dataset=..., loss=...)"
        )
    return found


def shown(reference: str) -> str:
    """The reference, with files named from the directory that pytest was started in."""
    files = reference.removeprefix(HOOK)
    if files == reference:
        return reference
    base = Path.cwd()
    paths = [Path(file) for file in files.split(", ")]
    near = [str(p.relative_to(base)) if p.is_relative_to(base) else str(p) for p in paths]
    return HOOK + ", ".join(near)


def _function(reference: str) -> Callable[..., Any]:
    module_name, _, path = reference.partition(":")
    found: Any = _module(module_name)
    for part in path.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"define {part}() in it"
            raise WorkloadError(
                f"{_provided.where}: {module_name} ({_file(module_name)}) has no {path!r}: {hint}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise WorkloadError(
            f"{_provided.where}: {reference} is a {type(found).__name__}, not a function: write"
            f" def {path}(): return Workload(model=..., dataset=..., loss=...)"
        )
    function: Callable[..., Any] = found
    return function


def _import_from(code: str) -> None:
    """Lets modules of the project be imported from another directory, also those that are here."""
    project = _provided.root
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if name != "__main__" and Path(file).is_relative_to(project):
            del sys.modules[name]
    sys.path[:] = [_moved(entry, project, code) for entry in sys.path]
    _provided.root = code


def _moved(entry: str, project: str, code: str) -> str:
    path = Path(entry)
    inside = path.is_relative_to(project) and not path.is_relative_to(sys.prefix)
    return str(Path(code, path.relative_to(project))) if inside else entry


def _module(name: str) -> types.ModuleType:
    if _provided.root and _provided.root not in sys.path:
        sys.path.insert(0, _provided.root)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            error.add_note(f"This was raised when {name} was imported ({_provided.where}).")
            raise
        looked = f" in {_provided.root} and" if _provided.root else ""
        raise WorkloadError(
            f"{_provided.where}: there is no module {error.name!r}{looked} on sys.path: write"
            " package.module:function, or add its directory to `pythonpath` in the ini file"
        ) from None
    except SystemExit as error:
        raise WorkloadError(
            f"{_provided.where}: {name} ended with status {error.code} when it was imported: put"
            " what the script does below if __name__ == '__main__':"
        ) from None


def _file(name: str) -> str:
    return getattr(sys.modules[name], "__file__", None) or "built in"


def _call(function: Callable[..., Any], reference: str, ds_config: Mapping[str, Any]) -> Any:
    """Calls it with the config where it takes one."""
    parameters = inspect.signature(function).parameters.values()
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in open_ended]
    if set(needed) - {"ds_config"}:
        raise WorkloadError(
            f"{_provided.where}: {reference} takes {', '.join(needed)}: a workload's function is"
            " called without an argument, or with ds_config alone. Give the others a default"
        )
    takes = any(p.name == "ds_config" for p in parameters)
    return function(ds_config=dict(ds_config)) if takes else function()
