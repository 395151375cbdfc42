"""What a fault does to a rank, from inside: each function is one, called on the rank it strikes.

Copied beside the victims, so it knows nothing of the campaign.
"""

import contextlib
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import socket
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


#: Groups of processes whose memory the kernel can limit (version 1 of cgroups).
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


def out_of_group_memory():
    """More memory than its cgroup may have: the kernel's OOM killer itself."""
    group = MEMORY_GROUPS / f"campaign-{os.getpid()}"
    group.mkdir()
    group.joinpath("memory.limit_in_bytes").write_text(str(1 << 26))
    group.joinpath("cgroup.procs").write_text(str(os.getpid()))
    torch.ones(1 << 28)


def late():
    """It comes half a minute after the others."""
    time.sleep(30)


def port_taken():
    """Another process wants the port where the ranks meet, and each that is free beside it."""
    port = int(os.environ["MASTER_PORT"])
    taken = []
    for number in range(port - 50, port + 50):
        other = socket.socket()
        try:
            other.bind((os.environ["MASTER_ADDR"], number))
            other.listen()
            taken.append(number)
        except OSError:
            other.close()
    assert port not in taken


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


def agent_garbage():
    """Something on its line to pytest that is no frame."""
    _write_to(os.getppid(), b"Segmentation fault (core dumped)\n\xff\x00\n")


def agent_cut_frame():
    """Half a frame on its line to pytest, before the next one."""
    _write_to(os.getppid(), b'{"type": "finished", "text": "')


def agent_huge_frame():
    """A frame of 100 MB of a type that nobody knows, as a newer version may send one."""
    agent = os.getppid()
    os.kill(agent, signal.SIGSTOP)  # or frames of its own would come in between
    _write_to(agent, b'{"type": "unheard-of", "text": "' + b"x" * 100_000_000 + b'"}\n')
    os.kill(agent, signal.SIGCONT)


def garbage():
    """Something on a rank's line to its agent that is no frame."""
    _write_to(os.getpid(), b"Segmentation fault (core dumped)\n")


def _write_to(pid, data):
    """Writes to the line of a process: the first pipe that it writes to, and does not read."""
    read, written = set(), {}
    for fd in sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd")):
        with contextlib.suppress(OSError):  # that of this listing is gone
            pipe = os.readlink(f"/proc/{pid}/fd/{fd}")
            info = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
            mode = int(re.search(r"flags:\t(\d+)", info)[1], 8) & os.O_ACCMODE
            if pipe.startswith("pipe:") and fd > 2 and mode == os.O_WRONLY:
                written[pipe] = fd
            elif mode == os.O_RDONLY:
                read.add(pipe)
    line = min(fd for pipe, fd in written.items() if pipe not in read)
    with Path(f"/proc/{pid}/fd/{line}").open("wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]


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
