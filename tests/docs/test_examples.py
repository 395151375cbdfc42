"""The examples of the docs, run as they stand; see `pages` for what a block means."""

import re

import pages
import pytest

RUN = [page for page in pages.PAGES if any(b.language == "console" for b in pages.blocks(page))]


def write(blocks, folder):
    """Writes those that are files."""
    for block in blocks:
        if block.name:
            folder.joinpath(block.name).write_text(block.text)


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_page(page, tmp_path):
    """Protects: what a page tells to write and to type gives the output that it shows."""
    shown = [block for block in pages.blocks(page) if not block.reason]
    outputs = []
    pages.copy_files(page, tmp_path)
    if not pages.is_tutorial(page):
        write(shown, tmp_path)
    for block in shown:
        if pages.is_tutorial(page):
            write([block], tmp_path)
        if block.language == "console":
            for command, output in block.commands():
                typed, expected = pages.typed(output)
                outputs.append(pages.run(command, typed, tmp_path))
                if not re.fullmatch(pages.pattern(expected), pages.plain(outputs[-1])):
                    pytest.fail(f"{block.where}: $ {command}\n{outputs[-1]}", pytrace=False)
    for block in shown:
        if block.language == "text":
            excerpt = re.compile(f"^{pages.pattern(block.text)}", re.MULTILINE)
            if not any(excerpt.search(pages.plain(output)) for output in outputs):
                text = "\n".join([block.text, "in:", *outputs])
                pytest.fail(f"{block.where}: no command printed\n{text}", pytrace=False)


#: Pages whose blocks are commands and output for readers, and are run by tests of their own.
BY_OTHER_TESTS = {
    "docs/ci-templates.md",
    "docs/install.md",
    "docs/on-a-slurm-cluster.md",
    "docs/ops.md",
    "docs/performance.md",
    "docs/reference-training.md",
}


def test_each_block_is_run_or_says_why_not():
    """Protects: no example escapes the test above without a reason that stands with it."""
    escaped, reasons = [], []
    for page in pages.PAGES:
        if str(page.relative_to(pages.ROOT)) in BY_OTHER_TESTS:
            continue
        for block in pages.blocks(page):
            runs = block.language in ("console", "text") or block.name
            reasons += [block.where] * bool(block.reason)
            escaped += [block.where] * (not runs and not block.reason)

    assert escaped == []
    assert len(reasons) <= 3
