"""The twin's schedules against DeepSpeed's schedulers, step by step."""

import itertools

import pytest

from pytest_deepspeed.training.twin.schedules import SCHEDULERS, schedule

STEPS = 30
BASE = [0.1, 0.02]

WARM = {
    "warmup_num_steps": [1, 2, 7, 100],
    "warmup_type": ["log", "linear"],
}
RATES = {"warmup_min_lr": [0.0, 0.01, [0.01, 0.03]], "warmup_max_lr": [0.05, [0.2, 0.1]]}
GRIDS = {
    "WarmupLR": WARM | RATES | {"warmup_max_lr": [None, 0.05, [0.2, 0.1]]},
    "WarmupDecayLR": WARM | RATES | {"total_num_steps": [5, 20, 60]},
    "WarmupCosineLR": WARM
    | {
        "total_num_steps": [5, 20, 60],
        "warmup_min_ratio": [0.0, 0.3],
        "cos_min_ratio": [0.0, 0.1],
    },
    "LRRangeTest": {
        "lr_range_test_min_lr": [1e-3, [1e-3, 1e-2]],
        "lr_range_test_step_size": [1, 3, 50],
        "lr_range_test_step_rate": [0.5, 2.0],
        "lr_range_test_staircase": [True, False],
    },
    "OneCycle": {
        "cycle_min_lr": [0.001, [0.001, 0.002]],
        "cycle_max_lr": [0.1],
        "cycle_first_step_size": [1, 5, 12],
        "cycle_second_step_size": [None, 3, 40],
        "cycle_first_stair_count": [0, 3],
        "cycle_second_stair_count": [None, 2],
        "decay_step_size": [0, 4],
        "decay_lr_rate": [0.0, 0.5],
        "cycle_momentum": [True, False],
        "decay_mom_rate": [0.0, 0.1],
    },
}


def cases(name):
    """All combinations of a grid's values; ``None`` leaves the parameter out."""
    grid = GRIDS[name]
    for values in itertools.product(*grid.values()):
        yield {k: v for k, v in zip(grid, values, strict=True) if v is not None}


def close(found, expected):
    """Equal but for rounding; `pytest.approx` takes its time, and there are 100,000 pairs."""
    return all(abs(a - b) <= 1e-12 * abs(b) for a, b in zip(found, expected, strict=True))


def by_deepspeed(name, params, optimizer_class):
    """Rates, and betas or None, of each step under DeepSpeed's scheduler."""
    import torch
    from deepspeed.runtime import lr_schedules

    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in BASE]
    optimizer = optimizer_class(groups, lr=1.0)
    scheduler = getattr(lr_schedules, name)(optimizer, **params)
    for _ in range(STEPS):
        yield (
            [group["lr"] for group in optimizer.param_groups],
            [group.get("betas") for group in optimizer.param_groups],
        )
        scheduler.step()


@pytest.mark.parametrize("name", GRIDS)
def test_rates_and_betas_are_those_of_deepspeed(name):
    """Protects: the twin's rate and betas at each step, for several hundred parameter sets."""
    import torch

    for params in cases(name):
        twin = schedule({"type": name, "params": params}, base=BASE, has_betas=True)
        deepspeed = list(by_deepspeed(name, params, torch.optim.Adam))

        for step, (rates, betas) in enumerate(deepspeed):
            assert close(twin.lr(step), rates), (params, step)
            expected = twin.betas(step) if twin.betas else ((0.9, 0.999),) * 2
            assert all(map(close, expected, betas)), (params, step)


def test_betas_are_left_alone_without_them():
    """Protects: OneCycle moves no momentum of an optimizer that has no betas, such as SGD."""
    import torch

    params = {"cycle_min_lr": 0.01, "cycle_max_lr": 0.1, "cycle_first_step_size": 4}
    twin = schedule({"type": "OneCycle", "params": params}, base=BASE, has_betas=False)

    assert twin.betas is None
    assert [list(twin.lr(step)) for step in range(STEPS)] == [
        pytest.approx(lr, rel=1e-12) for lr, _ in by_deepspeed("OneCycle", params, torch.optim.SGD)
    ]


def test_a_warm_up_has_its_first_rate_twice():
    """Protects: the count that DeepSpeed's schedulers start from, which looks like a mistake."""
    params = {"warmup_min_lr": 0.1, "warmup_max_lr": 0.5, "warmup_num_steps": 4}
    params["warmup_type"] = "linear"

    lr = schedule({"type": "WarmupLR", "params": params}, base=[1.0], has_betas=True).lr

    expected = [0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5]
    assert [lr(step) for step in range(7)] == [pytest.approx((x,)) for x in expected]


def test_without_a_scheduler_rates_are_constant():
    """Protects: a config that names no scheduler keeps the optimizer's rates."""
    twin = schedule(None, base=BASE, has_betas=True)

    assert (twin.lr(0), twin.lr(99), twin.betas) == ((0.1, 0.02), (0.1, 0.02), None)


def test_an_unknown_scheduler_is_an_error():
    """Protects: a misspelt scheduler is not taken for none."""
    with pytest.raises(ValueError, match=r"^no scheduler 'Cosine'; there are ") as caught:
        schedule({"type": "Cosine"}, base=BASE, has_betas=True)
    assert str(caught.value).endswith(", ".join(SCHEDULERS))
