"""What only a process that imports torch can say of this machine: asked of one that is thrown away.

The process imports what an agent imports, in the agent's environment, and answers step by step, so
that what crashes or hangs is named and what came before still counts.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from pytest_deepspeed.processes import containment, preload

#: What a step found, or ``{"error": ...}``.
Answer = dict[str, Any]


def ask(device: str, limit: float) -> dict[str, Answer]:
    """The answer of each step for ``"cpu"`` or ``"cuda"``, those of `STEPS`; never raises.

    The step that ended the process, or was under way after ``limit`` seconds, has an ``"error"``;
    those after it are not in the result.
    """
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=sys.path), device],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return {STEPS[0].__name__: {"error": f"{sys.executable}: {error.strerror}"}}
    try:
        said, words = process.communicate(timeout=limit)
        why = _end_of(process.returncode, words)
    except subprocess.TimeoutExpired:
        containment.kill(process.pid)
        said, _ = process.communicate()
        why = f"no answer within {limit:g} s"
    finally:
        if process.poll() is None:  # Ctrl-C
            containment.kill(process.pid)
    lines = [line for line in said.splitlines() if line.startswith("{")]
    answers = {answer.pop("step"): answer for answer in map(json.loads, lines)}
    for step in STEPS:
        if step.__name__ not in answers:
            return {**answers, step.__name__: {"error": why}}
        if step in _GROUND and "error" in answers[step.__name__]:
            break
    return answers


_CODE = (
    "import sys; sys.path[:] = {path!r};"
    " from pytest_deepspeed.processes.probe import main; main(sys.argv[1])"
)


def _end_of(status: int, words: str) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    last = words.strip().splitlines()[-1:]
    return f"ended with status {status}" + "".join(f": {line}" for line in last)


def torch(_device: str) -> Answer:
    """PyTorch: its version, the CUDA that it was built for, its backends."""
    module = importlib.import_module("torch")
    distributed = importlib.import_module("torch.distributed")
    backends = {
        name: distributed.is_available() and getattr(distributed, f"is_{name}_available")()
        for name in ("gloo", "nccl")
    }
    return {"version": module.__version__, "cuda": module.version.cuda, **backends}


def deepspeed(_device: str) -> Answer:
    """DeepSpeed, and what an agent has after that: its threads, and whether CUDA is initialised."""
    module = importlib.import_module("deepspeed")
    cuda = sys.modules["torch"].cuda
    return {
        "version": module.__version__,
        "threads": containment.threads(),
        "cuda_initialised": cuda.is_initialized(),
    }


def gloo(device: str) -> Answer:
    """A process group of one rank that adds a number up."""
    return _process_group("gloo", "cpu" if device == "cpu" else "cuda:0")


def nccl(device: str) -> Answer:
    """The same with NCCL, where ranks compute on GPUs."""
    return _process_group("nccl", "cuda:0") if device == "cuda" else {}


def toolkit(device: str) -> Answer:
    """The CUDA toolkit that DeepSpeed would compile with, judged by DeepSpeed itself."""
    if device != "cuda":
        return {}
    builder = importlib.import_module("deepspeed.ops.op_builder.builder")
    try:
        version = ".".join(map(str, builder.installed_cuda_version()))
    except Exception as error:  # noqa: BLE001 (whatever it raises is why there is none)
        return {"missing": _in_a_line(error)}
    try:
        builder.assert_no_cuda_mismatch()
    except Exception as error:  # noqa: BLE001 (likewise)
        return {"version": version, "mismatch": _in_a_line(error)}
    return {"version": version}


def lightning(_device: str) -> Answer:
    """Lightning, last: nothing else needs it."""
    importlib.import_module("reference_training.compat").import_torchvision()
    importlib.import_module("pytorch_lightning")
    return {}


def _process_group(backend: str, device: str) -> Answer:
    torch = sys.modules["torch"]
    distributed = torch.distributed
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        number = torch.ones(1, device=device)
        distributed.all_reduce(number)
        return {"sum": number.item()}
    finally:
        distributed.destroy_process_group()


#: In this order. Where one of the first two fails it is the last.
STEPS: tuple[Callable[[str], Answer], ...] = (torch, deepspeed, gloo, nccl, toolkit, lightning)
_GROUND = STEPS[:2]


def _in_a_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main(device: str) -> None:
    """Entry point of the process: a line of JSON for each step."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    preload.prepare_environment(device)
    for step in STEPS:
        began = time.monotonic()
        try:
            answer = step(device)
        except Exception as error:  # noqa: BLE001 (a library may raise anything; it is shown)
            answer = {"error": _in_a_line(error)}
        answer = {"step": step.__name__, "seconds": time.monotonic() - began, **answer}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if step in _GROUND and "error" in answer:
            break
    sys.stdout.flush()
    os._exit(0)  # threads of a library's are not waited for
