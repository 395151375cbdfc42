"""What a check trained, as the plain JSON value that reports show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_deepspeed.training.evidence import Evidence
    from pytest_deepspeed.training.memory.evidence import MemoryEvidence


def told(
    evidence: Evidence, *, config: str, device: str, backend: str, effective: Sequence[str]
) -> dict[str, Any]:
    """The value of the kind ``training``.

    Args:
        config: what the config is called: the path of its file, or the case id.
        device, backend: what ranks computed on, and spoke by.
        effective: what DeepSpeed made of the config, as lines.

    Returns:
        ``loss``, ``grad_norm``, ``lr`` and ``step_time`` (seconds) have a value for each step, of
        all ranks or of rank 0. ``twin_loss`` is that of plain torch, or ``None``. ``memory`` has
        bytes: ``held`` and ``peaks`` by name for each rank, ``expected`` by name.
    """
    from pytest_deepspeed.values import modes

    twin = next(iter(evidence.parity), None)
    ds_config = evidence.trial.ds_config
    return {
        "config": config,
        "mode": modes.case_id(ds_config),
        "world_size": evidence.trial.world_size,
        "device": device,
        "backend": backend,
        "dtype": modes.dtype_of(ds_config),
        "data": evidence.data,
        "loss": list(evidence.loss),
        "twin_loss": list(twin.twin_loss) if twin else None,
        "grad_norm": list(evidence.ranks[0].grad_norm),
        "lr": [groups[0] for groups in twin.lr] if twin else [],
        "step_time": list(evidence.step_time),
        "samples_per_second": evidence.samples_per_second,
        "memory": _memory(evidence.memory),
        "effective": list(effective),
    }


def _memory(evidence: MemoryEvidence) -> dict[str, Any]:
    from pytest_deepspeed.training.memory.arithmetic import expected
    from pytest_deepspeed.training.memory.check import measured

    ranks = evidence.ranks
    names = [*ranks[0].held, "nvme"]
    held = {name: [measured(rank, name) for rank in ranks] for name in names}
    peaks = {
        name: sizes
        for name in ("tensors", "host", "device")
        if None not in (sizes := [getattr(rank, name) for rank in ranks])
    }
    return {
        "held": {name: sizes for name, sizes in held.items() if None not in sizes},
        "expected": expected(evidence.layout),
        "peaks": peaks,
        "nvme": [sum(rank.nvme.values()) for rank in ranks],
    }
