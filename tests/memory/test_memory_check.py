"""The ZeRO arithmetic and the check, on evidence made by hand."""

import dataclasses

import pytest

from pytest_deepspeed.training.memory.arithmetic import expected, on_device
from pytest_deepspeed.training.memory.check import check, table
from pytest_deepspeed.training.memory.evidence import (
    CATEGORIES,
    Held,
    Layout,
    MemoryEvidence,
    RankMemory,
    Tensor,
)
from pytest_deepspeed.training.memory.limits import Limits
from pytest_deepspeed.values import plain

#: A Linear(10, 13) with a frozen bias, one of (13, 7), one of (7, 3) in a group of its own.
BASE = Layout(
    stage=0,
    world_size=2,
    itemsize=4,
    groups=((130, 91, 7), (21, 3)),
    frozen=(13,),
    order=(130, 13, 91, 7, 21, 3),
    states=2,
    persistence_threshold=20,
    bucket_size=64,
)


def layout(**changes):
    """The layout above, changed."""
    """The layout above, changed."""
    return dataclasses.replace(BASE, **changes)


# Worked out by hand: 252 trained and 13 frozen elements; stages 1 and 2 pad the groups of 228 and
# 24 to multiples of 4 (none is needed) and keep halves; stage 3 keeps 65+46+4 and 11+2 = 128
# halves of trained parameters and 7 of the frozen one, and those of 13, 7 and 3 elements whole, as
# 14, 8 and 4.
@pytest.mark.parametrize(
    ("changes", "bytes_"),
    [
        ({}, {"parameters": 1060, "masters": 0, "optimizer": 2016, "gradients": 1008, "nvme": 0}),
        (
            {"itemsize": 2},
            {"parameters": 530, "masters": 1008, "optimizer": 2016, "gradients": 504, "nvme": 0},
        ),
        (
            {"stage": 1},
            {"parameters": 1060, "masters": 504, "optimizer": 1008, "gradients": 504, "nvme": 0},
        ),
        (
            {"stage": 2, "itemsize": 2, "states": 1},
            {"parameters": 530, "masters": 504, "optimizer": 504, "gradients": 252, "nvme": 0},
        ),
        (
            {"stage": 2, "itemsize": 2, "offload_optimizer": "cpu"},
            {"parameters": 530, "masters": 504, "optimizer": 1008, "gradients": 504, "nvme": 0},
        ),
        (
            {"stage": 2, "world_size": 5},
            # 228 and 24 padded to 230 and 30
            {
                "parameters": (260 + 13) * 4,
                "masters": 208,
                "optimizer": 416,
                "gradients": 208,
                "nvme": 0,
            },
        ),
        (
            {"stage": 3, "itemsize": 2},
            {
                "parameters": (135 + 26) * 2,
                "masters": 512,
                "optimizer": 1024,
                "gradients": 256,
                "buckets": 128,
                "nvme": 0,
            },
        ),
        (
            {"stage": 3, "offload_optimizer": "nvme", "swap_from": 400, "sub_group_size": 70},
            # sub-groups of 65+46 and 4 elements, and of 13: the first is 444 bytes
            {
                "parameters": (135 + 26) * 4,
                "masters": 17 * 4,
                "optimizer": 17 * 8,
                "gradients": 128 * 4 + 17 * 4,
                "buckets": 256,
                "nvme": 3 * 1024,
            },
        ),
    ],
)
def test_arithmetic(changes, bytes_):
    """Protects: each category at each stage, against figures worked out by hand."""
    assert expected(layout(**changes)) == bytes_


def test_a_total_of_kept_parameters():
    """Protects: ZeRO-3 keeps whole what fits into the total, in the model's order."""
    kept = layout(stage=3, persistence_total=16)

    # 13 and 3 fit, 7 does not
    assert expected(kept)["parameters"] == (135 + 14 + 4) * 4


def test_parameters_on_nvme():
    """Protects: partitions that are large enough leave memory, unless ``max_in_cpu`` keeps them;
    a frozen one leaves it either way.
    """
    on_nvme = layout(stage=3, offload_param="nvme", swap_from=184, frozen=(93,))
    swapped = dataclasses.replace(on_nvme, parameters_in_cpu=False)

    # of shares 65, 46, 4, 11 and 2 the first two have 184 bytes or more, as has the frozen 47;
    # 14, 8 and 4 elements are kept whole
    assert expected(on_nvme)["parameters"] == (128 + 26) * 4
    assert expected(swapped)["parameters"] == (17 + 26) * 4


