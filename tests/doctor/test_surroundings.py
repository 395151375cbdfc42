"""The disk, Slurm and data, there and missing."""

import os
import re
from pathlib import Path

import pytest

from pytest_deepspeed.doctor import disk, surroundings
from pytest_deepspeed.training import machine
from pytest_deepspeed.values.checkup import Line

ROOT = "" if os.geteuid() == 0 else "sudo "


def disk_lines(path):
    """The lines of a directory, by topic."""
    return {line.topic: line for line in disk.lines(path)}


def test_a_disk(tmp_path):
    """Protects: the speed is measured, on the filesystem that holds it, and no file is left."""
    line = disk_lines(tmp_path)["nvme"]
    shown = re.sub(r"[\d,]+ MB/s", "N MB/s", line.text)

    assert shown.startswith(
        f"{tmp_path} ({disk.filesystem(tmp_path)}): writes N MB/s, reads N MB/s"
    )
    assert list(tmp_path.iterdir()) == []


def test_no_disk(monkeypatch, tmp_path):
    """Protects: a directory that cannot be swapped to has its reason, and where else to go."""
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    away = tmp_path / "away"
    (line,) = disk.lines(away)
    monkeypatch.setenv("SLURM_TMPDIR", "/local")
    (in_job,) = disk.lines(away)

    assert line == Line(
        "--",
        "nvme",
        f"{away} is no existing directory",
        "--ds-nvme-path=DIR, a writable directory on a local disk",
    )
    assert in_job.remedy == "--ds-nvme-path=$SLURM_TMPDIR"


def test_a_disk_that_is_memory():
    """Protects: offloading to memory saves none, and is said not to be a disk."""
    shm = Path("/dev/shm")
    if machine.not_swappable(shm):
        pytest.skip("this kernel's tmpfs has no O_DIRECT (Linux 6.6 and newer have)")
    line = disk_lines(shm)["nvme"]

    assert re.sub(r"[\d,]+ MB/s", "N MB/s", line.text) == (
        "/dev/shm (tmpfs): writes N MB/s, reads N MB/s, and is memory, not a disk"
    )
    assert line.mark == "--"


@pytest.mark.parametrize(("path", "kind"), [("/proc/self", "proc"), ("/sys", "sysfs")])
def test_filesystem(path, kind):
    """Protects: the innermost mount is the one that holds a directory."""
    assert disk.filesystem(Path(path)) == kind


JOB = {
    "SLURM_JOB_ID": "71",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_CPUS_PER_NODE": "2(x2)",
}


@pytest.fixture
def no_job(monkeypatch):
    """Not in a Slurm job."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


TOOLS = {"sbatch": "", "salloc": "", "srun": "", "scontrol": "echo slurm 22.05.8"}


def test_no_slurm(programs, no_job):
    """Protects: without Slurm nodes can be emulated."""
    programs()

    assert surroundings.slurm_line() == Line(
        "--",
        "slurm",
        "not here; nodes can be emulated (--ds-launcher=local)",
        f"{ROOT}apt-get install slurm-client",
    )


def test_slurm_without_a_job(programs, no_job):
    """Protects: on a login node the line that submits a job, with Slurm's version."""
    programs(**TOOLS)

    assert surroundings.slurm_line() == Line(
        "ok", "slurm", "no job; slurm 22.05.8", "sbatch slurm/pytest.sbatch --ds-nodes=2"
    )


def test_a_slurm_job(programs, no_job, monkeypatch):
    """Protects: in a job its number and nodes."""
    programs(**TOOLS)
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)

    assert surroundings.slurm_line() == Line("ok", "slurm", "job 71, 2 nodes; slurm 22.05.8")


def test_a_slurm_that_is_not_set_up(programs, no_job):
    """Protects: tools without a configuration are not Slurm; its words are put plainly."""
    fails = "echo 'scontrol: fatal: Could not establish a configuration source' >&2; exit 1"
    programs(**{**TOOLS, "scontrol": fails})

    assert surroundings.slurm_line() == Line(
        "--",
        "slurm",
        "no job; srun does not find slurm.conf (SLURM_CONF)",
        "export SLURM_CONF=/etc/slurm/slurm.conf, or where your site has it",
    )


def test_slurm_in_a_container(programs, no_job):
    """Protects: tools that are missing, as inside a container, are named."""
    programs(sbatch="")

    assert surroundings.slurm_line().text == (
        "salloc, srun, scontrol not on PATH; nodes can be emulated (--ds-launcher=local)"
    )


def test_data(tmp_path):
    """Protects: data that cannot be used say why, those that can say what they are."""
    lines = {spec: surroundings.data_line(spec) for spec in ("synthetic", str(tmp_path), "digitz")}

    assert lines["synthetic"] == Line(
        "ok", "data", "synthetic; CIFAR10 with --ds-data=DIR; --ds-data=digits"
    )
    assert lines[str(tmp_path)].text == f"{tmp_path} holds no folder cifar-10-batches-py"
    assert lines[str(tmp_path)].remedy.startswith("give the directory above it, or, where there is")
    assert lines["digitz"] == Line(
        "--", "data", "unknown data 'digitz'", "--ds-data=digits, or a directory"
    )
