"""What a fault does to a rank, from inside: each function is one, called on the rank it strikes.

Copied beside the victims, so it knows nothing of the campaign.
"""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch


def sigkill():
    """As the kernel's OOM killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def sigsegv():
    """A wrong address in native code."""
    os.kill(os.getpid(), signal.SIGSEGV)


def sigstop():
    """A process that the kernel runs no more."""
    os.kill(os.getpid(), signal.SIGSTOP)


def sigterm():
    """Somebody ends the process."""
    os.kill(os.getpid(), signal.SIGTERM)


def abort():
    """A native library gives up."""
    os.abort()


def exit_0():
    """The process ends as if all were well."""
    os._exit(0)


def exit_3():
    """The process ends with a code of its own."""
    os._exit(3)


def never_returns():
    """The main thread waits for what never comes."""
    threading.Event().wait()


def out_of_memory():
    """No more address space than there is in use."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
    torch.ones(1 << 28)


def children():
    """300 processes that outlive their parent, half of them in sessions of their own."""
    for number in range(300):
        subprocess.Popen(["sleep", "600"], start_new_session=number % 2 == 0)


def endless_thread():
    """A thread that no interpreter would leave behind at its exit."""
    threading.Thread(target=time.sleep, args=(600,), daemon=False).start()


def flood():
    """A gigabyte of output."""
    line = b"x" * 1023 + b"\n"
    for _ in range(1024):
        os.write(1, line * 1024)


def binary_output():
    """Output that is no text, and a failure that shows it."""
    os.write(1, bytes(range(256)) * 16 + b"\xff\xfe\xed\xa0\x80 ]]> \x1b[2J\x00")
    print("\udcff\ud800", "]]>", "\x1b[31m", file=sys.stderr)
    raise AssertionError("with binary output \x00 \x1b[31m ]]> \ud800")


def original_stdout():
    """Prints past pytest's capture."""
    print("past the capture", file=sys.__stdout__, flush=True)
    os.write(1, b'{"type": "ended"}\n')


def closed_descriptors():
    """Every descriptor is closed, the process's channel to its agent too."""
    os.closerange(0, 1 << 16)


def directory():
    """The current directory is another, and gone."""
    path = tempfile.mkdtemp()
    os.chdir(path)
    shutil.rmtree(path)


def environment():
    """No variable is left but the one that pytest takes away itself, and fails without."""
    for name in set(os.environ) - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]


def handlers():
    """Every signal that can be is ignored."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)


def modules():
    """Modules that the rest of the process may import again are gone."""
    for name in [n for n in sys.modules if n.partition(".")[0] in ("torch", "json", "_pytest")]:
        del sys.modules[name]


def start_method():
    """The start method of multiprocessing is another."""
    multiprocessing.set_start_method("spawn", force=True)


def dtype():
    """New tensors are of another type."""
    torch.set_default_dtype(torch.float64)


def seed():
    """Random numbers come from another seed."""
    random.seed(time.time_ns())
    torch.manual_seed(time.time_ns() % 2**32)


def agent_sigkill():
    """The process that forks the ranks is killed."""
    os.kill(os.getppid(), signal.SIGKILL)


def agent_slow():
    """It answers nobody for a second."""
    agent = os.getppid()
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {agent}"], start_new_session=True)
    os.kill(agent, signal.SIGSTOP)


def agent_stopped():
    """It answers nobody any more."""
    os.kill(os.getppid(), signal.SIGSTOP)


def state():
    """What of a process must be as it was for every test before it."""
    own = ("RANK", "PORT", "PYTEST_CURRENT_TEST", "RUN_ID", "TORCHELASTIC", "PYTEST_DS_AGENT")
    return {
        "directory": str(Path.cwd()),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if not any(o in name for o in own)
        },
        "handlers": [_name(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "modules": [name for name in ("torch", "json", "_pytest") if name in sys.modules],
        "start method": multiprocessing.get_start_method(),
        "dtype": str(torch.get_default_dtype()),
        "numbers": [random.random(), torch.rand(()).item()],
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def _name(handler):
    return getattr(handler, "__qualname__", str(handler))
