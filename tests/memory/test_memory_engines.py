"""Real engines on two ranks: what is walked is what the ZeRO arithmetic says, to the byte."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pytest_deepspeed.training.memory import observe
from pytest_deepspeed.training.memory.check import check, measured
from pytest_deepspeed.training.memory.evidence import MemoryEvidence
from pytest_deepspeed.training.memory.layout import layout_of
from pytest_deepspeed.training.memory.limits import Limits

CPU = {"device": "cpu"}
BF16 = {"bf16": {"enabled": True}}
PERSIST = {"stage3_param_persistence_threshold": 20, "stage3_prefetch_bucket_size": 50}
SGD = {"optimizer": {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9}}}

CASES = {
    "zero0": ({"stage": 0}, {}),
    "zero0-bf16": ({"stage": 0}, BF16),
    "zero1": ({"stage": 1}, SGD),
    "zero2-bf16": ({"stage": 2}, BF16),
    "zero2-optimizer_cpu": ({"stage": 2, "offload_optimizer": CPU}, {}),
    "zero3": ({"stage": 3, "sub_group_size": 40, **PERSIST}, {}),
    "zero3-cpu-bf16": (
        {"stage": 3, "offload_optimizer": CPU, "offload_param": CPU, **PERSIST},
        BF16,
    ),
}


class Net(nn.Module):
    """Odd shapes, tied weights, a frozen bias, a buffer.

    Args:
        width: of the hidden layer.
    """

    def __init__(self, width=13):
        super().__init__()
        self.a = nn.Linear(10, width)
        self.b = nn.Linear(10, width)
        self.b.weight = self.a.weight
        self.c = nn.Linear(width, 3)
        self.a.bias.requires_grad_(False)
        self.register_buffer("scale", torch.ones(5))

    def forward(self, x):
        return self.c(torch.relu(self.a(x) + self.b(x))) * self.scale.sum().to(x.dtype)


def train(zero, more, width=13):
    """Two steps of two micro-batches, the second metered; this rank's evidence."""
    import deepspeed

    def groups(model):
        own = [p for n, p in model.named_parameters() if p.requires_grad and n[0] != "c"]
        return [{"params": own}, {"params": list(model.c.parameters()), "weight_decay": 0.0}]

    ds_config = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"reduce_bucket_size": 64, **zero},
        **more,
    }
    plain = Net(width)
    layout = layout_of(plain, groups(plain), ds_config, dist.get_world_size())
    meter = observe.start()
    model = Net(width)
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=groups(model), config=copy.deepcopy(ds_config)
    )

    def step():
        for micro_step in range(2):
            batch = torch.ones(4, 10, dtype=next(engine.module.parameters()).dtype)
            engine.backward(engine(batch).float().sum())
            if micro_step == 1:
                meter.look(engine)
            engine.step()

    step()
    with meter.step():
        step()
    memory = meter.finish(engine)
    engine.destroy()
    return MemoryEvidence(layout, (memory,))


@pytest.mark.world_size(2)
@pytest.mark.parametrize("case", CASES)
def test_walked_bytes_are_the_arithmetic(case):
    """Protects: each stage, bf16 and offload, exactly; the peak holds more than what stays."""
    evidence = train(*CASES[case])
    (memory,) = evidence.ranks

    assert check(evidence, Limits({}, {})) == []
    assert memory.held["module buffers"].bytes == 20
    assert memory.tensors > sum(memory.held[c].bytes for c in ("parameters", "masters"))
    assert (memory.estimate_host is None) == (evidence.layout.stage < 2)


@pytest.mark.world_size(2)
def test_swap_files_are_the_arithmetic(tmp_path):
    """Protects: masters and states of large partitions are on NVMe, and no longer in memory."""
    pytest.importorskip("deepspeed.ops.op_builder")
    offload = {"device": "nvme", "nvme_path": str(tmp_path)}
    evidence = train({"stage": 3, "offload_optimizer": offload, **PERSIST}, {}, width=60_000)
    (memory,) = evidence.ranks

    assert check(evidence, Limits({}, {})) == []
    # 10 * 60000 and 60000 elements of the first group halved, in fp32, as a multiple of 1024
    assert measured(memory, "nvme") == 3 * 1_320_960
    assert all(f"rank{dist.get_rank()}" in name for name in memory.nvme)


@pytest.mark.world_size(2)
def test_an_engine_of_another_stage_is_found():
    """Protects: the arithmetic comes from the config, so an engine that runs another is red."""
    evidence = train({"stage": 1}, BF16)
    model = Net()
    wanted = {"zero_optimization": {"stage": 0}, "optimizer": {"type": "AdamW"}, **BF16}
    groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    found = MemoryEvidence(layout_of(model, groups, wanted, 2), evidence.ranks)

    names = [finding.name for finding in check(found, Limits({}, {}))]
    assert names == ["parameters", "masters", "gradients", "optimizer"]
