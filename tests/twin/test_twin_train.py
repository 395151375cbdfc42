"""The twin's training: the right gradients, whatever they are split over."""

import pytest
import torch

from pytest_deepspeed.training.twin import optimizers
from pytest_deepspeed.training.twin.reading import batch_sizes, clipping
from pytest_deepspeed.training.twin.train import train, uncovered
from reference_training.trap import TRAITS, Trap

CONFIG = {
    "train_batch_size": 8,
    "optimizer": {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9}},
    "gradient_clipping": 0.5,
}
SOMETIMES = ("alternating", "late_branch", "early_branch")
STEADY = tuple(trait for trait in TRAITS if trait not in SOMETIMES)


def trained(config, traits=STEADY, steps=3, **kwargs):
    """The twin's history, as plain tensors that a rank can send back."""
    history = train(Trap(traits), config, steps=steps, **kwargs)
    return history.loss, history.grad_norm, history.parameters, history.moments


@pytest.fixture(scope="module")
def by_hand():
    """The same training as a plain loop over whole batches, and its gradient norms."""
    trap = Trap(STEADY)
    net = trap.model()
    optimizer = torch.optim.SGD(trap.parameter_groups(net), lr=0.1, momentum=0.9)
    losses, norms, weights = [], [], []
    for step in range(3):
        batch = trap.micro_batch(
            step=step,
            micro_step=0,
            accumulation_steps=1,
            rank=0,
            world_size=1,
            micro_batch_size=8,
        )
        optimizer.zero_grad()
        loss = trap.loss(net, batch)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5).item())
        optimizer.step()
        losses.append(loss.item())
        weights.append({name: p.detach().clone() for name, p in net.named_parameters()})
    return losses, norms, weights


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_any_split_of_a_batch_is_the_same_training(ds_run, by_hand, world_size, accumulation):
    """Protects: averaging over ranks, adding up micro-batches and clipping, against one loop."""
    config = CONFIG | {"gradient_accumulation_steps": accumulation}
    losses, norms, weights = by_hand

    for loss, norm, parameters, _ in ds_run(trained, world_size=world_size, config=config):
        assert loss == pytest.approx(losses, rel=1e-6)
        assert norm == pytest.approx(norms, rel=1e-6)
        assert min(norm) > 0.5
        for found, expected in zip(parameters, weights, strict=True):
            assert found.keys() == expected.keys()
            for name, weight in expected.items():
                assert torch.allclose(found[name], weight, rtol=0, atol=1e-6), name


@pytest.mark.world_size(1)
def test_a_missing_gradient_counts_as_zero():
    """Protects: on a step without it a branch is moved by momentum and decay, and by nothing else;
    DeepSpeed fills in zeros where torch's optimizers skip.
    """
    still = {"type": "SGD", "params": {"lr": 0.1}}
    moving = {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.5}}
    name = "alternating.weight"

    *_, parameters, moments = trained(CONFIG | {"optimizer": still}, TRAITS, steps=2)
    assert torch.equal(parameters[1][name], parameters[0][name])
    assert moments == {}

    start = Trap().model().get_parameter(name).detach()
    *_, parameters, _ = trained(CONFIG | {"optimizer": moving}, TRAITS, steps=2)
    first, second = parameters[0][name] - start, parameters[1][name] - parameters[0][name]
    assert torch.allclose(second, 0.5 * first, rtol=0, atol=1e-7)
    assert first.abs().max() > 1e-4


@pytest.mark.world_size(1)
def test_bf16_keeps_masters_in_fp32():
    """Protects: in bf16 the weights that are updated are fp32, and start from the rounded ones."""
    config = CONFIG | {
        "bf16": {"enabled": True},
        "optimizer": {"type": "SGD", "params": {"lr": 1e-5}},
    }

    (_, _, (weights,), _) = trained(config, traits=("frozen",), steps=1)

    start = dict(Trap(("frozen",)).model().named_parameters())
    for name, weight in weights.items():
        rounded = start[name].detach().bfloat16().float()
        assert torch.allclose(weight, rounded, rtol=0, atol=1e-5), name
        if name.startswith("frozen"):
            assert torch.equal(weight, rounded), name
    # A step below the precision of bf16 is kept.
    head = weights["head.weight"]
    assert not torch.equal(head, head.bfloat16().float())


