"""The rules about Lightning scripts at their edges, and the scripts that they were made for."""

import hashlib
from pathlib import Path

import pytest

from pytest_deepspeed.configs import project
from pytest_deepspeed.configs.lightning import lint, reading, suppression

SEED = Path(__file__).parents[1] / "seed" / "deepspeed_stage3_offload_nvme.py"

PARSER = "import argparse\nparser = argparse.ArgumentParser()\n"
FLAGS = PARSER + "parser.add_argument('--lr', type=float)\nargs = parser.parse_args()\n"

NET = """\
import pytorch_lightning as pl
import torch
from torch import nn
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from pytorch_lightning.strategies import DeepSpeedStrategy as S

class Net(pl.LightningModule):
"""

CLEAN = """\
import argparse
import os

import pytorch_lightning as pl
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch.utils.data import DataLoader

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--max-epochs", type=int, default=2)
parser.add_argument("--batch_size", type=int, default=768)


class Net(pl.LightningModule):
    def __init__(self, lr):
        super().__init__()
        self.lr = lr
        self.block = None

    def configure_model(self):
        if self.block is None:
            self.block = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())

    def training_step(self, batch, _):
        return self.block(batch).mean()

    def configure_optimizers(self):
        return DeepSpeedCPUAdam(self.parameters(), lr=self.lr)


def main():
    args = parser.parse_args()
    strategy = DeepSpeedStrategy(
        stage=3,
        offload_optimizer=True,
        offload_parameters=True,
        pin_memory=True,
    )
    trainer = pl.Trainer(
        accelerator="gpu",
        devices=int(os.environ["SLURM_NTASKS_PER_NODE"]),
        strategy=strategy,
        max_epochs=args.max_epochs,
    )
    trainer.fit(Net(args.lr), DataLoader(torch.ones(8, 8), args.batch_size, shuffle=True))


if __name__ == "__main__":
    main()
"""


def script(text):
    """A script, from its text."""
    return reading.parse(text, Path("train.py"))


def ids(text, *only, **settings):
    """The rules that find something, each once for each finding."""
    found = lint.problems(script(text), **settings)
    return [p.rule for p in found if not only or p.rule.startswith(only)]


def net(body, strategy="S(stage=3)"):
    """A script with a LightningModule, whose body this is, and a strategy."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"{NET}{lines}\ntrainer = pl.Trainer(strategy={strategy})\n"


def test_clean_script():
    """Protects: nothing is found in a script that has no fault."""
    assert lint.problems(script(CLEAN)) == []


def test_seed():
    """Protects: each fault of the Alliance's NVMe script is told in words, in its line."""
    told = [
        f"{p.line}:{p.column}: {p.rule} {p.severity}" for p in lint.problems(reading.read(SEED))
    ]
    errors = {p.rule: p.message for p in lint.problems(reading.read(SEED)) if p.severity == "error"}

    assert told == [
        "20:1: PL101 error",
        "20:1: PL102 warning",
        "73:9: PL301 error",
        "73:9: PL302 error",
        "84:21: PL308 warning",
        "106:9: DS706 warning",
        "109:9: DS904 warning",
        "110:9: DS703 warning",
        "110:9: PL201 error",
    ]
    assert errors == {
        "PL101": "unused-flag: --lr is read nowhere: whatever is given, the script trains the same;"
        " use args.lr, or take the flag away",
        "PL301": "deprecated-hook: configure_sharded_model is deprecated: Lightning builds what is"
        " in it without the trainer's precision and device; name it configure_model",
        "PL302": "hook-shards-nothing: configure_sharded_model builds no weights: zero.Init shards"
        " what is built in it, and here all were built before (ConvPart and MLPPart), whole on each"
        " rank; build the layers in configure_model",
        "PL201": 'nvme-path-names-a-variable: nvme_path is the text "local_scratch", not the'
        " variable local_scratch of line 99: DeepSpeed makes a directory of that very name where"
        " the ranks are started, and swaps there; write nvme_path=local_scratch, without quotes",
    }


def test_seed_is_the_page():
    """Protects: the script is that of the page, but for the indentation that the page has lost."""
    unindented = "\n".join(line.strip() for line in SEED.read_text().splitlines() if line.strip())

    assert hashlib.sha256(unindented.encode()).hexdigest() == (
        "df4194c1ee68fefe1f8ee03d83288f6a0c9ec33b0e70ce27df374a854a8e179d"
    )


