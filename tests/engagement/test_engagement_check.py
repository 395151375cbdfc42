"""The engagement check on evidence written by hand: sound ones, and each with its least fault."""

import dataclasses

import pytest

from pytest_deepspeed.training.engagement import asked, expect, layout
from pytest_deepspeed.training.engagement.check import check
from pytest_deepspeed.training.engagement.evidence import (
    GradientPart,
    Gradients,
    Parameter,
    Partition,
    RankEngagement,
    State,
    SwapFile,
)
from pytest_deepspeed.values import plain

STEPS = 3
MOMENTS = ("exp_avg", "exp_avg_sq")
ADAMW = {
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 1.0,
    "optimizer": {"type": "AdamW", "params": {"lr": 0.1, "betas": [0.9, 0.99]}},
}
STAGE2 = ADAMW | {"zero_optimization": {"stage": 2}}
NVME = ADAMW | {
    "bf16": {"enabled": True},
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 10,
        "offload_optimizer": {"device": "nvme", "nvme_path": "/nvme"},
        "offload_param": {"device": "nvme", "nvme_path": "/nvme", "max_in_cpu": 0},
    },
}


def partition(numel, padding=0, *, swapped=False):
    """Master weights of group 0 with Adam's states."""
    resident, device = (0, "nvme") if swapped else (numel, "cpu")
    states = tuple(State(key, resident, "float32", device) for key in MOMENTS)
    return Partition(0, numel, padding, resident, "float32", device, states)


def sound(rank, **changes):
    """Stage 2: 9 and 2 elements make 12 with padding, 6 for each of two ranks."""
    base = RankEngagement(
        rank=rank,
        world_size=2,
        accelerator="cpu",
        stage=2,
        wrapper="DeepSpeedZeroOptimizer",
        optimizer="FusedAdam",
        decoupled_weight_decay=True,
        groups=({"lr": (0.1,), "betas": (0.9, 0.99), "weight_decay": (0.5,)},),
        optimizer_steps=3,
        global_steps=3,
        skipped_steps=0,
        micro_steps=6,
        accumulation_steps=2,
        clipping=1.0,
        scheduler="",
        offload_optimizer="none",
        offload_param="none",
        parameters=(
            Parameter("a", (3, 3), True, 0, 0, "float32", 9, None, False, "cpu"),
            Parameter("b", (2,), True, 0, 1, "float32", 2, None, False, "cpu"),
            Parameter("frozen", (5,), False, None, None, "float32", 5, None, False, "cpu"),
        ),
        partitions=(partition(6, rank),),
        gradients=Gradients(0, (GradientPart(0, 6, 0, "float32", "cpu"),)),
        swap_files=(),
    )
    return dataclasses.replace(base, **changes)


def swapping(rank, **changes):
    """Stage 3 with all on NVMe: 1024 x 1024 and 3 elements, 524,288 and 2 for each of two ranks."""
    folder = f"optimizer/rank{rank}"
    return sound(
        rank,
        **{
            "stage": 3,
            "wrapper": "DeepSpeedZeroOptimizer_Stage3",
            "optimizer": "DeepSpeedCPUAdam",
            "offload_optimizer": "nvme",
            "offload_param": "nvme",
            "parameters": (
                Parameter("wide", (1024, 1024), True, 0, 0, "bfloat16", 0, 524288, False, "nvme"),
                Parameter("bias", (3,), True, 0, 1, "bfloat16", 3, 2, True, "cpu"),
            ),
            "partitions": (partition(524290, rank, swapped=True),),
            "gradients": Gradients(0, (GradientPart(0, 2, 524288, "float32", "cpu"),)),
            "swap_files": (
                SwapFile(f"{folder}/0_1.tensor.swp", 2098176, False),
                SwapFile(f"{folder}/exp_avg-0_1.tensor.swp", 2098176, False),
                SwapFile(f"{folder}/exp_avg_sq-0_1.tensor.swp", 2098176, False),
                SwapFile(f"{folder}/0_1_gradient_0_524288.tensor.swp", 2097152, False),
                SwapFile(f"bfloat16params/rank{rank}/0_param.tensor.swp", 1048576, False),
            ),
        }
        | changes,
    )


