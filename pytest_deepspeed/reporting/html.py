"""The HTML page: one file that loads nothing and runs no script. The reason comes first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_deepspeed.reporting import config_section, overview
from pytest_deepspeed.reporting.charts import e
from pytest_deepspeed.reporting.model import SIGNS, Report, Test
from pytest_deepspeed.reporting.overview import WORDS, Row
from pytest_deepspeed.reporting.style import CSS
from pytest_deepspeed.reporting.texts import visible

#: Characters of a reason at the top, of the first failures and of those after them.
_LONG, _SHORT = 330, 120

#: So many failures have their whole reason there.
_FIRST = 3

#: Whatever slips through: the page loads nothing and runs nothing.
_POLICY = (
    '<meta http-equiv="Content-Security-Policy"'
    " content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)

#: Lines that a failure's traceback marks as the error.
_HIT = "E  "


def render(report: Report) -> str:
    """The page. Whatever a test, a file or a process said is escaped."""
    rows = overview.rows(report)
    title = f"{_sign(report)} {report.verdict}"
    return "".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            _POLICY,
            f"<title>{e(title)} · pytest-deepspeed</title><style>{CSS}</style></head><body>",
            '<a class="skip" href="#main">Skip to the result</a>',
            *_head(report, rows),
            '<main id="main">',
            *_reasons(report),
            *_configs(rows),
            *(config_section.render(i, row) for i, row in enumerate(rows)),
            *_failures(report),
            *_tests(report),
            "</main>",
            *_foot(report),
            "</body></html>\n",
        ]
    )


def _sign(report: Report) -> str:
    return "✗" if report.red else "✓"


def _head(report: Report, rows: Sequence[Row]) -> Iterable[str]:
    kind = "bad" if report.red else "good"
    yield f'<header><h1 class="{kind}"><span class="sign" aria-hidden="true">{_sign(report)}</span>'
    yield f" {e(report.verdict)}</h1>"
    machine = report.machine
    ran = f"{machine.get('cores', '?')} cores, {machine.get('device', '?')}"
    yield (
        f'<p class="meta">{e(report.started)} ·'
        f" {report.seconds:.1f} s · {e(ran)} · torch {e(machine.get('torch', '?'))} ·"
        f" DeepSpeed {e(machine.get('deepspeed', '?'))}</p>"
    )
    links = [("failures", f"Failures ({len(report.failures)})")] if report.failures else []
    links += [("configs", f"Configs ({len(rows)})")] if rows else []
    links += [("tests", f"All tests ({len(report.tests) + len(report.errors)})")]
    links += [("about", "About this run")]
    items = "".join(f'<li><a href="#{at}">{name}</a></li>' for at, name in links)
    yield f'<nav aria-label="Sections"><ul>{items}</ul></nav></header>'


def _reasons(report: Report) -> Iterable[str]:
    if report.incomplete:
        yield (
            '<div class="card warn-edge"><p><strong class="warn"><span class="sign"'
            f' aria-hidden="true">!</span> Not complete.</strong> {e(report.incomplete)}.</p></div>'
        )
    if report.failures:
        yield '<h2 id="why">Why</h2><ol class="reasons">'
        for number, test in enumerate(report.failures):
            most = _LONG if number < _FIRST else _SHORT
            first, *more = list(_within(test.reason or (test.outcome,), most)) or [test.outcome]
            yield (
                f'<li class="card bad-edge"><p><span class="sign bad" aria-hidden="true">✗</span>'
                f' <a class="id" href="#failure-{number}">{e(test.nodeid)}</a>'
                f' <span class="bad">{e(test.outcome)}</span></p>'
                f'<p class="first">{e(first)}</p>'
            )
            yield "".join(f"<p>{e(line)}</p>" for line in more) + "</li>"
        yield "</ol>"
    for told in (told for test in report.tests for told in test.told("against")):
        yield from _change(told)


def _within(lines: Sequence[str], most: int) -> Iterable[str]:
    for line in lines:
        yield line if len(line) <= most else line[: most - 1] + "…"
        most -= len(line)
        if most <= 40:
            return


def _change(told: Mapping[str, Any]) -> Iterable[str]:
    """Beside the failures stands what changed and is not red: faster, smaller, or meant."""
    words = {"green": "no other training", "accepted": "another training, accepted"}
    if told.get("verdict") not in words:
        return
    edge = "good-edge" if told["verdict"] == "green" else "warn-edge"
    yield (
        f'<div class="card {edge}"><p><span class="sign" aria-hidden="true">✓</span>'
        f' <span class="id">{e(told["config"])}</span> against {e(told.get("base", ""))}:'
        f" {words[str(told['verdict'])]}</p>"
    )
    if told.get("accepted"):
        yield f"<p>Accepted: {e(told['accepted'])}</p>"
    said = [told.get("checkpoint", ""), *overview.said_of(told)]
    yield "".join(f"<p>{e(line)}</p>" for line in said[:4] if line) + "</div>"


def _configs(rows: Sequence[Row]) -> Iterable[str]:
    if not rows:
        return
    yield (
        '<section aria-labelledby="configs"><h2 id="configs">Configs</h2>'
        '<div class="scroll" role="region" aria-labelledby="configs" tabindex="0">'
        '<table class="wide"><thead><tr><th scope="col">config</th>'
        '<th scope="col" class="num">ranks</th><th scope="col">checks</th>'
        '<th scope="col">loss, first to last</th><th scope="col">memory of a rank</th>'
        '<th scope="col" class="num">a step</th></tr></thead><tbody>'
    )
    for number, row in enumerate(rows):
        yield (
            f'<tr><th scope="row"><a class="id" href="#config-{number}">{e(row.config)}</a></th>'
            f'<td class="num">{row.world_size or "-"}</td><td>{_outcome(row.worst, row.said)}</td>'
            f"<td>{e(overview.first_to_last(row.loss) or '-')}</td><td>{e(row.memory or '-')}</td>"
            f'<td class="num">{e(row.time or "-")}</td></tr>'
        )
    yield "</tbody></table></div></section>"


def _outcome(outcome: str, words: str) -> str:
    kind = {"passed": "good", "skipped": "quiet", "not run": "quiet"}.get(outcome, "bad")
    kind = "warn" if outcome in ("xfailed", "xpassed") else kind
    return (
        f'<span class="{kind}"><span class="sign" aria-hidden="true">{SIGNS[outcome]}</span>'
        f" {e(words)}</span>"
    )


def _failures(report: Report) -> Iterable[str]:
    if not report.failures:
        return
    yield '<section aria-labelledby="failures"><h2 id="failures">Failures</h2>'
    for number, test in enumerate(report.failures):
        yield f'<article id="failure-{number}"><h3>{_outcome(test.outcome, test.nodeid)}</h3>'
        where = f"{test.path}:{test.line}" if test.line else test.path
        ranks = f" · {test.world_size} ranks" if test.world_size else ""
        yield f'<p class="quiet">{e(where)} · {test.seconds:.2f} s{ranks}</p>'
        yield _block(test.text, test.nodeid)
        for title, text in test.ranks:
            yield _folded(title, text, is_open=title == "ranks")
        for title, text in test.sections:
            yield _folded(title, text)
        yield "</article>"
    yield "</section>"


def _folded(title: str, text: str, *, is_open: bool = False) -> str:
    shown = " open" if is_open else ""
    return f"<details{shown}><summary>{e(title)}</summary>{_block(text, title)}</details>"


def _block(text: str, name: str) -> str:
    """Text as it was printed; the lines of the error stand out, by their ``E`` too."""
    if not text.strip():
        return ""
    shown = "\n".join(
        f'<span class="hit">{e(line)}</span>' if line.startswith(_HIT) else e(line)
        for line in visible(text).strip("\n").split("\n")
    )
    return f'<pre tabindex="0" role="region" aria-label="{e(name)}">{shown}</pre>'


def _tests(report: Report) -> Iterable[str]:
    tests = [*report.errors, *report.tests]
    yield '<section aria-labelledby="tests"><h2 id="tests">All tests</h2>'
    yield f"<details><summary>{len(tests)} tests</summary>"
    yield '<div class="scroll" role="region" aria-labelledby="tests" tabindex="0">'
    yield '<table><thead><tr><th scope="col">outcome</th><th scope="col">test</th>'
    yield '<th scope="col" class="num">seconds</th><th scope="col">reason</th></tr></thead><tbody>'
    for test in tests:
        yield _test(test)
    yield "</tbody></table></div></details></section>"


def _test(test: Test) -> str:
    words = WORDS.get(test.outcome, test.outcome)
    return (
        f"<tr><td>{_outcome(test.outcome, words)}</td>"
        f'<th scope="row" class="id">{e(test.nodeid)}</th>'
        f'<td class="num">{test.seconds:.2f}</td><td>{e(test.message)}</td></tr>'
    )


def _foot(report: Report) -> Iterable[str]:
    yield '<footer><h2 id="about">About this run</h2><table><tbody>'
    facts = {"command": report.command, "pytest-deepspeed": report.version, **report.machine}
    facts["exit status"] = str(report.exit_status)
    for name, value in facts.items():
        yield f'<tr><th scope="row">{e(name)}</th><td>{e(value)}</td></tr>'
    yield "</tbody></table>"
    yield "".join(f'<p class="quiet">{e(line)}</p>' for line in report.header)
    yield "</footer>"
