"""Checks of one training. Each returns what is wrong in a sentence, or ``None``."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: The last window's mean loss must be at most this share of the first's.
MOST_OF_START = 0.95


def window(steps: int) -> int:
    """Steps that are averaged at each end: a fifth of all, at least one."""
    return max(1, steps // 5)


def loss_falls(loss: Sequence[float]) -> str | None:
    """Every loss is finite, and the mean of the last fifth is at most 0.95 of the first's.

    Args:
        loss: one value for each optimizer step, mean over the ranks.
    """
    for step, value in enumerate(loss):
        if not math.isfinite(value):
            return f"the loss of step {step} is {value}; those before: {_shown(loss[:step])}"
    size = window(len(loss))
    first = sum(loss[:size]) / size
    last = sum(loss[-size:]) / size
    if last > MOST_OF_START * first:
        return (
            f"the loss does not fall: its mean over the last {size} of {len(loss)} steps is"
            f" {last:.4f}, over the first {size} {first:.4f}; at most {MOST_OF_START:g} of that is"
            f" wanted. All: {_shown(loss)}"
        )
    return None


def loss_follows(loss: Sequence[float], twin: Sequence[float]) -> str | None:
    """Every loss is finite, and it falls by nine tenths of what the twin's falls, or more.

    Where the twin's mean over the last fifth is not below 0.95 of the first's, only finiteness is
    asked for: see `decidable`.

    Args:
        loss: one value for each optimizer step, mean over the ranks.
        twin: likewise, of plain torch.
    """
    for step, value in enumerate(loss):
        if not math.isfinite(value):
            return f"the loss of step {step} is {value}; those before: {_shown(loss[:step])}"
    size = window(len(loss))
    fall, wanted = (sum(of[:size]) - sum(of[-size:]) for of in (loss, twin))
    if decidable(twin) and fall < 0.9 * wanted:
        return (
            f"the loss falls by {fall / size:.4f} in {len(loss)} steps, and that of plain torch by"
            f" {wanted / size:.4f} (means of {size}). All: {_shown(loss)}; plain torch:"
            f" {_shown(twin)}"
        )
    return None


def decidable(twin: Sequence[float]) -> bool:
    """Whether plain torch learns enough in these steps to tell learning from not learning."""
    size = window(len(twin))
    return sum(twin[-size:]) <= MOST_OF_START * sum(twin[:size])


def ranks_agree(what: str, values: Sequence[object]) -> str | None:
    """All ranks have the same value, to the last bit. Two that are no number are the same.

    Args:
        what: names the value in the sentence.
        values: one for each rank.
    """
    for rank, value in enumerate(values):
        both_nan = all(isinstance(v, float) and math.isnan(v) for v in (value, values[0]))
        if value != values[0] and not both_nan:
            return f"{what} differs between ranks: rank 0 has {values[0]}, rank {rank} has {value}"
    return None


def optimizer_stepped(
    optimizer_steps: int, skipped_steps: int, steps: int, *, scaled: bool = False
) -> str | None:
    """The optimizer took every step, by its own count.

    A dynamic loss scale starts too high on purpose, and each step that overflows is skipped and
    lowers it. So with one up to half of the steps may be skipped.

    Args:
        optimizer_steps: read off the optimizer's state.
        skipped_steps: those that DeepSpeed gave up for an overflow.
        steps: those that were asked for.
        scaled: whether the loss has a dynamic scale, as in fp16 by default.
    """
    if skipped_steps and not scaled:
        return f"DeepSpeed skipped {skipped_steps} of {steps} steps for a gradient overflow"
    if skipped_steps > steps // 2:
        return (
            f"DeepSpeed skipped {skipped_steps} of {steps} steps for a gradient overflow: half of"
            " them may be, until the loss scale fits. Lower fp16.initial_scale_power, or take more"
            " steps"
        )
    if scaled and optimizer_steps != steps - skipped_steps:
        return (
            f"the optimizer has stepped {optimizer_steps} times in {steps} steps, of which"
            f" {skipped_steps} were skipped"
        )
    if not scaled and optimizer_steps != steps:
        return f"the optimizer has stepped {optimizer_steps} times in {steps} steps"
    return None


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.4f}" for v in values) or "none"
