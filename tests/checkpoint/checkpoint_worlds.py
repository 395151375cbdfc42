"""A whole checkpoint check in a test: the worlds it takes, their evidence and their findings."""

from pathlib import Path

from pytest_deepspeed.training import matrix
from pytest_deepspeed.training.checkpoint import equivalence

#: Traits of the trap model with which every mode resumes and reshards, known faults aside.
STEADY = ("tied", "reused", "odd_shapes", "bucket_sized", "groups")


def config(mode, **changes):
    """The matrix's config of a mode."""
    return matrix.config(mode, nvme_path=None) | changes


def checked(ds_run, ds_config, workload, directory, **kwargs):
    """The evidence of `equivalence`, in a directory of its own."""
    Path(directory).mkdir(exist_ok=True)
    return equivalence.equivalence(ds_run, ds_config, workload, directory, **kwargs)
