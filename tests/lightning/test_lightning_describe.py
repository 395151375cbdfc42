"""What a Lightning training is: its config, its optimizer as a block of one, its twin's limits."""

import json
import textwrap

import pytest

pytestmark = [pytest.mark.lightning, pytest.mark.world_size(1), pytest.mark.ds_timeout(100)]


class Configured:
    """A module as far as its optimizers go."""

    automatic_optimization = True

    def __init__(self, given):
        self.given = given

    def configure_optimizers(self):
        """Whatever the test says."""
        return self.given


@pytest.fixture
def weights():
    """Something to optimize."""
    import torch

    return [torch.nn.Parameter(torch.ones(3))]


def test_optimizer_blocks(weights):
    """Protects: each optimizer has the block that makes DeepSpeed and the twin take the same."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
    from torch import optim

    from pytest_deepspeed.training.lightning.optimizer import block_of

    adam = {"lr": 0.5, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
    sgd = {"lr": 0.5, "weight_decay": 0.0, "momentum": 0.9, "dampening": 0, "nesterov": False}
    blocks = {
        "fused": block_of(FusedAdam(weights, lr=0.5, weight_decay=0.1)),
        "fused, coupled": block_of(FusedAdam(weights, lr=0.5, adam_w_mode=False)),
        "on the host": block_of(DeepSpeedCPUAdam(weights, lr=0.5)),
        "on the host, coupled": block_of(DeepSpeedCPUAdam(weights, lr=0.5, adamw_mode=False)),
        "torch": block_of(optim.Adam(weights, lr=0.5)),
        "torch, decoupled": block_of(optim.AdamW(weights, lr=0.5)),
        "sgd": block_of(optim.SGD(weights, lr=0.5, momentum=0.9)),
        "unknown": block_of(optim.Rprop(weights, lr=0.5)),
        "amsgrad": block_of(optim.Adam(weights, lr=0.5, amsgrad=True)),
        "uncorrected": block_of(FusedAdam(weights, lr=0.5, bias_correction=False)),
    }

    assert blocks == {
        "fused": {"type": "AdamW", "params": {**adam, "weight_decay": 0.1}},
        "fused, coupled": {"type": "Adam", "params": {**adam, "adam_w_mode": False}},
        "on the host": {"type": "AdamW", "params": adam},
        "on the host, coupled": {"type": "Adam", "params": {**adam, "adam_w_mode": False}},
        "torch": {"type": "Adam", "params": {**adam, "torch_adam": True, "adam_w_mode": False}},
        "torch, decoupled": {
            "type": "AdamW",
            "params": {**adam, "weight_decay": 0.01, "torch_adam": True},
        },
        "sgd": {"type": "SGD", "params": sgd},
        "unknown": {"type": "Rprop", "params": {"lr": 0.5}},
        "amsgrad": {
            "type": "Adam",
            "params": {**adam, "amsgrad": True, "torch_adam": True, "adam_w_mode": False},
        },
        "uncorrected": {"type": "AdamW", "params": {**adam, "bias_correction": False}},
    }


def test_what_configure_optimizers_returns(weights):
    """Protects: every form that Lightning takes is read, with its schedule's interval."""
    from torch.optim import SGD
    from torch.optim.lr_scheduler import StepLR

    from pytest_deepspeed.training.lightning.optimizer import configured

    optimizer = SGD(weights, lr=0.5)
    steps = StepLR(optimizer, 1)
    each_epoch = {"interval": "epoch", "frequency": 1, "scheduler": steps}
    each_step = {"scheduler": steps, "interval": "step", "frequency": 2}
    forms = [
        (optimizer, None),
        ([optimizer], None),
        ((optimizer,), None),
        ({"optimizer": optimizer}, None),
        ([{"optimizer": optimizer}], None),
        (([optimizer], []), None),
        (([optimizer], [steps]), each_epoch),
        (([optimizer], [each_step]), each_step),
        ({"optimizer": optimizer, "lr_scheduler": steps}, each_epoch),
        ({"optimizer": optimizer, "lr_scheduler": each_step}, each_step),
        (({"optimizer": optimizer, "lr_scheduler": each_step},), each_step),
    ]
    for given, schedule in forms:
        assert configured(Configured(given)) == (optimizer, schedule), given

    others = {
        (0, 0): None,
        (2, 0): [optimizer, optimizer],
        (2, 1): [{"optimizer": optimizer, "lr_scheduler": steps}, {"optimizer": optimizer}],
        (1, 2): ([optimizer], [steps, steps]),
    }
    for (optimizers, schedulers), given in others.items():
        with pytest.raises(ValueError, match="configure_optimizers") as raised:
            configured(Configured(given))
        assert str(raised.value) == (
            f"configure_optimizers returned {optimizers} optimizers and {schedulers} schedulers,"
            " and DeepSpeed takes one of each"
        )


