"""Modes that engage, and modes that do not, on real engines."""

import engagement_runs as runs
import pytest

pytestmark = pytest.mark.world_size(2)


@pytest.mark.ds_config(runs.config(3, "bf16", optimizer="nvme", param="nvme"))
def test_nvme_engages(ds_config, tmp_path, rank):
    """Protects: a sound NVMe mode has no finding; its files are there and outlive the engine."""
    config = runs.on(ds_config, tmp_path)

    evidence, groups = runs.observed(config, wide=runs.WIDE)

    assert runs.check(config, [evidence], steps=runs.STEPS, groups=groups) == []
    left = runs.observe.swap_files(tmp_path, rank)
    assert {f.path for f in evidence.swap_files} <= {f.path for f in left}
    assert len(evidence.swap_files) == 5


@pytest.mark.ds_config(runs.config(3, "bf16", optimizer="nvme", param="nvme"))
def test_model_too_small_to_swap(ds_config, tmp_path):
    """Protects: an NVMe mode whose partitions stay in memory is told how large they must be."""
    assert runs.findings(runs.on(ds_config, tmp_path)) == [
        (
            "offload_optimizer",
            (
                "offload_optimizer.device is 'nvme', but nothing is swapped: the largest partition"
                " of a group has 4,119 elements on this rank, 16.09 KiB, and DeepSpeed swaps from"
                " 1.00 MiB on. Widen the model to 262,144 elements a rank, or use fewer ranks."
            ),
        ),
        (
            "offload_param",
            (
                "offload_param.device is 'nvme', but nothing is swapped: the largest part of a"
                " parameter has 800 elements on this rank, 1.56 KiB, and DeepSpeed swaps from 1.00"
                " MiB on. Widen the model to 524,288 elements a rank, or use fewer ranks."
            ),
        ),
    ]


@pytest.mark.ds_config(runs.config(2, optimizer="nvme"))
def test_nvme_at_stage_2_is_cpu_offload(ds_config, tmp_path):
    """Protects: NVMe at stage 2, which DeepSpeed makes CPU offload in silence, is a finding."""
    assert runs.findings(runs.on(ds_config, tmp_path)) == [
        (
            "offload_optimizer",
            (
                "zero_optimization.offload_optimizer.device is 'nvme', but DeepSpeedZeroOptimizer"
                " at stage 2 keeps the optimizer states in CPU memory: DeepSpeed ignored it. Use a"
                ' stage that has it (3 has all), or write "device": "cpu", which is what this'
                " config does."
            ),
        )
    ]


@pytest.mark.ds_config(runs.config(2, param="cpu", torch_adam=True))
def test_offload_param_at_stage_2_is_ignored(ds_config):
    """Protects: parameter offload below stage 3, which DeepSpeed ignores in silence, is found."""
    assert runs.findings(ds_config) == [
        (
            "offload_param",
            (
                "zero_optimization.offload_param.device is 'cpu', but DeepSpeedZeroOptimizer at"
                " stage 2 keeps the parameters on the accelerator: DeepSpeed ignored it. Use a"
                ' stage that has it (3 has all), or write "device": "none", which is what this'
                " config does."
            ),
        )
    ]


@pytest.mark.ds_config(
    runs.config(3, torch_adam=True) | {"zero_optimization": {"stage": 3}},
)
def test_persistence_swallows_the_model(ds_config):
    """Protects: a model below DeepSpeed's default persistence threshold is not partitioned."""
    assert runs.findings(ds_config) == [
        (
            "persistence",
            (
                "ZeRO-3 partitions nothing: none of the 23 parameters has more elements than"
                " stage3_param_persistence_threshold = 100,000, so that each rank keeps them whole."
                " Set it below 1,600, the elements of first.weight, or widen the model."
            ),
        )
    ]


@pytest.mark.ds_config(runs.config(0, "bf16", torch_adam=True))
def test_a_step_too_many(ds_config):
    """Protects: stage 0 in bf16 steps once at its start, which its step count shows."""
    assert runs.findings(ds_config) == [
        (
            "optimizer_steps",
            (
                "2 steps were applied, but AdamW counted 3. Its bias correction, and what it did to"
                " the weights, are those of another step."
            ),
        )
    ]


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(made, id=name, marks=pytest.mark.ds_config(made))
        for name, made in {
            "zero0": runs.config(0, torch_adam=True),
            "zero1-bf16": runs.config(1, "bf16", torch_adam=True),
            "zero2-aligned": runs.config(2, "bf16", torch_adam=True, parameter_alignment=True),
            "zero2-round_robin": runs.config(2, torch_adam=True, round_robin_gradients=True),
            "zero2-cpu": runs.config(2, "bf16", optimizer="cpu"),
            "zero3": runs.config(3, torch_adam=True),
            "zero3-sub_groups-cpu": runs.config(
                3, "bf16", optimizer="cpu", param="cpu", sub_group_size=1000
            ),
        }.items()
    ],
)
def test_modes_that_engage(config):
    """Protects: the expected partitions, padding and sub-groups are those that DeepSpeed makes."""
    assert runs.findings(config) == []
