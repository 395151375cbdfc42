"""What an agent imports once so that its ranks need not.

Nearly all the time of a distributed test is imports: `deepspeed.initialize` alone imports
`torch._dynamo` and a dozen modules lazily, 2 to 10 s on each rank. They are imported here, in the
agent, before any fork. Two things are settled as well: which ops DeepSpeed holds compatible (its
probe compiles and links C in every rank, 62 ms) and what CPU this is (`cpuinfo` starts a process
of 1.2 s for each `DeepSpeedCPUAdam`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import warnings
from pathlib import Path

#: Modules that `deepspeed.initialize` and an engine's first steps would import in each rank, seen
#: with DeepSpeed 0.19.8; one that an older or newer release does not have is passed over.
MODULES = (
    "torch.distributed",
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
    "numpy",
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
    """Imports all that a rank may need; its output goes wherever stdout goes."""
    with warnings.catch_warnings():
        # What libraries warn about themselves at import is not news of any test.
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImportError):
            from reference_training.compat import import_torchvision

            import_torchvision()
        for name in MODULES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    _settle_compatible_ops()
    _remember_cpu_info()
    _no_monitor_thread()


def _settle_compatible_ops() -> None:
    """Probes once, and takes the shared-memory collectives out.

    With that op `deepspeed.init_distributed` takes 140 to 156 ms instead of 1 to 3 and leaves a
    segment of 66 MiB for each rank in ``/dev/shm`` that DeepSpeed never unlinks.
    """
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
