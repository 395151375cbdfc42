"""Each check of a training passes what is right, and says what is wrong."""

import math

import pytest

from pytest_deepspeed.training import checks

FALLING = [2.0, 1.9, 1.7, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0, 0.9]


def test_loss_that_falls_passes():
    """Protects: a falling loss is right."""
    assert checks.loss_falls(FALLING) is None


def test_noise_in_a_falling_loss_passes():
    """Protects: windows are compared, not single steps."""
    assert checks.loss_falls([2.0, 2.2, 1.9, 1.7, 1.9, 1.4, 1.6, 1.3, 1.2, 1.4]) is None


def test_flat_loss_is_told_with_its_windows():
    """Protects: a loss that stays is red, with both means and all values."""
    assert checks.loss_falls([2.0] * 5) == (
        "the loss does not fall: its mean over the last 1 of 5 steps is 2.0000, over the first 1"
        " 2.0000; at most 0.95 of that is wanted. All: 2.0000, 2.0000, 2.0000, 2.0000, 2.0000"
    )


@pytest.mark.parametrize(("share", "ok"), [(0.94, True), (0.96, False)])
def test_the_bound_is_95_percent(share, ok):
    """Protects: the bound itself, on both sides."""
    assert (checks.loss_falls([1.0, 1.0, 1.0, 1.0, share]) is None) is ok


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_named(bad):
    """Protects: one NaN in a falling curve is red, with its step."""
    assert checks.loss_falls([2.0, 1.0, bad, 0.5]) == (
        f"the loss of step 2 is {bad}; those before: 2.0000, 1.0000"
    )


def test_ranks_that_differ_in_the_last_bit_are_named():
    """Protects: equality is exact; a drift of one bit on one rank is red."""
    drifted = math.nextafter(1.5, 2)

    assert checks.ranks_agree("the loss", [1.5, 1.5, 1.5]) is None
    assert checks.ranks_agree("the loss", [1.5, 1.5, drifted]) == (
        f"the loss differs between ranks: rank 0 has 1.5, rank 2 has {drifted}"
    )


@pytest.mark.parametrize(
    ("stepped", "skipped", "finding"),
    [
        (20, 0, None),
        (0, 0, "the optimizer has stepped 0 times in 20 steps"),
        (21, 0, "the optimizer has stepped 21 times in 20 steps"),
        (17, 3, "DeepSpeed skipped 3 of 20 steps for a gradient overflow"),
    ],
)
def test_optimizer_steps(stepped, skipped, finding):
    """Protects: the optimizer's own count must be the steps that were asked for."""
    assert checks.optimizer_stepped(stepped, skipped, 20) == finding


@pytest.mark.parametrize(
    ("stepped", "skipped", "finding"),
    [
        (20, 0, None),
        (10, 10, None),
        (
            9,
            11,
            (
                "DeepSpeed skipped 11 of 20 steps for a gradient overflow: half of them may be,"
                " until the loss scale fits. Lower fp16.initial_scale_power, or take more steps"
            ),
        ),
        (
            20,
            3,
            "the optimizer has stepped 20 times in 20 steps, of which 3 were skipped",
        ),
    ],
)
def test_steps_under_a_dynamic_loss_scale(stepped, skipped, finding):
    """Protects: a scale that starts too high may skip steps, and none that it skips is counted."""
    assert checks.optimizer_stepped(stepped, skipped, 20, scaled=True) == finding
