"""DeepSpeed's compiled ops: which a config needs, how each is built once, how a rank gets one.

DeepSpeed compiles an op when it is first loaded, which takes from half a minute to minutes, in the
middle of a test. Here each op is built once, by :mod:`pytest_deepspeed.processes.build_op` in a
process of its own, into a cache; a rank then imports the finished file, which takes milliseconds.

Importing this module imports neither torch nor DeepSpeed. By hand::

    python -m pytest_deepspeed.processes.ops build fused_adam cpu_adam
    python -m pytest_deepspeed.processes.ops list
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_deepspeed.processes.op_cache import OpBuildError, built, cache_dir, make_cache_dir

__all__ = [
    "CPU_OPS",
    "OpBuildError",
    "built",
    "cache_dir",
    "command",
    "environment",
    "install_hook",
    "load_built",
    "needed",
]

CPU_OPS = (
    "fused_adam",
    "cpu_adam",
    "cpu_adagrad",
    "cpu_lion",
    "async_io",
    "pin_memory",
    "deepspeed_shm_comm",
)
"""What DeepSpeed can compile for the CPU accelerator without vendor libraries."""

# A config's `optimizer.type`, as the op that DeepSpeed's optimizer class of that name loads: (on
# the accelerator, with offload_optimizer). Types not listed load none. Source: DeepSpeedEngine's
# _configure_basic_optimizer and get_optimizer_configuration.
_OPTIMIZER_OPS: dict[str, tuple[str | None, str | None]] = {
    "adam": ("fused_adam", "cpu_adam"),
    "adamw": ("fused_adam", "cpu_adam"),
    "muon": ("fused_adam", "cpu_adam"),
    "adagrad": (None, "cpu_adagrad"),
    "lion": ("fused_lion", "cpu_lion"),
    "lamb": ("fused_lamb", "fused_lamb"),
}

_COMPILER_KIB = 1_500_000  # resident size of one g++ on torch's headers, rounded up


def command(name: str, accelerator: str) -> list[str]:  # noqa: ARG001 (it is in the environment)
    """The command that builds op `name`; to be run with :func:`environment`.

    It exits 0 once the op is :func:`built`, whoever built it. Its stdout is progress, a line every
    few seconds; its stderr is empty, or the message for an :class:`OpBuildError`. It ends, with
    every compiler that it started, on SIGTERM and when its parent dies.
    """
    return [sys.executable, "-m", "pytest_deepspeed.processes.build_op", name]


def environment(base: Mapping[str, str], accelerator: str) -> dict[str, str]:
    """`base` with what the build command needs.

    The interpreter's ``bin`` comes first on ``PATH``, because torch finds ``ninja`` only there.
    ``MAX_JOBS``, unless set, is a compiler per core as far as memory goes. Ops built side by side
    get as many each, so that the longer one has all cores once the shorter is done.
    """
    own = str(Path(sys.executable).parent)
    path = [folder for folder in base.get("PATH", "").split(os.pathsep) if folder != own]
    return {
        **base,
        "PATH": os.pathsep.join([own, *path]),
        "DS_ACCELERATOR": accelerator,
        "TORCH_EXTENSIONS_DIR": str(cache_dir(accelerator)),
        "MAX_JOBS": base.get("MAX_JOBS") or str(_jobs()),
    }


def load_built(name: str, path: Path) -> ModuleType:
    """Import the finished library `path` as DeepSpeed's op `name`, so that ``load()`` returns it.

    For a process that has imported torch and DeepSpeed; neither ninja nor a compiler runs.
    """
    from deepspeed.ops.op_builder.builder import OpBuilder

    loaded: dict[str, ModuleType] = OpBuilder._loaded_ops
    if name in loaded:
        return loaded[name]
    pin_memory = path.parents[1] / "pin_memory" / "pin_memory.so"
    if name == "async_io" and pin_memory.exists():
        # async_io takes symbols from pin_memory, which that op's own load() makes global, however
        # it got here.
        from deepspeed.ops.op_builder import PinMemoryBuilder

        load_built("pin_memory", pin_memory)
        PinMemoryBuilder().load()
    loader = ExtensionFileLoader(name, str(path))
    spec = spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    loaded[name] = module
    return module


def loaded() -> list[str]:
    """The ops that DeepSpeed has loaded in this process, or its parent had."""
    builder = sys.modules.get("deepspeed.ops.op_builder.builder")
    return sorted(builder.OpBuilder._loaded_ops) if builder else []


def install_hook(request: Callable[[str], Path]) -> Callable[[], None]:
    """From now on DeepSpeed imports finished ops and never compiles in this process.

    `request(name)` is called for an op that is not :func:`built`: it returns the library once it
    is, or raises :class:`OpBuildError`. An op that DeepSpeed calls incompatible raises DeepSpeed's
    own error. Returns a function that takes the hook off.
    """
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops.op_builder.builder import OpBuilder

    compile_and_load = OpBuilder.jit_load
    accelerator = get_accelerator().device_name()

    def jit_load(self: Any, verbose: bool = True) -> ModuleType:
        path = built(self.name, accelerator)
        if path is None and not self.is_compatible(verbose):
            module: ModuleType = compile_and_load(self, verbose)  # raises
            return module
        return load_built(self.name, path or request(self.name))

    def remove() -> None:
        OpBuilder.jit_load = compile_and_load

    OpBuilder.jit_load = jit_load
    return remove


def needed(ds_config: Mapping[str, Any], accelerator: str) -> list[str]:
    """The ops that ``deepspeed.initialize`` loads under `ds_config`, longest build first.

    Without an ``optimizer`` section the script brings its own, of which the config says nothing.
    ``async_io`` stands for itself and the ``pin_memory`` op that it is linked to. What DeepSpeed
    has no builder for on `accelerator` is left out; it raises when it gets there.
    """
    zero = _section(ds_config, "zero_optimization")
    offload = _section(zero, "offload_optimizer").get("device")
    if zero.get("cpu_offload"):  # deprecated, still honoured
        offload = "cpu"

    ops: list[str | None] = []
    if _swaps(zero, offload) or _writes_fast_checkpoints(ds_config):
        ops.append("async_io")
    optimizer = _section(ds_config, "optimizer")
    kind = str(optimizer.get("type")).lower()
    in_torch = kind in ("adam", "adamw", "muon") and _section(optimizer, "params").get("torch_adam")
    if kind in _OPTIMIZER_OPS and not in_torch:
        ops.append(_OPTIMIZER_OPS[kind][offload in ("cpu", "nvme")])
    if zero.get("zero_quantized_weights") or zero.get("zero_quantized_gradients"):
        ops.append("quantizer")
    return [op for op in ops if op and (accelerator != "cpu" or op in CPU_OPS)]


def _swaps(zero: Mapping[str, Any], offload: object) -> bool:
    """Whether tensors go to NVMe: only stage 3 does that, the others keep them in memory."""
    params = _section(zero, "offload_param").get("device")
    return zero.get("stage") == 3 and "nvme" in (offload, params)


def _writes_fast_checkpoints(ds_config: Mapping[str, Any]) -> bool:
    writer = _section(_section(ds_config, "checkpoint"), "writer")
    return str(writer.get("type")).lower() == "fast"


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, Mapping) else {}


def _jobs() -> int:
    with Path("/proc/meminfo").open() as lines:
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return max(1, min(len(os.sched_getaffinity(0)), available // _COMPILER_KIB))


def _build(names: Sequence[str], accelerator: str) -> int:
    """Build `names` side by side, at most one op a core; 1 if any failed."""
    waiting, failed = list(dict.fromkeys(names)), False
    env = environment(os.environ, accelerator)
    with selectors.DefaultSelector() as running:
        while waiting or running.get_map():
            while waiting and len(running.get_map()) < len(os.sched_getaffinity(0)):
                process = subprocess.Popen(command(waiting.pop(0), accelerator), env=env)
                running.register(os.pidfd_open(process.pid), selectors.EVENT_READ, process)
            for key, _ in running.select():
                running.unregister(key.fd)
                os.close(key.fd)
                failed |= key.data.wait() != 0
    return int(failed)


def _list(accelerator: str) -> int:
    """Print each op's state, size in MB and path."""
    folder = cache_dir(accelerator)
    for name in sorted({*CPU_OPS, *(stamp.stem for stamp in folder.glob("*.json"))}):
        path = built(name, accelerator)
        state = f"ready      {path.stat().st_size / 1e6:5.1f} MB  {path}" if path else "not built"
        sys.stdout.write(f"{name:20} {state}\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m pytest_deepspeed.processes.ops")
    parser.add_argument(
        "--accelerator",
        default=os.environ.get("DS_ACCELERATOR", "cpu"),
        help="the DeepSpeed accelerator to build for: cpu, cuda (default: $DS_ACCELERATOR or cpu)",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    build = actions.add_parser("build", help="build ops side by side; exit code 1 if one fails")
    build.add_argument("names", nargs="+", metavar="OP", help=f"such as {', '.join(CPU_OPS)}")
    actions.add_parser("list", help="show each op's state, size and path")
    options = parser.parse_args(arguments)
    if options.action == "list":
        return _list(options.accelerator)
    try:
        make_cache_dir(options.accelerator)
    except OpBuildError as error:  # one message, not one for each op
        sys.stderr.write(f"{error}\n")
        return 1
    try:
        return _build(options.names, options.accelerator)
    except KeyboardInterrupt:  # the builders had it too, and say so
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
