"""The parity check on made-up evidence: a passing case, and the smallest that fails."""

import dataclasses

import pytest
import torch

from pytest_deepspeed.training.parity.check import agree, check
from pytest_deepspeed.training.parity.compare import History, compare
from pytest_deepspeed.training.parity.evidence import MomentError, ParameterError, ParityEvidence

GOOD = ParityEvidence(
    dtype="fp32",
    twin_dtype="fp32",
    loss=(2.0, 1.0),
    twin_loss=(2.0, 1.0),
    grad_norm=(3.0, None),
    twin_grad_norm=(3.0, 4.0),
    lr=((0.1, 0.2), (0.1, 0.2)),
    twin_lr=((0.1, 0.2), (0.1, 0.2)),
    parameters=(
        ParameterError("a", (0.0, 9e-6), (0.0, 1e-6), (1.0, 1.0), (1.0, 1.0)),
        ParameterError("b", (0.0, 0.0), (0.0, 0.0), (2.0, 2.0), (2.0, 2.0)),
    ),
    moments=(
        MomentError("a", "exp_avg", 9e-9, 1e-9, 1e-4),
        MomentError("b", "exp_avg", 0.0, 0.0, 0.0),
    ),
    missing_parameters=(),
    missing_moments=(),
    optimizer_steps=2,
    twin_optimizer_steps=2,
)


def found(**changes):
    """Name, parameter, step and message of each finding of the changed evidence."""
    findings = check(dataclasses.replace(GOOD, **changes))
    assert {finding.check for finding in findings} <= {"parity"}
    return [(f.name, f.parameter, f.step, f.message) for f in findings]


def test_within_tolerance():
    """Protects: errors below the tolerances, and a norm that DeepSpeed does not give, are right."""
    assert check(GOOD) == []


def test_loss():
    """Protects: a loss that is off by more than 1e-5 of it is found, with the step and the size."""
    assert found(loss=(2.0, 1.000011)) == [
        (
            "loss",
            "",
            1,
            (
                "the loss of step 1 is 1.000011, the twin has 1: 1.1e-05 of it, tolerance 1e-05."
                " 1 of 2 steps are beyond it, step 1 the most, by 1.1e-05"
            ),
        )
    ]


def test_a_loss_that_is_no_number():
    """Protects: NaN, which no comparison finds too large, is beyond every tolerance."""
    assert found(loss=(2.1, float("nan"))) == [
        (
            "loss",
            "",
            0,
            (
                "the loss of step 0 is 2.1, the twin has 2: 5.0e-02 of it, tolerance 1e-05."
                " 2 of 2 steps are beyond it, step 1 the most, by nan"
            ),
        )
    ]


def test_grad_norm():
    """Protects: a gradient norm that is off by more than 1e-4 of it is found."""
    assert found(grad_norm=(3.0004, 4.0)) == [
        (
            "grad_norm",
            "",
            0,
            (
                "the gradient norm of step 0 is 3.0004, the twin has 3: 1.3e-04 of it, tolerance"
                " 1e-04. 1 of 2 steps are beyond it, step 0 the most, by 1.3e-04"
            ),
        )
    ]


def test_lr():
    """Protects: learning rates are compared to the last digits, for each parameter group."""
    assert found(lr=((0.1, 0.2), (0.1, 0.2000000001))) == [
        (
            "lr",
            "",
            1,
            (
                "the learning rates of step 1 are 0.10000000000000001, 0.20000000009999999, for"
                " each parameter group; the schedule has 0.10000000000000001, 0.20000000000000001"
            ),
        )
    ]


def test_a_parameter_group_too_few():
    """Protects: groups that an optimizer merged are found, though the first rate is right."""
    assert found(lr=((0.1,), (0.1,))) == [
        (
            "lr",
            "",
            0,
            (
                "the learning rates of step 0 are 0.10000000000000001, for each parameter group;"
                " the schedule has 0.10000000000000001, 0.20000000000000001"
            ),
        )
    ]


