"""What is asked of a process that imports torch, where that fails, crashes or hangs."""

import textwrap

import pytest

from pytest_deepspeed.processes import probe


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts a module in front of the real one, for the process that is asked."""

    def write(name, source):
        tmp_path.joinpath(f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(tmp_path)

    return write


def errors(answers):
    """The steps that were answered, each with its error, if any."""
    return {step: answer.get("error", "") for step, answer in answers.items()}


def test_an_import_that_fails(fake):
    """Protects: the exception of the import is the answer, in one line, and the last one."""
    fake("torch", "raise ImportError('libtorch_cpu.so: cannot open\\n shared object file')")

    assert errors(probe.ask("cpu", 60)) == {
        "torch": "ImportError: libtorch_cpu.so: cannot open shared object file"
    }


def test_an_import_that_crashes(fake):
    """Protects: a signal is named, and nothing is raised here."""
    fake("torch", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")

    assert errors(probe.ask("cpu", 60)) == {"torch": "killed by SIGSEGV"}


def test_an_import_that_exits(fake):
    """Protects: the status and the last words are shown; what was printed is no answer."""
    fake("torch", "import sys; print('{}'); sys.stderr.write('a\\nno licence\\n'); sys.exit(3)")

    assert errors(probe.ask("cpu", 60)) == {"torch": "ended with status 3: no licence"}


def test_an_import_that_hangs(fake):
    """Protects: the process is ended when its time is over."""
    fake("torch", "import time; time.sleep(60)")

    assert errors(probe.ask("cpu", 1)) == {"torch": "no answer within 1 s"}


def test_what_came_before_counts(fake):
    """Protects: where DeepSpeed breaks, torch's answers stand."""
    fake("deepspeed", "raise RuntimeError()")
    answers = probe.ask("cpu", 120)

    assert errors(answers) == {"torch": "", "deepspeed": "RuntimeError"}
    assert answers["torch"]["gloo"] is True
