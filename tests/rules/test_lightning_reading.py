"""What is read of a Lightning script, and where it stands."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_deepspeed.configs.lightning import arguments, lint, reading, source
from pytest_deepspeed.configs.unreadable import Unreadable

HEAD = """\
import os
import lightning.pytorch as L
from pytorch_lightning import Trainer as T
from pytorch_lightning.strategies import DeepSpeedStrategy as S
"""


def script(text):
    """A script of some lines below the imports."""
    return reading.parse(HEAD + text, Path("train.py"))


def strategy(text):
    """The one strategy of a script."""
    (one,) = script(text).strategies
    return one


def zero(text):
    """The ``zero_optimization`` of a strategy."""
    return strategy(text).document.data["zero_optimization"]


@pytest.mark.parametrize(
    "text",
    [
        "S(stage=3)",
        "T(strategy='deepspeed_stage_3')",
        "L.Trainer(strategy=L.strategies.DeepSpeedStrategy(stage=3))",
        "import pytorch_lightning\npytorch_lightning.strategies.DeepSpeedStrategy(stage=3)",
        "STAGE = 3\nS(None, True, STAGE)",
        "name = 'deepspeed_stage_3'\nT(strategy=name)",
        "class Own(S):\n    pass\nOwn(stage=3)",
        "from mine import DeepSpeedCPUStrategy\nDeepSpeedCPUStrategy(stage=3)",
        "from mine import DeepSpeedCPUStrategy as C\nkind = S if gpu else C\nkind(stage=3)",
        "S(config={'zero_optimization': {'stage': 3}})",
        "config = {'zero_optimization': {'stage': 3}}\nT(strategy=S(config=config))",
    ],
)
def test_found_by_any_name(text):
    """Protects: a strategy is found however it was imported or named."""
    assert strategy(text).stage == 3


@pytest.mark.parametrize(
    "text",
    [
        "T(strategy='ddp')",
        "from lightning.fabric.strategies import DeepSpeedStrategy\nDeepSpeedStrategy()",
        "from transformers import Trainer\nTrainer(strategy='deepspeed')",
        "print('DeepSpeedStrategy(stage=3)')",
    ],
)
def test_no_strategy(text):
    """Protects: nothing else is taken for a strategy of Lightning's trainer."""
    assert script(text).strategies == ()


@pytest.mark.parametrize(
    "text",
    [
        "S(stage=int(os.environ['STAGE']))",
        "stage = 3\nif os.environ.get('X'):\n    stage = 2\nS(stage=stage)",
        "def f(stage):\n    return S(stage=stage)\nstage = 3",
        "for stage in (1, 3):\n    S(stage=stage)",
    ],
)
def test_unread(text):
    """Protects: a value that only the running script knows is not guessed."""
    one = strategy(text)

    assert one.unread == {("zero_optimization", "stage")}
    assert "stage" not in one.document.data["zero_optimization"]
    assert one.stage is None


@pytest.mark.parametrize(
    "text", ["S(**more)", "S(*more)", "S(config=load())", "S(config='no.json')"]
)
def test_open(text):
    """Protects: where more may be given than is seen, no error is found in what is not seen."""
    assert strategy(text).open
    assert [p for p in lint.problems(script(text)) if p.severity == "error"] == []


def test_config_changed_in_place():
    """Protects: a dict that the script changes later is not taken for what it first was."""
    assert strategy("c = {'train_batch_size': 4}\nc['x'] = 1\nS(config=c)").open


def test_config_file(tmp_path):
    """Protects: a config file that is named is read, and its places are where it is named."""
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stge": 3}}')
    read = reading.parse(HEAD + "S(config='ds.json')", tmp_path / "train.py")
    (problem,) = [p for p in lint.problems(read) if p.rule == "DS101"]

    assert (problem.line, problem.column, problem.edits) == (5, 3, ())


def test_what_the_trainer_says():
    """Protects: precision, accumulation and clipping come from the trainer, as in Lightning."""
    one = strategy(
        "T(strategy=S(loss_scale=8), precision='16-mixed', accumulate_grad_batches=4,"
        " gradient_clip_val=os.environ['CLIP'])"
    )

    assert one.document.data["fp16"]["loss_scale"] == 8
    assert one.document.data["gradient_accumulation_steps"] == 4
    assert ("gradient_clipping",) in one.unread


def test_places():
    """Protects: a part of the config leads to its argument, also behind letters of two bytes."""
    text = "x = 'é'; T(strategy=S(stage=3, offload_optimizer=True, nvme_path='/ü'))"
    read = script(text)
    (one,) = read.strategies
    for path, shown in {
        ("zero_optimization", "stage"): ("stage", "3"),
        ("zero_optimization", "offload_optimizer"): ("offload_optimizer", "True"),
        ("zero_optimization", "offload_optimizer", "nvme_path"): ("nvme_path", "'/ü'"),
    }.items():
        spans = one.document.spans[path]
        key = read.text[spans.key_start : spans.key_end]
        assert (key, read.text[spans.value_start : spans.value_end]) == shown
    start = one.document.spans["zero_optimization", "stage"].key_start
    assert one.document.position(start) == (5, text.index("stage") + 1)


