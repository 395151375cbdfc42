"""docs/options-and-markers.md names what the code has, and nothing that it has not."""

import inspect
import re

import pages
import pytest

from pytest_deepspeed import (
    against_items,
    checking,
    config_items,
    errors,
    fixtures,
    markers,
    options,
)
from pytest_deepspeed.processes import op_cache
from pytest_deepspeed.training import run
from pytest_deepspeed.values import world

TEXT = (pages.ROOT / "docs" / "options-and-markers.md").read_text()


def first_cells(heading):
    """What stands as code in the first column of the table under a heading."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)[1]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    return [code for cell in rows for code in re.findall(r"`([^`]+)`", cell)]


def test_options():
    """Protects: each option has its row, with its ini key, environment variable and default."""
    assert first_cells("Options") == [option.flag for option in options.OPTIONS]
    for option in options.OPTIONS:
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{option.flag}`"))
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[2:4] == [f"`{option.ini}`", f"`{option.environment}`"]
        if isinstance(option.default, str | float | int):
            shown = (
                f"{option.default:g}" if option.default != str(option.default) else option.default
            )
            assert cells[5].strip("`").startswith(shown)


def test_requirements():
    """Protects: what ``--ds-require`` takes."""
    row = next(line for line in TEXT.splitlines() if line.startswith("| `--ds-require`"))

    assert [word for word in options.REQUIREMENTS if f"`{word}`" not in row] == []


def test_markers():
    """Protects: each marker, with the signature that ``--markers`` shows."""
    signatures = [line.partition(":")[0] for line in markers.MARKERS]

    assert sorted(first_cells("Markers")) == sorted(signatures)


def test_fixtures():
    """Protects: each fixture of the plugin, with its scope."""
    found = {
        name: value._fixture_function_marker.scope
        for name, value in vars(fixtures).items()
        if isinstance(value, pytest.FixtureDef | type(fixtures.rank))
    }
    rows = re.findall(r"^\| `(\w+)` \| (session|function) \|", TEXT, re.MULTILINE)

    assert dict(rows) == found


def test_exceptions_and_warnings():
    """Protects: each exception and warning class of the pytest face."""
    own = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    ]

    assert first_cells("Exceptions and warnings") == own


def test_environment_and_limits():
    """Protects: torchrun's variables, the cache's variable, and the ranks that a core may hold."""
    for name in world.torchrun_environment(0, 1, world.spread(1, [""])[0], "", 0, ""):
        assert f"`{name}`" in TEXT or name.startswith("TORCHELASTIC_")
    assert "PYTEST_DS_OPS_CACHE" in inspect.getsource(op_cache)
    assert f"at most {world.RANKS_PER_CORE} ranks for each core" in TEXT


def test_properties():
    """Protects: the properties that a training records."""
    recorded = re.findall(r'\("(ds_\w+)", ', inspect.getsource(run.Run.properties))
    section = TEXT.partition("## JUnit properties")[2].partition("\n## ")[0]

    told = "".join(map(inspect.getsource, (checking, config_items, against_items)))
    checked = re.findall(r'\btell\("(ds_\w+)"|_tell\("(ds_\w+)"', told)
    checked = [name for pair in checked for name in pair if name]
    assert set(re.findall(r"`(ds_\w+)`", section)) == {*recorded, *checked}


def test_ds_run():
    """Protects: the signature of ``ds_run``."""
    signature = inspect.signature(fixtures.DsRun.__call__, eval_str=False)
    parts = [
        str(p.replace(annotation=inspect.Parameter.empty)) for p in signature.parameters.values()
    ]

    assert f"`ds_run({', '.join([parts[1], '*', *parts[2:]])})`" in TEXT
