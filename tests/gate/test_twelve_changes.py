"""``--ds-against`` on a scripted repository: the right verdict on each of twelve changes."""

import re
from pathlib import Path

import pytest
import twelve_changes
from gating import gate, git
from twelve_changes import CHANGES

NAMES = [change.name for change in CHANGES]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The repository, with the commit of each change by its name."""
    folder = tmp_path_factory.mktemp("repository")
    return folder, twelve_changes.make(folder)


def said_of(output):
    """The verdict, and the names of the findings of the failure."""
    summary = output.partition(" against ")[2].rpartition("= against ")[2]
    verdict = re.search(r"(?m)^ds_config\.json: (green|red|the same|not compared)", summary)
    failure = output.partition("ds_config.json against ")[2].partition("what has changed:")[0]
    return verdict[1] if verdict else "", tuple(re.findall(r"^- (\w+): ", failure, re.MULTILINE))


@pytest.mark.parametrize("change", CHANGES, ids=NAMES)
def test_verdict(repository, tmp_path, change):
    """Protects: a change is red where it makes another training or strands a checkpoint, for the
    right reason, and green where it does not.
    """
    folder, commits = repository
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", folder, clone)
    git(clone, "checkout", "--quiet", commits[change.name])
    expected = change.expected

    status, output = gate(clone, ref=change.ref)

    verdict, names = said_of(output)
    if change.ref != "HEAD~1":
        assert f"not compared, everything ran: there is no commit {change.ref!r} here" in " ".join(
            output.split()
        )
        assert "ds_config.json::against" not in output
        return
    assert verdict == expected.verdict, output
    assert set(expected.reasons) <= set(names), output
    assert not expected.only or set(names) == set(expected.reasons), output
    assert (status != 0) == (verdict == "red" or "clipping" in change.name), output


def test_the_docs_have_the_table():
    """Protects: the docs show the changes, the verdicts and the reasons that are tested."""
    page = (Path(__file__).parents[2] / "docs" / "gate.md").read_text()
    table = page.partition("## Twelve changes\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]

    assert rows[1:] == [
        [change.name, _shown(change.expected), change.expected.why] for change in CHANGES
    ]


def _shown(expected):
    names = ", ".join(f"`{name}`" for name in expected.reasons)
    return f"{expected.verdict} ({names})" if names else expected.verdict
