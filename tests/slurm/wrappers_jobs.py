"""Jobs that run the scripts in slurm/, and what these need."""

import zipfile
from pathlib import Path

import inner

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "slurm"

#: What the scripts read, and this process's own environment must not decide.
_SETTINGS = (
    *("SITE", "MODULES", "VENV", "WHEELHOUSE", "REQUIREMENTS", "NODE_DIR", "DATA", "REPORT"),
    *("SCRIPTS", "SHARED", "RANKS_PER_NODE", "OPS", "PYTHON", "CC_CLUSTER", "SLURM_TMPDIR"),
)


def environment(cluster, **settings):
    """What a person has exported when they submit."""
    kept = {k: v for k, v in inner.environment().items() if k not in _SETTINGS}
    of_cluster = {k: cluster.env[k] for k in ("SLURM_CONF", "PYTHONFAULTHANDLER")}
    return {**kept, **of_cluster, **settings}


def submit(cluster, script, *options, args=(), **settings):
    """Submits a script with these settings in the environment; returns the job's id."""
    env = environment(cluster, **settings)
    return cluster.submit(script, "--cpus-per-task=1", *options, args=args, env=env)


def job_of_two_nodes(*commands):
    """A batch script's text."""
    return "\n".join(["#!/bin/bash", "#SBATCH --nodes=2 --ntasks-per-node=1", *commands, ""])


def make_wheel(folder, name):
    """Writes a wheel with one module; its ``WHERE`` is the ``lib`` of where it is installed."""
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{module}.py", "from pathlib import Path\n\nWHERE = Path(__file__).parents[2]\n"
        )
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")
