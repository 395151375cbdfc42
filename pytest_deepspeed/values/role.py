"""Which of the three kinds of pytest process this one is."""

from __future__ import annotations

from typing import Literal

Role = Literal["controller", "agent", "rank"]

_role: Role = "controller"


def current() -> Role:
    """``"controller"``, ``"agent"`` or ``"rank"``."""
    return _role


def become(role: Role) -> None:
    """Sets the role: the agent at its start, a rank after its fork."""
    global _role
    _role = role
