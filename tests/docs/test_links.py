"""Links and anchors inside the docs, and the length of the README."""

import re

import pages

_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s#]*)(?:#([^)\s]*))?\)")


def text_of(page):
    """A page without its fenced blocks and code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def anchors(page):
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links_resolve():
    """Protects: each relative link leads to a file, and each anchor to a heading."""
    broken = []
    for page in [*pages.PAGES, pages.ROOT / "CHANGELOG.md"]:
        for path, anchor in _LINK.findall(text_of(page)):
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.relative_to(pages.ROOT)}: {path}#{anchor}")

    assert broken == []


def test_each_page_is_linked_from_the_readme():
    """Protects: no page of the docs is lost."""
    linked = {path for path, _ in _LINK.findall(text_of(pages.ROOT / "README.md"))}

    assert {str(page.relative_to(pages.ROOT)) for page in pages.PAGES[1:]} <= linked


def test_readme_is_short():
    """Protects: the README is read in one go; what is longer belongs in docs."""
    assert len((pages.ROOT / "README.md").read_text().splitlines()) <= 100
