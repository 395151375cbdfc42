"""What is trained: a model, its batches and its loss, alike for DeepSpeed and plain torch."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from reference_training import order
from reference_training.data import Dataset
from reference_training.model import Net


class Workload(Protocol):
    """A training without its framework. Nothing in it has state: what it returns depends on the
    arguments and on what it was made with, so that a run can be cut, continued and compared.
    """

    @property
    def description(self) -> str:
        """What is trained on, for a header or a record."""
        ...

    def model(self) -> nn.Module:
        """Return a new model, whole, in fp32 and on the CPU, with the same weights each time."""
        ...

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return what the optimizer shall train, as `torch.optim` takes it.

        A key beside `params`, such as `weight_decay`, takes the place of the config's value.
        """
        ...

    def micro_batch(
        self,
        *,
        step: int,
        micro_step: int,
        accumulation_steps: int,
        rank: int,
        world_size: int,
        micro_batch_size: int,
    ) -> Any:
        """Return what `loss` takes for one rank's forward pass.

        The samples of a step are the same for any world size and accumulation that keep
        `train_batch_size`, which is the product of the last three.

        Args:
            step: The optimizer step, counted from 0 over the whole training.
            micro_step: The forward pass in that step, from 0.
            accumulation_steps: Forward passes in one optimizer step.
            rank: Data-parallel rank.
            world_size: Number of data-parallel ranks.
            micro_batch_size: Samples of one rank in one forward pass.
        """
        ...

    def loss(self, model: Any, batch: Any) -> Tensor:
        """Run the model, an engine or a plain module, and return the mean loss, an fp32 scalar."""
        ...


class Images:
    """The reference workload: `Net` on CIFAR10, or on what stands in for it.

    Args:
        dataset: The images.
        width: Of `Net`.
        seed: Of the weights and of the order of the images.
    """

    def __init__(self, dataset: Dataset, *, width: int = 1, seed: int = 0) -> None:
        self.dataset = dataset
        self.width = width
        self.seed = seed

    @property
    def description(self) -> str:
        return self.dataset.description

    def model(self) -> Net:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Net(self.width)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters())}]

    def micro_batch(
        self,
        *,
        step: int,
        micro_step: int,
        accumulation_steps: int,
        rank: int,
        world_size: int,
        micro_batch_size: int,
    ) -> tuple[Tensor, Tensor]:
        chosen = order.indices(
            len(self.dataset),
            seed=self.seed,
            step=step,
            rank=rank,
            world_size=world_size,
            micro_batch_size=micro_batch_size,
            accumulation_steps=accumulation_steps,
        )
        return self.dataset.batch(chosen[micro_step])

    def loss(self, model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        first = next(model.parameters())
        device = getattr(model, "device", first.device)  # an engine's, wherever its weights are
        logits = model(images.to(device, first.dtype))
        return functional.cross_entropy(logits.float(), labels.to(device))
