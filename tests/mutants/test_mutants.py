"""DeepSpeed damaged on purpose: some check turns red for each fault, and none without it."""

import re
from pathlib import Path

import pytest
from mutant_trials import findings
from mutants import MUTANTS

PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"

#: Mutants that no check catches, and why. Each is a strict expected failure.
SURVIVORS: dict[str, str] = {}

#: One mutant for each setting: the setting is what a control runs without the fault.
SETTINGS = {
    (one.mode.id, one.optimizer, one.phase, *sorted(one.changes)): one for one in MUTANTS.values()
}

ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| `(\S+)`, (\w+) \| (.+?) \|$", re.MULTILINE)


def rows():
    """The table of the page: fault, mode, optimizer and findings of each mutant."""
    return {name: rest for name, *rest in ROW.findall(PAGE.read_text())}


def _survives(name):
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=SURVIVORS[name])


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=_survives(name) if name in SURVIVORS else []) for name in MUTANTS],
)
def test_a_mutant_is_caught(ds_run, tmp_path, record_property, name):
    """Protects: the fault is done, and the checks that the page names turn red."""
    mutant = MUTANTS[name]

    found, reached = findings(ds_run, mutant, tmp_path, damaged=True)

    red = sorted({f"{one.check}.{one.name}" for one in found})
    record_property("ds_mutant", name)
    record_property("ds_mutant_mode", f"{mutant.mode.id}, {mutant.optimizer}")
    record_property("ds_mutant_caught_by", ", ".join(red))
    print(f"{name} | {mutant.mode.id}, {mutant.optimizer} | {', '.join(red)}")
    if not reached:
        # No AssertionError, which a survivor's mark expects.
        raise RuntimeError(f"the mutant {name} was never reached: it damages nothing")
    assert red
    assert set(re.findall(r"`(\w+\.\w+)`", rows()[name][-1])) <= set(red)


@pytest.mark.parametrize("setting", SETTINGS, ids="-".join)
def test_without_a_mutant_nothing_is_found(ds_run, tmp_path, setting):
    """Protects: what turns red for a mutant is green without it."""
    found, reached = findings(ds_run, SETTINGS[setting], tmp_path, damaged=False)

    assert (found, reached) == ([], 0)


def test_the_page_lists_all_mutants():
    """Protects: fault and mode of each mutant are those of the code, survivors are named."""
    table = rows()
    survivors = {name for name, row in table.items() if row[-1] == "survives"}

    assert {name: tuple(row[:3]) for name, row in table.items()} == {
        one.name: (one.fault, one.mode.id, one.optimizer) for one in MUTANTS.values()
    }
    assert survivors == set(SURVIVORS)


def test_a_mutant_has_one_sentence():
    """Protects: the page can say what each mutant does."""
    assert [one.name for one in MUTANTS.values() if not one.fault.endswith(".")] == []
