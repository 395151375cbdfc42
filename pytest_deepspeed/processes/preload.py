"""What an agent imports once so that its ranks need not.

Nearly all the time of a distributed test is imports: `deepspeed.initialize` alone imports
`torch._dynamo` and a dozen modules lazily, 2 to 10 s on each rank. They are imported here, in the
agent, before any fork; what only engines need, in a session that has any (`name_engines`).
Two things are settled as well: which ops DeepSpeed holds compatible (its probe compiles and links
C in every rank, 62 ms) and what CPU this is (`cpuinfo` starts a process of 1.2 s for each
`DeepSpeedCPUAdam`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

#: Words of a source that will import DeepSpeed, or a library that does.
_ENGINES = re.compile(
    rb"\b(deepspeed|ds_config|ds_train|ds_check|torchvision|(pytorch_)?lightning|accelerate"
    rb"|transformers)\b"
)

#: Modules that `deepspeed.initialize` and an engine's first steps would import in each rank, seen
#: with DeepSpeed 0.19.8; one that an older or newer release does not have is passed over.
MODULES = (
    "torch._dynamo",
    "torch._inductor.config",
    "torch.utils.data.distributed",
    "deepspeed",
    "deepspeed.checkpoint",
    "deepspeed.checkpoint.ds_to_universal",
    "deepspeed.compile.backend",
    "deepspeed.module_inject.layers",
    "deepspeed.moe.layer",
    "deepspeed.moe.sharded_moe",
    "deepspeed.moe.utils",
    "deepspeed.monitor.monitor",
    "deepspeed.ops.adam",
    "deepspeed.ops.adam.cpu_adam",
    "deepspeed.runtime.bf16_optimizer",
    "deepspeed.runtime.fp16.fused_optimizer",
    "deepspeed.runtime.fp16.unfused_optimizer",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.swap_tensor.partitioned_optimizer_swapper",
    "deepspeed.runtime.swap_tensor.partitioned_param_swapper",
    "deepspeed.runtime.zenflow.zenflow_stage_1_and_2",
    "deepspeed.runtime.zero.muon.original_muon",
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.stage_1_and_2",
    "deepspeed.utils.tensor_fragment",
    "deepspeed.utils.zero_to_fp32",
)


def prepare_environment(device: str) -> None:
    """What must be set before the first import of numpy, torch or deepspeed.

    One OpenMP thread, since the pool of a parent is dead in its forked child (measured: a parallel
    op in the child hangs every time). The interpreter's own ``bin`` first on ``PATH``, since torch
    finds ``ninja`` only there, and another ninja's version invalidates the op cache.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ["TORCH_DIST_INIT_BARRIER"] = "1"
    os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", "")
    os.environ["DS_ACCELERATOR"] = device
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def preload() -> None:
    """Imports what every rank needs; its output goes wherever stdout goes."""
    _import("numpy", "torch.distributed")
    _remember_cpu_info()
    _no_monitor_thread()


def preload_engines() -> None:
    """Imports all that DeepSpeed's engines may need, after :func:`preload`."""
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        from reference_training.compat import import_torchvision

        import_torchvision()
    _import(*MODULES)


def _import(*names: str) -> None:
    with warnings.catch_warnings():
        # What libraries warn about themselves at import is not news of any test.
        warnings.simplefilter("ignore")
        for name in names:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


def name_engines(modules: Iterable[ModuleType], under: Path) -> bool:
    """Whether one of the modules in a folder names DeepSpeed, or a library that imports it.

    A guess from their text, and cheap to get wrong: what it overlooks is imported in the ranks of
    one world, and in the agent before the next.
    """
    library = str(Path(os.__file__).parent)
    for module in modules:
        file = str(getattr(module, "__file__", None) or "")
        name = getattr(module, "__name__", "").partition(".")[0]
        if file.endswith(".py") and name != "pytest_deepspeed" and not file.startswith(library):
            path = Path(file)
            if path.is_relative_to(under) and "site-packages" not in path.parts:
                with contextlib.suppress(OSError):
                    if _ENGINES.search(path.read_bytes()):
                        return True
    return False


def after_deepspeed(action: Callable[[], Any]) -> None:
    """Calls `action` as soon as ``deepspeed`` has been imported; at once where it has been."""
    if "deepspeed" in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Finder(action))


class _Finder(MetaPathFinder):
    """Finds ``deepspeed`` as the others do, and has its loader do one thing more, once."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self._asks_others = False

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        # Whoever only asks where it is does not import it; this stays for who does.
        if fullname != "deepspeed" or self._asks_others:
            return None
        self._asks_others = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asks_others = False
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            sys.meta_path.remove(self)
            self._action()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def settle_compatible_ops() -> None:
    """Probes once, and takes the shared-memory collectives out.

    With that op `deepspeed.init_distributed` takes 140 to 156 ms instead of 1 to 3 and leaves a
    segment of 66 MiB for each rank in ``/dev/shm`` that DeepSpeed never unlinks. Its CUDA
    accelerator has no such op, and probing all others runs nvcc many times.
    """
    if os.environ.get("DS_ACCELERATOR") == "cuda":
        return
    try:
        from deepspeed import ops
    except ImportError:
        return
    compatible = getattr(ops, "__compatible_ops__", None)
    if compatible is not None:
        compatible["deepspeed_shm_comm"] = False


def _remember_cpu_info() -> None:
    try:
        import cpuinfo
    except ImportError:
        return
    cpuinfo.get_cpu_info = functools.cache(cpuinfo.get_cpu_info)


def _no_monitor_thread() -> None:
    """The first tqdm bar starts a thread that would live in whoever is forked after it."""
    try:
        import tqdm
    except ImportError:
        return
    tqdm.tqdm.monitor_interval = 0