def changed(make, config, *, given=(), config_changes=None, **changes):
    """Name, message and parameter of the findings when rank 1's evidence is changed so."""
    ranks = [make(0), make(1, **changes)]
    found = check(config | (config_changes or {}), ranks, steps=STEPS, groups=given)
    return [(finding.name, finding.message, finding.parameter) for finding in found]


def first(make, **changes):
    """The first parameter of an evidence, changed, and the others as they are."""
    parameters = make(1).parameters
    return (dataclasses.replace(parameters[0], **changes), *parameters[1:])


def resized(make, index, **changes):
    """The swap files of an evidence, one of them changed."""
    files = list(make(1).swap_files)
    files[index] = dataclasses.replace(files[index], **changes)
    return tuple(files)


@pytest.mark.parametrize(("make", "config"), [(sound, STAGE2), (swapping, NVME)])
def test_sound_evidence_has_no_finding(make, config):
    """Protects: a mode that engaged passes, also after its evidence travelled as JSON."""
    ranks = [plain.load(RankEngagement, plain.dump(make(rank))) for rank in range(2)]

    assert check(config, ranks, steps=STEPS) == []


def test_what_all_ranks_share_is_one_finding():
    """Protects: a fault of every rank is told once, without their numbers."""
    ranks = [sound(0, clipping=0.0), sound(1, clipping=0.0)]

    assert [f.message for f in check(STAGE2, ranks, steps=STEPS)] == [
        (
            "gradient_clipping is 1, but DeepSpeedZeroOptimizer clips to 0. Spell the key"
            " gradient_clipping, at the top level."
        )
    ]


