"""The table of configs in the terminal summary: a row for each config and world size, 80 columns.

Verdicts stand in the last column where it has room for them, and otherwise in a line below each
row, after the config's mode. What went wrong is said in words; colour only adds to them.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Sequence

from pytest_deepspeed.values.finding import ITEMS
from pytest_deepspeed.values.size import UNITS

#: Columns of a terminal.
WIDTH = 80

#: How a check that is not simply passed is shown, the worst first.
_WORDS = ("failed", "xpassed", "known fault", "skipped", "passed")

#: What is red on a terminal that has colours.
WRONG = re.compile(rf"(?<!\S)(?:(?:{'|'.join(ITEMS)}) )*(?:failed|xpassed)(?![^\s,])")

#: Columns that verdicts need in a row; with fewer they stand below it.
_LEAST = 20


@dataclasses.dataclass
class Row:
    """What the tests of one config said, in a world of one size.

    Attributes:
        config: its path from where pytest was called, or its mode where it is of no file.
        ranks: size of the world.
        mode: `values.modes.case_id` of what was trained, where `config` is a path.
        loss: mean of all ranks in the first step, and in the last one.
        memory: bytes that a rank held, the most of all ranks, and those that the ZeRO arithmetic
            gives.
        seconds: of all its tests.
        words: what each check said, for each test that made it.
    """

    config: str
    ranks: int
    mode: str = ""
    loss: tuple[float, float] | None = None
    memory: tuple[int, int] | None = None
    seconds: float = 0.0
    words: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    @property
    def all_passed(self) -> bool:
        return all(word == "passed" for words in self.words.values() for word in words)

    @property
    def verdict(self) -> str:
        """``7 passed``, or the checks that did not: ``5 passed, parity failed``."""
        worst = {
            check: next(word for word in _WORDS if word in words)
            for check, words in self.words.items()
        }
        passed = sum(word == "passed" for word in worst.values())
        named = {w: [c for c in ITEMS if worst.get(c) == w] for w in _WORDS[:-1]}
        rest = [f"{' '.join(checks)} {word}" for word, checks in named.items() if checks]
        return ", ".join([f"{passed} passed"] * (passed > 0) + rest)


def table(rows: Sequence[Row]) -> list[str]:
    """The rows below their header; a column in which nothing stands is left out."""
    columns = [
        ("ranks", [str(row.ranks) for row in rows]),
        ("loss", ["{:.3f} -> {:.3f}".format(*row.loss) if row.loss else "" for row in rows]),
        ("memory/expected", [_memory(*row.memory) if row.memory else "" for row in rows]),
        ("time", [_time(row.seconds) for row in rows]),
    ]
    shown = [[name, *cells] for name, cells in columns if any(cells)]
    room = WIDTH - sum(2 + max(map(len, cells)) for cells in shown)
    configs = ["config", *(shortened(row.config, room) for row in rows)]
    verdicts = ["checks", *(row.verdict for row in rows)]
    figures = aligned([configs, *shown])
    width = max(map(len, figures)) + 2
    if width + _LEAST <= WIDTH and not any(row.mode for row in rows):
        return _beside(figures, verdicts, width)
    modes = ["mode" if any(row.mode for row in rows) else ""]
    modes += [
        row.mode or (row.config if name != row.config else "")
        for row, name in zip(rows, configs[1:], strict=True)
    ]
    return _below(figures, [f"{m}: {v}" if m else v for m, v in zip(modes, verdicts, strict=True)])


def aligned(columns: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table of which these are the columns, two spaces apart."""
    widths = [max(map(len, cells)) for cells in columns]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ]


def shortened(path: str, width: int) -> str:
    """The path, or its start and more of its end with ``...`` between them."""
    if len(path) <= width:
        return path
    start = (width - 3) // 3
    return f"{path[:start]}...{path[start + 3 - width :]}"


def _beside(figures: Sequence[str], verdicts: Sequence[str], width: int) -> list[str]:
    """Verdicts as the last column, which goes on below itself."""
    lines: list[str] = []
    for before, verdict in zip(figures, verdicts, strict=True):
        first, *more = textwrap.wrap(verdict, WIDTH - width)
        lines += [before.ljust(width) + first, *(" " * width + line for line in more)]
    return lines


def _below(figures: Sequence[str], verdicts: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for before, verdict in zip(figures, verdicts, strict=True):
        lines += [
            before,
            *textwrap.wrap(
                verdict,
                WIDTH,
                initial_indent="  ",
                subsequent_indent="    ",
                break_on_hyphens=False,
            ),
        ]
    return lines


def _memory(held: int, expected: int) -> str:
    """``118/118 KiB``; what would round to the same and is not has its difference."""
    unit = next((u for u in ("TiB", "GiB", "MiB", "KiB") if max(held, expected) >= UNITS[u]), "B")
    sizes = [_three_digits(size / UNITS[unit], whole=unit == "B") for size in (held, expected)]
    alike = held != expected and sizes[0] == sizes[1]
    return f"{sizes[0]}/{sizes[1]} {unit}" + f" ({held - expected:+,} B)" * alike


def _three_digits(value: float, *, whole: bool) -> str:
    decimals = 0 if whole or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f}"


def _time(seconds: float) -> str:
    if seconds >= 999.95:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.{1 if seconds >= 9.995 else 2}f} s"
