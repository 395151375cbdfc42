"""GitLab's Code Quality report: what the merge request shows at file and line.

Format: docs.gitlab.com, "Code Quality", "Code Quality report format".
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter

from pytest_deepspeed.reporting import places, texts
from pytest_deepspeed.reporting.model import Report

_SEVERITIES = {"error": "major", "warning": "minor"}


def render(report: Report) -> str:
    """A JSON array; what is the same twice in a file has two fingerprints, whatever its line."""
    seen: Counter[tuple[str, ...]] = Counter()
    found = []
    for place in [*places.problems(report), *places.failures(report)]:
        if place.suppressed is not None:
            continue
        same = (place.path, place.rule, place.name, place.message)
        seen[same] += 1
        key = "\0".join([*same, str(seen[same])])
        found.append(
            {
                "description": f"{place.rule} {place.name}: {place.message}",
                "check_name": place.rule,
                "fingerprint": hashlib.sha256(key.encode(errors="replace")).hexdigest(),
                "severity": _SEVERITIES[place.severity],
                "location": {
                    "path": texts.visible(place.path),
                    "lines": {"begin": max(1, place.line)},
                },
            }
        )
    return json.dumps(found, indent=1) + "\n"
