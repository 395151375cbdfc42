"""Which of Slurm's environment variables belong to a step, and which srun reads as options.

Names and meanings: srun(1) of Slurm 22.05, sections INPUT and OUTPUT ENVIRONMENT VARIABLES, and
the environment of a step that Slurm 22.05 started. What a site has added (SLURM_TMPDIR) and what
describes the job or the node is in neither list.
"""

from __future__ import annotations

import fnmatch

#: What describes a step, its task, and how srun talks to them. An agent's step has one task, so
#: code that takes these for the world (Lightning, mpi4py) believes to be alone in it.
STEP = (
    # The task and its place in the step.
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_GTIDS",
    "SLURM_TASK_PID",
    # The step and its size. SLURM_NNODES is the step's, SLURM_JOB_NUM_NODES the job's.
    "SLURM_STEP*",
    "SLURM_NTASKS*",
    "SLURM_NPROCS",
    "SLURM_NNODES",
    "SLURM_TASKS_PER_NODE",
    "SLURM_*_PER_TASK",
    "SLURM_DISTRIBUTION",
    # Its binding, which ranks do not share.
    "SLURM_CPU_BIND*",
    "SLURM_GPU_BIND*",
    "SLURM_MEM_BIND*",
    # What srun and slurmstepd tell each other.
    "SLURM_LAUNCH_NODE_IPADDR",
    "SLURM_PRIO_PROCESS",
    "SLURM_RLIMIT_*",
    "SLURM_SRUN_*",
    "SLURM_UMASK",
    "SRUN_*",
    # Where an MPI would find the step's other tasks; it has none.
    "PMI_*",
    "PMI2_*",
    "PMIX_*",
)

#: What srun reads as an option that would make of the agent's step another one; the job has set
#: these for its own tasks, or a user for every srun.
OPTIONS = (
    # CPUs, memory and devices: the step takes all that the job has on its node.
    "SLURM_CORE_SPEC",
    "SLURM_CPUS_PER_GPU",
    "SLURM_GPUS",
    "SLURM_GPUS_PER_*",
    "SLURM_GRES*",
    "SLURM_HINT",
    "SLURM_MEM_PER_*",
    "SLURM_THREADS_PER_CORE",
    "SLURM_THREAD_SPEC",
    "SLURM_TRES_*",
    # Where tasks go: there is one, on the node of --nodelist.
    "SLURM_ARBITRARY_NODELIST",
    "SLURM_CONSTRAINT",
    "SLURM_DIST_PLANESIZE",
    "SLURM_HOSTFILE",
    "SLURM_SPREAD_JOB",
    "SLURM_USE_MIN_NODES",
    # Whether it waits for others: it does not.
    "SLURM_EXACT",
    "SLURM_EXCLUSIVE",
    "SLURM_IMMEDIATE",
    "SLURM_OVERCOMMIT",
    "SLURM_RESV_PORTS",
    "SLURM_WHOLE",
    # When it ends: the controller says so.
    "SLURM_KILL_BAD_EXIT",
    "SLURM_NO_KILL",
    "SLURM_SIGNAL",
    "SLURM_TIMELIMIT",
    "SLURM_WAIT",
    # What it inherits: the environment and the folder of the controller, and no MPI.
    "SLURM_EXPORT_ENV",
    "SLURM_MPI_TYPE",
    "SLURM_REMOTE_CWD",
    "SLURM_WORKING_DIR",
    # Its pipes, which carry frames, and srun's own words and status, which are read.
    "SLURM_DEBUG*",
    "SLURM_EXIT_*",
    "SLURM_LABELIO",
    "SLURM_OPEN_MODE",
    "SLURM_STDERRMODE",
    "SLURM_STDINMODE",
    "SLURM_STDOUTMODE",
    "SLURM_UNBUFFEREDIO",
    # No option: numbers of the devices of the batch script's node, wrong on the others.
    "SLURM_JOB_GPUS",
)


def is_of(patterns: tuple[str, ...], name: str) -> bool:
    """Whether a variable's name is of ``STEP`` or ``OPTIONS``."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
