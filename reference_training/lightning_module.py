"""The reference net and images as Lightning's module and data module."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from reference_training.compat import import_torchvision

import_torchvision()  # Lightning imports it through torchmetrics

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from reference_training import order  # noqa: E402
from reference_training.data import Dataset, load  # noqa: E402
from reference_training.model import Net  # noqa: E402


class Classifier(pl.LightningModule):
    """`Net` with cross entropy.

    Args:
        lr: Learning rate.
        width: Of `Net`.
        seed: Of the weights.
        cpu_optimizer: Whether DeepSpeed's CPU Adam updates the weights, which is what offloaded
            optimizer states need, or its fused one. Both decouple weight decay, of which there is
            none.
    """

    net: nn.Module | None

    def __init__(
        self, *, lr: float = 1e-3, width: int = 1, seed: int = 0, cpu_optimizer: bool = False
    ) -> None:
        super().__init__()
        self.lr = lr
        self.width = width
        self.seed = seed
        self.cpu_optimizer = cpu_optimizer
        self.net = None

    def configure_model(self) -> None:
        """Make the net where the strategy wants it: at ZeRO-3 each parameter is cut at its birth.

        Lightning calls this again for each of its entry points.
        """
        if self.net is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                self.net = Net(self.width)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, 32, 32) to logits (N, 10)."""
        assert self.net is not None
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], _batch_idx: int) -> Tensor:
        """Return the mean cross entropy over a micro-batch."""
        loss, _ = self._judge(batch)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _batch_idx: int) -> None:
        """Log `val_loss` and `val_accuracy`, means over all ranks."""
        loss, logits = self._judge(batch)
        accuracy = (logits.argmax(-1) == batch[1]).float().mean()
        self.log_dict({"val_loss": loss, "val_accuracy": accuracy}, sync_dist=True)

    test_step = validation_step

    def predict_step(self, batch: tuple[Tensor, Tensor], _batch_idx: int) -> Tensor:
        """Return the classes (N,) of a micro-batch."""
        classes: Tensor = self(batch[0]).argmax(-1)
        return classes

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return DeepSpeed's Adam, the CPU one where states are offloaded."""
        from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam

        kind: Any = DeepSpeedCPUAdam if self.cpu_optimizer else FusedAdam
        optimizer: torch.optim.Optimizer = kind(self.parameters(), lr=self.lr)
        return optimizer

    def _judge(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        assert self.net is not None
        # Not self(...): Lightning has called this module already, and one within it makes ZeRO-3
        # forget in which order it gathers the parameters (25 collectives a step, and not 11).
        logits = self.net(batch[0])
        return functional.cross_entropy(logits.float(), batch[1]), logits


class ImageData(pl.LightningDataModule):
    """The reference images in the reference order, which plain DeepSpeed trains on too.

    Give the Trainer ``use_distributed_sampler=False``: the order has shuffled the images and split
    them over the ranks, and goes on where a resumed training left off.

    Args:
        data: What `reference_training.data.load` takes.
        batch_size: Images of one rank in one forward pass.
        num_workers: Processes of each rank that load images.
        seed: Of the order, and of synthetic images.
    """

    def __init__(
        self, data: str | None, *, batch_size: int, num_workers: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed

    @functools.cached_property
    def images(self) -> Dataset:
        """The images that are trained on."""
        return load(self.data, seed=self.seed)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this rank's micro-batches of an epoch."""
        assert self.trainer is not None
        batches = _Order(len(self.images), self.batch_size, trainer=self.trainer, seed=self.seed)
        return self._loader(self.images, batch_sampler=batches)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return held-out images, a part of them on each rank."""
        held_out = load(self.data, seed=self.seed, train=False)
        assert self.trainer is not None
        each = range(self.trainer.global_rank, len(held_out), self.trainer.world_size)
        return self._loader(held_out, sampler=list(each), batch_size=self.batch_size)

    test_dataloader = predict_dataloader = val_dataloader

    def _loader(self, images: Dataset, **how: Any) -> DataLoader[Any]:
        return DataLoader(
            _ByBatch(images), collate_fn=_as_it_is, num_workers=self.num_workers, **how
        )


class _ByBatch(torch.utils.data.Dataset[Any]):
    """Images that are transformed a whole batch at once."""

    def __init__(self, images: Dataset) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        return self._images[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """What torch's loader asks for where it is there."""
        return self._images.batch(torch.tensor(indices))


def _as_it_is(batch: Any) -> Any:
    return batch


class _Order:
    """The micro-batches of one rank in an epoch, from the optimizer step that is to come."""

    def __init__(self, images: int, batch_size: int, *, trainer: pl.Trainer, seed: int) -> None:
        self.images = images
        self.batch_size = batch_size  # what Lightning tells DeepSpeed
        self.trainer = trainer
        self.seed = seed

    def __len__(self) -> int:
        return max(1, self.images // (self.batch_size * self.trainer.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        accumulation = self.trainer.accumulate_grad_batches
        first = self.trainer.global_step * accumulation
        for batch in range(first, first + len(self)):
            chosen = order.indices(
                self.images,
                seed=self.seed,
                step=batch // accumulation,
                rank=self.trainer.global_rank,
                world_size=self.trainer.world_size,
                micro_batch_size=self.batch_size,
                accumulation_steps=accumulation,
            )
            yield chosen[batch % accumulation].tolist()
