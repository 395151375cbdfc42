"""docs/ci-templates.md: what it tells to write is what the services take, and what is there."""

import re

import job
import pytest
import yaml
from test_templates import check_schema

PAGE = job.ROOT / "docs" / "ci-templates.md"
TEXT = PAGE.read_text()
ON_GITHUB, ON_GITLAB = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def rows(heading):
    """The cells of the first table below a heading, without its head."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


@pytest.mark.parametrize(
    ("text", "schema"),
    [(ON_GITHUB, "vendor.github-workflows"), (ON_GITLAB, "vendor.gitlab-ci")],
    ids=["github", "gitlab"],
)
def test_ten_lines(tmp_path, text, schema):
    """Protects: what a user writes is ten lines at most, and what the service takes."""
    file = tmp_path / "written.yml"
    file.write_text(text)

    assert len(text.splitlines()) <= 10
    check_schema(file, schema)


def test_they_name_what_is_there():
    """Protects: the action, its inputs, the file and the job have the names that the page says."""
    steps = yaml.safe_load(ON_GITHUB)["jobs"]["configs"]["steps"]
    assert (job.ROOT / steps[1]["uses"]).resolve() == job.ACTION.parent
    assert set(steps[1]["with"]) <= set(job.loaded(job.ACTION)["inputs"])

    written = yaml.safe_load(ON_GITLAB)
    assert job.ROOT / written["include"][0]["local"] == job.GITLAB
    assert written["configs"]["extends"] in job.loaded(job.GITLAB)
    script = job.SCRIPT.read_text()
    named = set(re.findall(r"GATE_\w+", TEXT))
    assert named <= set(re.findall(r"^#     (GATE_\w+)", script, re.MULTILINE))


def test_inputs():
    """Protects: the page names each input of the action, with its default, and no other."""
    declared = job.loaded(job.ACTION)["inputs"]
    shown = {row[0].strip("`"): row[2] for row in rows("GitHub")}

    assert set(shown) == set(declared)
    for name, entry in declared.items():
        assert shown[name] == f"`{entry['default']}`" or not entry["default"]


def test_exit_codes():
    """Protects: each of pytest's exit codes has its row; green is 0 alone."""
    shown = {int(code): verdict for code, _, verdict in rows("Exit codes")}

    # An older pytest has fewer.
    assert shown.items() >= {int(c): "red" if c else "green" for c in pytest.ExitCode}.items()