@pytest.mark.parametrize(
    ("rest", "found"),
    [
        ("", ["PL101"]),
        ("print(args.lr)", []),
        ("args.lr = 1", ["PL101"]),
        ("print(vars(args))", []),
        ("print(getattr(args, 'lr'))", []),
        ("print(getattr(args, 'seed'))", ["PL101"]),
        ("print(getattr(args, input()))", []),
        ("f(**vars(args))", []),
        ("def f(a):\n    print(a.lr)\nf(args)", []),
        ("def f(a):\n    print(a.seed)\nf(args)", ["PL101"]),
        ("def f(a):\n    print(a)\nf(args)", []),
        ("other(args)", []),
        ("copy = args", []),
        ("options = parser.parse_known_args()", []),
    ],
)
def test_unused_flag(rest, found):
    """Protects: a flag counts as used where it may be, and as unused where it is plainly not."""
    assert ids(FLAGS + rest, "PL101") == found


@pytest.mark.parametrize(
    ("flag", "found"),
    [
        ("'--lr', default=0.1", ["PL102"]),
        ("'--lr', '-l', default=1", ["PL102"]),
        ("'--lr', default=0.1, type=float", []),
        ("'--lr', default='0.1'", []),
        ("'--lr', default=True", []),
        ("'--lr', default=0, action='count'", []),
        ("'--lr'", []),
    ],
)
def test_untyped_flag(flag, found):
    """Protects: only a number that a text takes the place of is complained of."""
    text = f"{PARSER}parser.add_argument({flag})\nargs = parser.parse_args()\nprint(args.lr)\n"

    assert ids(text) == found


def test_flags_of_launchers_and_names():
    """Protects: what launchers add may be unread; dest and dashes make the attribute."""
    flags = "'--local_rank'", "'--max-epochs'", "'-x', dest='y'", "'-s', '--seed'"
    text = PARSER + "".join(f"parser.add_argument({flag})\n" for flag in flags)

    assert ids(f"{text}a = parser.parse_args()\nprint(a.max_epochs, a.y, a.seed)", "PL1") == []


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("nvme_path='there'", ["PL201"]),
        ("config={'zero_optimization': {'offload_param': {'nvme_path': 'there'}}}", ["PL201"]),
        ("nvme_path=there", []),
        ("nvme_path='elsewhere'", []),
    ],
)
def test_name_of_a_variable(arguments, found):
    """Protects: a path that is the name of a variable is found, one that is its value is not."""
    strategy = f"S(stage=3, offload_parameters=True, {arguments})"

    assert ids(net("pass", strategy) + "there = f()\n", "PL201") == found


@pytest.mark.parametrize(
    ("strategy", "found"),
    [
        ("S(offload_optimizer_device='cpu')", ["PL202"]),
        ("S(offload_optimizer=x, offload_optimizer_device='cpu')", []),
        ("S(pin_memory=True, offload_parameters=True, stage=3)", []),
        ("S(pin_memory=True)", ["PL202"]),
        ("S(max_in_cpu=5, **more)", []),
        ("S(config={}, max_in_cpu=5)", ["PL203"]),
        ("S(config=x, max_in_cpu=5)", []),
        ("S(config={}, loss_scale=5, remote_device='cpu')", []),
        ("S(zero_optimization=False, thread_count=1)", []),
        ("S(zero_optimization=False, offload_optimizer=True)", ["PL204"]),
        ("S(zero_optimization=x, stage=1)", []),
        ("S(remote_device='nvme')", ["PL205"]),
        ("S(stage=x, remote_device='cpu')", []),
        ("S(stage=3, remote_device=x)", []),
        ("'deepspeed_stage_3_offload_nvme'", []),
        ("S(config={'train_batch_size': 8, 'optimizer': {'type': 'Adam'}})", ["PL207"]),
        ("S(stage=2, gpus=1)", ["PL401"]),
    ],
)
def test_arguments(strategy, found):
    """Protects: an argument is complained of where it is plainly ignored, and where not, not."""
    assert ids(net("pass", strategy), "PL") == found


@pytest.mark.parametrize(
    ("hook", "found"),
    [
        ("self.x = nn.Sequential(self.a, self.b)", ["PL302"]),
        ("pass", ["PL302"]),
        ("super().configure_model()\n        self.x = nn.ModuleList([self.a])", ["PL302"]),
        ("self.x = nn.Sequential(nn.Linear(2, 2))", []),
        ("self.x = build()", []),
        ("self.x = nn.Sequential(*self.layers())", []),
    ],
)
def test_what_a_hook_builds(hook, found):
    """Protects: a hook is complained of only where nothing in it may build weights."""
    body = f"def configure_model(self):\n    {hook.replace(chr(10) + '    ', chr(10))}"

    assert ids(net(body), "PL3") == found
    assert ids(net(body, "S(stage=2)"), "PL3") == []


