"""The twin's optimizers: the right one, and the right arithmetic."""

import math

import pytest
import torch

from pytest_deepspeed.training.twin import optimizers
from pytest_deepspeed.training.twin.optimizers import optimizer, uncovered


def built(kind, params=None, groups=None):
    """The twin's optimizer of one parameter, and that parameter."""
    weight = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
    block = {"type": kind, "params": params or {}}
    return optimizer(block, {weight: "w"}, groups or [{"params": [weight]}]), weight


def steps(kind, params, gradients):
    """The weight, from (3, -4), after each gradient."""
    made, weight = built(kind, params)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        made.step()
    return weight.tolist()


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"type": "SGD", "params": {"lr": 0.1}}, torch.optim.SGD),
        ({"type": "Adam"}, torch.optim.AdamW),
        ({"type": "Adam", "params": {"adam_w_mode": False}}, torch.optim.Adam),
        ({"type": "AdamW", "params": {"adam_w_mode": False}}, torch.optim.AdamW),
    ],
)
def test_which_adam(block, expected):
    """Protects: "Adam" is AdamW unless `adam_w_mode` is false, and "AdamW" always is."""
    made, _ = built(block["type"], block.get("params"))

    assert type(made) is expected


@pytest.mark.parametrize(("params", "decay"), [({}, 0.0), ({"torch_adam": True}, 0.01)])
def test_decay_unless_told(params, decay):
    """Protects: DeepSpeed's Adam does not decay by default, where torch's AdamW does."""
    made, _ = built("AdamW", params)

    assert made.param_groups[0]["weight_decay"] == decay


def test_groups_come_before_the_block():
    """Protects: a parameter group's own rate and decay reach every optimizer."""
    for kind in ("SGD", "Adam", "Lion", "Lamb", "Muon"):
        weight = torch.nn.Parameter(torch.ones(2))
        group = {"params": [weight], "lr": 0.5, "weight_decay": 0.25}
        block = {"type": kind, "params": {"lr": 0.1, "weight_decay": 0.2}}
        made = optimizer(block, {weight: "w"}, [group])

        assert made.param_groups[0]["lr"] == 0.5, kind
        assert made.param_groups[0]["weight_decay"] == 0.25, kind


def test_lion():
    """Protects: Lion steps by the sign of an average that it keeps with another beta."""
    params = {"lr": 0.1, "betas": [0.9, 0.5], "weight_decay": 0.5}

    found = steps("Lion", params, [[1.0, -1.0], [-0.2, 0.0]])

    # m = (0.5, -0.5) after step 1; 0.9 m + 0.1 g = (0.43, -0.45).
    first = (3 * 0.95 - 0.1, -4 * 0.95 + 0.1)
    assert found == pytest.approx([first[0] * 0.95 - 0.1, first[1] * 0.95 + 0.1])


def test_lamb():
    """Protects: LAMB's trust ratio, its bounds, and the correction that DeepSpeed puts behind."""
    params = {"lr": 0.1, "betas": [0.5, 0.5], "eps": 0.0, "weight_decay": 0.5}
    one = steps("Lamb", params, [[1.0, -1.0]])
    bounded = steps("Lamb", params | {"max_coeff": 0.1}, [[1.0, -1.0]])

    # m / sqrt(v) = 0.5 g / sqrt(0.5) |g| = sign(g) / sqrt(2).
    update = [math.sqrt(0.5) + 1.5, -math.sqrt(0.5) - 2.0]
    correction = math.sqrt(0.5) / 0.5
    ratio = 5 / math.hypot(*update)
    assert one == pytest.approx(
        [w - 0.1 * correction * ratio * u for w, u in zip([3, -4], update, strict=True)]
    )
    assert bounded == pytest.approx(
        [w - 0.1 * correction * 0.1 * u for w, u in zip([3, -4], update, strict=True)]
    )