def test_what_is_not_known_is_not_expected():
    """Protects: no figure for a config or an optimizer that the arithmetic does not follow."""
    assert expected(layout(unknown="zenflow")) == {}
    assert "optimizer" not in expected(layout(states=None))


def evidence(of=BASE, **changes):
    """Two ranks that hold what the arithmetic says."""
    wanted = expected(of)
    held = {
        c: Held(wanted.get(c, 0), wanted.get(c, 0), {"cpu": wanted.get(c, 0)}) for c in CATEGORIES
    }
    rank = RankMemory(
        rank=0,
        held=held,
        largest=(Tensor("a.weight", "parameters", "float32", "cpu", 520),),
        looked=True,
        tensors=9000,
        host=3 * 2**20,
        device=None,
        device_reserved=None,
        nvme={},
        estimate_host=None,
        estimate_device=None,
    )
    second = dataclasses.replace(rank, rank=1)
    return MemoryEvidence(of, (rank, dataclasses.replace(second, **changes)))


NONE = Limits({}, {})


@pytest.mark.parametrize(
    ("changes", "bytes_"),
    [
        ({"stage": 2}, {"parameters": 1060, "masters": 504, "optimizer": 1008}),
        (
            {"stage": 2, "offload_optimizer": "cpu"},
            {"parameters": 1060, "masters": 0, "optimizer": 0},
        ),
        (
            {"stage": 3, "offload_param": "cpu"},
            # of weights only those of 13, 7 and 3 elements, whole: 14 + 8 + 4
            {"parameters": 104, "masters": 512, "optimizer": 1024},
        ),
        (
            {"stage": 3, "offload_optimizer": "cpu", "partly_offloaded": True},
            {"parameters": (135 + 26) * 4},
        ),
        ({"unknown": "zenflow"}, {}),
    ],
)
def test_arithmetic_of_a_gpu(changes, bytes_):
    """Protects: what is offloaded is no memory of the GPU; figures worked out by hand."""
    assert on_device(layout(**changes)) == bytes_


def on_gpu(of, **elsewhere):
    """Two ranks that compute on a GPU, with each category there but those that are elsewhere."""
    found = evidence(of)
    held = {
        name: Held(h.bytes, h.used, {elsewhere.get(name, "cuda"): h.bytes})
        for name, h in found.ranks[0].held.items()
    }
    ranks = [dataclasses.replace(r, held=held, device=5000) for r in found.ranks]
    return MemoryEvidence(of, tuple(ranks))


def test_what_is_offloaded_is_looked_for_on_the_gpu():
    """Protects: states that an offload leaves on the GPU are a finding, be their sum right."""
    of = layout(stage=2, offload_optimizer="cpu")
    right = on_gpu(of, masters="cpu", optimizer="cpu", gradients="cpu")

    assert check(right, NONE) == []
    assert table(right)[-4] == "held on the GPU            1,060           1,060               -"
    assert [(f.name, f.message) for f in check(on_gpu(of, masters="cpu"), NONE)] == [
        (
            "optimizer_on_device",
            (
                "rank 0 holds 1,008 bytes of optimizer on its GPU, and the ZeRO arithmetic of stage"
                " 2 on 2 ranks gives 0: look at offload_optimizer and offload_param"
            ),
        )
    ]


def test_equal_bytes_pass():
    """Protects: no finding where all is as it should be, and the evidence survives its trip."""
    found = evidence()

    assert check(found, NONE) == []
    assert plain.load(MemoryEvidence, plain.dump(found)) == found


@pytest.mark.parametrize(
    ("category", "advice"),
    [
        (
            "parameters",
            (
                "weights are not partitioned or kept whole as configured: look at the stage,"
                " stage3_param_persistence_threshold and offload_param"
            ),
        ),
        (
            "masters",
            (
                "the optimizer does not step the partition that its stage gives this rank: look at"
                " the stage, the dtype and offload_optimizer"
            ),
        ),
        (
            "optimizer",
            (
                "optimizer states are not sharded or swapped as configured: look at the stage, the"
                " optimizer's type and offload_optimizer"
            ),
        ),
        (
            "gradients",
            (
                "gradients are not partitioned as configured, or not all there: look at the stage"
                " and offload_optimizer"
            ),
        ),
        ("buckets", "the gradient bucket has another size than reduce_bucket_size"),
    ],
)
def test_one_byte_is_found(category, advice):
    """Protects: a single byte too many in one category on one rank is red, with its rank."""
    right = evidence(layout(stage=3))
    held = right.ranks[1].held
    wanted = held[category].bytes
    wrong = held | {category: Held(wanted + 1, wanted + 1, {"cpu": wanted + 1})}

    (finding,) = check(evidence(layout(stage=3), held=wrong), NONE)

    assert finding.name == category
    assert finding.message == (
        f"rank 1 holds {wanted + 1:,} bytes of {category}, and the ZeRO arithmetic of stage 3 on 2"
        f" ranks gives {wanted:,}: {advice}"
    )