def test_parameters():
    """Protects: each parameter that is off at the first bad step is named, the worst first; one
    that goes astray later is counted.
    """
    parameters = (
        ParameterError("a", (0.0, 2e-5, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        ParameterError("b", (0.0, 3e-5, 2.0), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0), (2.0, 2.0, 2.0)),
        ParameterError("c", (0.0, 0.0, 3.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        ParameterError("d", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    )

    assert found(parameters=parameters) == [
        (
            "parameters",
            "b",
            1,
            (
                "b is off by 3.0e-05 after step 1, where its largest element is 2.0e+00, and by"
                " 2.0e+00 after the last, 2; tolerance 1e-05. Number 1 of 2 beyond it, the worst"
                " first, out of 4 parameters, and 1 more later"
            ),
        ),
        (
            "parameters",
            "a",
            1,
            (
                "a is off by 2.0e-05 after step 1, where its largest element is 1.0e+00, and by"
                " 1.0e+00 after the last, 2; tolerance 1e-05. Number 2 of 2 beyond it, the worst"
                " first, out of 4 parameters, and 1 more later"
            ),
        ),
    ]


def test_a_missing_parameter():
    """Protects: a parameter that DeepSpeed lost is found."""
    assert found(missing_parameters=("c",)) == [
        ("parameters", "c", None, "DeepSpeed has no parameter c")
    ]


def test_moments():
    """Protects: a moment that is off by more than 1e-4 of its largest element is found, although
    the weights are right: Adam forgives a gradient that is wrong by a factor.
    """
    moments = (
        MomentError("a", "exp_avg", 2e-8, 1e-9, 1e-4),
        MomentError("a", "exp_avg_sq", 4e-8, 1e-9, 1e-4),
        GOOD.moments[1],
    )

    assert found(moments=moments) == [
        (
            "moments",
            "a",
            None,
            (
                "exp_avg_sq of a is off by 4.0e-04 of its largest element, 1.0e-04, after the"
                " last step; tolerance 1e-04. Number 1 of 1 beyond it, the worst first, out of 2"
                " parameters"
            ),
        )
    ]


def test_moments_speak_of_the_parameters_that_went_wrong_first():
    """Protects: what follows from wrong weights is not laid at the door of other parameters."""
    parameters = (ParameterError("a", (1.0,), (1.0,), (1.0,), (1.0,)), GOOD.parameters[1])
    moments = (MomentError("a", "exp_avg", 1.0, 1.0, 1.0), MomentError("b", "exp_avg", 2, 2, 1))

    assert [(name, parameter) for name, parameter, *_ in found(moments=moments)] == [
        ("moments", "b"),
        ("moments", "a"),
    ]
    both = found(parameters=parameters, moments=moments)
    assert [(name, parameter) for name, parameter, *_ in both] == [
        ("parameters", "a"),
        ("moments", "a"),
    ]


def test_a_missing_moment():
    """Protects: an optimizer state that DeepSpeed does not have is found."""
    assert found(missing_moments=(("b", "exp_avg_sq"),)) == [
        ("moments", "b", None, "DeepSpeed's optimizer has no exp_avg_sq of b")
    ]


def test_optimizer_steps():
    """Protects: an optimizer that stepped once too often is found by its count alone."""
    assert found(optimizer_steps=3) == [
        ("optimizer_steps", "", None, "the optimizer counts 3 steps, the twin has made 2")
    ]


def test_bf16_beside_bf16():
    """Protects: in bf16 the mean over a parameter's elements counts, not the worst of them, beside
    how far the parameter has moved.
    """
    changes = {"dtype": "bf16", "twin_dtype": "bf16"}
    little = ParameterError("a", (0.0, 0.5), (0.0, 0.29e-3), (1.0, 1.0), (0.0, 1e-3))
    much = ParameterError("b", (0.0, 0.5), (0.0, 0.31e-3), (2.0, 2.0), (0.0, 1e-3))
    frozen = ParameterError("c", (1e-9, 0.0), (1e-9, 0.0), (2.0, 2.0), (0.0, 0.0))

    assert found(**changes, parameters=(little,)) == []
    assert found(**changes, parameters=(little, much)) == [
        (
            "parameters",
            "b",
            1,
            (
                "b is off by 3.1e-01 of its way since the start after step 1, where its largest"
                " element is 2.0e+00, and by 3.1e-01 after the last, 1; tolerance 3e-01. Number 1"
                " of 1 beyond it, the worst first, out of 2 parameters"
            ),
        )
    ]
    assert [name for _, name, *_ in found(**changes, parameters=(frozen,))] == ["c"]


@pytest.mark.parametrize(("loss", "names"), [(1.019, []), (1.021, ["loss"])])
def test_bf16_beside_fp32(loss, names):
    """Protects: of bf16 beside fp32 the loss says something, to 2 %, and the weights do not."""
    far = ParameterError("a", (1.0,), (1.0,), (1.0,), (1.0,))
    changes = {"dtype": "bf16", "twin_dtype": "fp32", "parameters": (far,)}

    assert [name for name, *_ in found(**changes, loss=(2.0, loss))] == names


def test_stages_agree():
    """Protects: runs that differ in their stage only may differ in the sixth digit of the loss."""
    assert agree({"zero1": [2.0, 1.0], "zero2": [2.0, 1.00001]}) == []
    (finding,) = agree({"zero1": [2.0, 1.0], "zero2": [2.0, 1.00006], "zero3": [2.0, 1.0]})

    assert (finding.name, finding.step) == ("agreement", 1)
    assert finding.message == (
        "the loss of zero2 of step 1 is 1.00006, zero1 has 1: 6.0e-05 of it, tolerance 5e-05."
        " 1 of 2 steps are beyond it, step 1 the most, by 6.0e-05"
    )


def history(weight, moment, **changes):
    """A training of one step with one parameter."""
    values = {
        "dtype": "fp32",
        "loss": (1.0,),
        "grad_norm": (1.0,),
        "lr": ((0.1,),),
        "parameters": ({"w": torch.tensor(weight)},),
        "moments": {"w": {"exp_avg": torch.tensor(moment)}},
        "optimizer_steps": 1,
    }
    return History(**values | changes)


def test_compare():
    """Protects: errors are the largest and the mean difference, beside the twin's size and way."""
    twin = history([1.0, -2.0], [0.25], start={"w": torch.tensor([0.5, -2.0])})
    evidence = compare(history([1.0, 2.5], [0.5]), twin)

    assert evidence.parameters == (ParameterError("w", (4.5,), (2.25,), (2.0,), (0.25,)),)
    assert evidence.moments == (MomentError("w", "exp_avg", 0.25, 0.25, 0.25),)
    assert check(compare(history([1.0], [0.5]), history([1.0], [0.5]))) == []


def test_compare_finds_what_is_missing_or_of_another_shape():
    """Protects: a lost parameter, a lost moment and a wrong shape do not pass as equal."""
    lost = history([1.0], [1.0], parameters=({},), moments={})
    evidence = compare(lost, history([1.0], [1.0]))
    shape = compare(history([1.0], [1.0]), history([1.0, 1.0], [1.0]))

    assert evidence.missing_parameters == ("w",)
    assert evidence.missing_moments == (("w", "exp_avg"),)
    assert shape.parameters[0].error == (float("inf"),)


def test_compare_wants_equally_long_trainings():
    """Protects: a training that ended early is not compared as far as it goes."""
    with pytest.raises(ValueError, match="steps") as caught:
        compare(history([1.0], [1.0], loss=(1.0, 1.0)), history([1.0], [1.0]))
    assert str(caught.value) == "2 steps of DeepSpeed, 1 of the twin"
