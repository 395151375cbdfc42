"""Lightning and DeepSpeed do as the rules PLxxx say, each shown on the installed ones."""

import argparse
import ast
import inspect
import subprocess
import sys

import pytest
import rule_pages

from pytest_deepspeed.configs.known.keys import MISSING
from pytest_deepspeed.configs.lightning import arguments, source

# The second mark lets the agent import Lightning once, and not each rank anew.
pytestmark = [pytest.mark.world_size(1), pytest.mark.lightning]

_QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_steps": 1,
    "accelerator": "cpu",
    "devices": 1,
}

_ACCUMULATED = "gradient_accumulation_steps"


@pytest.fixture
def lightning():
    """Lightning, with our strategy for the CPU, on which the rest is Lightning's own."""
    from reference_training import lightning_strategy

    return lightning_strategy


@pytest.fixture
def net(lightning):
    """``net(**methods)``: a class of a small ``LightningModule``, with more methods."""
    import pytorch_lightning as pl
    import torch

    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, _):
            return self.layer(batch).mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    return lambda **methods: type("Net", (Net,), methods)


@pytest.fixture
def fit(lightning, net):
    """``fit(net_class, trainer={}, **of_strategy)``: the strategy, after a step was trained."""
    import pytorch_lightning as pl
    import torch

    def train(net_class=None, trainer=None, **of_strategy):
        strategy = lightning.DeepSpeedCPUStrategy(**of_strategy)
        of_trainer = pl.Trainer(**{**_QUIET, **(trainer or {})}, strategy=strategy)
        loader = torch.utils.data.DataLoader(torch.ones(4, 4), batch_size=2)
        of_trainer.fit((net_class or net())(), loader)
        return strategy

    return train


@pytest.mark.proof("PL001")
def test_lost_indentation():
    """Protects: a script that lost its indentation is no Python."""
    with pytest.raises(IndentationError):
        ast.parse("def main():\nprint(1)\n")


@pytest.mark.proof("PL002", "PL003")
def test_python_reads_what_is_text(tmp_path):
    """Protects: Python runs a script with comments of ours, and none that is no UTF-8."""
    path = tmp_path / "train.py"
    path.write_text(rule_pages.script_examples("PL003", "Good")[0].text)
    compile(path.read_bytes(), str(path), "exec")

    path.write_bytes(b"x = '\xff'\n")
    ended = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert "SyntaxError" in ended.stderr


@pytest.mark.proof("PL102", "PL101")
def test_untyped_flag():
    """Protects: what is given for a flag without a type is a text, and its default is none."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", default=0.1)

    assert parser.parse_args([]).lr == 0.1
    assert parser.parse_args(["--lr", "0.1"]).lr == "0.1"


@pytest.mark.proof("PL201", "PL202", "PL203", "PL204")
def test_config_of_arguments(lightning):
    """Protects: of arguments we make the config that Lightning makes, none where one is given."""
    all_given = [
        *({"stage": stage} for stage in (0, 1, 2, 3)),
        *source.load().registered.values(),
        {"nvme_path": "local_scratch", "pin_memory": True, "offload_params_device": "nvme"},
        {"stage": 3, "offload_optimizer": True, "nvme_path": "x", "optimizer_buffer_count": 7},
        {"stage": 3, "offload_parameters": True, "pin_memory": True, "max_in_cpu": 5},
        {"zero_optimization": False, "stage": 3, "offload_optimizer": True, "thread_count": 2},
        {"logging_batch_size_per_gpu": 4, "cpu_checkpointing": True},
    ]
    for given in all_given:
        values = {**source.load().strategy, **given}

        assert arguments.config(values) == lightning.DeepSpeedStrategy(**given).config
        with_config = lightning.DeepSpeedStrategy(config={"zero_optimization": {}}, **given)
        assert with_config.config == {"zero_optimization": {}}


@pytest.mark.proof("PL401")
def test_signatures(lightning):
    """Protects: what is read of Lightning's signatures is what they are; there is no ``**more``."""
    import pytorch_lightning as pl

    known = source.load()
    classes = (
        (lightning.DeepSpeedStrategy, known.strategy),
        (inspect.unwrap(pl.Trainer), known.trainer),
    )
    for class_, read in classes:
        parameters = dict(inspect.signature(inspect.unwrap(class_.__init__)).parameters)
        parameters.pop("self")
        assert list(parameters) == list(read)
        plain = {name: value for name, value in read.items() if value is not MISSING}
        assert {name: parameters[name].default for name in plain} == plain
    with pytest.raises(TypeError):
        pl.Trainer(progress_bar_refresh_rate=0)


