"""A user's `Workload` as `reference_training.workload.Workload`, which the checks train."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_deepspeed.training.workload.contract import Workload, WorkloadError

if TYPE_CHECKING:
    from torch import Tensor, nn


class Batch(NamedTuple):
    """What `Adapter.loss` takes: a batch as the user's code made it, and a seed for its pass."""

    data: Any
    seed: int


class Adapter:
    """Trains a user's workload as the checks train, and says where it is not as it must be.

    What draws random numbers draws the same ones wherever it is run again: `model` by the seed, a
    sample by its place in the order, a forward pass by its step, micro-batch and rank.

    Args:
        workload: the user's.
        name: what to call it: its reference.
        seed: of weights, samples and what a forward pass draws.
    """

    #: It has none of the trap model's.
    traits: tuple[str, ...] = ()

    def __init__(self, workload: Workload, name: str, seed: int = 0) -> None:
        self._workload = workload
        self._name = name
        self._seed = seed

    @property
    def description(self) -> str:
        return self._name

    @property
    def initialize(self) -> Any:
        """The user's own call of `deepspeed.initialize`; ``None`` where there is none."""
        return self._initialize if self._workload.initialize is not None else None

    def model(self) -> nn.Module:
        """A new model on the CPU.

        Raises:
            WorkloadError: it is no module, or not whole and in fp32.
        """
        import torch
        from torch import nn

        own = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=own):  # of all GPUs it would make contexts
            seed_all(self._seed)
            model = self._workload.model()
        if not isinstance(model, nn.Module):
            raise self._error(
                f"model() returned a {type(model).__name__}, not a torch.nn.Module: return the"
                " model alone, before deepspeed.initialize"
            )
        for name, parameter in model.named_parameters():
            if hasattr(parameter, "ds_id") or parameter.is_meta:
                raise self._error(
                    f"model() returned a model that is not whole: {name} is"
                    f" {'on the meta device' if parameter.is_meta else 'partitioned'}. Build it"
                    " with its weights, outside deepspeed.zero.Init: plain torch trains it too"
                )
            if parameter.is_floating_point() and parameter.dtype != torch.float32:
                raise self._error(
                    f"model() returned weights in {_plain(parameter.dtype)}, {name} first: return"
                    " them in float32 (model.float()); DeepSpeed casts them as its config says"
                )
        return model.cpu()

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The user's groups, as dicts with lists of parameters.

        Raises:
            WorkloadError: a parameter that needs a gradient is in no group, or in two.
        """
        make = self._workload.parameter_groups
        if make is None:
            return [{"params": [p for p in model.parameters() if p.requires_grad]}]
        given = list(make(model))
        if not any(isinstance(group, Mapping) for group in given):
            given = [{"params": given}]
        groups = [{**group, "params": list(group["params"])} for group in given]
        count: dict[int, int] = {}
        for parameter in (p for group in groups for p in group["params"]):
            count[id(parameter)] = count.get(id(parameter), 0) + 1
        for name, parameter in model.named_parameters():
            times = count.get(id(parameter), 0)
            if times > 1 or (parameter.requires_grad and not times):
                raise self._error(
                    f"parameter_groups() has {name} {times} times: a parameter that needs a"
                    " gradient belongs to one group; set requires_grad_(False) where it is not"
                    " to be trained"
                )
        return groups

    def micro_batch(
        self,
        *,
        step: int,
        micro_step: int,
        accumulation_steps: int,
        rank: int,
        world_size: int,
        micro_batch_size: int,
    ) -> Batch:
        """The samples of one forward pass; see `reference_training.workload.Workload`.

        Raises:
            WorkloadError: the dataset has fewer samples than one step takes.
        """
        from reference_training import order

        places = order.positions(
            step=step,
            rank=rank,
            world_size=world_size,
            micro_batch_size=micro_batch_size,
            accumulation_steps=accumulation_steps,
        )[micro_step]
        seed = _mixed(self._seed, step, micro_step, rank)
        dataset = self._workload.dataset
        if not self._workload.is_map_style:
            seed_all(seed)
            return Batch(dataset(places.tolist()), seed)
        batch = accumulation_steps * world_size * micro_batch_size
        if len(dataset) < batch:
            raise self._error(
                f"the dataset has {len(dataset)} samples, and one optimizer step takes {batch}"
                f" ({micro_batch_size} x {accumulation_steps} micro-batches x {world_size} ranks):"
                " give more samples, or a smaller train_micro_batch_size_per_gpu"
            )
        chosen = order.at(len(dataset), places, seed=self._seed)
        samples = []
        for place, index in zip(places.tolist(), chosen.tolist(), strict=True):
            seed_all(_mixed(self._seed, place))  # whatever rank draws it
            samples.append(dataset[index])
        return Batch(self._collate(samples), seed)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """The user's loss.

        Raises:
            WorkloadError: the batch has no tensor, or the loss is no fp32 scalar with a gradient.
        """
        import torch

        data, moved = _to(batch.data, _device(model))
        if not moved:
            raise self._error(
                f"a batch is a {type(batch.data).__name__} without a tensor: let the dataset or"
                " collate_fn return tensors, in tuples, lists or dicts"
            )
        seed_all(batch.seed)
        try:
            loss = self._workload.loss(model, data)
        except (AttributeError, RuntimeError) as error:
            if hint := _hint(error, model, moved):
                error.add_note(f"workload {self._name}: {hint}")
            raise
        if not torch.is_tensor(loss):
            what = f"a {type(loss).__name__}"
        elif loss.dim() > 0:
            what = f"a tensor of shape {tuple(loss.shape)}"
        elif loss.dtype != torch.float32:
            what = f"a scalar in {_plain(loss.dtype)}"
        elif torch.is_grad_enabled() and not loss.requires_grad:
            what = "a scalar without a gradient"
        else:
            return loss
        raise self._error(
            f"loss() returned {what}, not a float32 scalar with a gradient: return the mean over"
            " the batch's samples, such as functional.cross_entropy(logits.float(), labels)"
        )

    def _collate(self, samples: list[Any]) -> Any:
        from torch.utils.data import default_collate

        if self._workload.collate_fn is not None:
            return self._workload.collate_fn(samples)
        try:
            return default_collate(samples)
        except TypeError as error:
            raise self._error(
                f"torch's default_collate cannot batch samples of {type(samples[0]).__name__}"
                f" ({str(error).splitlines()[0]}): give Workload(collate_fn=...)"
            ) from error

    def _initialize(self, **given: Any) -> Any:
        from deepspeed.runtime.engine import DeepSpeedEngine

        assert self._workload.initialize is not None
        made = self._workload.initialize(**given)
        engine = made[0] if isinstance(made, tuple) and made else made
        if not isinstance(engine, DeepSpeedEngine):
            raise self._error(
                f"initialize() returned a {type(engine).__name__}, not a DeepSpeed engine: return"
                " deepspeed.initialize(model=model, model_parameters=model_parameters,"
                " config=config)[0]"
            )
        return engine

    def _error(self, text: str) -> WorkloadError:
        return WorkloadError(f"workload {self._name}: {text}")


def seed_all(seed: int) -> None:
    """Seeds the generators that a user's code may draw from."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (the one that user code draws from)
    torch.manual_seed(seed)


