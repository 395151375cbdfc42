"""The tables of what was trained and checked, at the end of the session and from reports alone.

A test records flat properties (``ds_mode``, ``ds_loss_first`` …); they come with its report, with
and without ``-n``, and stand in the JUnit file too.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from pytest_deepspeed.summary_table import WIDTH, WRONG, Row, aligned, table

_TRAINED = ("mode", "ranks", "steps", "loss", "samples/s", "time", "verdict")

#: Of more configs than these, those of which all checks passed are counted, not shown.
_ROWS = 40


def _word(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    return report.outcome


class Summary:
    """Collects the properties of reports and writes the tables."""

    def __init__(self) -> None:
        self._trained: list[tuple[str, ...]] = []
        self._checked: dict[tuple[str, int], Row] = {}
        self._fixable: dict[str, None] = {}
        self._failed: dict[str, None] = {}
        self._adapted: dict[str, list[str]] = {}
        self._notes: dict[str, set[str]] = {}
        self._faults: dict[str, str] = {}
        self._ran: set[str] = set()
        self._diffs: dict[str, str] = {}
        self._effective: dict[str, str] = {}
        self._data = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes what the report says of a training."""
        properties: dict[str, Any] = dict(report.user_properties)
        for name, value in report.user_properties:
            if name == "ds_adapted":
                self._adapted.setdefault(str(value), []).append(report.nodeid)
        if report.when == "call" and (diff := properties.get("ds_diff")):
            self._diffs[report.nodeid] = str(diff)
        if report.when != "call" or not {"ds_mode", "ds_world_size"} <= properties.keys():
            return
        if "ds_check" in properties:
            # pytest-rerunfailures: the last try counts.
            if report.outcome in ("passed", "failed", "skipped"):
                self._check(report, properties)
        else:
            self._train(report, properties)

    def _train(self, report: pytest.TestReport, properties: dict[str, Any]) -> None:
        self._data = str(properties["ds_data"])
        self._trained.append(
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

    def _check(self, report: pytest.TestReport, properties: dict[str, Any]) -> None:
        mode, ranks = str(properties["ds_mode"]), int(properties["ds_world_size"])
        row = self._checked.setdefault((mode, ranks), Row(mode, ranks))
        row.seconds += report.duration
        word = {"xfailed": "known fault"}.get(_word(report), _word(report))
        # Of several checks in one test, those before the last have let it go on.
        *earlier, last = (str(v) for name, v in report.user_properties if name == "ds_check")
        for check, said in [*((check, "passed") for check in earlier), (last, word)]:
            row.words.setdefault(check, []).append(said)
        _measured(row, properties)
        if report.failed:
            (self._fixable if "ds_fixable" in properties else self._failed)[mode] = None
        if "ds_ran" in properties:
            self._ran.add(str(properties["ds_ran"]))
        for name, value in report.user_properties:
            if name == "ds_fault":
                self._faults.setdefault(*str(value).split(": ", 1))
            elif name == "ds_effective":
                self._effective[mode] = str(value)
            elif name == "ds_note":
                self._notes.setdefault(str(value), set()).add(mode)

    def lines(
        self, args: Sequence[str] | None = None, red: Callable[[str], str] = str
    ) -> list[str]:
        """The tables, then what was adapted and left open; nothing where nothing was trained.

        Args:
            args: of the command line, where ``--lf`` repeats what failed.
            red: colours what went wrong in the tables.
        """
        lines = [line for diff in self._diffs.values() for line in diff.splitlines()]
        if self._trained:
            trained = aligned(list(zip(_TRAINED, *sorted(self._trained), strict=True)))
            lines += map(red, trained)
            lines.append(f"data: {self._data}")
        if self._checked:
            rows = [row for _, row in sorted(self._checked.items())]
            shown = rows if len(rows) <= _ROWS else [row for row in rows if not row.all_passed]
            lines += map(red, table(shown))
            if others := len(rows) - len(shown):
                lines.append(f"and {others} more, all passed")
            for ran in sorted(self._ran):
                lines += textwrap.wrap(f"ran here: {ran}", WIDTH, subsequent_indent="  ")
        for config, text in sorted(self._effective.items()):
            lines += [f"what DeepSpeed made of {config}:", *text.splitlines()]
        for note, modes in sorted(self._notes.items()):
            text = f"{note} [{len(modes)} config{'s' * (len(modes) > 1)}]"
            lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        lines += self._known_faults()
        for change, tests in self._adapted.items():
            unique = dict.fromkeys(tests)
            text = f"adapted in {len(unique)} test{'s' * (len(unique) > 1)}: {change}"
            lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        if self._adapted:
            lines.append("(--ds-require=exact makes an adaptation a failure)")
        return lines + self._next(args)

    def _next(self, args: Sequence[str] | None) -> list[str]:
        """What to type after a failure, at most two commands."""
        lines = _command("mend:", ["pytest", "--ds-fix", *self._fixable]) if self._fixable else []
        if self._failed and args is not None:
            again = [] if {"--lf", "--last-failed"} & set(args) else ["--lf"]
            lines += _command("again, what failed:", ["pytest", *again, *args])
        return lines

    def _known_faults(self) -> list[str]:
        if not self._faults:
            return []
        from pytest_deepspeed.training import faults

        return faults.summary_of(self._faults)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Writes it, in the controller only."""
        config = terminalreporter.config
        args = config.invocation_params.args if config.pluginmanager.hasplugin("lfplugin") else None
        writer = config.get_terminal_writer()

        def red(line: str) -> str:
            return WRONG.sub(lambda found: writer.markup(found[0], red=True), line)

        if lines := self.lines(args, red):
            terminalreporter.write_sep("=", "DeepSpeed")
            for line in lines:
                terminalreporter.write_line(line)


def _measured(row: Row, properties: Mapping[str, Any]) -> None:
    """Writes into the row what a training has told of itself."""
    row.mode = str(properties.get("ds_case", row.mode))
    if "ds_loss_first" in properties:
        row.loss = properties["ds_loss_first"], properties["ds_loss_last"]
    if "ds_memory" in properties:
        row.memory = properties["ds_memory"], properties["ds_memory_expected"]


def _command(label: str, words: Sequence[str]) -> list[str]:
    """The command after what it is for; a long one goes on as a shell reads it."""
    lines = [label]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + 1 + len(word) > WIDTH - 2:
            lines.append(" ")
        lines[-1] += f" {word}"
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]
