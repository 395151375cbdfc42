"""The compiling process of :mod:`pytest_deepspeed.processes.build_op`.

It imports torch and DeepSpeed, lets DeepSpeed's OpBuilder compile and import the op, and turns what
goes wrong into a message that says what to type. All that the libraries and compilers print goes
into the op's log. On CUDA the OpBuilder initialises CUDA to ask for the device's capability unless
``TORCH_CUDA_ARCH_LIST`` is set; that stays in this process.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

from pytest_deepspeed.processes.containment import adopt_orphans, die_with_parent, kill_strays
from pytest_deepspeed.processes.op_cache import OpBuildError, built
from pytest_deepspeed.processes.ops import command, load_built

#: Ops with CUDA sources, where ranks compute on CUDA; others are C++ there too.
_IN_CUDA = ("fused_", "quantizer")
_USES_LIBAIO = ("async_io", "gds")


def run_and_exit(name: str, env: Mapping[str, str], log: Path, supervisor: int) -> NoReturn:
    """Compile op `name` in this freshly forked process; exit 0, or 1 with a message on stderr."""
    code, err = 1, os.dup(2)
    try:
        _live_in_own_group(supervisor, log.parent / name / "lock")
        os.environ.update(env)
        out = os.dup(1)
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        _check_tools(name, env["DS_ACCELERATOR"])
        _compile(name, env["DS_ACCELERATOR"], log, out, err)
        code = 0
    except OpBuildError as error:
        os.write(err, f"{error}\n".encode())
    except BaseException:  # noqa: BLE001 (it must not unwind into the supervisor's frames)
        os.write(err, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _live_in_own_group(supervisor: int, baton: Path) -> None:
    """Ctrl-C at a terminal reaches the supervisor alone, which then ends this process."""

    def stop(number: int, frame: FrameType | None) -> None:
        """SIGTERM: the supervisor is gone, and nobody else ends our compilers."""
        del number, frame
        kill_strays(keep=set())
        baton.unlink(missing_ok=True)
        os._exit(1)

    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, stop)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    die_with_parent(supervisor, signal.SIGTERM)
    adopt_orphans()


def _check_tools(name: str, accelerator: str) -> None:
    """What a build needs that no Python package brings; torch's errors are long."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise OpBuildError(
            f"DeepSpeed op {name} cannot be built: there is no C++ compiler, {compiler} is not on "
            f"PATH; type: apt-get install g++ (or name a compiler: CXX=/path/to/g++)"
        )
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        raise OpBuildError(
            f"DeepSpeed op {name} cannot be built: there is no Python.h in {include}; "
            f"type: apt-get install python3-dev"
        )
    if shutil.which("ninja") is None:
        raise OpBuildError(
            f"DeepSpeed op {name} cannot be built: ninja is not on PATH; "
            f"type: {sys.executable} -m pip install ninja"
        )
    if accelerator == "cuda" and name.startswith(_IN_CUDA) and not _has_nvcc():
        raise OpBuildError(
            f"DeepSpeed op {name} cannot be built: there is no CUDA compiler, nvcc is neither in "
            f"$CUDA_HOME/bin nor on PATH; type: module load cuda (or install the CUDA toolkit of "
            f"torch's version and set CUDA_HOME). An Adam of the config can do without: "
            f'"torch_adam": true in optimizer.params'
        )


def _has_nvcc() -> bool:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return Path(home, "bin", "nvcc").exists() or shutil.which("nvcc") is not None


def _compile(name: str, accelerator: str, log: Path, out: int, err: int) -> None:
    try:
        builder = _compatible_builder(name, accelerator)
        _build_others_apart(name, accelerator, out, err)
        builder.load(verbose=True)
    except OpBuildError:
        raise
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        raise OpBuildError(_did_not_compile(name, log, error)) from error


def _compatible_builder(name: str, accelerator: str) -> Any:
    import deepspeed
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    builder = ALL_OPS.get(name)
    if builder is None or name == "deepspeed_not_implemented":
        names = ", ".join(sorted(set(ALL_OPS) - {"deepspeed_not_implemented"}))
        raise OpBuildError(
            f"DeepSpeed {deepspeed.__version__} has no op {name} for the accelerator "
            f"{accelerator}; it has: {names}"
        )
    if not builder.is_compatible(verbose=True):
        raise OpBuildError(_incompatible(name, accelerator, builder))
    return builder


def _build_others_apart(name: str, accelerator: str, out: int, err: int) -> None:
    """An op that `name` is linked to (pin_memory, of async_io) is built under its own lock."""
    from deepspeed.ops.op_builder.builder import OpBuilder

    compile_and_load = OpBuilder.jit_load

    def jit_load(self: Any, verbose: bool = True) -> ModuleType:
        if self.name == name:
            module: ModuleType = compile_and_load(self, verbose)
            return module
        run = subprocess.run(command(self.name, accelerator), stdout=out, stderr=err, check=False)
        path = built(self.name, accelerator)
        if run.returncode or path is None:
            raise OpBuildError(f"DeepSpeed op {name} cannot be built without {self.name}")
        return load_built(self.name, path)

    OpBuilder.jit_load = jit_load


def _incompatible(name: str, accelerator: str, builder: Any) -> str:
    if name in _USES_LIBAIO and not builder.has_function("io_submit", ("aio",)):
        return (
            f"DeepSpeed op {name} cannot be built: libaio's header or library is missing; "
            f"type: apt-get install libaio-dev"
        )
    why = builder.error_log or "it gives no reason"
    return f"DeepSpeed calls its op {name} incompatible with this machine ({accelerator}): {why}"


def _did_not_compile(name: str, log: Path, error: Exception) -> str:
    """The compiler's own errors, at most five, or else the exception."""
    lines = log.read_text(errors="replace").splitlines()
    if any("Killed signal terminated program" in line for line in lines):
        return (
            f"DeepSpeed op {name} was not built: the compiler was killed, most likely because "
            f"memory ran out; build with fewer compilers at a time: MAX_JOBS=1"
        )
    wrong = [
        line
        for line in lines
        if re.search(r"\b(fatal )?error:|undefined reference|cannot find -l", line)
    ]
    shown = wrong[:5] or [f"{type(error).__name__}: {error}"]
    return "\n".join(
        [
            f"DeepSpeed op {name} did not compile:",
            *(f"  {line}" for line in shown),
            f"all of it: {log}",
        ]
    )
