"""A small model with every trait that has broken distributed training, each to be switched off.

A plain MLP trains alike under faults that a real model meets: in each class below, training of an
MLP was right while that of a model with the trait was silently wrong. The numbers are issues and
pull requests of https://github.com/deepspeedai/DeepSpeed, where there is one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from reference_training.traits import HIDDEN, TRAITS

FEATURES, CLASSES = 16, 10


class Batch(NamedTuple):
    """What one rank's forward pass takes.

    Attributes:
        features: (N, 16), fp32.
        labels: (N,), class numbers.
        alternate: Whether the branch of the trait ``alternating`` takes part.
        late: Whether that of ``late_branch`` does.
        early: Whether that of ``early_branch`` does.
    """

    features: Tensor
    labels: Tensor
    alternate: bool
    late: bool
    early: bool


class Mirror(nn.Module):
    """`tanh(x Wᵀ) s W / rows**0.75`, with one weight W (rows, columns), s a change of signs.

    The signs keep the sum from growing with `rows`; the factor keeps a step of Adam, which moves
    every element alike, from doing so.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, columns) / columns**0.5)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.tanh(functional.linear(x, self.weight))
        rows = self.weight.shape[0]
        signs = 1 - 2 * (torch.arange(rows, device=x.device) % 2).to(x.dtype)
        out: Tensor = (inner * signs) @ self.weight / rows**0.75
        return out


