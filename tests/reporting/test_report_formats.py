"""The formats that machines read, of reports made by hand."""

import dataclasses
import json
import re

import pytest
from markdown_it import MarkdownIt
from reports_made import HOSTILE, PROBLEM, SUPPRESSED, hostile, made, red, report

from pytest_deepspeed.configs.rule import RULES
from pytest_deepspeed.reporting import as_json, codequality, github, markdown, sarif
from pytest_deepspeed.reporting.model import Report
from pytest_deepspeed.values import plain

_MESSAGE = (
    'DeepSpeed ignores "gradient_cliping", a key that it does not know;'
    ' did you mean "gradient_clipping"?'
)


def test_the_model_survives_json():
    """Protects: a report read back from its JSON is the same report."""
    for one in (red(), hostile()):
        assert dataclasses.asdict(plain.load(Report, plain.dump(one))) == json.loads(
            plain.dump(one), parse_constant=float
        ) | {
            name: value
            for name, value in dataclasses.asdict(one).items()
            if name in ("tests", "errors", "header")
        }


def test_json_is_strict():
    """Protects: a loss that is not finite is null, so that every JSON reader takes the file."""
    one = made(details={"training": [{"loss": [1.0, float("nan"), float("inf")]}]})
    shown = json.loads(as_json.render(report(one)), parse_constant=pytest.fail)

    assert shown["tests"][0]["details"]["training"][0]["loss"] == [1.0, None, None]
    assert (shown["schema"], shown["verdict"], shown["complete"]) == (1, "1 passed", True)


def test_github_annotations():
    """Protects: errors and warnings at file, line and column, failed tests at theirs, errors first.

    What is suppressed is not there.
    """
    rule, warning = "title=DS101 unknown-key", "title=DS901 default-gradient-clipping"
    lost = "the loss of step 1 is 2.6, the base has 2.7: 3.7e-02 of it, tolerance 1e-05"
    ranks = "rank 1: AssertionError: rank 1 has not joined; assert 1 == 0"
    failed = "title=failed test_ranks.py%3A%3Atest_all_reduce"
    against = "title=against.loss conf/ds_config.json%3A%3Aagainst"

    assert github.lines(red()) == [
        f"::error file=conf/ds_config.json,line=3,col=5,{rule}::{_MESSAGE}",
        f"::error file=conf/ds_config.json,{against}::{lost}",
        f"::error file=test_ranks.py,line=6,{failed}::{ranks}",
        f"::warning file=conf/ds_config.json,line=3,col=5,{warning}::{_MESSAGE}",
    ]


def test_annotations_that_nobody_asked_for():
    """Protects: by itself the plugin speaks of configs only, not of a user's other tests."""
    narrow = github.lines(red(), narrow=True)

    assert narrow == [line for line in github.lines(red()) if "test_ranks.py" not in line]


