"""The HTML page as a browser shows it: the reason is there without scrolling."""

import browser
import pytest
from PIL import Image
from reports_made import hostile, red

from pytest_deepspeed.reporting import html, style


@pytest.fixture
def page(tmp_path):
    """The page of a red session."""
    browser.need()
    path = tmp_path / "report.html"
    path.write_text(html.render(red()))
    return path


def colours(picture):
    """The colours of a picture, as `style` writes them, with how many pixels have each."""
    with Image.open(picture) as image:
        size, found = image.size, image.convert("RGB").getcolors(2**24)
    return size, {f"#{bytes(colour).hex()}": count for count, colour in found}


@pytest.mark.parametrize(("dark", "scheme"), [(False, style.LIGHT), (True, style.DARK)])
def test_the_first_screen(tmp_path, page, dark, scheme):
    """Protects: 1280 by 800 pixels show the page's own colours, and the red of three failures."""
    size, found = colours(browser.screenshot(tmp_path, page, 1280, 800, dark=dark))

    assert size == (1280, 800)
    assert max(found, key=found.get) == scheme["page"]
    # The left edges of the three cards alone are 5 pixels wide, and a line of text is 20 high.
    assert found[scheme["bad"]] > 3 * 5 * 60
    assert found[scheme["raised"]] > 100_000
    assert found[scheme["text"]] > 500


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (400, 800)])
def test_reasons_are_above_the_fold(tmp_path, page, width, height):
    """Protects: the reason of each failure stands whole in the first screen, on a telephone too."""
    wide, boxes = browser.boxes(tmp_path, page, ".reasons li .first", width, height)

    assert len(boxes) == 3
    assert wide <= width
    assert all(top < bottom <= height for _, top, _, bottom in boxes)
    assert all(left >= 0 and right <= width for left, _, right, _ in boxes)


def test_charts_are_drawn(tmp_path, page):
    """Protects: the browser gives each chart room, and no text of it lies outside."""
    _, charts = browser.boxes(tmp_path, page, "svg", 1280, 800)
    _, texts = browser.boxes(tmp_path, page, "svg text", 1280, 800)

    assert len(charts) == 3
    assert min(right - left for left, _, right, _ in charts) > 300
    for left, top, right, bottom in texts:
        assert any(
            c[0] - 1 <= left and c[1] - 1 <= top and right <= c[2] + 1 and bottom <= c[3] + 1
            for c in charts
        )


def test_a_hostile_page_stays_a_page(tmp_path, page):
    """Protects: what a browser makes of hostile names has no script, and fits a narrow window."""
    page.write_text(html.render(hostile()))
    dom = browser.look(tmp_path, page, "--dump-dom")
    wide, boxes = browser.boxes(tmp_path, page, "script, .reasons li", 400, 800)

    assert "<script" not in dom.lower().replace("&lt;script", "")
    assert len(boxes) == 2
    assert wide <= 400
