"""Each rule about Lightning scripts has a page whose examples show it, and a proof."""

import re
from pathlib import Path

import pytest
import rule_pages

from pytest_deepspeed import explain
from pytest_deepspeed.configs.rule import SCRIPT_FAMILIES, SCRIPT_RULES

#: A file that cannot be opened is no example in a page.
WITH_EXAMPLES = [rule_id for rule_id in SCRIPT_RULES if rule_id != "PL002"]


@pytest.mark.parametrize("rule_id", WITH_EXAMPLES)
def test_bad_scripts_are_found(rule_id):
    """Protects: the rule finds what its page calls bad, in the words of the page."""
    bad = rule_pages.script_examples(rule_id, "Bad")

    assert bad
    for example in bad:
        own = example.problems(only=[rule_id])
        assert example.says == "".join(f"{p.line}:{p.column}: {p.rule} {p.message}\n" for p in own)
        assert own


@pytest.mark.parametrize("rule_id", WITH_EXAMPLES)
def test_good_scripts_are_clean(rule_id):
    """Protects: no rule complains of an error in what a page calls good, its own of nothing."""
    good = rule_pages.script_examples(rule_id, "Good")

    assert good
    for example in good:
        found = example.problems()
        suppressed = "ds-ignore" in example.text
        errors = [p for p in found if p.severity == "error" and not suppressed]
        assert errors + [p for p in found if p.rule == rule_id] == []


@pytest.mark.parametrize("rule_id", SCRIPT_RULES)
def test_page_says_which_rule_it_is(rule_id):
    """Protects: a page begins with its rule's id and name, severity and family, and is printed."""
    rule = SCRIPT_RULES[rule_id]
    text = explain.page(rule)

    assert text.startswith(f"# {rule.id} {rule.name}\n\n{rule.severity.capitalize()},")
    assert f"{rule.severity.capitalize()}, {rule.family}. " in text.replace("\n", " ")
    assert rule.summary
    assert rule.source


def test_each_page_has_a_rule():
    """Protects: no page is left of a rule that is gone."""
    pages = {path.name for path in (rule_pages.ROOT / "docs/rules").glob("PL*.md")}

    assert pages == {Path(rule.page).name for rule in SCRIPT_RULES.values()}
    assert {rule.family for rule in SCRIPT_RULES.values()} == set(SCRIPT_FAMILIES.values())


def test_each_rule_is_proved():
    """Protects: a test shows of each rule that the installed packages do what it says."""
    proofs = (Path(__file__).parent / "proofs" / "test_lightning_proofs.py").read_text()
    proved = {
        i for some in re.findall(r"proof\(([^)]*)\)", proofs) for i in re.findall(r"PL\d+", some)
    }

    assert proved == set(SCRIPT_RULES)


def test_explained(capsys):
    """Protects: ``python -m pytest_deepspeed.explain`` knows the rules about scripts."""
    assert explain.main(["PL201"]) == 0
    assert capsys.readouterr().out == rule_pages.page("PL201")