@pytest.mark.parametrize(
    ("optimizer", "strategy", "found"),
    [
        ("torch.optim.Adam(p)", "S(offload_optimizer=True)", ["PL304"]),
        ("FusedAdam(p)", "S(offload_optimizer=True)", ["PL304"]),
        ("torch.optim.Adam(p)", "S(offload_optimizer=x)", []),
        ("torch.optim.Adam(p)", "S()", []),
        ("mine.Adam(p)", "S(offload_optimizer=True)", []),
        ("DeepSpeedCPUAdam(p)", "S(offload_optimizer=True)", []),
        ("DeepSpeedCPUAdam(p)", "S()", ["PL305"]),
        ("DeepSpeedCPUAdam(p)", "S(offload_optimizer=x)", []),
        ("DeepSpeedCPUAdam(p)", "S() if y else S(offload_optimizer=True)", []),
        ("DeepSpeedCPUAdam(p)", "S(**more)", []),
        ("[a, b]", "S()", ["PL307"]),
        ("[a, b], []", "S()", ["PL307"]),
        ("[a], [b]", "S()", []),
        ("a, b", "S()", []),
    ],
)
def test_optimizer(optimizer, strategy, found):
    """Protects: an optimizer is complained of where every strategy of the script refuses it."""
    assert (
        ids(net(f"def configure_optimizers(self):\n    return {optimizer}", strategy), "PL")
        == found
    )


def test_on_a_cpu():
    """Protects: what is wrong on a GPU alone is not found where the project is for CPUs."""
    text = net("def configure_optimizers(self):\n    return DeepSpeedCPUAdam(p)", "S()")

    assert ids(text, "PL305") == ["PL305"]
    assert ids(text, "PL305", device="cpu") == []


@pytest.mark.parametrize(
    ("trainer", "found"),
    [
        ("accelerator='cpu'", ["PL402"]),
        ("accelerator='auto'", []),
        ("precision=64", ["PL403"]),
        ("precision='bf16'", []),
        ("precision=x", []),
        ("gradient_clip_algorithm='norm'", []),
        ("gpus=2", ["PL401"]),
        ("**more", []),
    ],
)
def test_trainer(trainer, found):
    """Protects: an argument of the trainer is complained of where DeepSpeed cannot have it."""
    assert ids(net("pass") + f"pl.Trainer(strategy='deepspeed', {trainer})\n", "PL4") == found
    assert ids(net("pass", "'ddp'") + f"pl.Trainer({trainer})\n", "PL402", "PL403", "PL404") == []


@pytest.mark.parametrize(
    ("loader", "trainer", "found"),
    [
        ("DataLoader(d, shuffle=False)", "", ["PL406"]),
        ("DataLoader(d, shuffle=False)", "use_distributed_sampler=False", []),
        ("DataLoader(d, shuffle=False)", "overfit_batches=2", []),
        ("DataLoader(d)", "", []),
        ("DataLoader(d, shuffle=s)", "", []),
    ],
)
def test_shuffling(loader, trainer, found):
    """Protects: only a loader that says shuffle=False, and is trained on, is complained of."""
    head = "from torch.utils.data import DataLoader\nimport pytorch_lightning as pl\n"
    text = f"{head}t = pl.Trainer(strategy='deepspeed', {trainer})\n"

    assert ids(f"{text}t.fit(net, {loader})") == found
    assert ids(f"{text}t.fit(net, other, {loader})") == []


@pytest.mark.parametrize(
    ("comment", "kept"),
    [
        ("# ds-ignore: PL101 (ours)", []),
        ("# ds-ignore PL102, PL101 (ours)", []),
        ("# ds-ignore: PL101", ["PL003", "PL101"]),
        ("# ds-ignore: PL102 (ours)", ["PL101"]),
        ("# ds-ignore: PL999 (ours)", ["PL003", "PL101"]),
        ("# ds-ignore: PL003, PL101", ["PL003", "PL101"]),
    ],
)
def test_suppression(comment, kept):
    """Protects: a comment with a reason suppresses a rule, in its line or above it."""
    line = "parser.add_argument('--lr', type=float)"
    for text in (
        FLAGS.replace(line, f"{line}  {comment}"),
        FLAGS.replace(line, f"{comment}\n\n{line}"),
    ):
        read = script(text)
        left, suppressed = suppression.apply(read, lint.problems(read))

        assert sorted(problem.rule for problem in left) == kept
        assert [reason for _, reason in suppressed] == ["ours"] * (not kept)


def test_project_leaves_rules_out(tmp_path):
    """Protects: pyproject.toml names rules about scripts as it names those about configs."""
    table = '[tool.pytest_deepspeed]\nselect = ["PL", "DS7"]\nignore = {PL1 = "old scripts"}\n'
    (tmp_path / "pyproject.toml").write_text(table)
    settings = project.read(tmp_path).of(tmp_path / "train.py")

    assert [settings.reports(id_) for id_ in ("PL201", "PL101", "DS703", "DS101")] == [
        *(True, False),
        *(True, False),
    ]