def test_lamb_of_a_weight_of_zeros():
    """Protects: a trust ratio of 1 where a norm is 0, so that a bias of zeros starts to train."""
    made, weight = built("Lamb", {"lr": 0.1, "betas": [0.5, 0.5], "eps": 0.0})
    weight.data.zero_()
    weight.grad = torch.tensor([1.0, 2.0])
    made.step()

    assert weight.tolist() == pytest.approx([-0.1, -0.1])


def muon_parameters():
    """Matrices of either aspect, a vector and an embedding."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"tall": (7, 3), "flat": (4, 9), "bias": (5,), "embed": (5, 4)}
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator))
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("adam_w_mode", [True, False])
def test_muon_is_that_of_deepspeed(adam_w_mode):
    """Protects: Muon's momentum, iteration, scale, decay and its Adam for all that is no matrix."""
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam
    from deepspeed.runtime.zero.muon.original_muon import ns_compute_dtype

    # DeepSpeed iterates in fp16 where the CPU can.
    tolerance = 1e-5 if ns_compute_dtype("gram") == torch.float32 else 3e-2
    mine, theirs = muon_parameters(), muon_parameters()
    params = {"muon_lr": 0.1, "adam_lr": 0.01, "weight_decay": 0.1, "momentum": 0.8}
    made = optimizer(
        {"type": "Muon", "params": params | {"adam_w_mode": adam_w_mode}},
        {p: name for name, p in mine.items()},
        [{"params": list(mine.values())}],
    )
    groups = [
        {"params": [theirs["tall"], theirs["flat"]], "use_muon": True, "lr": 0.1, "momentum": 0.8},
        {"params": [theirs["bias"], theirs["embed"]], "use_muon": False, "lr": 0.01},
    ]
    for group in groups:
        group["weight_decay"] = 0.1
    reference = MuonWithAuxAdam(groups, adam_w_mode=adam_w_mode)
    generator = torch.Generator().manual_seed(1)
    with torch.compiler.set_stance("force_eager"):
        for _ in range(5):
            for name, weight in theirs.items():
                weight.grad = torch.randn(weight.shape, generator=generator)
                mine[name].grad = weight.grad.clone()
            made.step()
            reference.step()

    for name, weight in theirs.items():
        assert torch.allclose(mine[name], weight, rtol=0, atol=tolerance), name


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ({"type": "SGD"}, None),
        ({"type": "muon"}, None),
        (None, "the config names no optimizer"),
        ({"params": {}}, "the config names no optimizer"),
        (
            {"type": "Adagrad"},
            "the twin has no optimizer 'Adagrad': it has SGD, Adam, AdamW, Lion, Lamb, Muon",
        ),
        (
            {"type": "Adam", "params": {"bias_correction": False}},
            "the twin has no Adam without bias_correction",
        ),
        (
            {"type": "Adam", "params": {"fp32_optimizer_states": False}},
            "the twin keeps moments in fp32 only, and fp32_optimizer_states is false",
        ),
        ({"type": "Lamb", "params": {"amsgrad": True}}, "the twin has no Lamb with amsgrad"),
        (
            {"type": "Muon", "params": {"per_head_muon": True}},
            "the twin has no Muon with per_head_muon",
        ),
        (
            {"type": "Muon", "params": {"ns_method": "standard"}},
            "the twin iterates Muon in fp32, where DeepSpeed's ns_method 'standard' does in bf16",
        ),
    ],
)
def test_uncovered(block, reason, monkeypatch):
    """Protects: what the twin cannot do is said, not done otherwise."""
    monkeypatch.setattr(optimizers, "_has_fp16", lambda: False)
    assert uncovered(block) == reason


def test_muon_in_fp16(monkeypatch):
    """Protects: where DeepSpeed iterates in fp16 there is no twin, and no false alarm."""
    monkeypatch.setattr(optimizers, "_has_fp16", lambda: True)
    assert uncovered({"type": "Muon"}) == (
        "the twin iterates Muon in fp32, where DeepSpeed on this CPU does in AVX512-FP16"
    )
    assert uncovered({"type": "AdamW"}) is None