def _mixed(*numbers: int) -> int:
    """One seed of several numbers, each below 2**16 or so; no two neighbours have the same."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % 2**62
    return mixed


def _device(model: Any) -> Any:
    """Where a model computes; with parameters on the CPU an engine still does so on its own."""
    engines = sys.modules.get("deepspeed.runtime.engine")
    if engines is not None and isinstance(model, engines.DeepSpeedEngine):
        return model.device
    return next(model.parameters()).device


def _to(value: Any, device: Any) -> tuple[Any, list[Any]]:
    """The batch on a device, and what of it was moved there."""
    if callable(getattr(value, "to", None)):  # a tensor, or a class of batches that knows how
        return value.to(device), [value]
    if isinstance(value, Mapping):
        pairs = {key: _to(item, device) for key, item in value.items()}
        items = {key: item for key, (item, _) in pairs.items()}
        return items, [tensor for _, moved in pairs.values() for tensor in moved]
    if isinstance(value, (list, tuple)):
        both = [_to(item, device) for item in value]
        made = [item for item, _ in both]
        moved = [tensor for _, some in both for tensor in some]
        if isinstance(value, tuple):
            return (type(value)(*made) if hasattr(value, "_fields") else tuple(made)), moved
        return made, moved
    return value, []


def _hint(error: Exception, model: Any, moved: list[Any]) -> str:
    """What may lie behind an error of the user's loss; empty where nothing is known."""
    import torch

    if isinstance(error, AttributeError):
        return (
            "loss() is called with DeepSpeed's engine and with the plain module, which plain torch"
            " trains beside it: use what both have. DeepSpeed divides the loss by"
            " gradient_accumulation_steps itself"
        )
    weights = next(model.parameters()).dtype
    floats = [t.dtype for t in moved if torch.is_tensor(t) and t.is_floating_point()]
    if "dtype" in str(error) and any(dtype != weights for dtype in floats):
        return (
            f"the batch is in {_plain(floats[0])} and the weights are in {_plain(weights)}: cast it"
            " in loss(), such as x.to(next(model.parameters()).dtype)"
        )
    return ""


def _plain(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
