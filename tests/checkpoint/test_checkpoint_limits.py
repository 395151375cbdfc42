"""What DeepSpeed cannot do to a checkpoint, as reasons of skips."""

import pytest

from pytest_deepspeed.training.checkpoint import equivalence, limits

ADAM = {"optimizer": {"type": "AdamW"}}
WHATS = ("resume", "without_optimizer", "consolidate", "export", "reshard")


def zero(stage, **devices):
    """A config of a stage, offloading to these devices."""
    blocks = {f"offload_{what}": {"device": device} for what, device in devices.items()}
    exporting = {"stage3_gather_16bit_weights_on_model_save": True}
    return ADAM | {"zero_optimization": {"stage": stage} | blocks | exporting}


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("device", ["none", "cpu"])
def test_no_limit_without_nvme(stage, device):
    """Protects: nothing is left out where DeepSpeed can do it."""
    assert [limits.why_not(zero(stage, optimizer=device), what) for what in WHATS] == [None] * 5


LIMITS = {
    "parameters on nvme": (
        zero(3, param="nvme", optimizer="cpu"),
        "resume",
        (
            "with the parameters on NVMe and the optimizer elsewhere load_checkpoint raises"
            " AttributeError: 'NoneType' object has no attribute 'data'"
            " (runtime/zero/stage3.py _rigid_load_state_dict)"
        ),
    ),
    "optimizer on nvme": (
        zero(3, optimizer="nvme"),
        "consolidate",
        (
            "with the optimizer on NVMe the shards hold no fp32 weights: those are in"
            " offloaded_tensors/, which zero_to_fp32 does not read (utils/zero_to_fp32.py,"
            " runtime/engine.py save_checkpoint)"
        ),
    ),
    "optimizer on nvme, resharded": (
        zero(3, optimizer="nvme"),
        "reshard",
        (
            "with the optimizer on NVMe the shards that ds_to_universal reads hold no fp32 weights"
            " (checkpoint/ds_to_universal.py dump_param_fragment)"
        ),
    ),
    "stage 3 by default": (
        ADAM | {"zero_optimization": {"stage": 3}},
        "export",
        (
            "save_16bit_model writes nothing without stage3_gather_16bit_weights_on_model_save"
            " (runtime/engine.py)"
        ),
    ),
    "stage 0": (
        ADAM,
        "reshard",
        "stage 0 saves no shards, and ds_to_universal reads no others",
    ),
    "SGD": (
        zero(2) | {"optimizer": {"type": "SGD"}},
        "reshard",
        (
            "ds_to_universal converts exp_avg and exp_avg_sq alone, which SGD does not keep both"
            " (checkpoint/ds_to_universal.py extract_zero_shards)"
        ),
    ),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_each_limit(limit):
    """Protects: what would crash is left out with its reason and the place in DeepSpeed."""
    ds_config, what, reason = LIMITS[limit]

    assert limits.why_not(ds_config, what) == reason


def test_nvme_below_stage_3_is_none():
    """Protects: stages 1 and 2 take nvme for cpu, so nothing is left out there."""
    ds_config = zero(2, optimizer="nvme", param="nvme")

    assert [limits.why_not(ds_config, what) for what in WHATS] == [None] * 5


def test_a_batch_that_four_ranks_cannot_divide():
    """Protects: a world size is left out with a reason and not with DeepSpeed's assertion."""
    ds_config = {"train_micro_batch_size_per_gpu": 3}

    assert limits.why_not_at(ds_config, 2, 1) is None
    assert limits.why_not_at(ds_config, 2, 4) == (
        "train_batch_size 6 is no multiple of 4 ranks x 1 micro-batches"
    )
    with pytest.raises(ValueError, match="neither train_batch_size nor train_micro_batch_size"):
        limits.batch_of({}, 2)


def test_the_config_of_another_world():
    """Protects: the same samples in each step, and no offload where the stage is another."""
    ds_config = zero(3, optimizer="cpu", param="cpu") | {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 2,
    }

    four = equivalence.at_stage(ds_config, 2, 4, 3)
    other = equivalence.at_stage(ds_config, 2, 1, 1)

    batch = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert [[made[key] for key in batch] for made in (four, other)] == [[8, 1, 2], [8, 4, 2]]
    assert four["zero_optimization"] == ds_config["zero_optimization"]
    assert other["zero_optimization"] == {
        "stage": 1,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    with pytest.raises(ValueError, match=r"world_sizes must begin with 1, not \(4,\): one process"):
        equivalence.resharding(None, ds_config, None, "", (), world_sizes=(4,))