def test_paths_are_those_of_the_repository():
    """Protects: where pytest's root lies in a subdirectory, paths start at the repository's."""
    one = report(made("failed", details={"problem": [PROBLEM]}), prefix="training/")
    (line,) = github.lines(one)
    (entry,) = json.loads(codequality.render(one))
    (result,) = json.loads(sarif.render(one))["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]

    assert line.startswith("::error file=training/conf/ds_config.json,line=3,")
    assert entry["location"]["path"] == "training/conf/ds_config.json"
    assert place == {"uri": "training/conf/ds_config.json", "uriBaseId": "SRCROOT"}


def test_hostile_annotations():
    """Protects: no text ends its command and starts another, or ends its property."""
    for line in github.lines(hostile()):
        head, _, message = line.removeprefix("::").partition("::")
        command, _, properties = head.partition(" ")
        assert command == "error"
        assert re.fullmatch(r"file=[^,:]+(,line=\d+,col=\d+)?,title=[^,:]+", properties)
        assert not set("\r\n\x1b\x07\u202e") & set(message)


def test_code_quality():
    """Protects: what GitLab wants of each entry, unique fingerprints that outlive another line."""
    entries = json.loads(codequality.render(red()))
    moved = report(made(details={"problem": [{**PROBLEM, "line": 30}, {**PROBLEM, "line": 40}]}))
    first, second = json.loads(codequality.render(moved))

    assert entries[0] == {
        "description": f"DS101 unknown-key: {_MESSAGE}",
        "check_name": "DS101",
        "fingerprint": first["fingerprint"],
        "severity": "major",
        "location": {"path": "conf/ds_config.json", "lines": {"begin": 3}},
    }
    assert [entry["severity"] for entry in entries] == ["major", "minor", "major", "major"]
    assert second["fingerprint"] != first["fingerprint"]
    assert len({entry["fingerprint"] for entry in entries}) == len(entries)


def test_sarif_of_rules():
    """Protects: each finding of a rule with its rule, place and level; suppressed ones with why."""
    log = json.loads(sarif.render(red()))
    (run,) = log["runs"]
    driver, results = run["tool"]["driver"], run["results"]

    assert (log["version"], driver["name"], driver["version"]) == (
        "2.1.0",
        "pytest-deepspeed",
        "0.1.0",
    )
    assert [(rule["id"], rule["name"]) for rule in driver["rules"]] == [
        ("DS101", "unknown-key"),
        ("DS901", "default-gradient-clipping"),
    ]
    assert driver["rules"][0]["shortDescription"]["text"] == RULES["DS101"].summary
    assert driver["rules"][0]["help"]["text"] == "python -m pytest_deepspeed.explain DS101"
    assert [r["level"] for r in results] == ["error", "warning", "error"]
    assert [driver["rules"][r["ruleIndex"]]["id"] for r in results] == ["DS101", "DS901", "DS101"]
    assert results[0]["locations"][0]["physicalLocation"]["region"] == {
        "startLine": 3,
        "startColumn": 5,
    }
    assert [r.get("suppressions") for r in results] == [
        None,
        None,
        [{"kind": "inSource", "justification": SUPPRESSED["reason"]}],
    ]
    assert run["invocations"][0]["executionSuccessful"] is True


#: Of each object of SARIF 2.1.0 that is written here: the properties it must have, and may have.
_OBJECTS = {
    "": ({"version", "runs"}, {"$schema"}),
    "runs": (
        {"tool"},
        {"invocations", "originalUriBaseIds", "columnKind", "results"},
    ),
    "tool": ({"driver"}, set()),
    "driver": ({"name"}, {"version", "rules"}),
    "rules": (
        {"id"},
        {"name", "shortDescription", "fullDescription", "help", "defaultConfiguration"},
    ),
    "invocations": ({"executionSuccessful"}, {"commandLine", "exitCode"}),
    "results": ({"message"}, {"ruleId", "ruleIndex", "level", "locations", "suppressions"}),
    "locations": (set(), {"physicalLocation"}),
    "physicalLocation": ({"artifactLocation"}, {"region"}),
    "artifactLocation": (set(), {"uri", "uriBaseId"}),
    "region": ({"startLine"}, {"startColumn"}),
    "suppressions": ({"kind"}, {"justification"}),
    "defaultConfiguration": (set(), {"level"}),
    "message": ({"text"}, set()),
    "shortDescription": ({"text"}, set()),
    "fullDescription": ({"text"}, set()),
    "help": ({"text"}, set()),
    "description": ({"text"}, set()),
    "SRCROOT": (set(), {"description"}),
    "originalUriBaseIds": (set(), {"SRCROOT"}),
}


@pytest.mark.parametrize("made_report", [red, hostile, report])
def test_sarif_has_the_structure_of_the_standard(made_report):
    """Protects: no object lacks a property that SARIF 2.1.0 wants, or has one it does not know."""

    def look(name, value):
        if isinstance(value, list):
            for item in value:
                look(name, item)
        elif isinstance(value, dict):
            must, may = _OBJECTS[name]
            assert must <= set(value) <= must | may, name
            for key, item in value.items():
                look(key, item)

    log = json.loads(sarif.render(made_report()))
    look("", log)
    for result in log["runs"][0]["results"]:
        assert result["level"] in ("error", "warning")
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"[A-Za-z0-9/._~%-]+", uri)


def test_markdown():
    """Protects: the verdict, the reasons, the comparison with the base and the table, in order."""
    text = markdown.render(red())
    heads = [
        "## ✗ DeepSpeed: 3 failed, 1 passed",
        "- ✗ `conf/ds_config.json::against` failed: against origin/main",
        "**✗ `conf/ds_config.json` against origin/main \\(1a2b3c4\\): red**",
        "- `loss`: the loss of step 1 is",
        '```diff\n--- base\n+++ head\n@@ -1 +1 @@\n-  "lr": 0.001\n+  "lr": 0.01\n```',
        "| `conf/ds_config.json` | 2 | ✗ 1 passed, schema against failed |",
        "<details><summary>✗ test_ranks.py::test_all_reduce</summary>",
    ]
    places = [text.find(head) for head in heads]

    assert -1 not in places
    assert places == sorted(places)


def test_hostile_markdown():
    """Protects: a CommonMark renderer finds no markup in names, reasons and outputs."""
    text = markdown.render(hostile())
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    tags = set(re.findall(r"<(/?[a-zA-Z][^\s>]*)", page))

    assert {tag for tag in tags if not tag.startswith("/")} <= {
        *("h2", "ul", "li", "code", "p", "strong", "details", "summary", "pre", "sub"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert "<strong>b</strong>" not in page
    rows = re.findall(r"<tr>.*?</tr>", page, re.DOTALL)
    assert [row.count("<td") for row in rows[1:]] == [6]
    assert not set("\x1b\x07\u202e") & set(text)


def test_nobody_is_mentioned():
    """Protects: a name with @ or # calls nobody on GitHub, and links no issue."""
    assert markdown.plain("@team #12 a@b") == "@<!-- -->team \\#<!-- -->12 a@<!-- -->b"


def test_markdown_is_no_longer_than_a_comment_may_be():
    """Protects: a hundred failures with long outputs fit, and what is left out is said."""
    many = report(
        *(
            made("failed", nodeid=f"t.py::test_{n}", text=f"E   {'y' * 900}\n" * 50)
            for n in range(100)
        )
    )
    text = markdown.render(many)

    assert 1_000 < len(text) < 65_536
    assert "- and 80 more\n" in text
    assert text.endswith("*The rest is left out: it is longer than a comment may be.*\n")
    assert text.count("\n```") % 2 == 0


def test_hostile_names_stay_readable():
    """Protects: an escaped text still shows what it was."""
    assert HOSTILE.partition("|")[0] in json.loads(codequality.render(hostile()))[0]["description"]
