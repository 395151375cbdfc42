"""docs/wiki-systems.md: what it says is there, is there."""

import ast
import re

import pages
import pytest

TEXT = (pages.ROOT / "docs" / "wiki-systems.md").read_text()
TESTS = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)))


@pytest.mark.parametrize(("path", "name"), TESTS, ids="::".join)
def test_tests_that_prove_a_system_exist(path, name):
    """Protects: each test that the page names is defined where the page says, by that name."""
    tree = ast.parse((pages.ROOT / path).read_text())

    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_system_has_its_row():
    """Protects: no system is left without a command, tests and a device."""
    table = TEXT.partition("|---|---|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]

    assert len(rows) == 5
    assert all(len(row) == 5 and all(row) for row in rows)
    assert all("::" in row[3] or row[3].startswith("the same") for row in rows)


def test_commands_name_scripts_that_exist():
    """Protects: who types what the page says finds the script."""
    named = set(re.findall(r"\bslurm/(\w+\.sbatch)", TEXT))

    assert named == {"train.sbatch", "lightning.sbatch"}
    assert all((pages.ROOT / "slurm" / name).is_file() for name in named)
