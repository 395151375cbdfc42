"""The checks of losses and of ranks, on evidence made by hand: what passes, and the least fault."""

import dataclasses
import math

import pytest

from pytest_deepspeed.training import judge
from pytest_deepspeed.training.evidence import Evidence, RankEvidence
from pytest_deepspeed.training.memory.limits import Limits
from pytest_deepspeed.training.parity.evidence import ParityEvidence
from pytest_deepspeed.training.trial import Trial

FALLING = (2.0, 1.8, 1.6, 1.4, 1.2, 1.0)
FLAT = (2.0, 2.0, 2.0, 2.0, 2.0, 2.0)


def beside(twin_loss):
    """The evidence of a twin with these losses; no more of it is looked at."""
    nothing = {field.name: () for field in dataclasses.fields(ParityEvidence)}
    return ParityEvidence(**{**nothing, "twin_loss": twin_loss})


def ranks(*, grad_norms=((1.0, 2.0), (1.0, 2.0)), digests=None):
    """Two ranks with two weights after each of two steps; what their engines were is not asked."""
    same = ({"a": 1, "b": 2}, {"a": 3, "b": 4})
    each = zip(grad_norms, digests or (same, same), strict=True)
    return tuple(RankEvidence(norms, weights, None) for norms, weights in each)


GOOD = Evidence(
    trial=Trial({}, 2),
    loss=FALLING,
    optimizer_steps=6,
    skipped_steps=0,
    train_batch_size=8,
    samples_per_second=100.0,
    data="made by hand",
    traits=(),
    groups=(),
    ranks=ranks(),
    parity=(beside(FALLING),),
    uncovered="",
    memory=None,
    left=(),
)


def found(check, **changes):
    """Name, parameter, step and message of each finding of the changed evidence."""
    findings = judge.findings(check, dataclasses.replace(GOOD, **changes), Limits({}, {}))
    assert {finding.check for finding in findings} <= {check}
    return [(f.name, f.parameter, f.step, f.message) for f in findings]


@pytest.mark.parametrize("check", ["loss", "ranks"])
def test_what_is_right(check):
    """Protects: a loss that falls as the twin's does, and ranks that agree, are right."""
    assert found(check) == []
    assert judge.undecided(check, GOOD) is None


def test_a_loss_that_stays_where_the_twins_falls():
    """Protects: a training that does not learn what plain torch learns is found."""
    assert found("loss", loss=FLAT) == [
        (
            "falls",
            "",
            None,
            (
                "the loss falls by 0.0000 in 6 steps, and that of plain torch by 1.0000 (means of"
                " 1). All: 2.0000, 2.0000, 2.0000, 2.0000, 2.0000, 2.0000; plain torch: 2.0000,"
                " 1.8000, 1.6000, 1.4000, 1.2000, 1.0000"
            ),
        )
    ]


@pytest.mark.parametrize(("last", "right"), [(1.09, True), (1.11, False)])
def test_nine_tenths_of_the_twins_fall(last, right):
    """Protects: the bound itself, on both sides."""
    assert (found("loss", loss=(*FALLING[:-1], last)) == []) is right


def test_a_loss_that_is_no_number():
    """Protects: a NaN is found also where plain torch does not learn, or there is no twin."""
    nan = [("falls", "", None, "the loss of step 2 is nan; those before: 2.0000, 2.0000")]
    loss = (*FLAT[:2], math.nan, *FLAT[3:])

    assert found("loss", loss=loss) == nan
    assert found("loss", loss=loss, parity=(beside(FLAT),)) == nan
    assert found("loss", loss=loss, parity=(), uncovered="none") == nan


def test_where_plain_torch_does_not_learn_either():
    """Protects: two flat losses are no fault, and no proof: it is said that nothing was decided."""
    both = dataclasses.replace(GOOD, loss=FLAT, parity=(beside(FLAT),))

    assert found("loss", loss=both.loss, parity=both.parity) == []
    assert judge.undecided("loss", both) == (
        "not decidable in 6 steps: plain torch does not learn either"
    )
    assert judge.undecided("ranks", both) is None


def test_the_fp32_twin_says_whether_there_is_something_to_learn():
    """Protects: of two twins it is the one in fp32 that a loss is held to."""
    assert found("loss", loss=FLAT, parity=(beside(FLAT), beside(FALLING))) != []
    assert found("loss", loss=FLAT, parity=(beside(FALLING), beside(FLAT))) == []


@pytest.mark.parametrize("check", ["loss", "parity"])
def test_no_twin(check):
    """Protects: where there is no twin, the check that needs it says why it says nothing."""
    alone = dataclasses.replace(GOOD, loss=FLAT, parity=(), uncovered="no twin of Adafactor")

    assert found(check, loss=FLAT, parity=()) == []
    assert judge.undecided(check, alone) == "no twin of Adafactor"


def test_one_weight_of_one_rank_at_one_step():
    """Protects: a single weight that drifts on one rank is found, with its name and step."""
    drifted = ({"a": 1, "b": 2}, {"a": 3, "b": 5})

    assert found("ranks", ranks=ranks(digests=(GOOD.ranks[0].digests, drifted))) == [
        (
            "weights",
            "b",
            1,
            (
                "after step 1 rank 1 has another b than rank 0 (1 of 2 weights differ):"
                " data-parallel ranks drift apart where a gradient or an updated weight does not"
                " reach them all"
            ),
        )
    ]


def test_the_gradient_norm_of_one_rank():
    """Protects: a gradient norm that differs in its last bit is found, with the step."""
    other = math.nextafter(2.0, 3.0)

    assert found("ranks", ranks=ranks(grad_norms=((1.0, 2.0), (1.0, other)))) == [
        (
            "grad_norm",
            "",
            1,
            (
                "the gradient norm of step 1 differs between ranks: rank 0 has 2.0, rank 1 has"
                " 2.0000000000000004"
            ),
        )
    ]


def test_ranks_with_the_same_nan():
    """Protects: a norm that is NaN on all ranks is no disagreement; on one of them it is."""
    nans = (float("nan"), 1.0), (float("nan"), 1.0)

    assert found("ranks", ranks=ranks(grad_norms=nans)) == []
    ((name, _, step, _),) = found("ranks", ranks=ranks(grad_norms=(nans[0], (0.5, 1.0))))
    assert (name, step) == ("grad_norm", 0)


def test_ranks_that_hold_parts_only():
    """Protects: at stage 3, where no rank holds a weight in full, the norms are compared alone."""
    nothing = (None, None)

    assert found("ranks", ranks=ranks(digests=(nothing, nothing))) == []


def test_a_check_of_no_trial():
    """Protects: a check that judges other evidence is refused, not passed."""
    with pytest.raises(ValueError, match=r"^not a check of a trial: checkpoint$"):
        found("checkpoint")


def test_a_trait_that_there_is_not():
    """Protects: a misspelt trait is refused before any rank starts, with those there are."""
    with pytest.raises(ValueError, match=r"^no trait of the trap model: tide; there are tied, "):
        Trial({}, 2, only=("tide",))
