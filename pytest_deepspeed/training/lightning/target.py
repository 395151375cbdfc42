"""What makes the Trainer: a script with its arguments, or a function."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from pytest_deepspeed.training.workload.contract import WorkloadError


@dataclasses.dataclass(frozen=True)
class Target:
    """A training to be run as its users run it.

    Attributes:
        text: ``train.py --batch_size 8``, ``-m package.module --batch_size 8``, or
            ``package.module:function``.
    """

    text: str

    @property
    def name(self) -> str:
        """Without the arguments."""
        return self._words[1] if self.is_module else self._words[0]

    @property
    def is_module(self) -> bool:
        """Whether it is a module that is run as a script."""
        return len(self._words) > 1 and self._words[0] == "-m"

    @property
    def is_script(self) -> bool:
        """Whether it is a file."""
        return not self.is_module and re.fullmatch(r"[\w.]+:\w+", self.name) is None

    def run(self) -> None:
        """Runs it: a script as ``python train.py ...`` would, a function without arguments.

        Raises:
            WorkloadError: there is no such file or function, or it ended with a status.
        """
        try:
            if self.is_script:
                path = Path(self.name).absolute()
                _run_script(path, [self.name, *self._words[1:]], folder=str(path.parent))
            elif self.is_module:
                _run_module(self.name, self._words[2:])
            else:
                _run_function(self.name)
        except SystemExit as error:
            raise WorkloadError(
                f"{self.text} ended with status {error.code} before Trainer.fit: what it printed is"
                " below. Its arguments are those of the marker `lightning`, or `arguments` in"
                " pyproject.toml"
            ) from None

    @property
    def _words(self) -> list[str]:
        return shlex.split(self.text)


def _run_script(path: Path, argv: list[str], *, folder: str, package: str = "") -> None:
    if not path.is_file():
        raise WorkloadError(f"{argv[0]}: there is no such file in {Path.cwd()}")
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    module.__package__ = package
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    with _as_main(module, argv, folder):
        exec(code, module.__dict__)  # noqa: S102  (the user's own script, as python runs it)


def _run_module(name: str, arguments: list[str]) -> None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise WorkloadError(f"-m {name}: there is no such module")
    path = Path(spec.origin)
    _run_script(path, [str(path), *arguments], folder=str(Path.cwd()), package=spec.parent or "")


@contextlib.contextmanager
def _as_main(module: types.ModuleType, argv: list[str], folder: str) -> Iterator[None]:
    """What python sets up for a script. It stays the main module: its classes are found there."""
    before = sys.argv, sys.path[:]
    sys.argv = argv
    sys.path.insert(0, folder)
    sys.modules["__main__"] = module
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before


def _run_function(name: str) -> None:
    module, function = name.split(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise WorkloadError(
            f"{name}: there is no module {error.name!r}: add its directory to `pythonpath` in the"
            " ini file"
        ) from None
    except AttributeError:
        raise WorkloadError(f"{name}: {module} has no {function}") from None
    found()