class OddShapes(nn.Module):
    """Weights of 40 x 7, 7 x 11 and 11 x 40: the middle one has 77 elements, its bias 11."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(HIDDEN, 7)
        self.across = nn.Linear(7, 11)
        self.up = nn.Linear(11, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(torch.tanh(self.across(torch.tanh(self.down(x)))))
        return out


class TrapNet(nn.Module):
    """A residual net on 16 features with 10 logits, 12,505 parameters with all traits.

    Everything is smooth: a kink, as of a ReLU, would let rounding decide between two gradients.
    A trait that is off leaves out its module; of ``tied`` and ``reused``, where the modules stay,
    the tie and the second application.

    Args:
        traits: Some of `TRAITS`.
        wide: Rows of an additional `Mirror`, of 40 columns; 0 for none. See `wide_enough`.
        bucket_elements: Elements of the parameter of ``bucket_sized``, a multiple of 40.

    Raises:
        ValueError: an unknown trait, or a `bucket_elements` that is no multiple of 40.
    """

    scale: Tensor

    def __init__(
        self, traits: Collection[str] = TRAITS, wide: int = 0, bucket_elements: int = 600
    ) -> None:
        unknown = sorted(set(traits) - set(TRAITS))
        if unknown:
            raise ValueError(
                f"no trait of TrapNet: {', '.join(unknown)}; there are {', '.join(TRAITS)}"
            )
        if bucket_elements < HIDDEN or bucket_elements % HIDDEN:
            raise ValueError(
                f"bucket_elements must be a positive multiple of {HIDDEN}, not {bucket_elements}"
            )
        super().__init__()
        self.traits = frozenset(traits)
        self.encoder = nn.Linear(FEATURES, HIDDEN)
        self.first = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, HIDDEN)
        self.reused = nn.Linear(HIDDEN, HIDDEN)
        if "tied" in self.traits:
            self.last.weight = self.first.weight
        # All are made, so that the weights of the others do not depend on the traits.
        branches = {
            "frozen": nn.Linear(HIDDEN, HIDDEN).requires_grad_(False),
            "alternating": nn.Linear(HIDDEN, HIDDEN),
            "late_branch": nn.Linear(HIDDEN, HIDDEN),
            "odd_shapes": OddShapes(),
            "bucket_sized": Mirror(bucket_elements // HIDDEN, HIDDEN),
        }
        for name, module in branches.items():
            if name in self.traits:
                self.add_module(name, module)
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)
        early = nn.Linear(HIDDEN, HIDDEN)
        if "early_branch" in self.traits:
            self.early_branch = early
        if wide:
            self.wide = Mirror(wide, HIDDEN)
        if "buffer" in self.traits:
            self.register_buffer("scale", torch.linspace(0.5, 1.5, FEATURES))

    def forward(
        self, x: Tensor, *, alternate: bool = False, late: bool = False, early: bool = False
    ) -> Tensor:
        """Map (N, 16) to logits (N, 10); the flags let the sometimes used branches take part.

        A flag whose branch the net does not have changes nothing.
        """
        if "buffer" in self.traits:
            x = x * self.scale.to(x.dtype)
        h = torch.tanh(self.encoder(x))
        h = h + torch.tanh(self.first(h))
        for _ in range(2 if "reused" in self.traits else 1):
            h = h + functional.gelu(self.reused(h))
        for name in self._branches(alternate=alternate, late=late, early=early):
            h = h + torch.tanh(self.get_submodule(name)(h))
        h = h + torch.tanh(self.last(h))
        logits: Tensor = self.head(self.norm(h))
        return logits

    def _branches(self, *, alternate: bool, late: bool, early: bool) -> list[str]:
        taking_part = {
            "frozen": True,
            "alternating": alternate,
            "late_branch": late,
            "early_branch": early,
            "odd_shapes": True,
            "bucket_sized": True,
            "wide": True,
        }
        return [name for name, takes in taking_part.items() if takes and hasattr(self, name)]


def wide_enough(
    *, world_size: int, bytes_per_element: int = 2, block_bytes: int = 2**20, columns: int = HIDDEN
) -> int:
    """Return the `wide` whose one tensor has a partition of `block_bytes` or more on each rank.

    DeepSpeed swaps to NVMe only what fills a block of `aio.block_size` and at least 1 MiB
    (`deepspeed/runtime/swap_tensor`). The result is even: see `Mirror`.
    """
    elements = world_size * -(-block_bytes // bytes_per_element)
    rows = -(-elements // columns)
    return rows + rows % 2


class Trap:
    """The workload that trains `TrapNet` to tell ten clusters apart.

    Args:
        traits: Some of `TRAITS`.
        seed: Of the weights, of the clusters and of the samples.
        wide: Of `TrapNet`.
        bucket_elements: Of `TrapNet`; the config's `reduce_bucket_size` should be the same.
    """

    #: Learning rate of the biases, where they are a group of their own.
    BIAS_LR = 0.02

    def __init__(
        self,
        traits: Collection[str] = TRAITS,
        seed: int = 0,
        wide: int = 0,
        bucket_elements: int = 600,
    ) -> None:
        self.traits = tuple(traits)
        self.seed = seed
        self.wide = wide
        self.bucket_elements = bucket_elements

    @property
    def description(self) -> str:
        return f"{CLASSES} clusters of {FEATURES} features, drawn anew at each step"

    def model(self) -> TrapNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return TrapNet(self.traits, self.wide, self.bucket_elements)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return one group, or with the trait ``groups`` one of weights and one of vectors."""
        trained = [p for p in model.parameters() if p.requires_grad]
        if "groups" not in self.traits:
            return [{"params": trained}]
        vectors = [p for p in trained if p.ndim == 1]
        return [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": vectors, "weight_decay": 0.0, "lr": self.BIAS_LR},
        ]

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
        features, labels = self._samples(step, accumulation_steps * world_size * micro_batch_size)
        parts = (accumulation_steps, world_size, micro_batch_size)
        return Batch(
            features.view(*parts, FEATURES)[micro_step, rank],
            labels.view(*parts)[micro_step, rank],
            alternate=step % 2 == 0,
            late=micro_step == 1,
            early=accumulation_steps > 1 and micro_step == 0,
        )

    def loss(self, model: Any, batch: Batch) -> Tensor:
        first = next(model.parameters())
        device = getattr(model, "device", first.device)  # an engine's, wherever its weights are
        features = batch.features.to(device, first.dtype)
        logits = model(features, alternate=batch.alternate, late=batch.late, early=batch.early)
        return functional.cross_entropy(logits.float(), batch.labels.to(device))

    def _samples(self, step: int, samples: int) -> tuple[Tensor, Tensor]:
        """Return all samples of a step, drawn anew: the same for any split over ranks.

        The classes take turns, so that the loss varies little from step to step, and ranks differ.
        """
        centers = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(self.seed))
        generator = torch.Generator().manual_seed(2**32 * (self.seed + 1) + step)
        labels = torch.arange(samples) % CLASSES
        noise = torch.randn(samples, FEATURES, generator=generator)
        return centers[labels] + 0.5 * noise, labels
