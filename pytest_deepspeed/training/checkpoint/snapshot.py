"""The state of a training, read off an engine and digested."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from pytest_deepspeed.training import state
from pytest_deepspeed.training.checkpoint.evidence import Difference, Model, Snapshot

if TYPE_CHECKING:
    from torch import Tensor

    Moments = dict[str, dict[str, Tensor]]


class Tensors:
    """Full tensors of a training, gathered over the ranks; collective.

    Attributes:
        weights: fp32 masters by name.
        moments: optimizer states by name and key.
    """

    def __init__(self, engine: Any) -> None:
        self.weights = state.full_parameters(engine)
        self.moments = state.full_moments(engine)

    def snapshot(self, engine: Any) -> Snapshot:
        """Everything that a checkpoint has to bring back; collective."""
        compute = state.compute_weights(engine)
        persistent = set(engine.module.state_dict())
        found = {n: b for n, b in state.buffers(engine).items() if n in persistent}
        return Snapshot(
            weights=digests(self.weights),
            compute=digests(compute),
            shapes=shapes(self.weights),
            moments={name: digests(states) for name, states in self.moments.items()},
            moment_shapes={name: shapes(states) for name, states in self.moments.items()},
            buffers=digests(found),
            optimizer_steps=state.optimizer_steps(engine),
            global_steps=int(engine.global_steps),
            skipped_steps=int(engine.skipped_steps),
            lr=tuple(float(lr) for lr in engine.get_lr()),
            groups=tuple(
                {k: _plain(v) for k, v in group.items() if k not in ("params", "lr", "step")}
                for group in state.innermost_optimizer(engine).param_groups
            ),
            scheduler=_plain(state.scheduler_state(engine)),
            loss_scale=state.loss_scale(engine),
        )


def take(engine: Any) -> Snapshot:
    """The snapshot of an engine between two steps; collective."""
    return Tensors(engine).snapshot(engine)


def describe(model: Any) -> Model:
    """What a plain torch model consists of."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return Model(
        shapes={name: tuple(p.shape) for name, p in model.named_parameters()},
        trained=tuple(name for name, p in model.named_parameters() if p.requires_grad),
        state_dict=tuple(model.state_dict()),
        aliases={name: first[id(p)] for name, p in every if first[id(p)] != name},
    )


def digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    """sha256 of each tensor's values as fp32, which every half-precision value has exactly."""
    return {name: hashlib.sha256(_bytes(tensor)).hexdigest() for name, tensor in tensors.items()}


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def differences(expected: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Difference]:
    """How far the tensors that both have are apart; what one lacks shows in its snapshot's keys."""
    return {
        name: _difference(tensor, found[name]) for name, tensor in expected.items() if name in found
    }


def _difference(expected: Tensor, found: Tensor) -> Difference:
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    if expected.shape != found.shape:
        return Difference(error=float("inf"), scale=scale)
    error = float((expected - found).abs().max()) if expected.numel() else 0.0
    return Difference(error=error if error == error else float("inf"), scale=scale)  # noqa: PLR0124


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().float().contiguous().numpy().tobytes()


def _plain(value: Any) -> Any:
    """Numbers, texts, lists and dicts as they are; anything else as its text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (int, float, str, type(None))) else repr(value)
