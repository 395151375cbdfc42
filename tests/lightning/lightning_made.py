"""A small Lightning training; imports Lightning, so tests import it on ranks alone."""

from pathlib import Path

from reference_training.lightning_strategy import DeepSpeedCPUStrategy

import pytorch_lightning as pl  # isort: skip (torchvision)
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from pytest_deepspeed.training import state

FEATURES, CLASSES, SAMPLES, BATCH_SIZE = 256, 10, 48, 8

#: Steps of an epoch on two ranks.
STEPS = SAMPLES // (2 * BATCH_SIZE)


class Net(pl.LightningModule):
    """Two layers; the first is swapped to NVMe where there are hidden features enough."""

    def __init__(self, hidden=32, seed=0, on_host=False):
        super().__init__()
        self.hidden, self.seed, self.on_host = hidden, seed, on_host

    def configure_model(self):
        """Called for each entry point of the Trainer."""
        if not hasattr(self, "layers"):
            torch.manual_seed(self.seed)
            self.layers = nn.Sequential(
                nn.Linear(FEATURES, self.hidden), nn.Tanh(), nn.Linear(self.hidden, CLASSES)
            )

    def loss(self, batch):
        """Cross entropy."""
        return functional.cross_entropy(self.layers(batch[0]).float(), batch[1])

    def training_step(self, batch, _batch_idx):
        """Logs too."""
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, _batch_idx):
        """A mean over the ranks."""
        self.log("judged", self.loss(batch), sync_dist=True)

    test_step = validation_step

    def predict_step(self, batch, _batch_idx):
        """Logits."""
        return self.layers(batch[0]).float()

    def configure_optimizers(self):
        """DeepSpeed's where it has to be."""
        kind = DeepSpeedCPUAdam if self.on_host else torch.optim.Adam
        return kind(self.parameters(), lr=1e-2)


def loader():
    """The same samples each time, in order."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, FEATURES, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :CLASSES].argmax(-1)), batch_size=BATCH_SIZE)


def trainer(folder, *callbacks, strategy, **arguments):
    """A quiet Trainer on the ranks of the test."""
    return pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DeepSpeedCPUStrategy(**strategy) if isinstance(strategy, dict) else strategy,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **arguments,
    )


class Weights(pl.Callback):
    """Whole fp32 weights at the start and at the end of `fit`, and what lies in a directory."""

    def __init__(self, swapped_to=None):
        self.folder = swapped_to
        self.first = self.last = None
        self.swapped = []

    def on_train_start(self, trainer, pl_module):
        """A checkpoint is loaded by now."""
        self.first = state.full_parameters(trainer.strategy.deepspeed_engine)

    def on_train_end(self, trainer, pl_module):
        """The engine is still there."""
        self.last = state.full_parameters(trainer.strategy.deepspeed_engine)
        if self.folder is not None:
            self.swapped = [p for p in Path(self.folder).rglob("*.swp") if p.stat().st_size]


def equal(one, other):
    """Whether two states have the same names and bits."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
