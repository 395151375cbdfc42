"""Which scripts are collected, and which tests each of them is."""

import xml.etree.ElementTree as ET

import inner
import pytest

CHECKS = ["schema", "loss", "ranks", "parity", "engagement", "memory", "checkpoint"]

#: Nothing that is imported gets past its first line.
SCRIPT = """\
raise SystemExit("imported")
import pytorch_lightning as pl
from pytorch_lightning.strategies import DeepSpeedStrategy

pl.Trainer(accelerator="gpu", strategy=DeepSpeedStrategy(stage=3)).fit(None)
"""

TEST = """
    def test_of_python():
        pass
"""

FLAGS = """\
import argparse

import pytorch_lightning as pl
from pytorch_lightning.strategies import DeepSpeedStrategy

parser = argparse.ArgumentParser()
{above}parser.add_argument("--lr", type=float, default=0.1)
args = parser.parse_args()
pl.Trainer(accelerator="gpu", strategy=DeepSpeedStrategy(stage=2)).fit(None)
"""


def ini(*patterns):
    """The option that sets the patterns."""
    return ["-o", f"ds_lightning_files={' '.join(patterns)}"]


def write(folder, **files):
    """Writes scripts; `__` in a name is a slash."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def collected(session):
    """The ids of a session with ``--collect-only -q``."""
    return [line for line in session.output.splitlines() if "::" in line]


def outcomes(session):
    """The last line of a session, without the time."""
    return session.output.splitlines()[-1].strip("= ").rpartition(" in ")[0]


def test_each_check_of_a_script_is_a_test(inner_session, tmp_path):
    """Protects: scripts are found by name or by path, and one that python_files names too is not
    imported; what matches no pattern stays python's.
    """
    write(tmp_path, train_a=SCRIPT, sub__train_b=SCRIPT, sub__other=SCRIPT, test_train=SCRIPT)

    session = inner_session(
        TEST, args=["--collect-only", "-q", *ini("train_*.py", "sub/o*.py", "test_train.py")]
    )

    assert collected(session) == [
        *(f"sub/other.py::{check}" for check in CHECKS),
        *(f"sub/train_b.py::{check}" for check in CHECKS),
        "test_of_python.py::test_of_python",
        *(f"test_train.py::{check}" for check in CHECKS),
        *(f"train_a.py::{check}" for check in CHECKS),
    ]


def test_scripts_on_the_command_line(inner_session, tmp_path):
    """Protects: a script named there is the same tests; without a pattern it is python's."""
    write(tmp_path, train=SCRIPT)
    args = ["--collect-only", "-q", "train.py"]

    named = collected(inner_session(args=[*args, *ini("train.py")]))
    one = collected(inner_session(args=["--collect-only", "-q", "train.py::parity", *ini("t*.py")]))
    session = inner_session(args=args)

    assert named == [f"train.py::{check}" for check in CHECKS]
    assert one == ["train.py::parity"]
    assert "SystemExit: imported" in session.output


def test_the_project_says_what_is_run(inner_session, tmp_path):
    """Protects: checks and world sizes of ``pyproject.toml`` hold for scripts, by their names, and
    ``-m lightning`` takes scripts and nothing else.
    """
    write(tmp_path, train_a=SCRIPT, train_b=SCRIPT)
    tmp_path.joinpath("pyproject.toml").write_text("""
        [tool.pytest_deepspeed]
        checks = ["schema", "loss", "reshard"]
        [[tool.pytest_deepspeed.configs]]
        files = "train_b.py"
        checks = ["parity"]
        world_sizes = [2, 3]
    """)
    tmp_path.joinpath("ds_config.json").write_text('{"train_batch_size": 8}')

    session = inner_session(
        TEST, args=["--collect-only", "-q", "-m", "lightning", *ini("train_*.py")]
    )

    assert collected(session) == [
        "train_a.py::schema",
        "train_a.py::loss",
        "train_b.py::parity[world_size_2]",
        "train_b.py::parity[world_size_3]",
    ]


def test_what_the_rules_say_of_scripts(inner_session, tmp_path):
    """Protects: an error of a script is shown at its line, a suppression with its reason counts,
    and a script that is no python fails, all without running anything.
    """
    write(
        tmp_path,
        train_broken="def main(:\n",
        train_flag=FLAGS.format(above=""),
        train_ignored=FLAGS.format(above="# ds-ignore: PL101 (kept for old jobs)\n"),
    )

    session = inner_session(args=["--ds-checks=schema", *ini("train_*.py")])

    suppressed = ET.parse(tmp_path / "junit.xml").findall(".//property[@name='ds_suppressed']")
    assert outcomes(session) == "2 failed, 1 passed"
    assert session.section("FAILURES") == inner.text("""
        ___________________________ train_broken.py::schema ____________________________
        train_broken.py:1:10: PL001 no-python
          Python cannot read it: invalid syntax.
          Mend the line; a script that lost its indentation has to get it back.
          (more: python -m pytest_deepspeed.explain PL001)

        1 error in train_broken.py
        ____________________________ train_flag.py::schema _____________________________
        train_flag.py:7:1: PL101 unused-flag
            parser.add_argument("--lr", type=float, default=0.1)
          --lr is read nowhere: whatever is given, the script trains the same.
          Use args.lr, or take the flag away.
          (more: python -m pytest_deepspeed.explain PL101)

        1 error in train_flag.py
    """)
    assert [one.get("value") for one in suppressed] == ["8: PL101 unused-flag: kept for old jobs"]


@pytest.mark.parametrize("wrong", ["arguments = '--lr 1'", "arguments = [1]"])
def test_wrong_arguments(inner_session, tmp_path, wrong):
    """Protects: arguments that are no list of texts end the session, with what to write."""
    tmp_path.joinpath("pyproject.toml").write_text(f"[tool.pytest_deepspeed]\n{wrong}\n")

    session = inner_session(args=["--collect-only"])

    value = wrong.partition("= ")[2]
    assert session.status == 4
    assert session.output == (
        "ERROR: DIR/pyproject.toml: [tool.pytest_deepspeed]: arguments: a list of texts:"
        f' ["--batch_size", "8"], got {value}\n\n'
    )
