"""SARIF 2.1.0 (OASIS): what the rules found in config files and scripts, for code scanning."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

from pytest_deepspeed.configs import lint  # noqa: F401 (fills RULES)
from pytest_deepspeed.configs.lightning import rules as _rules  # noqa: F401 (fills SCRIPT_RULES)
from pytest_deepspeed.configs.rule import RULES, SCRIPT_RULES, Rule
from pytest_deepspeed.reporting import places
from pytest_deepspeed.reporting.model import Report
from pytest_deepspeed.reporting.places import Place

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def render(report: Report) -> str:
    """A log with one run; what is suppressed stands in it with its reason."""
    found = list(places.problems(report))
    rules = sorted({place.rule for place in found})
    run = {
        "tool": {
            "driver": {
                "name": "pytest-deepspeed",
                "version": report.version,
                "rules": [_rule(place) for id_ in rules for place in _first(found, id_)],
            }
        },
        "invocations": [
            {
                "commandLine": report.command,
                "executionSuccessful": report.exit_status in (0, 1, 5) and report.complete,
                "exitCode": report.exit_status,
            }
        ],
        "originalUriBaseIds": {"SRCROOT": {"description": {"text": "the root of the repository"}}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(place, rules.index(place.rule)) for place in found],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _first(found: list[Place], id_: str) -> list[Place]:
    return [place for place in found if place.rule == id_][:1]


def _rule(place: Place) -> dict[str, Any]:
    known: Rule | None = (RULES | SCRIPT_RULES).get(place.rule)
    described: dict[str, Any] = {
        "id": place.rule,
        "name": place.name,
        "shortDescription": {"text": known.summary if known else place.name},
        "help": {"text": f"python -m pytest_deepspeed.explain {place.rule}"},
        "defaultConfiguration": {"level": place.severity},
    }
    if known:
        described["fullDescription"] = {"text": f"{known.summary} Source: {known.source}"}
    return described


def _result(place: Place, index: int) -> dict[str, Any]:
    region = {"startLine": max(1, place.line), "startColumn": max(1, place.column)}
    file = {"uri": urllib.parse.quote(place.path), "uriBaseId": "SRCROOT"}
    result: dict[str, Any] = {
        "ruleId": place.rule,
        "ruleIndex": index,
        "level": place.severity,
        "message": {"text": f"{place.name}: {place.message}"},
        "locations": [{"physicalLocation": {"artifactLocation": file, "region": region}}],
    }
    if place.suppressed is not None:
        result["suppressions"] = [{"kind": "inSource", "justification": place.suppressed}]
    return result