def test_why_there_is_no_twin(weights):
    """Protects: what plain torch cannot train is told with its reason; the block stays."""
    from torch.optim import SGD
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    from pytest_deepspeed.training.lightning.describe import _optimizer

    optimizer = SGD(weights, lr=0.5)
    manual = Configured(optimizer)
    manual.automatic_optimization = False
    plateau = {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "val_loss"},
    }
    block, none = _optimizer(Configured(optimizer))

    assert (block["type"], none) == ("SGD", "")
    assert _optimizer(manual) == (
        {},
        "the module steps its optimizer itself (automatic_optimization is False)",
    )
    assert _optimizer(Configured([optimizer, optimizer])) == (
        {},
        (
            "configure_optimizers returned 2 optimizers and 0 schedulers, and DeepSpeed takes one"
            " of each"
        ),
    )
    assert _optimizer(Configured(plateau)) == (
        block,
        "the schedule ReduceLROnPlateau depends on what is measured",
    )


SCRIPT = """
import lightning_made, pytorch_lightning as pl, torch
from pytorch_lightning.strategies import DeepSpeedStrategy

class Net(lightning_made.Net):
    def configure_model(self):
        super().configure_model()
        self.whole = all(p.numel() > 0 for p in self.parameters())

    def configure_optimizers(self):
        assert self.whole  # nothing is cut, since no engine is made
        return torch.optim.AdamW(self.parameters(), lr=0.25)

strategy = DeepSpeedStrategy(stage=3, offload_optimizer=True, offload_parameters=True,
    remote_device="nvme", offload_params_device="nvme", offload_optimizer_device="nvme",
    nvme_path="/no/such/disk")
pl.Trainer(accelerator="gpu", devices=4, strategy=strategy, precision="16-mixed",
    gradient_clip_val=0.5, accumulate_grad_batches=3).fit(Net(), lightning_made.loader())
"""


def test_the_config_of_a_script(tmp_path):
    """Protects: what Lightning would give to DeepSpeed is found without a disk or an engine."""
    from torch import distributed

    from pytest_deepspeed.training.lightning.describe import describe

    file = tmp_path / "train.py"
    file.write_text(textwrap.dedent(SCRIPT))

    text = describe(str(file), data="synthetic", seed=0, rank=0)
    found = json.loads(text)
    config, own = found["ds_config"], found["strategy_config"]

    assert describe(str(file), data="synthetic", seed=0, rank=1) is None
    assert config.pop("optimizer")["params"]["lr"] == 0.25
    assert config == own
    assert (config["gradient_clipping"], config["gradient_accumulation_steps"]) == (0.5, 3)
    assert config["train_micro_batch_size_per_gpu"] == 8
    assert config["bf16"] == {"enabled": True}
    assert config["zero_optimization"]["offload_param"]["nvme_path"] == "/no/such/disk"
    assert found["uncovered"] == ""
    assert found["changes"] == [
        (
            "DeepSpeedStrategy -> DeepSpeedCPUStrategy with gloo, since Lightning refuses DeepSpeed"
            " on a CPU."
        ),
        "precision 16-mixed -> bf16-mixed (a CPU does not train in fp16).",
    ]
    assert distributed.is_initialized()
    assert not tmp_path.joinpath("lightning_logs").exists()


def test_problems_of_a_strategy():
    """Protects: the public function says of a strategy what a config file's test says of it, and
    nothing of what Lightning sets by itself.
    """
    from pytorch_lightning.strategies import DeepSpeedStrategy

    from pytest_deepspeed.lightning import DeepSpeedCPUStrategy, problems

    below_stage_3 = {"offload_optimizer": True, "offload_optimizer_device": "nvme"}
    mistaken = {"gradient_clippping": 1.0, "zero_optimization": {"stage": 4}}

    assert problems(DeepSpeedStrategy(stage=3)) == []
    assert problems(DeepSpeedCPUStrategy(stage=3, offload_optimizer=True)) == []
    assert problems(DeepSpeedStrategy(stage=2, nvme_path="/local/1", **below_stage_3)) == [
        (
            "DS602 nvme-below-stage-3: DeepSpeed puts nothing on NVMe at stage 2: the optimizer is"
            ' in the CPU\'s memory; write "stage": 3, or "cpu"'
        )
    ]
    swaps = DeepSpeedStrategy(
        stage=3,
        offload_optimizer=True,
        offload_optimizer_device="nvme",
        nvme_path="local_scratch",
    )
    assert problems(swaps) == []
    (relative,) = [p for p in problems(swaps, warnings=True) if p.startswith("DS703")]
    assert relative == (
        'DS703 nvme-path-relative: DeepSpeed makes the directory "local_scratch" where the ranks'
        " are started: on a cluster that is where the job was submitted, and seldom on NVMe; write"
        ' an absolute path on a disk of the node: "/local/disk/of/the/node/JOB_ID"'
    )
    assert problems(DeepSpeedStrategy(config=mistaken)) == [
        (
            'DS101 unknown-key: DeepSpeed ignores "gradient_clippping", a key that it does not'
            ' know; did you mean "gradient_clipping"?'
        ),
        (
            'DS204 not-a-choice: DeepSpeed stops when it reads the config: "zero_optimization.'
            'stage" cannot be 4; write 0, 1, 2 or 3'
        ),
    ]
