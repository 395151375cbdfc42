"""A pytest plugin that leaves agents on srun's pipes: ``-p benchmarks.on_pipes``.

They are not asked to dial back, as if the controller had no socket.
"""

from __future__ import annotations

from typing import Any

from pytest_deepspeed.processes import agents

_agents: Any = agents.Agents
_agents._ask_to_dial = lambda *_: None
