"""The modes and ids of a config."""

import pytest

from pytest_deepspeed.values import modes

NVME = {
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "nvme"},
        "offload_param": {"device": "cpu"},
    },
    "bf16": {"enabled": True},
}


@pytest.mark.parametrize(
    ("config", "case", "names"),
    [
        ({"train_batch_size": 1}, "zero0-fp32", ["zero0"]),
        ({"zero_optimization": {"stage": 2}}, "zero2-fp32", ["zero2"]),
        ({"zero_optimization": True}, "zero1-fp32", ["zero1"]),
        (NVME, "zero3-optimizer_nvme-param_cpu-bf16", ["zero3", "offload_cpu", "offload_nvme"]),
        ({"fp16": {"enabled": True}}, "zero0-fp16", ["zero0"]),
        ({"fp16": {"enabled": False}}, "zero0-fp32", ["zero0"]),
    ],
)
def test_case_id_and_markers(config, case, names):
    """Protects: ids are stable, and the markers say what the config says."""
    assert modes.case_id(config) == case
    assert modes.mode_names(config) == names


def test_no_config_has_no_mode():
    """Protects: a test without a config gets no mode marker."""
    assert modes.mode_names({}) == []
