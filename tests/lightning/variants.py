"""Lightning trainings as users write them, right and wrong: ``variants.py NAME``.

Copied beside the tests of an inner session and run there as a script.
"""

import collections
import os
import sys

import pytorch_lightning as pl
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, StepLR
from torch.utils.data import DataLoader, Dataset

FEATURES, CLASSES = 16, 4
Pair = collections.namedtuple("Pair", ["x", "label"])

OFFLOAD = {"offload_optimizer": True, "offload_parameters": True}
NVME = {
    **OFFLOAD,
    "remote_device": "nvme",
    "offload_params_device": "nvme",
    "offload_optimizer_device": "nvme",
    "nvme_path": "/no/such/disk",
    "params_buffer_size": 1_200_000,
}


class Samples(Dataset):
    """Samples of a class each, as `make` has them."""

    def __init__(self, size, make):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(size, FEATURES, generator=generator)
        self.make = make

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        x = self.x[index]
        return self.make(x, x[:CLASSES].argmax())


class Net(pl.LightningModule):
    """Made in its constructor."""

    def __init__(self, hidden=32):
        super().__init__()
        self.first = nn.Linear(FEATURES, hidden)
        self.last = nn.Linear(hidden, CLASSES)

    def loss(self, x, label):
        return functional.cross_entropy(self.last(self.first(x).tanh()).float(), label)

    def training_step(self, batch, batch_idx):
        return self.loss(*batch)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class OnHost(Net):
    """Whose states may be offloaded."""

    def configure_optimizers(self):
        return DeepSpeedCPUAdam(self.parameters(), lr=1e-2)


class EachStep(pl.LightningModule):
    """Made in its hook, partly frozen, fed by dicts, with a schedule for every second step."""

    def configure_model(self):
        if not hasattr(self, "first"):
            self.first = nn.Linear(FEATURES, 400)
            self.frozen = nn.Linear(400, 400)
            self.frozen.requires_grad_(False)
            self.last = nn.Linear(400, CLASSES)

    def training_step(self, batch, batch_idx):
        hidden = self.frozen(self.first(batch["x"]).tanh()).tanh()
        loss = functional.cross_entropy(self.last(hidden), batch["label"])
        self.log("train_loss", loss)
        return {"loss": loss, "hidden": hidden.detach()}

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=1e-2, weight_decay=0.1)
        schedule = LambdaLR(optimizer, lambda done: 1 / (1 + done))
        how = {"scheduler": schedule, "interval": "step", "frequency": 2}
        return {"optimizer": optimizer, "lr_scheduler": how}


class EachEpoch(Net):
    """Fed by namedtuples, without a `batch_idx`, with a schedule for each epoch."""

    def training_step(self, batch):
        return self.loss(batch.x, batch.label)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [StepLR(optimizer, 1, gamma=0.5)]


class AllEpochs(Net):
    """Whose loss grows with the epoch and the step, and whose schedule steps every second epoch."""

    def training_step(self, batch, batch_idx):
        return self.loss(*batch) * (1 + self.current_epoch + 0.1 * self.global_step)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        how = {"scheduler": StepLR(optimizer, 1, gamma=0.5), "frequency": 2}
        return {"optimizer": optimizer, "lr_scheduler": how}


class Hooked(OnHost):
    """With something of its own in a checkpoint."""

    def __init__(self, hidden=400, forgets=False):
        super().__init__(hidden)
        self.forgets = forgets
        self.register_buffer("scale", torch.ones(CLASSES))
        self.seen = 0

    def training_step(self, batch, batch_idx):
        self.seen += 1
        self.scale += 1
        return self.loss(*batch) + 0 * self.scale.sum()

    def on_save_checkpoint(self, checkpoint):
        checkpoint["seen"] = self.seen

    def on_load_checkpoint(self, checkpoint):
        self.seen = checkpoint["seen"]

    def on_train_start(self):
        if self.forgets and self.seen:
            self.scale.zero_()


