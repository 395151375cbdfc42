"""`slurm.why_srun_failed` on what srun really writes."""

import signal

import pytest

from pytest_deepspeed.processes import slurm

SAME = "all nodes need the same environment, which slurm/config_env.sh makes on each"

#: What srun 22.05.8 wrote, with its status, and what is to be said of it. One is of a later Slurm:
#: memory was not constrained where the others were taken.
WRITTEN = {
    "missing file": (
        """\
slurmstepd-n1: error: execve(): /no/such/python: No such file or directory
srun: error: n1: task 0: Exited with exit code 2
srun: launch/slurm: _step_signal: Terminating StepId=26.0
""",
        2,
        f"/no/such/python does not exist there: {SAME}",
    ),
    "file not executable": (
        """\
slurmstepd-n1: error: execve(): /etc/passwd: Permission denied
srun: error: n1: task 0: Exited with exit code 13
srun: launch/slurm: _step_signal: Terminating StepId=26.2
""",
        13,
        f"/etc/passwd may not be executed there: {SAME}",
    ),
    "exit of the program": (
        """\
srun: error: n1: task 0: Exited with exit code 3
srun: launch/slurm: _step_signal: Terminating StepId=26.3
""",
        3,
        "",
    ),
    "killed": (
        """\
srun: error: n1: task 0: Killed
srun: launch/slurm: _step_signal: Terminating StepId=26.4
srun: Force Terminated StepId=26.4
""",
        137,
        "a signal ended it (Killed)",
    ),
    "segmentation fault": (
        """\
srun: error: n1: task 0: Segmentation fault
srun: launch/slurm: _step_signal: Terminating StepId=26.5
""",
        139,
        "a signal ended it (Segmentation fault)",
    ),
    "step cancelled": (
        """\
slurmstepd-n1: error: *** STEP 26.7 ON n1 CANCELLED AT 2026-11-23T17:41:31 ***
srun: Job step aborted: Waiting up to 7 seconds for job step to finish.
srun: error: n1: task 0: Killed
""",
        137,
        "its step, or the job, was cancelled",
    ),
    "time limit": (
        """\
srun: Job step aborted: Waiting up to 7 seconds for job step to finish.
slurmstepd-n2: error: *** STEP 29.0 ON n2 CANCELLED AT 2026-11-23T17:44:15 DUE TO TIME LIMIT ***
srun: error: n2: task 0: Terminated
""",
        143,
        "the job has reached its time limit (--time)",
    ),
    "requeue": (
        """\
slurmstepd-n3: error: *** JOB 30 ON n3 CANCELLED AT 2026-11-23T17:43:09 DUE TO JOB REQUEUE ***
srun: got SIGCONT
srun: forcing job termination
""",
        143,
        "the job was put back into the queue",
    ),
    "node failure": (
        """\
srun: error: Node failure on n2
""",
        0,
        "Slurm reports a node failure",
    ),
    "node down": (
        """\
srun: error: Unable to create step for job 27: Requested node configuration is not available
""",
        1,
        "the node is down, or not in the job any more",
    ),
    "slurmd dead": (
        """\
srun: error: Task launch for StepId=28.1 failed on node n2: Communication connection failure
srun: error: Application launch failed: Communication connection failure
srun: Job step aborted
""",
        233,
        "slurmd does not answer there",
    ),
    "too many CPUs": (
        """\
srun: error: Unable to create step for job 26: More processors requested than permitted
""",
        1,
        "the job has fewer CPUs there than it was granted",
    ),
    "too many GPUs": (
        """\
srun: error: Step requested GRES but job doesn't have GRES
srun: error: Unable to create step for job 16: Invalid generic resource (gres) specification
""",
        1,
        "the job has fewer GPUs there than granted",
    ),
    "job expired": (
        """\
srun: error: Slurm job 26 has expired
srun: Check SLURM_JOB_ID environment variable. Expired or invalid job 26
""",
        1,
        "the job has ended",
    ),
    "job unknown": (
        """\
srun: error: Unable to confirm allocation for job 99999: Invalid job id specified
srun: Check SLURM_JOB_ID environment variable. Expired or invalid job 99999
""",
        1,
        "the job has ended",
    ),
    "job completing": (
        """\
srun: error: Unable to create step for job 31: Job/step already completing or completed
""",
        1,
        "the job is about to end",
    ),
    "slurmctld dead": (
        """\
srun: error: Unable to confirm allocation for job 29: Unable to contact slurm controller (connect failure)
srun: Check SLURM_JOB_ID environment variable. Expired or invalid job 29
""",  # noqa: E501
        1,
        "slurmctld does not answer",
    ),
    "munge dead": (
        """\
srun: error: If munged is up, restart with --num-threads=10
srun: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory (Did you start munged?)
srun: error: Unable to confirm allocation for job 29: Protocol authentication error
""",  # noqa: E501
        1,
        "munge, by which Slurm knows its users, does not run here",
    ),
    "no configuration": (
        """\
srun: error: s_p_parse_file: cannot stat file /nonexistent: No such file or directory, retrying in 1sec up to 60sec
""",  # noqa: E501
        1,
        "srun does not find slurm.conf (SLURM_CONF)",
    ),
    "no configuration server": (
        """\
srun: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
srun: error: fetch_config: DNS SRV lookup failed
srun: error: _establish_config_source: failed to fetch config
srun: fatal: Could not establish a configuration source
""",
        1,
        "srun does not find slurm.conf (SLURM_CONF)",
    ),
    "option unknown": (
        """\
srun: unrecognized option '--overlap'
Try "srun --help" for more information
""",
        255,
        "this srun has no option --overlap: Slurm 22.05 is the oldest",
    ),
    "out of memory": (
        """\
slurmstepd: error: Detected 1 oom_kill event in StepId=440575.0. Some of the step tasks have been OOM Killed.
srun: error: nid001277: task 0: Out Of Memory
slurmstepd: error: *** STEP 440575.0 ON nid001277 CANCELLED AT 2023-12-05T07:16:01 ***
""",  # noqa: E501
        137,
        "it used more memory than the job has there (--mem)",
    ),
    "srun killed": ("", -signal.SIGKILL, "srun itself was ended by SIGKILL"),
    "a warning alone": (
        """\
srun: cluster configuration lacks support for cpu binding
""",
        1,
        "",
    ),
    "silence": ("", 1, ""),
}


@pytest.mark.parametrize(("words", "status", "why"), WRITTEN.values(), ids=WRITTEN)
def test_why_it_failed(words, status, why):
    """Protects: what was said first is the reason, and what only follows from it is not."""
    assert slurm.why_srun_failed(words, status) == why
