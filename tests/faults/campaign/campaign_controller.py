"""Faults of a session as a whole: its agent while it starts, pytest itself, its surroundings."""

import contextlib
import os
import signal
import time
from pathlib import Path

import campaign_sessions as sessions
from campaign_struck import (
    INTERRUPTED,
    PATIENCE,
    USAGE,
    Fault,
    few_tasks,
    mounted,
    own_network,
)
from marked import wait_for


def _wait(condition):
    wait_for(condition, PATIENCE)


def _agent(process, mark):
    """The process id of its agent, or None."""
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{process.pid}/task"):
            children = Path(f"/proc/{process.pid}/task/{task}/children").read_text()
            for pid in map(int, children.split()):
                if "pytest_deepspeed" in sessions.command(pid):
                    return pid
    return None


def _kill_agent(process, mark):
    """Whether it was there to be killed."""
    with contextlib.suppress(ProcessLookupError, TypeError):
        os.kill(_agent(process, mark), signal.SIGKILL)
        return True
    return False


def _agent_at_start(process, mark, folder, choice):
    _wait(lambda: _agent(process, mark) or process.poll() is not None)
    time.sleep(choice.uniform(0, 2))
    return _kill_agent(process, mark) and not folder.joinpath("clean-1.json").exists()


def _agent_between_tests(process, mark, folder, choice):
    _wait(lambda: folder.joinpath("clean-1.json").exists() or process.poll() is not None)
    time.sleep(choice.uniform(0, 1))
    return _kill_agent(process, mark)


def _signal(number, times=1):
    """Sent to pytest alone, at any time from its header on."""

    def strike(process, mark, folder, choice):
        _wait(
            lambda: (
                b"collected" in folder.joinpath("output").read_bytes() or process.poll() is not None
            )
        )
        if choice.random() < 0.7:  # else while the agent starts
            _wait(lambda: folder.joinpath("clean-1.json").exists() or process.poll() is not None)
        time.sleep(choice.uniform(0, 2))
        for _ in range(times):
            process.send_signal(number)
            time.sleep(choice.uniform(0, 0.5))

    return strike


_LOST = "the agent that forks the ranks was killed by SIGKILL"

FAULTS = (
    Fault(
        "agent_at_start",
        "agent: SIGKILL while it starts",
        _agent_at_start,
        says=(_LOST,),
        harmed=99,
    ),
    Fault(
        "agent_between",
        "agent: SIGKILL between tests",
        _agent_between_tests,
        says=(_LOST,),
        harmed=1,
    ),
    Fault("ctrl_c", "pytest: Ctrl-C", _signal(signal.SIGINT), (INTERRUPTED,), ends=True, harmed=1),
    Fault(
        "ctrl_c_twice",
        "pytest: Ctrl-C twice",
        _signal(signal.SIGINT, 2),
        # The second one may end pytest itself, in the middle of what it does at the first.
        (INTERRUPTED, -signal.SIGINT),
        ends=True,
        harmed=1,
        reports=False,
    ),
    Fault(
        "sigterm_pytest",
        "pytest: SIGTERM",
        _signal(signal.SIGTERM),
        (INTERRUPTED,),
        ends=True,
        harmed=1,
    ),
    Fault(
        "sigkill_pytest",
        "pytest: SIGKILL",
        _signal(signal.SIGKILL),
        (-signal.SIGKILL,),
        ends=True,
        reports=False,
    ),
    Fault(
        "hangup",
        "pytest: terminal closed (SIGHUP)",
        _signal(signal.SIGHUP),
        (-signal.SIGHUP, INTERRUPTED),
        ends=True,
        reports=False,
    ),
    Fault(
        "report_disk_full",
        "report: disk full",
        says=("No space left on device",),
        inside=mounted("mkdir full", "mount -t tmpfs -o size=4k none full"),
        report_to="full",
        reports=False,
    ),
    Fault(
        "report_read_only",
        "report: directory read-only",
        statuses=(USAGE,),
        says=("cannot be written: name a file elsewhere",),
        inside=mounted("mkdir ro", "mount -t tmpfs -o ro none ro"),
        report_to="ro",
        reports=False,
    ),
    Fault(
        "shm_full",
        "no space in /dev/shm",
        inside=mounted("mount -t tmpfs -o size=4k none /dev/shm"),
    ),
    Fault("few_descriptors", "ulimit -n 64", limits={"NOFILE": 64}),
    Fault(
        "two_addresses",
        "host name with two addresses",
        inside=mounted(
            'echo "127.0.0.1 localhost $(hostname)" > hosts',
            'echo "192.0.2.7 $(hostname)" >> hosts',
            "mount --bind hosts /etc/hosts",
        ),
    ),
    Fault(
        "few_processes",
        "no more processes (pids cgroup)",
        says=("no more processes are allowed (ulimit -u, or pids.max of the cgroup)",),
        harmed=5,
        # pytest, its agent and the store of its ranks are four.
        inside=few_tasks(5),
    ),
    Fault(
        "ipv6_only",
        "IPv6 alone",
        inside=own_network("ip addr del 127.0.0.1/8 dev lo"),
        arguments=("-p", "no:rerunfailures"),  # which listens at 127.0.0.1
    ),
    Fault("two_sessions", "two sessions at once", copies=2),
    Fault("two_sessions_of_two", "two sessions of -n 2 at once", copies=2, arguments=("-n", "2")),
)
