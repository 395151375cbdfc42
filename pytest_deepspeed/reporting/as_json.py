"""The report as JSON: the model itself, for tools of your own."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from pytest_deepspeed.reporting.model import Report

#: Changes where a field goes or means something else.
SCHEMA = 1


def render(report: Report) -> str:
    """All of the model; a number that is not finite is ``null``, since JSON has none."""
    value = {"schema": SCHEMA, "verdict": report.verdict, "complete": report.complete}
    text = json.dumps({**value, **_finite(dataclasses.asdict(report))}, indent=1, allow_nan=False)
    return f"{text}\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
