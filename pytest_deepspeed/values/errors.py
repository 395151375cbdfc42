"""Errors of the layers below the pytest face, which turns them into what pytest shows."""

from __future__ import annotations


class AgentError(RuntimeError):
    """The agent could not be started, died, or refused; the message is for the user."""


class WorldSizeError(ValueError):
    """A world size that is no positive integer, or more than this machine may hold."""


class LaunchError(Exception):
    """The nodes that were asked for cannot be had; the message is for the user."""


class GpusLackingError(Exception):
    """A world has more ranks than there are GPUs for; the message says how to run it."""


class NodesLostError(AgentError):
    """A node was lost and cannot be had again: no further test can run over the nodes."""


class SessionEndingError(AgentError):
    """The session is told to end while a world runs; the message says by whom."""
