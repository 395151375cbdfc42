"""What of a config decides which training it is, beyond what a few steps of it show."""

import types

import pytest

from pytest_deepspeed.training.pair import settings

GROUP = {"lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}


def side(scheduler=None, *, clipping=1.0, rule="AdamW", **group):
    """What DeepSpeed made of a config, as far as it is asked for."""
    config = {
        "gradient_clipping": clipping,
        "optimizer": {"type": rule, "params": {"lr": 0.001}},
    }
    if scheduler:
        config["scheduler"] = {"type": scheduler[0], "params": scheduler[1]}
    return types.SimpleNamespace(
        effective={
            "config": config,
            "optimizer": {"class": rule, "rule": rule, "groups": [{**GROUP, **group}]},
            "scheduler": scheduler[0] if scheduler else None,
        }
    )


def differences(base, head, *, written=({}, {}), samples=(16, 16)):
    """What is said of two sides."""
    return list(settings.differences(base, head, written, samples))


WARM = {"warmup_max_lr": 0.001, "warmup_num_steps": 10}


def test_the_same():
    """Protects: two that are the same have no difference, nor has a default that is spelled out."""
    spelled = ("WarmupLR", {**WARM, "warmup_min_lr": 0.0, "warmup_type": "log"})

    assert differences(side(), side()) == []
    assert differences(side(("WarmupLR", WARM)), side(spelled)) == []
    assert differences(side(), side(foreach=True)) == []


@pytest.mark.parametrize(
    ("base", "head", "said"),
    [
        (side(), side(clipping=0.0), "gradient_clipping is off, and was 1"),
        (side(), side(rule="Lion"), "the optimizer is Lion, and was AdamW"),
        (side(), side(weight_decay=0.1), "weight_decay of the optimizer is 0.1, and was 0.01"),
        (side(), side(lr=0.002), "lr of the optimizer is 0.002, and was 0.001"),
        (
            side(("WarmupDecayLR", {**WARM, "total_num_steps": 10_000})),
            side(("WarmupDecayLR", {**WARM, "total_num_steps": 5_000})),
            "the learning rate of step 12 is 0.0009998, and was 0.0009999: another schedule",
        ),
        (
            side(),
            side(("WarmupLR", {**WARM, "warmup_min_lr": 0.001})),
            "",
        ),
        (
            side(("WarmupLR", WARM)),
            side(),
            "the learning rate of step 0 is 0.001, and was 0: another schedule",
        ),
    ],
)
def test_one_difference(base, head, said):
    """Protects: a setting that makes another training is named, with both values, also where the
    first steps are alike; a schedule that changes nothing is no difference.
    """
    assert differences(base, head) == ([said] if said else [])


def test_what_was_adapted():
    """Protects: what this machine trains alike and the cluster does not is a difference."""
    found = differences(
        side(),
        side(),
        written=({"fp16": {"enabled": True}}, {"bf16": {"enabled": True}}),
        samples=(512, 1024),
    )

    assert found == [
        "the training is in bf16, and was in fp16",
        "a step takes 1024 samples, and took 512",
    ]
