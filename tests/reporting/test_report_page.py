"""The HTML page: what stands in it, for everybody, and what cannot get into it."""

import itertools
import re
from html.parser import HTMLParser

import pytest
from reports_made import AGAINST, HOSTILE, TRAINING, hostile, made, red, report

from pytest_deepspeed.reporting import html, style
from pytest_deepspeed.reporting.texts import visible

PAGES = {"red": red, "hostile": hostile, "empty": report}

_VOID = {"meta", "path", "rect", "br"}


class Page(HTMLParser):
    """The elements of a page in their order: tag, attributes, text, and those that they lie in."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        above = [element["tag"] for element in self._open]
        element = {"tag": tag, "above": above, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in _VOID:
            self._open.append(element)

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all_of(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]


@pytest.fixture(params=PAGES)
def page(request):
    """Each page in turn."""
    return Page(html.render(PAGES[request.param]()))


def test_nothing_is_loaded_and_nothing_runs(page):
    """Protects: the page has no script, no address to load from, and a policy that allows none."""
    named = {"src", "srcset", "action", "data", "poster", "background"}
    links = [element["href"] for element in page.elements if "href" in element]
    (policy,) = (m for m in page.all_of("meta") if "http-equiv" in m)

    assert not page.all_of("script", "iframe", "object", "embed", "img", "link", "base", "form")
    assert [e for e in page.elements if named & set(e)] == []
    assert [e for e in page.elements if any(name.startswith("on") for name in e)] == []
    assert [link for link in links if not link.startswith("#")] == []
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert "url(" not in style.CSS
    assert "@import" not in style.CSS


def test_each_link_leads_to_its_place(page):
    """Protects: links within the page have targets, and no id is there twice."""
    ids = [element["id"] for element in page.elements if "id" in element]
    links = [element["href"][1:] for element in page.elements if "href" in element]
    named = [
        name for element in page.elements for name in element.get("aria-labelledby", "").split()
    ]

    assert len(ids) == len(set(ids))
    assert set(links) | set(named) <= set(ids)


def test_headings_and_landmarks(page):
    """Protects: one h1, no level left out, one main; a link that skips to it comes first."""
    levels = [int(element["tag"][1]) for element in page.all_of("h1", "h2", "h3", "h4")]

    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert [len(page.all_of(tag)) for tag in ("header", "main", "footer", "nav")] == [1, 1, 1, 1]
    assert page.all_of("a")[0]["href"] == "#main"
    assert page.all_of("html")[0]["lang"] == "en"


def test_each_chart_has_words_and_a_table():
    """Protects: who does not see a chart is told its title, its course, and every number."""
    page = Page(html.render(red()))
    charts = page.all_of("svg")
    figures = page.all_of("figure")

    assert len(charts) == len(figures) == 3
    for chart in charts:
        title, description = chart["aria-labelledby"].split()
        words = {e["id"]: e["text"] for e in page.all_of("title", "desc") if "id" in e}
        assert chart["role"] == "img"
        assert words[title]
        assert len(words[description]) > 20
    tables = [table for table in page.all_of("table") if "figure" in table["above"]]
    assert len(tables) == 3
    for value in [*TRAINING["loss"], *AGAINST["base_loss"]]:
        assert f"{value:.4g}" in tables[0]["text"]
    assert "43,000" in tables[1]["text"]
    assert "21,500" in tables[1]["text"]


def test_series_differ_by_more_than_colour():
    """Protects: each curve has dashes and a marker of its own, and a name in the chart."""
    text = html.render(red())
    dashes = re.findall(r"\.line\.s(\d)\{stroke-dasharray:([^}]+)\}", style.CSS)
    chart = re.search(r"<svg.*?</svg>", text)[0]

    assert [n for n, _ in dashes] == ["2", "3"]
    assert len({pattern for _, pattern in dashes}) == 2
    for name in ("this config", "base", "plain torch"):
        assert f">{name}</text>" in chart
    shapes = {
        re.sub(r"-?[\d.]+", "", d) for d in re.findall(r'class="mark s\d" d="([^"]+)"', chart)
    }
    assert len(shapes) == 3


def test_outcomes_have_words():
    """Protects: passed and failed are said, not shown by a colour or a sign alone."""
    page = Page(html.render(red()))
    for element in page.elements:
        if element.get("class") in ("good", "bad", "warn") and element["tag"] == "span":
            assert re.search(r"[a-z]{3}", element["text"])


def _luminance(colour):
    """WCAG 2.2, relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one, other):
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_contrasts(mode):
    """Protects: WCAG 2.2 AA in both modes, of the colours that the page itself has.

    Text has 4.5:1 on what it stands on, curves and edges 3:1.
    """
    text = html.render(red())
    dark = re.search(r"prefers-color-scheme:dark\)\{:root\{(.*?)\}", text)[1]
    light = re.search(r":root\{color-scheme:light dark;(.*?)\}", text)[1]
    colours = dict(re.findall(r"--(\w+):(#\w{6});", {"light": light, "dark": dark}[mode]))
    words = ("text", "quiet", "link", "bad", "good", "warn")
    drawn = ("edge", "series1", "series2", "series3")
    used = set(re.findall(r"var\(--(\w+)\)", text))

    assert used == set(colours)
    assert set(colours) == {"page", "raised", "rule", *words, *drawn}
    for name in words:
        assert min(_contrast(colours[name], colours[on]) for on in ("page", "raised")) >= 4.5, name
    for name in drawn:
        assert _contrast(colours[name], colours["page"]) >= 3, name