FAULTS = {
    "stage": (
        {"stage": 1},
        (
            "zero_optimization.stage is 2, but DeepSpeedZeroOptimizer runs, which is stage 1. See"
            " what the script passes to deepspeed.initialize. (rank 1)"
        ),
    ),
    "optimizer_class": (
        {"optimizer": "AdamW"},
        (
            "optimizer.type 'AdamW' should be FusedAdam, but AdamW runs. An optimizer that the"
            " script passes to deepspeed.initialize replaces the config's. (rank 1)"
        ),
    ),
    "weight_decay_mode": (
        {"decoupled_weight_decay": False},
        (
            "optimizer.type 'AdamW' should decouple its weight decay, but FusedAdam's adam_w_mode"
            " says the opposite. Set optimizer.params.adam_w_mode. (rank 1)"
        ),
    ),
    "hyperparameters": (
        {"groups": ({"lr": (0.1,), "betas": (0.9, 0.999)},)},
        (
            "betas of parameter group 0 should be 0.9, 0.99, but the optimizer has 0.9, 0.999. A"
            " scheduler, or code that sets it, replaces the config's value. (rank 1)"
        ),
    ),
    "optimizer_steps": (
        {"optimizer_steps": 4},
        (
            "3 steps were applied, but FusedAdam counted 4. Its bias correction, and what it did to"
            " the weights, are those of another step. (rank 1)"
        ),
    ),
    "clipping": (
        {"clipping": 0.5},
        (
            "gradient_clipping is 1, but DeepSpeedZeroOptimizer clips to 0.5. Spell the key"
            " gradient_clipping, at the top level. (rank 1)"
        ),
    ),
    "scheduler": (
        {"scheduler": "WarmupLR"},
        (
            "scheduler.type is not set, but WarmupLR runs. A scheduler that the script passes to"
            " deepspeed.initialize replaces the config's. (rank 1)"
        ),
    ),
    "states": (
        {
            "partitions": (
                dataclasses.replace(
                    partition(6, 1), states=(State("exp_avg", 5, "float32", "cpu"),)
                ),
            )
        },
        (
            "exp_avg of parameter group 0 has 5 elements in memory and the master weights 6: they"
            " should be alike. (rank 1)"
        ),
    ),
    "partitions": (
        {"partitions": (partition(6),)},
        (
            "at stage 2 on 2 ranks this rank's master weights should be 6 elements of group 0, 1 of"
            " them padding, but are 6 elements of group 0. (rank 1)"
        ),
    ),
    "devices": (
        {"accelerator": "cuda", "partitions": (partition(6, 1),)},
        "master weights of parameter group 0 should be on cuda, but are on cpu. (rank 1)",
    ),
    "offload_optimizer": (
        {"offload_optimizer": "cpu"},
        (
            "zero_optimization.offload_optimizer.device is 'none', but DeepSpeedZeroOptimizer at"
            " stage 2 keeps the optimizer states in CPU memory: DeepSpeed ignored it. Use a stage"
            ' that has it (3 has all), or write "device": "cpu", which is what this config does.'
            " (rank 1)"
        ),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_at_stage_2(name):
    """Protects: the least fault of each kind is a finding with all that one needs to act on it."""
    changes, message = FAULTS[name]

    found = changed(sound, STAGE2, **changes)

    assert found[0] == (name, message, "")
    assert {other for other, _, _ in found} == {name}


ACCUMULATION = {
    "engine": (
        {"accumulation_steps": 1},
        (
            "the config accumulates 2 micro-batches, but the engine 1. Look at train_batch_size ="
            " train_micro_batch_size_per_gpu x gradient_accumulation_steps x ranks. (rank 1)"
        ),
    ),
    "passes": (
        {"micro_steps": 5},
        (
            "3 steps of 2 micro-batches are 6 passes, but the engine counted 3 steps and 5 passes."
            " Call engine.step() once after each engine.backward(). (rank 1)"
        ),
    ),
}


@pytest.mark.parametrize("case", ACCUMULATION)
def test_accumulation(case):
    """Protects: micro-batches that are not those of the config are found by setting and count."""
    changes, message = ACCUMULATION[case]

    assert changed(sound, STAGE2, **changes) == [("accumulation", message, "")]


def test_precision_names_the_parameter():
    """Protects: a parameter, or a master weight, in another dtype than configured is found."""
    masters = dataclasses.replace(partition(6, 1), dtype="bfloat16")

    assert changed(
        sound, STAGE2, parameters=first(sound, dtype="bfloat16"), partitions=(masters,)
    ) == [
        (
            "precision",
            (
                "the config computes in float32, but 1 of 3 parameters are in bfloat16, a first."
                ' Look at the blocks bf16 and fp16: "enabled" must be true, not "auto". (rank 1)'
            ),
            "a",
        ),
        (
            "precision",
            (
                "master weights should be in float32, but those of parameter group 0 are in"
                " bfloat16. Look at bf16.bf16_master_weights_and_grads and its fp16 twin. (rank 1)"
            ),
            "",
        ),
    ]


def test_parameter_that_no_group_has():
    """Protects: a parameter that asks for gradients and is not trained is named."""
    ranks = [sound(rank, parameters=(*sound(0).parameters[:2], _lost())) for rank in range(2)]

    assert [(f.message, f.parameter) for f in check(STAGE2, ranks, steps=STEPS)] == [
        (
            (
                "1 parameters require gradients, but no optimizer group has them, lost first. Pass"
                " them as model_parameters, or freeze them."
            ),
            "lost",
        )
    ]


def _lost():
    return Parameter("lost", (5,), True, None, None, "float32", 5, None, False, "cpu")


GRADIENTS = {
    "whole": (
        Gradients(9, sound(0).gradients.parts),
        (
            "stage 2 partitions gradients, but 9 elements were whole in the parameters' grad before"
            " the update. (rank 1)"
        ),
    ),
    "missing": (
        Gradients(0, (GradientPart(0, 5, 0, "float32", "cpu"),)),
        (
            "gradients of parameter group 0 should be 6 elements on this rank before the update,"
            " but 5 were in memory and 0 in swap files. (rank 1)"
        ),
    ),
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients(case):
    """Protects: gradients that are not partitioned, or lack an element, are found."""
    gradients, message = GRADIENTS[case]

    assert changed(sound, STAGE2, gradients=gradients) == [("gradients", message, "")]


def test_groups_replace_the_configs_values():
    """Protects: a group's own value is expected, and a number of groups that differs is found."""
    assert changed(sound, STAGE2, given=[{"params": [], "weight_decay": 0.5}]) == []
    assert changed(sound, STAGE2, given=[{"weight_decay": 0.4}])[0][:2] == (
        "hyperparameters",
        (
            "weight_decay of parameter group 0 should be 0.4, but the optimizer has 0.5. A"
            " scheduler, or code that sets it, replaces the config's value."
        ),
    )
    assert changed(sound, STAGE2, given=[{}, {}])[0][:2] == (
        "parameter_groups",
        "the optimizer was given 2 parameter groups and has 1.",
    )


def test_scheduler_owns_the_learning_rate():
    """Protects: under a scheduler the rate moves, which is no finding; the parity check looks."""
    scheduler = {"scheduler": {"type": "WarmupLR"}}
    groups = ({"lr": (0.01,)},)
    ranks = [sound(rank, scheduler="WarmupLR", groups=groups) for rank in range(2)]

    assert check(STAGE2 | scheduler, ranks, steps=STEPS) == []


SWAPS = {
    "resident": (
        {
            "partitions": (partition(524290, 1),),
            "gradients": Gradients(0, (GradientPart(0, 524290, 0, "float32", "cpu"),)),
        },
        "offload_optimizer",
        (
            "the master weights of parameter group 0, 2.00 MiB, should be swapped out between"
            " steps, but are in memory. (rank 1)"
        ),
        "",
    ),
    "states_size": (
        {"swap_files": resized(swapping, 1, bytes=2097152)},
        "swap_files",
        (
            "swap files of master weights and optimizer states should have 2,098,176, 2,098,176,"
            " 2,098,176 bytes, but have 2,097,152, 2,098,176, 2,098,176 bytes. (rank 1)"
        ),
        "",
    ),
    "no_gradients": (
        {"swap_files": swapping(1).swap_files[:3] + swapping(1).swap_files[4:]},
        "swap_files",
        "swap files of gradients should have 2,097,152 bytes, but have no file. (rank 1)",
        "",
    ),
    "parameter_size": (
        {"swap_files": resized(swapping, 4, bytes=2097152)},
        "swap_files",
        "swap files of parameters should have 1,048,576 bytes, but have 2,097,152 bytes. (rank 1)",
        "",
    ),
    "zeros": (
        {"swap_files": resized(swapping, 0, zeros=True)},
        "swap_files",
        (
            "1 of 5 swap files hold nothing but zeros after training,"
            " optimizer/rank1/0_1.tensor.swp first: what was swapped out was never written. (rank"
            " 1)"
        ),
        "",
    ),
    "parameter_in_memory": (
        {"parameters": first(swapping, device="cpu")},
        "offload_param",
        (
            "wide should be on NVMe between steps, but is in memory (cpu): DeepSpeed keeps the"
            " first offload_param.max_in_cpu elements, 1e9 if it is not set, in CPU memory. Set it"
            " to 0. (rank 1)"
        ),
        "wide",
    ),
    "whole": (
        {"parameters": first(swapping, resident=1048576)},
        "persistence",
        (
            "wide should be partitioned between steps, but this rank holds 1,048,576 elements of"
            " it. (rank 1)"
        ),
        "wide",
    ),
    "persistent": (
        {"parameters": first(swapping, resident=1048576, persistent=True)},
        "persistence",
        (
            "ZeRO-3 partitions nothing: none of the 2 parameters has more elements than"
            " stage3_param_persistence_threshold = 10, so that each rank keeps them whole. Set it"
            " below 1,048,576, the elements of wide, or widen the model. (rank 1)"
        ),
        "wide",
    ),
    "part": (
        {"parameters": first(swapping, partition=524287)},
        "partitions",
        (
            "wide of shape (1024, 1024) should leave 524,288 elements on each of 2 ranks, but this"
            " one has 524,287. (rank 1)"
        ),
        "wide",
    ),
}


@pytest.mark.parametrize("case", SWAPS)
def test_fault_at_stage_3_on_nvme(case):
    """Protects: what did not reach NVMe, or is not partitioned, is found with what to change."""
    changes, *finding = SWAPS[case]

    assert changed(swapping, NVME, **changes) == [tuple(finding)]


def test_block_size_too_large_to_swap():
    """Protects: where the block size keeps all in memory, the finding says to lower it."""
    found = changed(swapping, NVME, config_changes={"aio": {"block_size": 4 * 1024**2}})

    assert found[0][:2] == (
        "offload_optimizer",
        (
            "offload_optimizer.device is 'nvme', but nothing is swapped: the largest partition of a"
            " group has 524,290 elements on this rank, 2.00 MiB, and DeepSpeed swaps from 4.00 MiB"
            " on. Widen the model to 1,048,576 elements a rank, or lower aio.block_size (1 MiB at"
            " least)."
        ),
    )


@pytest.mark.parametrize(
    ("asked_for", "pinned", "message"),
    [
        (True, True, None),
        (True, None, None),
        (
            True,
            False,
            (
                "offload_optimizer.pin_memory is true, but what is offloaded is not page-locked:"
                " copies between it and the GPU wait for the CPU. Look at the limit of locked"
                " memory (ulimit -l) and at DeepSpeed's log."
            ),
        ),
        (
            False,
            True,
            (
                "offload_optimizer.pin_memory is false, but what is offloaded is page-locked:"
                " copies between it and the GPU take memory that cannot be swapped. Look at the"
                " limit of locked memory (ulimit -l) and at DeepSpeed's log."
            ),
        ),
    ],
)
def test_pinned_memory(asked_for, pinned, message):
    """Protects: offloaded memory is page-locked as the config says, where there is a GPU."""
    block = {"device": "cpu", "pin_memory": asked_for}
    config = STAGE2 | {"zero_optimization": {"stage": 2, "offload_optimizer": block}}
    ranks = [
        sound(rank, offload_optimizer="cpu", optimizer="DeepSpeedCPUAdam", pinned=pinned)
        for rank in range(2)
    ]

    found = [f.message for f in check(config, ranks, steps=STEPS)]

    assert found == ([] if message is None else [message])


def test_flat_partitions():
    """Protects: our arithmetic of stages 1 and 2: padded to two elements a rank, at the end."""
    assert expect.flat_partitions([9, 2], 2) == (6, (0, 1))
    assert expect.flat_partitions([8], 2) == (4, (0, 0))
    assert expect.flat_partitions([1], 4) == (2, (1, 2, 2, 2))
    assert expect.flat_partitions([9, 2], 1) == (12, (1,))
    assert expect.flat_partitions([9, 2], 2, param_alignment=8) == (10, (0, 2))
    assert expect.round_robin([1, 2, 3, 4, 5], 2) == [1, 3, 5, 2, 4]


def test_stage_3_parts_and_sub_groups():
    """Protects: our arithmetic of stage 3: each parameter rounded up, groups cut when full."""
    assert [expect.part(numel, 4) for numel in (1, 4, 5)] == [1, 1, 2]
    assert expect.sub_groups([3, 3, 3], 9) == [[0, 1, 2]]
    assert expect.sub_groups([3, 3, 3], 8) == [[0, 1, 2]]
    assert expect.sub_groups([3, 3, 3], 6) == [[0, 1], [2]]
    assert expect.sub_groups([3, 3, 3], 1) == [[0], [1], [2]]
    assert expect.persistent({"a": 5, "b": 3, "c": 4}, 4, 6) == {"b"}
    wanted = asked.read(NVME, 2)
    assert layout.partitions(wanted, swapping(1)) == [(0, 524290, 1)]


def test_swap_sizes():
    """Protects: our arithmetic of swap files: 1 MiB or a block at least, whole KiB per thread."""
    rules = expect.Swapping(block_size=2 * 1024**2, threads=2)

    assert expect.Swapping(block_size=512).min_bytes == 1024**2
    assert not rules.swaps(524287, 4)
    assert rules.swaps(524288, 4)
    assert rules.file_bytes(524289, 4) == 2 * 1024**2 + 2048
    assert rules.gradient_bytes(524289, 4) == 2 * 1024**2
    assert rules.gradient_bytes(524287, 4) == 0


@pytest.mark.parametrize(
    ("kind", "params", "offloaded", "name"),
    [
        ("Adam", {}, False, "FusedAdam"),
        ("AdamW", {}, True, "DeepSpeedCPUAdam"),
        ("Adam", {"torch_adam": True}, True, "AdamW"),
        ("Adam", {"torch_adam": True, "adam_w_mode": False}, False, "Adam"),
        ("Adagrad", {}, True, "DeepSpeedCPUAdagrad"),
        ("Lion", {}, False, "FusedLion"),
        ("Lamb", {}, False, "FusedLamb"),
        ("Muon", {}, False, "MuonWithAuxAdam"),
        ("SGD", {}, True, "SGD"),
    ],
)
def test_optimizer_class(kind, params, offloaded, name):
    """Protects: the class that each optimizer.type becomes, as DeepSpeed's engine decides."""
    assert expect.optimizer_class(kind, params, offloaded=offloaded) == name
