"""The configs that are shipped, how files are read, and what is adapted."""

import copy
from pathlib import Path

import pytest

import reference_training
from reference_training import configs
from reference_training.adapt import adapt, uses_fp16
from reference_training.configs import ConfigError

SEED = Path(reference_training.__file__).parent / "examples" / "seed" / "ds_config.json"


@pytest.mark.parametrize("stage", range(4))
def test_reference_configs(stage):
    """Each has its stage, by name and number, and differs from the others in nothing else."""
    config = configs.load(stage)
    assert config == configs.load(f"zero{stage}")
    assert config.pop("zero_optimization")["stage"] == stage
    assert config == {k: v for k, v in configs.load(0).items() if k != "zero_optimization"}


def test_no_such_reference_config():
    """The names there are are listed."""
    with pytest.raises(ConfigError) as error:
        configs.load(4)
    assert str(error.value) == (
        "there is no reference config 4: take one of zero0, zero1, zero2, zero3"
    )


def test_comments_are_read(tmp_path):
    """DeepSpeed reads hjson, so a config with comments and trailing commas is a config."""
    file = tmp_path / "ds_config.json"
    file.write_text('{\n  # how many\n  "train_batch_size": 4,\n}')
    assert configs.read(file) == {"train_batch_size": 4}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "is not valid: given twice: c"),
        ("[]", "is not a JSON object"),
        ('{"a": ', "is not valid: Expecting value: line 1 column 7 (char 6)"),
    ],
)
def test_unreadable_configs(tmp_path, text, why):
    """The file and the place are named."""
    file = tmp_path / "ds_config.json"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        configs.read(file)
    assert str(error.value) == f"the DeepSpeed config {file} {why}"


def test_missing_config(tmp_path):
    """A path with a slip in it is not taken for DeepSpeed's base64 form of a config."""
    with pytest.raises(ConfigError) as error:
        configs.read(tmp_path / "no.json")
    assert str(error.value) == f"the DeepSpeed config {tmp_path / 'no.json'} does not exist"


def test_adapt_the_example_of_the_wiki():
    """On a CPU fp16 becomes bf16, and nothing else changes."""
    config = configs.read(SEED)
    original = copy.deepcopy(config)
    adapted, changes = adapt(config, "cpu")
    assert changes == [
        "fp16 -> bf16 (a CPU does not train in fp16; the fp16 block's loss scaling is not used)."
    ]
    assert config == original
    assert adapted == {**original, "fp16": {"enabled": False}, "bf16": {"enabled": True}}


def test_adapt_the_types_beside_it():
    """Keys that name fp16 again would contradict bf16."""
    config = {
        "fp16": {"enabled": "True"},
        "bf16": {"check_grad_overflow": False},
        "communication_data_type": "fp16",
        "data_types": {"grad_accum_dtype": "float16", "param_dtype": "fp32"},
    }
    adapted, changes = adapt(config, "cpu")
    assert changes[1:] == [
        "communication_data_type: fp16 -> bf16, to match.",
        "data_types.grad_accum_dtype: float16 -> bf16, to match.",
    ]
    assert adapted == {
        "fp16": {"enabled": False},
        "bf16": {"check_grad_overflow": False, "enabled": True},
        "communication_data_type": "bf16",
        "data_types": {"grad_accum_dtype": "bf16", "param_dtype": "fp32"},
    }


@pytest.mark.parametrize(
    ("config", "accelerator"),
    [
        ({"fp16": {"enabled": True}}, "cuda"),
        ({"fp16": {"enabled": False}}, "cpu"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "cpu"),
        ({}, "cpu"),
    ],
    ids=["cuda", "off", "both", "none"],
)
def test_adapt_leaves_the_rest(config, accelerator):
    """What runs as written stays, and what DeepSpeed rejects anywhere stays for it to reject."""
    assert adapt(config, accelerator) == (config, [])


def test_uses_fp16():
    """The seed's config is the one that needs adapting."""
    assert uses_fp16(configs.read(SEED))
    assert not uses_fp16(configs.load(2))