def test_hostile_names_are_text():
    """Protects: no name, output or config gets an element, an attribute or a control into it."""
    text = html.render(hostile())
    page = Page(text)

    assert not page.all_of("script")
    assert visible(HOSTILE).splitlines()[0] in page.all_of("main")[0]["text"]
    assert not set("\x1b\x07\u202e") & set(text)
    assert text.encode()
    allowed = {
        "class",
        "id",
        "href",
        "tabindex",
        "role",
        "open",
        "scope",
        "lang",
        "name",
        "content",
    }
    allowed |= {"charset", "http-equiv", "text-anchor", "x", "y", "width", "height", "rx", "d"}
    allowed |= {"viewbox", "tag", "above", "text"}
    more = {name for element in page.elements for name in element} - allowed
    assert {name for name in more if not name.startswith("aria-")} == set()


def test_the_reason_comes_first():
    """Protects: verdict, then each failure with its reason and a link, then all else."""
    page = Page(html.render(red()))
    text = page.all_of("body")[0]["text"]
    heads = ["3 failed, 1 passed", "Why", "against origin/main", "unknown-key", "rank 1: Assertion"]
    places = [text.find(head) for head in [*heads, "loss, first to last", "All tests4 tests"]]

    assert -1 not in places
    assert places == sorted(places)
    reasons = [a["href"] for a in page.all_of("a") if "ol" in a["above"]]
    assert reasons == ["#failure-0", "#failure-1", "#failure-2"]


def test_what_is_told_of_a_change():
    """Protects: findings, optimizer, checkpoint, ratio with its spread, diffs, notes and digest."""
    text = Page(html.render(red())).all_of("main")[0]["text"]

    for words in (
        "red against origin/main (1a2b3c4)",
        "loss: the loss of step 1 is 2.6, the base has 2.7",
        "optimizer: AdamW before, SGD now",
        "checkpoint: the head's config loads",
        "Time of a step: 0.67 of the base's (half of the steps between 0.62 and 0.71)",
        '-  "lr": 0.001\n+  "lr": 0.01',
        "+ optimizer.params.lr: 0.01",
        "a step takes 0.67 times as long",
        "one step was skipped",
        "changed: optimizer.params.lr was 0.001 and is 0.01",
        "digest of this change: c0ffee12",
        "41.99 KiB, where the arithmetic says 21.00 KiB",
    ):
        assert words in text


def test_an_accepted_change_is_told_at_the_top():
    """Protects: a change that was meant is green, and the page shows who said so and why."""
    told = {**AGAINST, "verdict": "accepted", "accepted": "the new rate, see the study of May"}
    page = Page(html.render(report(made(check="against", details={"against": [told]}))))
    text = page.all_of("main")[0]["text"]

    assert page.all_of("h1")[0]["text"].split() == ["✓", "1", "passed"]
    assert "another training, accepted" in text.partition("Configs")[0]
    assert "a step takes 0.67 times as long" in text.partition("Configs")[0]
    assert "Accepted: the new rate, see the study of May" in text.partition("Configs")[0]


def test_losses_that_are_no_numbers():
    """Protects: a training that diverged has a page, with the word in the table."""
    losses = [1.0, float("nan"), float("inf"), 1e9, None, 2.0]
    told = {**TRAINING, "loss": losses, "twin_loss": None, "step_time": []}
    page = Page(html.render(report(made(details={"training": [told]}))))
    shown = page.all_of("figure")[0]["text"]

    assert "Logarithmic scale" in shown
    assert [word for word in ("nan", "inf", "1e+09") if word not in shown] == []


def test_what_did_not_run_is_said():
    """Protects: a report that is not complete says so before anything else."""
    why = "2 of 3 tests did not run to their end: interrupted (Ctrl-C)"
    page = Page(html.render(report(made(), made("not run"), incomplete=why, exit_status=2)))
    text = page.all_of("body")[0]["text"]

    assert page.all_of("h1")[0]["text"].split() == ["✗", "1", "not", "run,", "1", "passed"]
    assert f"Not complete. {why}." in " ".join(text.partition("Configs (1)")[2].split())
