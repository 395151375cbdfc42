"""What a training run did, as values that can be stored and compared."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Step:
    """One optimizer step of this rank, as `on_step` of `train` receives it.

    Attributes:
        loss: Mean over this rank's micro-batches.
        lr: Learning rate that the step used (of the first parameter group).
        grad_norm: Global 2-norm of the averaged gradients before clipping. None where the step was
            skipped, and where DeepSpeed is told not to compute one.
        step_time: Seconds, data included.
        samples_per_second: Of all ranks together.
    """

    loss: float
    lr: float
    grad_norm: float | None
    step_time: float
    samples_per_second: float


@dataclass(frozen=True)
class Record:
    """A training run as one rank saw it; the tuples have one entry per optimizer step.

    Attributes:
        loss: Mean over the micro-batches of all ranks. Equal on all ranks by construction, so
            compare `local_loss` or `grad_norm` to find ranks that differ.
        local_loss: Mean over this rank's micro-batches.
        lr: As in `Step`.
        grad_norm: As in `Step`.
        step_time: As in `Step`.
        samples_per_second: Of all ranks, from the median of this rank's step times: the first step
            pays for what is allocated and imported late.
        optimizer_steps: How often the optimizer says that it stepped since it was built, read from
            its own state. Where it keeps no count (SGD), what the engine counted less what it
            skipped. DeepSpeed's stage 0 with bf16 makes it one too many.
        skipped_steps: Steps that DeepSpeed did not apply because of non-finite gradients.
        world_size: Number of ranks.
        rank: This rank.
        train_batch_size: Images of all ranks in one optimizer step.
        data: Description of the data set.
        parameters: Number of parameters of the whole model.
        start_step: The first step trained; not 0 where a run was continued.
    """

    loss: tuple[float, ...]
    local_loss: tuple[float, ...]
    lr: tuple[float, ...]
    grad_norm: tuple[float | None, ...]
    step_time: tuple[float, ...]
    samples_per_second: float
    optimizer_steps: int
    skipped_steps: int
    world_size: int
    rank: int
    train_batch_size: int
    data: str
    parameters: int
    start_step: int = 0

    def to_json(self) -> str:
        """Return the record as JSON. Non-finite numbers are written as Python does (`NaN`)."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Return the record that `to_json` wrote.

        Raises:
            ValueError: the text is not JSON, or not a record; the message names the fields.
        """
        values: Any = json.loads(text)
        known = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or sorted(values) != sorted(known):
            found = ", ".join(sorted(values)) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"not a training record: it has {found}, not {', '.join(known)}")
        read: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**read)
