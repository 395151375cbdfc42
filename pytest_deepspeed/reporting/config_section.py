"""What the HTML page shows of one config: how it trained, what it held, and what changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_deepspeed.reporting import charts, overview
from pytest_deepspeed.reporting.charts import Bar, Series, e
from pytest_deepspeed.reporting.overview import Row, finite, number, quantile
from pytest_deepspeed.reporting.texts import visible
from pytest_deepspeed.values.size import format_size

#: Colours, dashes and markers: of the config as it is, of the base's, of plain torch.
_HEAD, _BASE, _TWIN = 1, 2, 3


def render(place: int, row: Row) -> str:
    """A section; nothing for a config that did not train."""
    if not row.training and not row.against:
        return f'<section id="config-{place}"></section>'
    key = f"config-{place}"
    return "".join(
        [
            f'<section aria-labelledby="{key}"><h2 id="{key}">{e(row.config)}</h2>',
            *_facts(row),
            *_verdict(row.against),
            '<div class="figures">',
            *_loss(key, row),
            *_memory(key, row),
            *_times(key, row),
            "</div>",
            *_texts(row),
            "</section>",
        ]
    )


def _facts(row: Row) -> Iterable[str]:
    said = row.training
    if said:
        yield (
            f'<p class="quiet">{e(said["mode"])} on {said["world_size"]} {e(said["device"])} ranks'
            f" with {e(said['backend'])} · {len(said['loss'])} steps in {e(said['dtype'])} ·"
            f" {e(said['data'])}</p>"
        )


def _verdict(against: Mapping[str, Any]) -> Iterable[str]:
    """What the comparison with the base came to."""
    if not against:
        return
    signs = {"red": ("✗", "bad"), "green": ("✓", "good"), "accepted": ("✓", "warn")}
    sign, kind = signs.get(str(against.get("verdict")), ("", "quiet"))
    yield (
        f'<div class="card {kind}-edge"><h3><span class="{kind}"><span class="sign"'
        f' aria-hidden="true">{sign}</span> {e(against.get("verdict", ""))}</span>'
        f" against {e(against.get('base', ''))}</h3>"
    )
    for finding in against.get("findings", []):
        yield f"<p><strong>{e(finding['name'])}</strong>: {e(finding['message'])}</p>"
    before, after = against.get("optimizer") or ("", "")
    if before != after:
        yield f"<p><strong>optimizer</strong>: {e(before)} before, {e(after)} now</p>"
    if against.get("checkpoint"):
        yield f"<p><strong>checkpoint</strong>: {e(against['checkpoint'])}</p>"
    yield "".join(f"<p>{e(said)}</p>" for said in overview.said_of(against))
    for reason in against.get("reasons", []):
        yield f"<p><strong>changed</strong>: {e(reason)}</p>"
    if against.get("accepted"):
        yield f"<p><strong>accepted</strong>: {e(against['accepted'])}</p>"
    if against.get("digest"):
        yield f'<p class="quiet">digest of this change: <code>{e(against["digest"])}</code></p>'
    yield "</div>"


def _loss(key: str, row: Row) -> Iterable[str]:
    head = row.against.get("loss") or row.training.get("loss") or []
    # Where the two are different trainings, the twin is that of the other one.
    of_head = head == (row.training.get("loss") or [])
    twin = (row.training.get("twin_loss") or []) if of_head else []
    named = {
        # Those below first: the config's own curve is drawn over them.
        "plain torch": (_TWIN, twin),
        "base": (_BASE, row.against.get("base_loss") or []),
        "this config": (_HEAD, head),
    }
    series = [Series(name, style, values) for name, (style, values) in named.items() if values]
    said = "; ".join(
        f"{one.name} from {number(one.values[0])} to {number(one.values[-1])}"
        for one in reversed(series)
    )
    columns = {one.name: one.values for one in reversed(series)}
    if of_head:
        columns["gradient norm"] = row.training.get("grad_norm", [])
        columns["learning rate"] = row.training.get("lr", [])
    svg = charts.lines(f"{key}-loss", "Loss by step", f"{said}.", series)
    yield _figure("Loss by step", svg, "the losses", _columns("step", columns))


def _memory(key: str, row: Row) -> Iterable[str]:
    against = row.against.get("memory") or {}
    memory = row.training.get("memory") or {}
    expected = memory.get("expected", {})
    bars: list[Bar] = []
    cells: list[list[str]] = []
    names = [*memory.get("held", {}), *(n for n in against if n not in memory.get("held", {}))]
    for name in names:
        sizes = memory.get("held", {}).get(name, [])
        before, now = against.get(name) or (None, None)
        now = max(sizes, default=now) if now is None else now
        # The arithmetic is of what was checked by itself: of the pair too, where that is the same.
        wanted = expected.get(name) if now == max(sizes, default=now) else None
        if not any((now, before, wanted)) or now is None:
            continue
        if before is not None:
            bars.append(Bar(f"{name}, base", before, None, format_size(before), _BASE))
        bars.append(Bar(name, now, wanted, _held(now, wanted)))
        shown = [before, min(sizes, default=None), now, wanted]
        cells.append([name, *("-" if value is None else f"{value:,}" for value in shown)])
    for name, (before, now) in (row.against.get("peaks") or {}).items():
        cells.append([f"peak of {name}", *(f"{b:,}" if b is not None else "-" for b in (before,))])
        cells[-1] += ["-", "-" if now is None else f"{now:,}", "-"]
    for name, sizes in ({} if row.against.get("peaks") else memory.get("peaks", {})).items():
        cells.append([f"peak of {name}", "-", f"{min(sizes):,}", f"{max(sizes):,}", "-"])
    header = ["kind", "base", "least of a rank", "most of a rank", "ZeRO arithmetic"]
    described = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    title = "Memory of a rank by kind"
    described += ". A line across a bar is what the ZeRO arithmetic gives."
    svg = charts.bars(f"{key}-memory", title, described, bars)
    yield _figure(title, svg, "the bytes", _table(header, cells))


def _held(now: float, wanted: float | None) -> str:
    if wanted is None:
        return f"{format_size(int(now))}, no arithmetic"
    if now == wanted:
        return f"{format_size(int(now))}, as the arithmetic says"
    return f"{format_size(int(now))}, where the arithmetic says {format_size(int(wanted))}"


def _times(key: str, row: Row) -> Iterable[str]:
    against = row.against
    rows: list[Series] = []
    pairs = zip(against.get("base_step_time") or [], against.get("step_time") or [], strict=False)
    for n, (base, head) in enumerate(pairs, 1):
        rows += [Series(f"base, run {n}", _BASE, _ms(base)), Series(f"now, run {n}", 1, _ms(head))]
    if not rows and row.training.get("step_time"):
        rows = [Series("this config", _HEAD, _ms(row.training["step_time"]))]
    if not rows:
        return
    medians = {one.name: quantile(finite(one.values), 0.5) for one in rows if finite(one.values)}
    described = "; ".join(f"{name}: median {number(value)} ms" for name, value in medians.items())
    title = "Time of a step"
    svg = charts.strips(f"{key}-time", title, f"{described}.", rows, "milliseconds")
    ratio = against.get("step_time_ratio")
    caption = title
    if ratio:
        caption += (
            f": {ratio['median']:.2f} of the base's"
            f" (half of the steps between {ratio['low']:.2f} and {ratio['high']:.2f})"
        )
    yield _figure(
        caption, svg, "the milliseconds", _columns("step", {s.name: s.values for s in rows})
    )


def _ms(seconds: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else 1000 * value for value in seconds]


def _texts(row: Row) -> Iterable[str]:
    if diff := row.against.get("config_diff"):
        yield f"<h3>What changed in the config</h3>{_diff(str(diff))}"
    if lines := row.against.get("effective_diff"):
        yield f"<h3>What changed in what DeepSpeed makes of it</h3>{_diff(_joined(lines))}"
    if lines := row.training.get("effective"):
        yield (
            "<details><summary>What DeepSpeed made of it</summary>"
            f'<pre tabindex="0" role="region" aria-label="what DeepSpeed made of it">'
            f"{e(_joined(lines))}</pre></details>"
        )


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(str(line) for line in lines)


def _diff(text: str) -> str:
    kinds = {"+": "add", "-": "del", "@": "at"}
    shown = "\n".join(
        f'<span class="{kinds[line[0]]}">{e(line)}</span>' if line[:1] in kinds else e(line)
        for line in visible(text).strip("\n").split("\n")
    )
    return f'<pre tabindex="0" role="region" aria-label="difference">{shown}</pre>'


def _figure(caption: str, svg: str, what: str, table: str) -> str:
    if not svg:
        return ""
    return (
        f"<figure><figcaption>{e(caption)}</figcaption>{svg}"
        f"<details><summary>Show {e(what)} as a table</summary>{table}</details></figure>"
    )


def _columns(first: str, columns: Mapping[str, Sequence[float | None]]) -> str:
    shown = {name: values for name, values in columns.items() if len(values)}
    steps = max((len(values) for values in shown.values()), default=0)
    cells = [
        [str(n), *(number(v[n]) if n < len(v) else "-" for v in shown.values())]
        for n in range(steps)
    ]
    return _table([first, *shown], cells)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col" class="num">{e(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row" class="num">{e(first)}</th>'
        + "".join(f'<td class="num">{e(cell)}</td>' for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        '<div class="scroll" role="region" aria-label="values" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