def test_a_swap_file_too_few_is_found():
    """Protects: masters and states count on NVMe; gradients and parameters there do not."""
    on_nvme = layout(stage=3, offload_optimizer="nvme", swap_from=400)
    files = {
        "zero_stage_3/optimizer/rank1/0.tensor.swp": 1024,
        "zero_stage_3/optimizer/rank1/exp_avg-0.tensor.swp": 1024,
        "zero_stage_3/optimizer/rank1/0_gradient_0_4.tensor.swp": 1024,
        "zero_stage_3/float32params/rank1/0_param.tensor.swp": 1024,
    }
    found = evidence(on_nvme, nvme=files)
    (finding,) = check(MemoryEvidence(on_nvme, found.ranks[1:]), NONE)

    assert finding.message == (
        "rank 1 holds 2,048 bytes of nvme, and the ZeRO arithmetic of stage 3 on 2 ranks gives"
        " 3,072: swap files do not hold the masters and states of the partitions that are large"
        " enough to swap: look at offload_optimizer and aio.block_size"
    )


def test_gradients_that_were_not_looked_at_are_not_judged():
    """Protects: no false alarm about gradients that are gone after the step."""
    held = evidence().ranks[1].held | {"gradients": Held(0, 0, {})}

    assert check(evidence(held=held, looked=False), NONE) == []


def test_a_limit_shows_the_breakdown():
    """Protects: one byte over a limit is red, at the rank that takes most, with what it holds."""
    limits = Limits({"host": 3 * 2**20, "tensors": 9000}, {"host": "limit_rank_memory"})

    assert check(evidence(), limits) == []
    (finding,) = check(evidence(host=3 * 2**20 + 1), limits)
    assert finding.name == "limit_host"
    assert finding.message == (
        "rank 1: peak of host memory above what the rank had at its start: 3.00 MiB, more than"
        " the 3.00 MiB that limit_rank_memory allows (host: 3,145,729 bytes of 3,145,728)\n"
        "held after the last step:\n"
        "  parameters          1.04 KiB\n"
        "  optimizer           1.97 KiB\n"
        "  gradients             1008 B\n"
        "  peak of tensors     8.79 KiB\n"
        "  peak of host        3.00 MiB\n"
        "largest tensors:\n"
        "        520 B  a.weight (parameters, float32, cpu)"
    )


@pytest.mark.parametrize("name", ["parameters", "gradients", "masters", "optimizer", "nvme"])
def test_each_category_can_be_limited(name):
    """Protects: a limit by name is held to, and one that just fits passes."""
    on_nvme = layout(stage=3, offload_optimizer="nvme", swap_from=400)
    files = {f"optimizer/rank0/{i}.swp": 1024 for i in range(3)}
    ranks = [dataclasses.replace(r, nvme=files) for r in evidence(on_nvme).ranks]
    found = MemoryEvidence(on_nvme, tuple(ranks))
    size = 3072 if name == "nvme" else found.ranks[0].held[name].bytes

    assert check(found, Limits({name: size}, {name: "x"})) == []
    assert [f.name for f in check(found, Limits({name: size - 1}, {name: "x"}))] == [
        f"limit_{name}"
    ]


def test_a_limit_of_what_was_not_measured_is_told():
    """Protects: a limit that could never fail is a finding, not a silent pass."""
    found = evidence()
    ranks = tuple(dataclasses.replace(r, tensors=None) for r in found.ranks)

    (finding,) = check(MemoryEvidence(BASE, ranks), Limits({"tensors": 1}, {"tensors": "a mark"}))

    assert finding.message == (
        "a mark limits tensors, which were not measured: no step was metered. Limit host instead"
    )


def test_table():
    """Protects: the report's lines, at most 80 columns, with the arithmetic beside them."""
    assert table(evidence(host=4 * 2**20)) == [
        "bytes on a rank            least            most      arithmetic",
        "parameters                 1,060           1,060           1,060",
        "optimizer                  2,016           2,016           2,016",
        "gradients                  1,008           1,008           1,008",
        "peak in a step             9,000           9,000               -",
        "peak of host           3,145,728       4,194,304               -",
    ]
