"""Errors of the layers below the pytest face, which turns them into what pytest shows."""

from __future__ import annotations


class AgentError(RuntimeError):
    """The agent could not be started, died, or refused; the message is for the user."""


class WorldSizeError(ValueError):
    """A world size that is no positive integer, or more than this machine may hold."""
