"""The table of what was trained, at the end of the session and from the reports alone.

A rank records flat properties (``ds_mode``, ``ds_loss_first`` …) with its test; they come with the
report, with and without ``-n``, and stand in the JUnit file too.
"""

from __future__ import annotations

from typing import Any

import pytest

_COLUMNS = ("mode", "ranks", "steps", "loss", "samples/s", "time", "verdict")


def _word(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    return report.outcome


class Summary:
    """Collects the properties of reports and writes the table."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, ...]] = []
        self._adapted: dict[str, list[str]] = {}
        self._data = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes a row from the report of a training."""
        properties: dict[str, Any] = dict(report.user_properties)
        if change := properties.get("ds_adapted"):
            self._adapted.setdefault(str(change), []).append(report.nodeid)
        if "ds_mode" in properties and report.when == "call":
            self._data = str(properties["ds_data"])
            self._rows.append(
                (
                    str(properties["ds_mode"]),
                    str(properties["ds_world_size"]),
                    str(properties["ds_steps"]),
                    f"{properties['ds_loss_first']:.3f} -> {properties['ds_loss_last']:.3f}",
                    f"{properties['ds_samples_per_second']:.0f}",
                    f"{report.duration:.2f} s",
                    _word(report),
                )
            )

    def lines(self) -> list[str]:
        """The table, then what was adapted; nothing where nothing was trained."""
        lines: list[str] = []
        if self._rows:
            table = [_COLUMNS, *sorted(self._rows)]
            widths = [max(len(row[i]) for row in table) for i in range(len(_COLUMNS))]
            for row in table:
                cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
                lines.append("  ".join(cells).rstrip())
            lines.append(f"data: {self._data}")
        for change, tests in self._adapted.items():
            unique = dict.fromkeys(tests)
            lines.append(f"adapted in {len(unique)} test{'s' * (len(unique) > 1)}: {change}")
        if self._adapted:
            lines.append("(--ds-require=exact makes an adaptation a failure)")
        return lines

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Writes it, in the controller only."""
        if lines := self.lines():
            terminalreporter.write_sep("=", "DeepSpeed")
            for line in lines:
                terminalreporter.write_line(line)
