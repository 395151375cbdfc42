"""Processors, GPUs, memory, the backends between ranks, and whether ranks can be forked."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_deepspeed.doctor import installing
from pytest_deepspeed.processes.devices import granted_gpus, torch_without_cuda
from pytest_deepspeed.processes.probe import Answer
from pytest_deepspeed.values.checkup import Line
from pytest_deepspeed.values.size import format_size
from pytest_deepspeed.values.versions import LEAVES_CUDA_ALONE, why_cuda_after_import
from pytest_deepspeed.values.world import RANKS_PER_CORE, cores

_ENOUGH_SHM = 2**30  # DataLoader workers and NCCL take it; containers have 64 MiB unless told


def lines(device: str, backend: str, answers: Mapping[str, Answer]) -> Iterator[Line]:
    """What ranks would run on, `device` and `backend` being those that they would use."""
    count = cores()
    plural = "s" * (count != 1)
    yield Line("ok", "cpu", f"{count} core{plural}: up to {RANKS_PER_CORE * count} ranks")
    yield _gpu(device)
    if "gloo" in answers:  # else nothing imports, and more is not known
        yield _backend(device, backend, answers)
        yield _forking(answers["deepspeed"])
    yield _memory()


def _gpu(device: str) -> Line:
    count = granted_gpus()
    if not count:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None and any(Path("/proc/driver/nvidia/gpus").glob("*")):
            text = f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}: ranks compute on the CPU"
            return Line("--", "gpu", text, "unset CUDA_VISIBLE_DEVICES")
        text = "none: ranks compute on the CPU, without fp16 and NCCL"
        remedy = "salloc --gpus-per-node=1" if shutil.which("salloc") else ""
        return Line("--", "gpu", text, remedy)
    text = "; ".join(_named()) or f"{count}, of which nvidia-smi says nothing"
    if device == "cuda":
        return Line("ok", "gpu", text)
    if torch := torch_without_cuda():
        text = f"{text}, and torch {torch} is built without CUDA"
        return Line("--", "gpu", text, installing.pip("--force-reinstall", "torch"))
    return Line("ok", "gpu", f"{text}; ranks compute on the CPU")


def _named() -> list[str]:
    """Each model with its number and memory, from nvidia-smi, else models from ``/proc``."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(
            query, capture_output=True, text=True, timeout=10, check=True
        ).stdout.splitlines()
        names = [f"{n.strip()}, {int(m) / 1024:.0f} GiB" for n, m in (s.split(",") for s in said)]
    except (OSError, ValueError, subprocess.SubprocessError):
        files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        models = (line for file in files for line in file.read_text().splitlines())
        names = [m.partition(":")[2].strip() for m in models if m.startswith("Model:")]
    return [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]


def _backend(device: str, backend: str, answers: Mapping[str, Answer]) -> Line:
    """What `gloo`, and on GPUs NCCL, made of a process group of one rank."""
    works, broken = [], []
    for name in ("gloo", "nccl") if device == "cuda" else ("gloo",):
        answer = answers.get(name)
        if answer is None:
            broken.append(f"{name}: not tried")
        elif "error" in answer:
            broken.append(f"{name}: {answer['error']}")
        else:
            works.append(name)
    if broken:
        usable = backend in works
        remedy = ""
        if backend == "nccl":
            remedy = "--ds-backend=gloo" if "gloo" in works else "--ds-device=cpu"
        else:
            remedy = "name a network interface that is up: export GLOO_SOCKET_IFNAME=lo"
        return Line("--" if usable else "!!", "backend", "; ".join(broken), remedy)
    tried = f"an all-reduce on {'the CPU' if device == 'cpu' else 'a GPU'} works"
    return Line("ok", "backend", f"{' and '.join(works)}, {tried}; ranks use {backend}")


def _forking(answer: Answer) -> Line:
    """Whether an agent that has imported all could be forked."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        text = f"no pidfd_open ({error.strerror}), by which ranks are supervised"
        return Line("!!", "forking", text, "Linux 5.4 or newer, outside of the sandbox")
    if answer["cuda_initialised"]:
        who = why_cuda_after_import(answer["version"]) or "importing torch and DeepSpeed"
        text = f"ranks are spawned, seconds for each test: {who} initialises CUDA"
        return Line("--", "forking", text, installing.pip(f"deepspeed>={LEAVES_CUDA_ALONE}"))
    if answer["threads"] > 1:
        text = f"ranks are spawned: imports start {answer['threads'] - 1} threads"
        return Line("--", "forking", text)
    return Line("ok", "forking", "imports start no thread and no CUDA: ranks are forked")


def _memory() -> Line:
    meminfo = dict(
        line.split(":", maxsplit=1) for line in Path("/proc/meminfo").read_text().splitlines()
    )
    total, free = (int(meminfo[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    text = f"{format_size(free)} free of {format_size(total)}"
    try:
        shm = shutil.disk_usage("/dev/shm").free
    except OSError as error:
        return Line("--", "memory", f"{text}; /dev/shm: {error.strerror}", _MOUNT)
    text = f"{text}; /dev/shm: {format_size(shm)} free"
    return Line("ok", "memory", text) if shm >= _ENOUGH_SHM else Line("--", "memory", text, _MOUNT)


_MOUNT = "mount -o remount,size=2g /dev/shm, or docker run --shm-size=2g"
