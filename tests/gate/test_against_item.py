"""``::against``: what it compares, what it says, and how a change is accepted."""

import json
import re

import pytest
from gating import commit, gate, git
from twelve_changes import CONFIG, config, files

FAST = (
    '[tool.pytest_deepspeed]\nchecks = ["against"]\n\n[tool.pytest_deepspeed.against]\npairs = 1\n'
)

WORKLOAD = """\
import torch
from pytest_deepspeed import Workload

WIDTH = {width}


def model():
    return torch.nn.Sequential(
        torch.nn.Linear(4, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, 2)
    )


def dataset():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(64, 4, generator=generator)
    return torch.utils.data.TensorDataset(features, (features.sum(1) > 0).long())


def loss(engine, batch):
    features, labels = batch
    weight = next(engine.parameters())
    logits = engine(features.to(weight.dtype))
    return {scale} * torch.nn.functional.cross_entropy(logits.float(), labels)


def workload():
    return Workload(model=model, dataset=dataset(), loss=loss)
"""


@pytest.fixture
def project(tmp_path):
    """A repository with the config on ``main``; HEAD is on another branch."""
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commit(tmp_path, {**files(), "pyproject.toml": FAST})
    git(tmp_path, "checkout", "--quiet", "-b", "change")
    return tmp_path


def text_of(values):
    """The config's file with these values."""
    return {"ds_config.json": json.dumps(values, indent=2) + "\n"}


def test_a_red_change_is_accepted(project):
    """Protects: the failure says what has changed, what that does, and what to write where it is
    meant; that turns the same change green, and no other.
    """
    commit(project, text_of(config(gradient_clipping=0.5)))

    status, output = gate(project)

    assert status == 1
    failure = output.partition("ds_config.json::against _")[2].partition("\n")[2]
    failure = failure.partition("\n====")[0]
    failure = re.sub(r"\d+\.\d\d (MiB|times)", r"N \1", failure)
    failure = re.sub(r"\(\S+%\)|\(half of the steps [\d. to]+\)", "(...)", failure)
    digest = re.search(r'change = "([0-9a-f]{12})"', failure)[1]
    commit_name = git(project, "rev-parse", "--short", "main").strip()
    assert failure == (
        f"ds_config.json against main ({commit_name}): another training\n"
        "- settings: gradient_clipping is 0.5, and was 0.1\n"
        "what has changed:\n"
        "- its values have changed\n"
        f"--- ds_config.json in main ({commit_name})\n"
        "+++ ds_config.json\n"
        "@@ -4,3 +4,3 @@\n"
        '   "gradient_accumulation_steps": 2,\n'
        '-  "gradient_clipping": 0.1,\n'
        '+  "gradient_clipping": 0.5,\n'
        '   "optimizer": {\n'
        "what DeepSpeed makes of it:\n"
        "- gradient_clipping: 0.1 -> 0.5\n"
        "- the base's checkpoint loads, whole\n"
        "- peak of tensors on a rank N MiB, was N MiB (...)\n"
        "- a step takes N times as long (...)\n"
        "\n"
        "If it is meant, say why in pyproject.toml:\n"
        "\n"
        "[[tool.pytest_deepspeed.accepted]]\n"
        'config = "ds_config.json"\n'
        f'change = "{digest}"\n'
        'reason = "..."'
    )

    said = f'\n[[tool.pytest_deepspeed.accepted]]\nchange = "{digest}"\nreason = "as the paper"\n'
    commit(project, {"pyproject.toml": FAST + said})
    status, output = gate(project)

    assert status == 0
    assert "gradient_clipping is 0.5, and was 0.1. Accepted: as the paper" in " ".join(
        output.split()
    )

    commit(project, text_of(config(gradient_clipping=0.6)))

    assert gate(project)[0] == 1


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"width": 8, "scale": 2.0}, 1, "loss: the loss of step 0"),
        ({"width": 8, "scale": 1.0}, 0, ""),
    ],
    ids=["another loss", "the same"],
)
def test_the_base_s_code(project, changed, status, said):
    """Protects: the base is trained with its own code, from its own commit: a workload that has
    changed is another training, and one that was only written otherwise is none.
    """
    own = {"pytest.ini": "[pytest]\nds_workload = own:workload\n"}
    git(project, "checkout", "--quiet", "main")
    fields = {"{width}": "8", "{scale}": "1.0"}
    before = after = WORKLOAD
    for field, value in fields.items():
        before = before.replace(field, value)
        after = after.replace(field, str(changed[field.strip("{}")]))
    commit(project, {**own, "own.py": before})
    git(project, "checkout", "--quiet", "-B", "change")
    commit(project, {"own.py": "# The same, and more to say of it.\n" + after})

    found, output = gate(project)

    assert found == status, output
    assert said in output
    assert "own.py has changed" in output or status == 0


def test_a_base_that_does_not_train(project):
    """Protects: where the base is broken, nothing is compared, and that is said."""
    git(project, "checkout", "--quiet", "main")
    broken = {**CONFIG, "optimizer": {"type": "NoSuchOptimizer"}}
    commit(project, text_of(broken))
    git(project, "checkout", "--quiet", "-B", "change")
    commit(project, text_of(CONFIG))

    status, output = gate(project)

    assert status == 0, output
    assert "ds_config.json: not compared: the base does not train here:" in output