@pytest.mark.proof("PL205")
def test_remote_device(lightning):
    """Protects: where parameters are offloaded, zero.Init takes their device, else needs it."""
    import deepspeed
    import torch

    deepspeed.init_distributed("gloo")
    offloaded = lightning.DeepSpeedStrategy(stage=3, offload_parameters=True).config
    plain = lightning.DeepSpeedStrategy(stage=3).config
    for config in (offloaded, plain):
        config["train_micro_batch_size_per_gpu"] = 1

    init = deepspeed.zero.Init(remote_device="nvme", config_dict_or_path=offloaded)
    assert init.remote_device == "cpu"
    for enabled in (True, False):
        with pytest.raises(AssertionError, match="offload_param"):
            deepspeed.zero.Init(remote_device="nvme", config_dict_or_path=plain, enabled=enabled)
    with deepspeed.zero.Init(remote_device="cpu", config_dict_or_path=plain, enabled=False):
        assert not hasattr(torch.nn.Linear(2, 2).weight, "ds_id")


@pytest.mark.proof("PL206", "PL207", "PL307", "PL402", "PL403", "PL404", "PL405")
def test_refused(fit, net, lightning):
    """Protects: Lightning and DeepSpeed refuse what the rules say that they refuse."""
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.callbacks import GradientAccumulationScheduler
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    def two(self):
        return [torch.optim.SGD([weight], 0.1) for weight in self.parameters()]

    by_value = {"gradient_clip_algorithm": "value", "gradient_clip_val": 1.0}
    scheduler = {"callbacks": [GradientAccumulationScheduler({1: 2})]}
    for error, said, refused in (
        (MisconfigurationException, "accumulation_steps", {"config": {_ACCUMULATED: 2}}),
        (AssertionError, "train_batch_size", {"config": {"train_batch_size": 7}}),
        (RuntimeError, "multiple optimizers", {"net_class": net(configure_optimizers=two)}),
        (ValueError, "precision='64-true'", {"trainer": {"precision": 64}}),
        (MisconfigurationException, "by value", {"trainer": by_value}),
        (RuntimeError, "accumulate_grad_batches", {"trainer": scheduler}),
    ):
        with pytest.raises(error, match=said):
            fit(**refused)
    with pytest.raises((RuntimeError, ValueError), match="only supported on CUDA"):
        pl.Trainer(**_QUIET, strategy="deepspeed_stage_3").fit(net()(), [])
    fit(trainer={"accumulate_grad_batches": 2})


@pytest.mark.proof("PL208")
def test_optimizer_in_config(fit, net):
    """Protects: the model's optimizer is not asked for where the config has one."""
    called = []
    params = {"type": "Adam", "params": {"lr": 0.1, "torch_adam": True}}

    def configure(self):
        called.append(self)

    fit(net(configure_optimizers=configure), config={"optimizer": params})

    assert called == []


@pytest.mark.proof("PL301")
def test_deprecated_hook(fit, net):
    """Protects: Lightning calls the hook, and warns of it."""
    with pytest.warns(DeprecationWarning, match="configure_sharded_model"):
        fit(net(configure_sharded_model=lambda self: None))


@pytest.mark.proof("PL302", "PL303")
@pytest.mark.parametrize("hook", ["configure_model", "configure_sharded_model"])
def test_what_a_hook_shards(hook, fit, net):
    """Protects: what is built in the hook is sharded there, and what was built before is not."""
    import torch
    from deepspeed.runtime.zero.partition_parameters import is_zero_param

    seen = {}

    def build(self):
        self.block = torch.nn.Sequential(self.layer)
        self.head = torch.nn.Linear(4, 4)
        seen["wrapped"] = is_zero_param(self.block[0].weight)
        seen["built"] = is_zero_param(self.head.weight)

    fit(net(**{hook: build}), stage=3)

    assert seen == {"wrapped": False, "built": True}


