"""The scripts in slurm/ and their page, as text."""

import os
import re
import shlex
import shutil
import subprocess

import pytest
from wrappers_jobs import ROOT, SLURM

from pytest_deepspeed.options import SETTINGS

PAGE = ROOT / "docs" / "on-a-slurm-cluster.md"
BATCH = sorted(SLURM.glob("*.sbatch"))
SHELL = [*BATCH, *sorted(SLURM.glob("*.sh")), *sorted((ROOT / "tools").glob("*.sh"))]


def test_shellcheck(pytestconfig):
    """Protects: the scripts have none of the mistakes that shellcheck knows."""
    if shutil.which("shellcheck") is None:
        missing = "shellcheck is missing: apt-get install shellcheck"
        if "slurm" in pytestconfig.stash[SETTINGS].require:
            pytest.fail(f"{missing}\nRequired by --ds-require=slurm.", pytrace=False)
        pytest.skip(missing)
    done = subprocess.run(
        ["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *SHELL],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout + done.stderr == ""


def test_scripts_stop_at_errors_and_can_be_started():
    """Protects: no script goes on after a command that failed, and srun can start each."""
    for path in SHELL:
        text = path.read_text()
        assert path.name == "site.sh" or "\nset -euo pipefail\n" in text, path
        assert path.name == "site.sh" or os.access(path, os.X_OK) or path in BATCH, path


def test_batch_scripts_find_the_others_alike():
    """Protects: what cannot be in a file of its own is the same in all."""
    same = re.compile(r"# Slurm runs a copy.*?\n\n", re.DOTALL)
    parts = [same.search(path.read_text())[0] for path in BATCH]

    assert len(parts) == 3
    assert len(set(parts)) == 1


def words_of(command, text):
    """The options in each use of a command of Slurm in shell code."""
    for line in text.replace("\\\n", " ").splitlines():
        for use in re.findall(rf"(?<![\w/.-]){command} ((?:--?\w[^|;`]*)+)", line):
            for word in shlex.split(use, comments=True):
                if not word.startswith("-"):
                    break
                yield word.partition("=")[0]


def test_options_of_slurm_exist(slurm):
    """Protects: each option of sbatch, srun and salloc in scripts and docs is one that it takes."""
    texts = [path.read_text() for path in (*SHELL, PAGE)]
    found = {}
    for command in ("sbatch", "srun", "salloc"):
        taken = set(re.findall(r"--[\w-]+", slurm.run(command, "--help").stdout))
        used = {word for text in texts for word in words_of(command, text)}
        if command == "sbatch":
            directives = re.findall(r"^#+SBATCH (.+)$", "\n".join(texts), re.MULTILINE)
            used |= {word.partition("=")[0] for line in directives for word in line.split()}
        found[command] = used
        assert {word for word in used if word.startswith("--")} - taken == set(), command
    assert {"--kill-on-bad-exit", "--cpus-per-task"} <= found["srun"]
    assert {"--nodes", "--signal", "--no-kill", "--no-requeue"} <= found["sbatch"]
    assert {"--nodes", "--ntasks-per-node", "--time"} <= found["salloc"]
    for path in BATCH:
        slurm.run("sbatch", "--test-only", path)
    slurm.run("squeue", "--me")


def test_files_named_on_the_page_exist():
    """Protects: the page names scripts that are there, and each of them."""
    text = PAGE.read_text()
    named = set(re.findall(r"\bslurm/(\w+\.\w+)", text))
    table = set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))

    assert named <= {path.name for path in SLURM.iterdir()}
    assert {path.name for path in SLURM.iterdir()} == table


def test_scripts_outside_a_job():
    """Protects: who starts a script by hand is told how it is meant."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    no_job = "error: this runs in a Slurm job, and SLURM_JOB_ID is not set.\n"
    shown = [
        subprocess.run([SLURM / name], env=env, capture_output=True, text=True, check=False).stderr
        for name in (
            *("config_env.sh", "stage_data.sh", "launch_training.sh", "launch_lightning.sh"),
            "wheelhouse.sh",
        )
    ]

    assert shown == [
        f"config_env.sh: {no_job}  Type: sbatch slurm/pytest.sbatch\n",
        f"stage_data.sh: {no_job}  Type: sbatch slurm/pytest.sbatch\n",
        f"launch_training.sh: {no_job}  Type: sbatch slurm/train.sbatch\n",
        f"launch_lightning.sh: {no_job}  Type: sbatch slurm/lightning.sbatch\n",
        "wheelhouse.sh: error: which directory? Such as: slurm/wheelhouse.sh ~/wheels\n",
    ]
