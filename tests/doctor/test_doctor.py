"""``pytest --ds-doctor`` as it is typed: the whole screen, its exit status, nothing else run."""

import re
import subprocess
import sys

import inner
import pytest

from pytest_deepspeed.doctor import shown
from pytest_deepspeed.values.checkup import Line


@pytest.fixture
def doctor(tmp_path):
    """Types ``pytest --ds-doctor`` in a directory; returns the status and the lines."""

    def run(*args, **env):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--ds-doctor", *args],
            cwd=tmp_path,
            env=inner.environment(**env),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return done.returncode, done.stdout.splitlines(), done.stderr

    return run


@pytest.fixture
def broken(tmp_path):
    """A directory for ``PYTHONPATH`` in which torch does not import."""
    folder = tmp_path / "broken"
    folder.mkdir()
    folder.joinpath("torch.py").write_text("raise ImportError('no libtorch')")
    return {"PYTHONPATH": str(folder)}


TOPICS = [
    *("python", "torch", "deepspeed", "lightning", "pytest", "together"),
    *("cpu", "gpu", "backend", "forking", "memory"),
    *("compiler", "libaio", "ops", "nvme", "memlock", "slurm", "data"),
]


def topics(lines):
    """What each line is about; folded lines and remedies begin with a blank."""
    return [line.split()[1] for line in lines[:-1] if not line.startswith(" ")]


def test_this_machine(doctor):
    """Protects: on a machine that runs these tests all is tried, in one screen, with status 0."""
    status, lines, errors = doctor("--ds-device=cpu")
    text = "\n".join(lines)

    assert (status, errors) == (0, "")
    assert topics(lines) == TOPICS
    for line in (
        r"ok torch     \S+, imported in [\d.]+ s",
        r"ok deepspeed \S+, imported in [\d.]+ s",
        r"ok lightning \S+, torchvision \S+",
        r"ok together  these versions are known to work together|-- together  not tested.*",
        r"ok backend   gloo, an all-reduce on the CPU works; ranks use gloo",
        r"ok forking   imports start no thread and no CUDA: ranks are forked",
    ):
        assert re.search(rf"^({line})$", text, re.MULTILINE), text
    assert lines[-1].startswith("Ranks can run here. Not there: ")
    assert len(lines) <= 30
    assert [line for line in lines if len(line) > 80 and not line.lstrip().startswith(">")] == []


def test_a_machine_on_which_nothing_runs(doctor, broken, tmp_path):
    """Protects: what is broken is a line with its remedy, no traceback; the rest is still said."""
    tmp_path.joinpath("test_it.py").write_text("def test_it(): raise SystemExit(5)")
    status, lines, errors = doctor("-q", "-p", "no:xdist", "--ds-nvme-path=/proc", **broken)
    where = lines.index("-- nvme      /proc cannot be written (No such file or directory)")
    torch = lines[1]

    assert (status, errors) == (1, "")
    assert re.fullmatch(r"!! torch     \S+ does not import: ImportError: no libtorch", torch)
    assert re.fullmatch(r" +> \S+ -m pip install .*--force-reinstall torch==\S+", lines[2])
    assert lines[where + 1].endswith("> --ds-nvme-path=DIR, a writable directory on a local disk")
    assert lines[-1] == "No rank can run here before this is mended: torch, deepspeed."
    known = [t for t in TOPICS if t not in ("backend", "forking", "memlock")]
    assert topics(lines) == known


def test_options_from_the_ini_file(doctor, broken, tmp_path):
    """Protects: the directory and data are those that the session would have."""
    tmp_path.joinpath("pytest.ini").write_text("[pytest]\nds_nvme_path = /away\nds_data = /gone\n")
    _, lines, _ = doctor(**broken)

    assert "-- nvme      /away is no existing directory" in lines
    assert "-- data      the data directory /gone does not exist" in lines


def test_a_device_that_is_not_there(doctor, broken):
    """Protects: a GPU that is asked for and is not there is the first line, not an error."""
    status, lines, _ = doctor("--ds-device=cuda", CUDA_VISIBLE_DEVICES="", **broken)

    assert status == 1
    assert lines[:3] == [
        "!! device    --ds-device=cuda, but this process has no GPU (none under",
        "             /proc/driver/nvidia, or CUDA_VISIBLE_DEVICES hides them)",
        "             > use --ds-device=cpu",
    ]


def test_a_device_that_does_not_exist(doctor):
    """Protects: a wrong word ends it with pytest's status for wrong usage."""
    status, lines, errors = doctor("--ds-device=tpu")

    assert (status, lines) == (4, [])
    assert errors == "ERROR: --ds-device: unknown value 'tpu': use one of auto, cpu, cuda\n\n"


WATCHED = """
import sys
import pytest
status = pytest.main(["--ds-doctor", "-p", "no:randomly"])  # which imports NumPy
heavy = {"torch", "deepspeed", "numpy", "torchvision", "pytorch_lightning"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else int(status))
"""


def test_pytests_own_process_imports_no_torch(broken, tmp_path):
    """Protects: what needs torch is asked of another process."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        cwd=tmp_path,
        env=inner.environment(**broken),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (1, "")


def test_a_long_line_is_folded_and_its_remedy_is_not():
    """Protects: text is folded to the screen, a command stays in one piece to be copied."""
    line = Line("--", "nvme", "word " * 20, "command " * 12)

    assert shown(line) == (
        "-- nvme      word word word word word word word word word word word word word\n"
        "             word word word word word word word\n"
        f"             > {'command ' * 12}\n"
    )
