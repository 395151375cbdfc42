"""The clusters of these tests are what they say."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import cluster
import isolated
import machine
import pytest

# Prints the name of who is connected to, or why that cannot be had.
_READ = """
import socket, sys
try:
    print(socket.create_connection((sys.argv[1], 7777), timeout=1).recv(100).decode())
except OSError as error:
    print(type(error).__name__)
"""
_SERVE = """
import socket
server = socket.create_server(("", 7777))
print("listening", flush=True)
while True:
    client, _ = server.accept()
    client.send(socket.gethostname().encode())
    client.close()
"""


def _lines(done):
    return sorted(done.stdout.splitlines())


def _until(condition, seconds=30):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_a_step_runs_on_two_nodes(slurm):
    """A step has a task on each node, under its name."""
    assert _lines(slurm.run("srun", "-N2", "printenv", "SLURMD_NODENAME")) == ["n1", "n2"]


def test_a_job_runs_and_ends(slurm):
    """A script's output, its exit status and Slurm's word for it can be asked for."""
    job = slurm.submit('#!/bin/sh\necho "$SLURM_JOB_NODELIST: $1"; exit 3\n', "-N2", args=["an x"])
    assert slurm.wait(job) == cluster.Job("FAILED", status=3, signal=0)
    assert slurm.output(job) == "n[1-2]: an x\n"


def test_a_script_in_a_file_runs_under_its_name(slurm, tmp_path):
    """A path is handed to sbatch as it is, not its text."""
    script = tmp_path / "a.sbatch"
    script.write_text("#!/bin/sh\n#SBATCH --nodes=2\necho $SLURM_JOB_NAME $SLURM_JOB_NUM_NODES\n")
    job = slurm.submit(script)
    assert slurm.wait(job).state == "COMPLETED"
    assert slurm.output(job) == "a.sbatch 2\n"


def test_the_outer_job_is_not_seen(tmp_path, monkeypatch):
    """Tests that run inside a Slurm job use their own cluster and not that job's."""
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SBATCH_PARTITION", "SRUN_DEBUG"):
        monkeypatch.setenv(name, "7")
    ours = cluster.Cluster(tmp_path).env
    assert {name: ours[name] for name in ours if name.startswith("S") and "_" in name} == {
        "SLURM_CONF": f"{tmp_path}/slurm.conf"
    } | {n: v for n, v in os.environ.items() if n.startswith("S") and "_" in n and v != "7"}


def test_jobs_that_are_left_are_cancelled(slurm):
    """A test cannot disturb the next with a job that it leaves, and what a job leaves is found."""
    job = slurm.submit("#!/bin/sh\nsetsid sleep 1000 &\nexec srun sleep 1000\n", "-N2")
    _until(lambda: slurm.processes().count("n2: /usr/bin/sleep 1000") == 1)
    assert "n1: sleep 1000" in slurm.processes()
    slurm.settle()
    assert slurm.show(job)["JobState"] == "CANCELLED"
    assert set(slurm.states().values()) == {"IDLE"}


def test_a_lost_node_is_seen_as_lost(own_slurm):
    """Nothing of a killed node lives on, slurmctld takes it for down, and it can come back."""
    job = own_slurm.submit("#!/bin/sh\nexec srun sleep 1000\n", "-N2", "--no-kill", "--no-requeue")
    _until(lambda: any("n2: " in line for line in own_slurm.processes()))
    own_slurm.kill_node("n2")
    assert not [line for line in own_slurm.processes() if line.startswith("n2")]
    _until(lambda: own_slurm.states()["n2"] == "DOWN+NOT_RESPONDING")
    assert own_slurm.show(job)["NodeList"] == "n1"
    own_slurm.restart_node("n2")
    own_slurm.settle()
    assert own_slurm.processes() == []


def test_tasks_outlive_their_slurmd(own_slurm):
    """Without its slurmd a node's tasks run on."""
    job = own_slurm.submit("#!/bin/sh\nexec srun sleep 1000\n", "-N2")
    _until(lambda: any("n2: " in line for line in own_slurm.processes()))
    before = own_slurm.processes()
    own_slurm.kill_slurmd("n2")
    assert own_slurm.processes() == before
    assert own_slurm.show(job)["JobState"] == "RUNNING"