@pytest.mark.parametrize("name", source.load().registered)
def test_registered_strategies_are_not_red(name):
    """Protects: of what Lightning sets by itself no error is shown, nor that it is not used."""
    found = lint.problems(script(f"T(strategy='{name}')"))

    expected = ["DS704", "DS706", "DS904"] if name.endswith("_nvme") else []
    assert [(p.rule, p.severity) for p in found] == [(rule, "warning") for rule in expected]


def test_written_ones_are_red():
    """Protects: the same is shown where the script gives it, at its place."""
    found = lint.problems(script("S(stage=3,\n  thread_count=2,\n  allgather_bucket_size=5)"))

    assert [(p.line, p.rule) for p in found] == [(6, "DS104"), (6, "DS609"), (7, "DS605")]


def test_live_config():
    """Protects: the running config is judged where it is given, at the arguments of the script."""
    text = (
        "S(stage=3, offload_optimizer=True,\n  offload_optimizer_device='nvme',\n  nvme_path=f())"
    )
    read = script(text)
    live = copy.deepcopy(dict(read.strategies[0].document.data))
    live["zero_optimization"]["offload_optimizer"]["nvme_path"] = "here"

    def of_703(problems):
        return [(p.line, p.column) for p in problems if p.rule == "DS703"]

    assert of_703(lint.problems(read)) == []
    assert of_703(lint.problems(read, live=live)) == [(7, 3)]
    elsewhere = reading.parse("import mine\n", Path("train.py"))
    assert of_703(lint.problems(elsewhere, live=live)) == [(1, 1)]


def test_live_config_of_several():
    """Protects: of several strategies, the live config is that of the one that is like it."""
    read = script("if x:\n    S(stage=2)\nelse:\n    S(stage=3)")

    for stage, line in ((2, 6), (3, 8)):
        document = reading.of_live({"zero_optimization": {"stage": stage}}, read)
        assert document.position(document.spans["zero_optimization", "stage"].key_start)[0] == line


def test_live_config_of_what_is_not_seen():
    """Protects: what no literal explains is of the strategy that takes arguments unseen."""
    read = script("if x:\n    S(stage=3)\nelse:\n    S(stage=3, **more)")
    values = {**source.load().strategy, "stage": 3, "offload_optimizer": True}
    document = reading.of_live(arguments.config(values), read)

    assert document.position(document.spans[()].value_start)[0] == 8


def test_live_defaults_are_not_red():
    """Protects: a strategy that is made elsewhere is judged by what is not Lightning's default."""
    values = {**source.load().strategy, "offload_optimizer": True}
    live = arguments.formatted(arguments.config(values), values, {})
    nothing = reading.parse("", Path("train.py"))
    assert lint.problems(nothing, live=live) == []

    live["aio"]["thread_count"] = 4
    assert [p.rule for p in lint.problems(nothing, live=live) if p.severity == "error"] == ["DS104"]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"def f():\nprint()\n", "PL001"),
        (b"(" * 500, "PL001"),
        (b"x = '\0'", "PL001"),
        (b"\xff\xfe", "PL002"),
        (b"#" * (2**20 + 1), "PL002"),
    ],
)
def test_unreadable(content, rule, tmp_path):
    """Protects: what is no script is said to be none, in one problem."""
    path = tmp_path / "train.py"
    path.write_bytes(content)

    with pytest.raises(Unreadable) as caught:
        reading.read(path)
    assert lint.unreadable(caught.value).rule == rule
    with pytest.raises(Unreadable):
        reading.read(tmp_path)


def test_line_ends(tmp_path):
    """Protects: a script from Windows has the same lines."""
    path = tmp_path / "train.py"
    path.write_bytes(
        b"\xef\xbb\xbf" + (HEAD + "\nS(stage=3, cpu_offload=1)\n").replace("\n", "\r\n").encode()
    )

    (problem,) = lint.problems(reading.read(path))
    assert (problem.line, problem.column, problem.rule) == (6, 12, "PL401")


def test_nothing_heavy_is_imported():
    """Protects: pytest itself judges a script without torch, DeepSpeed and Lightning."""
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from pytest_deepspeed.configs.lightning import lint, reading\n"
        "lint.problems(reading.parse(sys.argv[1], Path('train.py')))\n"
        "print({'torch', 'deepspeed', 'pytorch_lightning', 'lightning'} & set(sys.modules))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, HEAD + "S(stage=3)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "set()\n"
