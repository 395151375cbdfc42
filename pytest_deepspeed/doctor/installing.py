"""The command that installs something, in the words of this system."""

from __future__ import annotations

import os
import shlex
import shutil
import sys

#: Names of packages: Debian's, Red Hat's, and the module of a cluster where there is one.
_PACKAGES = {
    "compiler": ("g++", "gcc-c++", "gcc"),
    "headers": ("python3-dev", "python3-devel", "python"),
    "libaio": ("libaio-dev", "libaio-devel", ""),
    "cuda": ("nvidia-cuda-toolkit", "cuda-toolkit", "cuda"),
    "slurm": ("slurm-client", "slurm", "slurm"),
}


def command(what: str) -> str:
    """How `what`, a key of the table above, is installed here."""
    debian, red_hat, module = _PACKAGES[what]
    if module and "LMOD_CMD" in os.environ:
        return f"module load {module}"
    sudo = "" if os.geteuid() == 0 else "sudo "
    if shutil.which("dnf") and not shutil.which("apt-get"):
        return f"{sudo}dnf install {red_hat}"
    return f"{sudo}apt-get install {debian}"


def pip(*requirements: str) -> str:
    """How Python packages are installed for this interpreter."""
    return f"{sys.executable} -m pip install {shlex.join(requirements)}"