class Momentum(Net):
    """SGD, to which the size of a gradient matters."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Compensates(Momentum):
    """What PL407 says to write."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * self.trainer.accumulate_grad_batches


class AsksTheTrainer(Momentum):
    """Whose step needs what only a Trainer has."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (self.trainer.datamodule is None)


class OneCycle(Momentum):
    """With a schedule over all that the Trainer will do."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        total = self.trainer.estimated_stepping_batches
        cycle = OneCycleLR(optimizer, max_lr=0.1, total_steps=total, cycle_momentum=False)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


class DropsOut(Momentum):
    """With a layer that draws."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def training_step(self, batch, batch_idx):
        return super().training_step((self.drop(batch[0]), batch[1]), batch_idx)


class ScaledByRank(Momentum):
    """Rank 1 counts three times: a mistake in a weighted loss."""

    def training_step(self, batch, batch_idx):
        return self.loss(*batch) * (1 + 2 * self.global_rank)


class Detached(Momentum):
    """Rank 1 trains its last layer alone."""

    def training_step(self, batch, batch_idx):
        x, label = batch
        hidden = self.first(x).tanh()
        if self.global_rank == 1:
            hidden = hidden.detach() + 0 * hidden
        return functional.cross_entropy(self.last(hidden), label)


class HalvesRate(pl.Callback):
    """Changes the learning rate behind everybody's back."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for group in trainer.optimizers[0].param_groups:
            group["lr"] *= 0.5


def pair(x, label):
    """As most data sets have it."""
    return x, label


#: The module, the strategy's arguments, the samples, how they are given, and the Trainer's.
VARIANTS = {
    "steps": lambda: (EachStep(), {"stage": 3}, 128, lambda x, y: {"x": x, "label": y}, {}),
    "epochs": lambda: (EachEpoch(), {"stage": 2}, 32, Pair, {"precision": "bf16-mixed"}),
    "all_epochs": lambda: (AllEpochs(), {"stage": 1}, 32, pair, {}),
    "hooks": lambda: (Hooked(), {"stage": 3, **OFFLOAD}, 128, pair, {}),
    "forgets": lambda: (Hooked(forgets=True), {"stage": 3, **OFFLOAD}, 128, pair, {}),
    "accumulates": lambda: (
        Momentum(),
        {"stage": 2},
        128,
        pair,
        {"accumulate_grad_batches": 2},
    ),
    "compensates": lambda: (
        Compensates(),
        {"stage": 2},
        128,
        pair,
        {"accumulate_grad_batches": 2},
    ),
    "cycle": lambda: (OneCycle(), {"stage": 2}, 128, pair, {}),
    "asks": lambda: (AsksTheTrainer(), {"stage": 2}, 128, pair, {}),
    "drops_out": lambda: (DropsOut(), {"stage": 1}, 128, pair, {}),
    "scaled": lambda: (ScaledByRank(), {"stage": 2}, 128, pair, {}),
    "detached": lambda: (Detached(), {"stage": 2}, 128, pair, {}),
    "rate": lambda: (Net(), {"stage": 2}, 128, pair, {"callbacks": [HalvesRate()]}),
    "nvme_groups": lambda: (
        OnHost(hidden=40_001),
        {"stage": 3, **NVME, "max_in_cpu": 0},
        128,
        pair,
        {},
    ),
    "nvme_in_cpu": lambda: (
        OnHost(hidden=40_001),
        {"stage": 3, **NVME, "sub_group_size": 1},
        128,
        pair,
        {},
    ),
}


def main():
    """As a script of its own."""
    module, strategy, size, make, more = VARIANTS[sys.argv[1]]()
    assert os.environ["WORLD_SIZE"] == "2"
    pl.Trainer(
        accelerator="gpu", devices=2, strategy=DeepSpeedStrategy(**strategy), max_epochs=9, **more
    ).fit(module, DataLoader(Samples(size, make), batch_size=8))


if __name__ == "__main__":
    main()