@pytest.mark.proof("PL304")
def test_optimizer_of_torch_and_offload(fit):
    """Protects: DeepSpeed refuses an optimizer of the script that does not run on the host."""
    from deepspeed.runtime.zero.utils import ZeRORuntimeException

    with pytest.raises(ZeRORuntimeException, match="DeepSpeedCPUAdam"):
        fit(stage=2, offload_optimizer=True)


@pytest.mark.proof("PL305")
def test_optimizer_on_host_refuses_others():
    """Protects: DeepSpeedCPUAdam asserts that each weight is on the host, before it does a step."""
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    weight = torch.nn.Parameter(torch.ones(2, device="meta"))
    weight.grad = torch.ones_like(weight)
    optimizer = DeepSpeedCPUAdam.__new__(DeepSpeedCPUAdam)
    torch.optim.Optimizer.__init__(optimizer, [weight], {"amsgrad": False})

    with pytest.raises(AssertionError, match="must be 'cpu'"):
        optimizer.step()


@pytest.mark.proof("PL306")
def test_own_clipping(fit, net):
    """Protects: the hook for clipping is called, and what it does to gradients has no effect."""
    import torch

    weights = {}

    def clip(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        for weight in self.parameters():
            if weight.grad is not None:
                weight.grad.zero_()
        weights["before"] = self.layer.weight.detach().clone()

    def after(self):
        weights["after"] = self.layer.weight.detach().clone()

    fit(net(configure_gradient_clipping=clip, on_train_end=after), stage=2)

    assert not torch.equal(weights["before"], weights["after"])


@pytest.mark.proof("PL406")
@pytest.mark.world_size(2)
def test_shuffled_all_the_same(lightning, net):
    """Protects: on two ranks a loader without shuffling is made to shuffle."""
    import pytorch_lightning as pl
    import torch

    on_two = {**_QUIET, "devices": 2, "strategy": lightning.DeepSpeedCPUStrategy(stage=2)}
    trainer = pl.Trainer(**on_two)
    loader = torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=2, shuffle=False)
    trainer.fit(net()(), loader)

    sampler = trainer.train_dataloader.sampler
    assert type(sampler) is torch.utils.data.DistributedSampler
    assert sampler.shuffle is True


@pytest.mark.proof("PL407")
def test_accumulation_divides_twice(net, lightning):
    """Protects: of a loss of 1 a quarter is differentiated, not half, with two micro-batches."""
    import pytorch_lightning as pl
    import torch

    seen = []

    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            engine = trainer.strategy.deepspeed_engine
            if engine.is_gradient_accumulation_boundary():
                seen.append(float(module.layer.bias.grad))

    # The mean of two gradients of 1; the second division makes it a half.
    loader = torch.utils.data.DataLoader(torch.ones(4, 4), batch_size=2)
    trainer = pl.Trainer(
        **_QUIET,
        strategy=lightning.DeepSpeedCPUStrategy(stage=0),
        accumulate_grad_batches=2,
        callbacks=[Look()],
    )
    trainer.fit(net()(), loader)

    assert seen == [0.5]


@pytest.mark.proof("PL308")
def test_a_nested_call_starts_the_trace_again(fit, net, monkeypatch):
    """Protects: DeepSpeed takes each call of the module for a new step."""
    from deepspeed.runtime.zero.partitioned_param_coordinator import (
        PartitionedParameterCoordinator,
    )

    starts = []
    real = PartitionedParameterCoordinator.reset_step

    def reset_step(coordinator):
        starts.append(1)
        return real(coordinator)

    monkeypatch.setattr(PartitionedParameterCoordinator, "reset_step", reset_step)
    fit(net(), stage=3)
    once = len(starts)
    starts.clear()
    nested = {
        "forward": lambda self, batch: self.layer(batch),
        "training_step": lambda self, batch, _: self(batch).mean(),
    }
    fit(net(**nested), stage=3)

    assert len(starts) == once + 1
