"""``pytest --ds-doctor``: one screen that says what this machine can run, and what brings the rest.

Nothing of it is believed from a version alone where it can be tried: torch and DeepSpeed are
imported, a process group adds up, a file is written with ``O_DIRECT``. What needs torch is asked of
a process that is thrown away (`processes.probe`).
"""

from __future__ import annotations

import os
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_deepspeed import options
from pytest_deepspeed.doctor import building, disk, hardware, packages, surroundings
from pytest_deepspeed.processes import devices, probe
from pytest_deepspeed.values.checkup import Line

#: Seconds for importing torch, DeepSpeed and Lightning, which take a minute from a slow disk.
LIMIT = 120.0

_WIDTH = 80
_INDENT = " " * 13


def main(config: pytest.Config) -> int:
    """Prints the screen; 0 where ranks can run on this machine, else 1."""
    found = []
    for line in check(config):
        found.append(line)
        sys.stdout.write(shown(line))
        sys.stdout.flush()
    broken = [line.topic for line in found if line.mark == "!!"]
    lacking = [line.topic for line in found if line.mark == "--"]
    if broken:
        text = f"No rank can run here before this is mended: {', '.join(broken)}."
    else:
        text = f"Ranks can run here. Not there: {', '.join(lacking) or 'nothing'}."
    sys.stdout.write(textwrap.fill(text, _WIDTH) + "\n")
    return int(bool(broken))


def shown(line: Line) -> str:
    """A line on the screen, below it the remedy, which stays in one piece to be copied."""
    text = textwrap.fill(
        line.text,
        _WIDTH,
        initial_indent=f"{line.mark} {line.topic:9} ",
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"{text}\n{_INDENT}> {line.remedy}\n" if line.remedy else f"{text}\n"


def check(config: pytest.Config) -> Iterator[Line]:
    """Each thing that ranks need or can use, in the order of the screen."""
    device, backend, wrong = _computing(config)
    yield from wrong
    found = packages.installed()
    answers = probe.ask(device, LIMIT) if "torch" in found else {}
    yield from packages.lines(found, answers)
    yield from hardware.lines(device, backend, answers)
    yield from building.lines(device, answers)
    yield from disk.lines(_nvme_path(config))
    yield surroundings.slurm_line()
    yield surroundings.data_line(_text(config, "data") or "synthetic")


def _computing(config: pytest.Config) -> tuple[str, str, list[Line]]:
    """The device and backend that ranks would use, and what is wrong with those asked for."""
    device, backend = (_text(config, stem) or "auto" for stem in ("device", "backend"))
    try:
        return *devices.resolve(device, backend, in_slurm=False), []
    except ValueError as error:
        text, _, remedy = str(error).rpartition(": ")
        return "cpu", "gloo", [Line("!!", "device", text, remedy)]


def _text(config: pytest.Config, stem: str) -> str | None:
    """What the option, its variable or its ini key says, unread."""
    option = next(option for option in options.OPTIONS if option.stem == stem)
    text, where = options.look_up(config, option)
    if text and stem in ("device", "backend"):
        option.parse(text, where)  # a word that there is not ends it, as it ends a session
    return text


def _nvme_path(config: pytest.Config) -> Path:
    """Where swap files would go: below the directory of temporary files unless said."""
    if given := _text(config, "nvme_path"):
        return Path(given).expanduser().absolute()
    if (base := config.option.basetemp) is not None:
        return Path(base).absolute().parent
    return Path(os.environ.get("PYTEST_DEBUG_TEMPROOT") or tempfile.gettempdir())