@pytest.mark.world_size(1)
def test_the_dtype_can_be_given():
    """Protects: a config in bf16 can be compared with its training in fp32."""
    config = CONFIG | {"bf16": {"enabled": True}}

    loss, *_ = trained(config, dtype="fp32")
    assert loss == trained(CONFIG)[0]
    assert loss != trained(config)[0]


@pytest.mark.world_size(1)
def test_an_unknown_dtype_is_an_error():
    """Protects: a dtype that the twin does not have is not taken for one that it has."""
    with pytest.raises(ValueError, match="twin") as caught:
        trained(CONFIG, dtype="fp16")
    assert str(caught.value) == "the twin trains in fp32 and bf16, not in 'fp16'"


@pytest.mark.world_size(1)
def test_a_later_start_takes_later_batches():
    """Protects: `start_step` moves on in the order of the batches."""
    loss, *_ = trained(CONFIG, steps=1, start_step=1)

    assert loss != trained(CONFIG, steps=1)[0]


@pytest.mark.world_size(1)
def test_an_uncovered_config_is_an_error():
    """Protects: the twin does not train what it would train otherwise than DeepSpeed."""
    with pytest.raises(ValueError, match="twin") as caught:
        trained({"train_batch_size": 8})
    assert str(caught.value) == "no twin of this config: the config names no optimizer"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}, None),
        (
            {"fp16": {"enabled": True}},
            "the twin trains in fp32 and bf16, and fp16.enabled is set",
        ),
        (
            {"zero_optimization": {"zero_quantized_weights": True}},
            "the twin quantizes nothing, and zero_optimization.zero_quantized_weights is set",
        ),
        (
            {"scheduler": {"type": "Cosine"}},
            (
                "the twin has no scheduler 'Cosine': it has WarmupLR, WarmupDecayLR,"
                " WarmupCosineLR, OneCycle, LRRangeTest"
            ),
        ),
        (
            {"gradient_allreduce_op": "sum"},
            "the twin averages gradients, and gradient_allreduce_op says otherwise",
        ),
        (
            {"optimizer": {"type": "Muon"}, "zero_optimization": {"stage": 1}},
            (
                "the twin clips gradients, and ZeRO's stages clip Muon's update in their stead:"
                " it needs gradient_clipping 0"
            ),
        ),
        ({"optimizer": {"type": "Muon"}, "zero_optimization": {"stage": 0}}, None),
        ({"optimizer": None}, "the config names no optimizer"),
    ],
)
def test_uncovered(changes, reason, monkeypatch):
    """Protects: a skip of the parity check says why."""
    monkeypatch.setattr(optimizers, "_has_fp16", lambda: False)
    assert uncovered(CONFIG | changes) == reason


@pytest.mark.parametrize(
    ("config", "world_size", "sizes"),
    [
        ({"train_batch_size": 8}, 2, (4, 1)),
        ({"train_batch_size": 8, "gradient_accumulation_steps": 2}, 2, (2, 2)),
        ({"train_batch_size": 8, "train_micro_batch_size_per_gpu": 1}, 2, (1, 4)),
        ({"train_micro_batch_size_per_gpu": 3}, 2, (3, 1)),
        ({"train_micro_batch_size_per_gpu": 3, "gradient_accumulation_steps": 5}, 4, (3, 5)),
    ],
)
def test_batch_sizes(config, world_size, sizes):
    """Protects: what a config leaves out of its batch sizes follows as in DeepSpeed."""
    assert batch_sizes(config, world_size) == sizes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "the config has no train_batch_size or train_micro_batch_size_per_gpu"),
        (
            {"train_batch_size": 9, "gradient_accumulation_steps": 2},
            "train_batch_size 9 is not 2 samples x 2 micro-batches x 2 ranks",
        ),
    ],
)
def test_batch_sizes_that_do_not_fit(config, message):
    """Protects: batch sizes that contradict each other are said."""
    with pytest.raises(ValueError, match="train_batch_size") as caught:
        batch_sizes(config, 2)
    assert str(caught.value) == message


def test_a_config_that_does_not_say_clips():
    """Protects: the default of this DeepSpeed, which was 0 before 2026."""
    from deepspeed.runtime.constants import GRADIENT_CLIPPING_DEFAULT

    assert clipping({}) == GRADIENT_CLIPPING_DEFAULT