_OWNER = """
import subprocess, sys
sys.path.insert(0, {here!r})
from {module} import {kind}
with {kind}({folder!r}) as made:
    task = "setsid sleep 1000 & echo running; exec sleep 1000"
    srun = subprocess.Popen([*made.login(), "srun", "-N2", "sh", "-c", task], env=made.env)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", [subprocess.Popen.communicate, subprocess.Popen.kill])
@pytest.mark.parametrize("kind", [cluster.Cluster, isolated.IsolatedCluster])
def test_nothing_is_left(request, tmp_path, end, kind):
    """No process survives the cluster, whether it is left in order or its owner is killed."""
    apart = kind is isolated.IsolatedCluster
    request.getfixturevalue("_needs_namespaces" if apart else "_needs_slurm")
    here, folder = str(Path(__file__).parent), str(tmp_path)
    source = _OWNER.format(here=here, module=kind.__module__, kind=kind.__name__, folder=folder)
    owner = subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with owner:
        assert [owner.stdout.readline() for _ in range(2)] == ["running\n"] * 2
        left = machine.descendants(owner.pid)
        assert len(left) > 10
        end(owner)
    _until(lambda: not list(filter(None, map(machine.command_line, left))), seconds=5)


@pytest.mark.usefixtures("_needs_slurm")
def test_a_cluster_that_does_not_come_up_says_why(tmp_path):
    """The error has the first lines of the log that tells the cause."""
    broken = cluster.Cluster(tmp_path, conf="SelectType=select/nonsense\n")
    with pytest.raises(RuntimeError) as raised, broken:
        pass
    first, second, *rest = str(raised.value).splitlines()
    assert first == "the cluster did not come up: slurmctld ended"
    assert second == f"{tmp_path}/controller.log:"
    assert [line for line in rest if "select/nonsense" in line]


def test_what_is_missing_is_named(monkeypatch):
    """Who has no Slurm, or no ip, reads what to install."""
    absent = ("slurmctld", "munged", "ip")
    for module in (cluster, isolated):
        monkeypatch.setattr(module, "which", lambda name: None if name in absent else name)
    assert cluster.missing() == (
        "Slurm is missing (slurmctld, munged): apt-get install slurmctld slurmd munge slurm-client"
    )
    assert isolated.missing() == "ip is missing: apt-get install iproute2"


@contextlib.contextmanager
def _server(isolated_slurm):
    """One that listens on n2, and how to read from it on n1: ``read(address)``."""
    with subprocess.Popen(
        [*isolated_slurm.login(), "srun", "--nodelist=n2", sys.executable, "-c", _SERVE],
        env=isolated_slurm.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout.readline() == "listening\n"
        ask = ("srun", "--nodelist=n1", sys.executable, "-c", _READ)
        yield lambda address: isolated_slurm.run(*ask, address).stdout
        server.kill()


def test_isolated_nodes_have_names_and_addresses_of_their_own(isolated_slurm):
    """A node is reached at its name by the other, and 127.0.0.1 is no other node."""
    with _server(isolated_slurm) as read:
        assert read("n2") == "n2\n"
        assert read("127.0.0.1") == "ConnectionRefusedError\n"
    assert _lines(isolated_slurm.run("srun", "-N2", "hostname")) == ["n1", "n2"]


def test_isolated_nodes_do_not_share_everything(isolated_slurm):
    """The directory ``local`` is each node's own, and all others are not."""
    for name, seen in (("local", "1\n1\n"), ("jobs", "2\n2\n")):
        folder = isolated_slurm.folder / name / "things"
        isolated_slurm.run("srun", "-N2", "mkdir", "-p", folder)
        isolated_slurm.run("srun", "-N2", "sh", "-c", f"touch {folder}/$SLURMD_NODENAME")
        counted = isolated_slurm.run("srun", "-N2", "sh", "-c", f"ls {folder} | wc -l").stdout
        assert counted == seen


def test_isolated_names_can_be_wrong(isolated_slurm):
    """A name can be one that does not resolve, or resolve to 127.0.1.1 as on a fresh Debian."""
    isolated_slurm.set_hosts("n1", n1="127.0.1.1", n2=None)
    ask = ("srun", "--nodelist=n1", "sh", "-c", "getent hosts n1; getent hosts n2; echo $?")
    assert isolated_slurm.run(*ask).stdout.split() == ["127.0.1.1", "n1", "2"]
    isolated_slurm.set_hosts("n1")
    assert isolated_slurm.run(*ask).stdout.split() == ["10.0.0.1", "n1", "10.0.0.2", "n2", "0"]


def test_a_node_that_is_cut_off_is_silent(own_isolated_slurm):
    """Its tasks run on, and who connects to it is neither served nor refused."""
    with _server(own_isolated_slurm) as read:
        assert read("n2") == "n2\n"
        before = own_isolated_slurm.processes()
        own_isolated_slurm.cut_off("n2")
        assert read("n2") == "TimeoutError\n"
        assert own_isolated_slurm.processes() == before
        own_isolated_slurm.kill_node("n2")
