"""The last words of an agent that is gone: which node, what ended it, what it printed."""

import os
import signal
import sys
import time

import pytest

from pytest_deepspeed.processes.client import AgentClient
from pytest_deepspeed.processes.launch import Launch
from pytest_deepspeed.values.errors import AgentError

#: Its controller has handed over the ``start`` frame when it begins.
BEGIN = "import os, sys, time; sys.stdin.readline(); "


@pytest.fixture
def client():
    """Starts a process in the place of an agent: ``client(code, node="n2")``."""
    made = []

    def start(code, node="n2", remote=True, explain=lambda *_: "", up=True):
        launch = Launch(
            node, 1, lambda _: [sys.executable, "-c", BEGIN + code], os.environ, remote, explain
        )
        made.append(AgentClient(launch, {}, []))
        made[-1].up = {"type": "up"} if up else None
        return made[-1]

    yield start
    for one in made:
        one.stop()


def last_words(client):
    """What it leaves, once its pipe has closed."""
    (reader,) = client.readers
    frames = []
    while not frames:
        frames = client.read(reader)
    (frame,) = frames
    assert frame["type"] == "lost"
    assert not client.alive
    assert client.lost_at == pytest.approx(time.monotonic(), abs=60)
    return frame["text"]


SAYS = "print('one\\ntwo', file=sys.stderr); sys.exit(3)"


def test_an_exit_code_and_its_output(client):
    """Protects: what nobody can explain is told as it is, with the output."""
    assert last_words(client(SAYS)) == (
        "node n2 was lost: srun exited with code 3.\nIts last output:\none\ntwo"
    )


def test_an_emulated_node(client):
    """Protects: without srun the process is the agent itself."""
    assert last_words(client(SAYS, remote=False)) == (
        "node n2 was lost: its agent exited with code 3.\nIts last output:\none\ntwo"
    )


def test_one_agent_alone(client):
    """Protects: where there is one node, no node is spoken of."""
    assert last_words(client(SAYS, node="", remote=False)) == (
        "the agent that forks the ranks exited with code 3.\nIts last output:\none\ntwo"
    )


def test_an_agent_that_never_was_up(client):
    """Protects: a node that could not be used from the start is not called lost."""
    assert last_words(client(SAYS, up=False)) == (
        "node n2 cannot be used: srun exited with code 3.\nIts last output:\none\ntwo"
    )


def test_a_known_reason(client):
    """Protects: what srun's words mean comes first, and is made of the words and the status."""
    given = []

    def explain(words, status):
        given.append((words, status))
        return "the job was preempted by another one"

    assert last_words(client(SAYS, explain=explain)) == (
        "node n2 was lost: the job was preempted by another one.\nIts last output:\none\ntwo"
    )
    assert given == [("one\ntwo", 3)]


def test_what_was_announced(client):
    """Protects: an agent that has said why it ends is believed before srun."""
    one = client(SAYS, explain=lambda *_: "something else")
    one.ending = "Slurm ended the step on n2"

    assert last_words(one).startswith("node n2 was lost: Slurm ended the step on n2.\n")


def test_a_signal(client):
    """Protects: a SIGKILL is told with its usual sender."""
    killed = "os.kill(os.getpid(), 9)"

    assert last_words(client(killed, remote=False)) == (
        "node n2 was lost: its agent was killed by SIGKILL: not by pytest-deepspeed; the kernel's"
        " OOM killer is the usual sender (dmesg tells)."
    )


def test_no_frame(client):
    """Protects: a program that is no agent is shown by what it wrote in the place of frames."""
    text = last_words(
        client(
            "import sys, time; print('Welcome to n2!', flush=True); time.sleep(60)",
            remote=False,
        )
    )

    assert text == "the agent on n2 sent not a frame: b'Welcome to n2!'."


def test_a_task_prolog(client):
    """Protects: what a site prints to a task before it begins is passed over."""
    says = "print('Welcome to n2!'); print('{\"type\": \"up\"}', flush=True)"
    one = client(f"{says}; time.sleep(1); print('broken', flush=True); time.sleep(60)")
    (reader,) = one.readers

    frames = []
    while not frames or frames[-1]["type"] != "lost":
        frames += one.read(reader)

    assert frames == [
        {"type": "up"},
        {"type": "lost", "text": "the agent on n2 sent not a frame: b'broken'."},
    ]


def test_a_long_output_is_cut(client):
    """Protects: the last lines of much output, which say what went wrong."""
    text = last_words(client("sys.exit('\\n'.join(map(str, range(100))))"))

    assert text.splitlines() == [
        "node n2 was lost: srun exited with code 1.",
        "Its last output:",
        *map(str, range(70, 100)),
    ]


def test_what_was_printed_before_it_was_up(client):
    """Protects: warnings of the collection are no last words of a later death."""
    one = client("print('a warning', file=sys.stderr); sys.stderr.flush(); input()")
    while not os.fstat(one._log.fileno()).st_size:
        time.sleep(0.01)
    one.is_up({"type": "up"})
    os.kill(one._process.pid, signal.SIGTERM)

    assert last_words(one) == "node n2 was lost: srun was killed by SIGTERM."


def test_writing_to_a_dead_agent(client):
    """Protects: who writes first learns the same as who reads."""
    one = client(SAYS)
    one._process.wait()

    with pytest.raises(AgentError, match=r"^node n2 was lost: srun exited with code 3\.\n"):
        one.write({"type": "run", "text": "x" * 2**17})
