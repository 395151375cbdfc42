"""Slurm and data."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess

from pytest_deepspeed.doctor import installing
from pytest_deepspeed.processes import slurm
from pytest_deepspeed.values.checkup import Line
from pytest_deepspeed.values.errors import LaunchError

_TOOLS = ("sbatch", "salloc", "srun", "scontrol")


def slurm_line() -> Line:
    """The job that this is, or the tools that submit one, with Slurm's version."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    try:
        allocation = slurm.current()
    except LaunchError as error:
        return Line("--", "slurm", str(error))
    emulated = "; nodes can be emulated (--ds-launcher=local)"
    if allocation is None and len(missing) == len(_TOOLS):
        return Line("--", "slurm", f"not here{emulated}", installing.command("slurm"))
    if missing:
        text = f"{', '.join(missing)} not on PATH{emulated}"
        return Line("--", "slurm", text, installing.command("slurm"))
    version = _version()
    if allocation is None:
        works = version.startswith("slurm ")
        remedy = _JOB if works else _CONF if "slurm.conf" in version else ""
        return Line("ok" if works else "--", "slurm", f"no job; {version}", remedy)
    nodes = len(allocation.nodes)
    text = f"job {allocation.job_id}, {nodes} node{'s' * (nodes != 1)}; {version}"
    return Line("ok", "slurm", text)


_CONF = "export SLURM_CONF=/etc/slurm/slurm.conf, or where your site has it"
_JOB = "sbatch slurm/pytest.sbatch --ds-nodes=2"


def _version() -> str:
    """``"slurm 22.05.8"``, or why its tools do not run: they read ``slurm.conf`` first."""
    try:
        done = subprocess.run(
            ["scontrol", "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"scontrol does not run ({type(error).__name__})"
    if done.returncode == 0:
        return done.stdout.strip()
    last = " ".join(done.stderr.strip().splitlines()[-1:])
    return slurm.why_srun_failed(done.stderr, done.returncode) or last


def data_line(spec: str) -> Line:
    """The training images that ``--ds-data`` names, and which others there are."""
    from reference_training import datasource

    try:
        datasource.check(spec)
    except datasource.DataError as error:
        text, _, remedy = str(error).partition(": ")
        known = not text.startswith("unknown")
        return Line("--", "data", text, remedy if known else "--ds-data=digits, or a directory")
    own = spec in (datasource.DIGITS, datasource.SYNTHETIC)
    text = f"{spec}; CIFAR10 with --ds-data=DIR" if own else f"CIFAR10 in {spec}"
    if spec == datasource.DIGITS:
        return Line("ok", "data", text)
    if importlib.util.find_spec("sklearn") is not None:
        return Line("ok", "data", f"{text}; --ds-data=digits")
    return Line("ok", "data", f"{text}; no digits", installing.pip("pytest-deepspeed[digits]"))
