"""Markdown, as GitHub and GitLab render it: a job's summary, a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Any

from pytest_deepspeed.reporting import overview, texts
from pytest_deepspeed.reporting.model import SIGNS, Report, Test
from pytest_deepspeed.reporting.overview import Row

#: GitHub takes 65,536 characters of a comment.
_MOST = 60_000

#: So many failures are told in full, and so many lines of each.
_FAILURES, _LINES = 20, 60

#: What Markdown and HTML take for markup wherever, or where a line begins with it.
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-!|~&$=])")

#: What GitHub and GitLab make mentions and references of, in spite of a backslash before it.
_MENTION = re.compile(r"(@|\\#|\\!)(?=\w)")

_CUT = "\n\n*The rest is left out: it is longer than a comment may be.*\n"


def render(report: Report) -> str:
    """The verdict, the reasons, the configs, then each failure in full as far as there is room."""
    sign = "✗" if report.red else "✓"
    lines = [f"## {sign} DeepSpeed: {plain(report.verdict)}", ""]
    if report.incomplete:
        lines += [f"**Not complete.** {plain(report.incomplete)}\\.", ""]
    lines += [*_reasons(report), *_changes(report), *_configs(overview.rows(report))]
    machine = report.machine
    versions = [f"{name} {plain(machine.get(name, '?'))}" for name in ("torch", "deepspeed")]
    ran = [code(report.command), plain(report.started), f"{report.seconds:.1f} s", *versions]
    lines += [f"<sub>{' · '.join(ran)}</sub>", ""]
    text = "\n".join(lines)
    for part in (_failure(test) for test in report.failures[:_FAILURES]):
        # A block that is cut in its middle would take in all that follows.
        if len(text) + len(part) > _MOST:
            return text[:_MOST] + _CUT
        text += part
    return text[:_MOST] + (_CUT if len(text) > _MOST else "")


def plain(text: object) -> str:
    """A text in which nothing is markup."""
    return _MENTION.sub(r"\1<!-- -->", _MARKUP.sub(r"\\\1", texts.one_line(text, 1000)))


def code(text: object) -> str:
    """A code span, with more backticks around it than there are in it."""
    shown = texts.one_line(text, 1000).replace("|", "¦")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    room = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{room}{shown}{room}{fence}"


def block(text: str, language: str = "text") -> list[str]:
    """A fenced block, likewise; cut after some lines."""
    shown = texts.visible(text).strip("\n").split("\n")
    more = len(shown) - _LINES
    shown = [*shown[:_LINES], *([f"... and {more} more lines"] if more > 0 else [])]
    runs = re.findall("`+", "\n".join(shown))
    fence = "`" * max(3, 1 + max((len(run) for run in runs), default=0))
    return [f"{fence}{language}", *shown, fence]


def _reasons(report: Report) -> Iterable[str]:
    for test in report.failures[:_FAILURES]:
        first, *more = test.reason or (test.outcome,)
        yield f"- ✗ {code(test.nodeid)} {test.outcome}: {plain(first)}"
        yield from (f"  {plain(line)}" for line in more[:2])
    if len(report.failures) > _FAILURES:
        yield f"- and {len(report.failures) - _FAILURES} more"
    if report.failures:
        yield ""


def _changes(report: Report) -> Iterable[str]:
    for told in (told for test in report.tests for told in test.told("against")):
        yield from _change(told)


def _change(told: dict[str, Any]) -> Iterable[str]:
    sign = "✗" if told["verdict"] == "red" else "✓"
    yield f"**{sign} {code(told['config'])} against {plain(told['base'])}: {told['verdict']}**"
    yield ""
    for finding in told.get("findings", []):
        yield f"- {code(finding['name'])}: {plain(finding['message'])}"
    for name in ("checkpoint", "accepted", "digest"):
        if told.get(name):
            yield f"- {name}: {plain(told[name])}"
    yield from (f"- {plain(said)}" for said in overview.said_of(told))
    yield from (f"- changed: {plain(reason)}" for reason in told.get("reasons", []))
    yield ""
    if told.get("config_diff"):
        yield from ["<details><summary>What changed in the config</summary>", ""]
        yield from block(str(told["config_diff"]), "diff")
        yield from ["", "</details>", ""]


def _configs(rows: list[Row]) -> Iterable[str]:
    if not rows:
        return
    yield "| config | ranks | checks | loss | memory of a rank | a step |"
    yield "|---|---:|---|---|---|---:|"
    for row in rows:
        cells = [
            code(row.config),
            str(row.world_size or "-"),
            f"{SIGNS[row.worst]} {plain(row.said)}",
            plain(overview.first_to_last(row.loss) or "-"),
            plain(row.memory or "-"),
            plain(row.time or "-"),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _failure(test: Test) -> str:
    parts = [test.text, *(f"{title}:\n{text}" for title, text in (*test.ranks, *test.sections))]
    shown = "\n\n".join(texts.visible(part).strip("\n") for part in parts if part.strip())
    # The line is a block of HTML, in which Markdown's own escapes are none.
    title = escape(texts.one_line(test.nodeid))
    lines = ["", f"<details><summary>✗ {title}</summary>", "", *block(shown), "", "</details>", ""]
    return "\n".join(lines)
