"""``slurm/lightning.sbatch``: the Lightning programs in a job, a task for each device."""

import re
import sys

from wrappers_jobs import SLURM, job_of_two_nodes, submit

SMALL = ("--width", "4", "--batch_size", "4", "--max_steps", "2", "--precision", "bf16-true")

MODES = ("zero3", "offload_cpu", "offload_nvme")


def test_the_three_programs_over_two_nodes(isolated_slurm):
    """Protects: ``sbatch slurm/lightning.sbatch`` trains the mode that it is given as one world of
    a task on each of two nodes that share no address, and swaps to each node's own disk.
    """
    local = isolated_slurm.folder / "local"

    # One after the other: six processes that import Lightning take a machine's memory.
    for mode in MODES:
        job = submit(
            isolated_slurm,
            SLURM / "lightning.sbatch",
            *("--nodes=2", "--ntasks-per-node=1"),
            args=("--mode", mode, *SMALL),
            VENV=sys.prefix,
            NODE_DIR=str(local),
        )
        done = isolated_slurm.wait(job, timeout=400)
        shown = isolated_slurm.output(job)
        assert done.status == 0, shown
        assert f"on n[1-2], 2 ranks, meeting at n1:{20000 + job}\n" in shown
        trained = re.findall(r"^2 steps of 8 images on 2 ranks: loss \d", shown, re.MULTILINE)
        assert len(trained) == 1, (mode, shown)
    look = submit(
        isolated_slurm, job_of_two_nodes(f"srun ls {local}/nvme/zero_stage_3/bfloat16params")
    )
    assert isolated_slurm.wait(look).status == 0, isolated_slurm.output(look)
    assert sorted(isolated_slurm.output(look).split()) == ["rank0", "rank1"]


def test_a_program_that_cannot_start_ends_the_job(slurm):
    """Protects: what a program is told wrongly is one message, and no task waits for the others."""
    job = submit(
        slurm,
        SLURM / "lightning.sbatch",
        *("--nodes=2", "--ntasks-per-node=1"),
        args=("--mode", "offload_nvme"),
        VENV=sys.prefix,
    )

    assert slurm.wait(job, timeout=240).state == "FAILED"
    shown = slurm.output(job)
    assert (
        "lightning_cifar10: error: --mode=offload_nvme needs a directory on a local disk, and"
        " SLURM_TMPDIR is not set: give one with --nvme_path\n"
    ) in shown
