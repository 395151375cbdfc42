"""A pytest session over the nodes of a job of a test cluster, and what a person sees of it."""

import dataclasses
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import inner
from cluster import Cluster

#: What pytest.sbatch asks for: without the last two Slurm ends a job that has lost a node.
OPTIONS = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", "--no-kill", "--no-requeue")

#: Seconds for anything here to happen. A session starts in 10 on an idle machine.
_PATIENCE = 300

_ARGUMENTS = ("-rfEs", "--junitxml=junit.xml", "--basetemp=tmp", "--ds-nodes=2")

#: What differs from run to run, and the words of Slurm itself.
_VOLATILE = (
    (r"\b(job|JOB|allocation) \d+", r"\1 N"),
    (r"rdzv_id=[0-9a-f]+", "rdzv_id=ID"),
    (r"^-+ generated xml file: (\S+) -+$", r"generated xml file: \1"),
    (r"^=+ (.* in) \d+\.\d\ds( \(\d+:\d+:\d+\))? =+$", r"\1 N s"),
    (r"^!+ (Interrupted: .*) !+$", r"\1"),
    (r"^-+ Generated html report: .*\n", ""),
    (r"\S+/slurm/pytest\.sbatch", "slurm/pytest.sbatch"),
    (r"^(srun|slurmstepd|salloc)\S*: .*\n", ""),
)


@dataclasses.dataclass(frozen=True)
class JobSession(inner.Session):
    """A session of a job, from its start on.

    Attributes:
        folder: where its files are, and its tests run.
        job: the job's id; 0 where salloc made the job.
    """

    cluster: Cluster
    job: int = 0

    @property
    def output(self):
        """What it has written so far, without what differs from run to run."""
        file = self.folder / "output"
        return self._normalised(file.read_text() if file.exists() else "")

    def _normalised(self, text):
        text = text.replace(str(self.cluster.folder), "CLUSTER")
        text = inner.normalised(text, self.folder)
        for pattern, replacement in _VOLATILE:
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        return text

    @property
    def report(self):
        """What it has written from its first failure on."""
        return re.search(r"^=+ (?:ERRORS|FAILURES) =+\n(?s:.*)", self.output, re.MULTILINE)[0]

    @property
    def junit(self):
        """What its JUnit report says of each test, in one line: ``{name: "failure: message"}``."""
        told = {}
        for case in ET.parse(self.folder / "junit.xml").iter("testcase"):
            messages = [f"{e.tag}: {e.get('message')}" for e in case if e.get("message")]
            told[case.get("name")] = "".join(self._normalised(m).splitlines()[0] for m in messages)
        return told

    def wait(self):
        """Waits for the end of the job and of all its processes, and returns how it ended."""
        done = self.cluster.wait(self.job, timeout=_PATIENCE)
        self.wait_gone()
        return done

    def wait_gone(self):
        """Waits until nothing of it runs any more."""
        ends = time.monotonic() + _PATIENCE
        while left := self.cluster.processes():
            assert time.monotonic() < ends, left
            time.sleep(0.05)

    def wait_for(self, *names):
        """Waits until its tests have made the files ``names`` in their directory."""
        for name in names:
            self.wait_until(self.folder.joinpath(name).exists, f"file {name}")

    def wait_until(self, condition, what):
        """Waits for what can come about only while the job runs."""
        ends = time.monotonic() + _PATIENCE
        while not condition():
            state = self.cluster.show(self.job)["JobState"]
            if state not in ("PENDING", "RUNNING") or time.monotonic() > ends:
                raise AssertionError(f"no {what}; the job is {state}:\n{self.output}")
            time.sleep(0.05)


def submit(
    cluster, folder, source, *args, options=OPTIONS, before="", python=sys.executable, **env
):
    """Submits a job whose batch shell becomes pytest.

    Args:
        source: a test file.
        args: of pytest, in the job's shell.
        options: of sbatch.
        before: lines of the script before pytest.
        env: environment variables.
    """
    inner.write(folder, source)
    line = " ".join([str(python), "-m", "pytest", *_ARGUMENTS, *args])
    job = cluster.submit(
        f"#!/bin/bash\n{before}\nexec {line}\n",
        *options,
        f"--output={folder}/output",
        cwd=folder,
        env=_environment(cluster, **env),
    )
    return JobSession(folder, cluster, job)


def from_login_node(cluster, folder, source, *args, **env):
    """Starts salloc on the login node, with pytest in the job that it gets."""
    inner.write(folder, source)
    command = [*cluster.login(folder), "salloc", *OPTIONS[:3]]
    command += [sys.executable, "-m", "pytest", *_ARGUMENTS, *args]
    with folder.joinpath("output").open("w") as output:
        return subprocess.Popen(
            command,
            env=_environment(cluster, **env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _environment(cluster, **more):
    known = inner.environment(**{name: str(value) for name, value in more.items()})
    outer = ("SLURM", "SRUN_", "SBATCH_", "SALLOC_")
    own = {"SLURM_CONF": cluster.env["SLURM_CONF"]}
    return {k: v for k, v in known.items() if not k.startswith(outer)} | own
