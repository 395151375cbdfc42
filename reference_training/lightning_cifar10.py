"""The command line: `srun python -m reference_training.lightning_cifar10 --help`.

The three Lightning programs of the Alliance wiki (https://docs.alliancecan.ca/wiki/Deepspeed) as
one: ZeRO-3 over a pool of GPUs, with offload to the CPU, and with offload to a node's local disk.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reference_training.cifar10 import _positive, _writable, summary
from reference_training.datasource import DataError
from reference_training.record import Record

if TYPE_CHECKING:
    import pytorch_lightning as pl

#: What is kept where.
MODES = {
    "zero3": "weights, gradients and optimizer states are spread over the devices; FusedAdam",
    "offload_cpu": "weights and optimizer states lie in the nodes' memory; DeepSpeedCPUAdam",
    "offload_nvme": "weights and optimizer states lie on the nodes' disks; DeepSpeedCPUAdam",
}


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; return 0, or 2 where it asks for what cannot be."""
    # torch looks for ninja on PATH only, and a virtual environment need not be activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    args = _parse(argv)
    try:
        record = fit(args)
    except DataError as error:
        print(f"reference_training.lightning_cifar10: error: {error}", file=sys.stderr)
        return 2
    if record.rank == 0:
        print(summary(record), flush=True)
        if args.record is not None:
            args.record.write_text(record.to_json() + "\n", encoding="utf-8")
    return 0


def fit(args: argparse.Namespace) -> Record:
    """Train, and return this rank's record.

    Args:
        args: Of `_parse`.

    Raises:
        DataError: the images cannot be loaded.
    """
    if not args.verbose:
        for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # DeepSpeed calls collectives by names that torch has renamed.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    from reference_training import data
    from reference_training.lightning_module import Classifier, ImageData
    from reference_training.lightning_record import StepRecorder

    data.check(args.data)
    module = Classifier(
        lr=args.lr, width=args.width, seed=args.seed, cpu_optimizer=args.mode != "zero3"
    )
    images = ImageData(
        args.data, batch_size=args.batch_size, num_workers=args.num_workers, seed=args.seed
    )
    recorder = StepRecorder(images.images.description)
    trainer = _trainer(args, [recorder])
    trainer.fit(module, datamodule=images)
    if args.checkpoint is not None:
        trainer.save_checkpoint(args.checkpoint)
    if args.validate:
        trainer.validate(module, datamodule=images)
    return recorder.record


def _trainer(args: argparse.Namespace, callbacks: list[pl.Callback]) -> pl.Trainer:
    import pytorch_lightning as pl
    import torch

    gpu = args.accelerator == "gpu" or (args.accelerator == "auto" and torch.cuda.is_available())
    return pl.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=devices(torch.cuda.device_count() if gpu else 1),
        num_nodes=nodes(),
        strategy=strategy(args, gpu=gpu),
        precision=args.precision,
        max_epochs=args.max_epochs,
        max_steps=args.max_steps,
        limit_val_batches=0 if not args.validate else None,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        callbacks=callbacks,
    )


def strategy(args: argparse.Namespace, *, gpu: bool) -> Any:
    """Return the DeepSpeed strategy of a mode.

    Args:
        args: Of `_parse`.
        gpu: Whether it runs on GPUs.
    """
    from pytorch_lightning.strategies import DeepSpeedStrategy

    from reference_training.lightning_strategy import DeepSpeedCPUStrategy

    kind: Any = DeepSpeedStrategy if gpu else DeepSpeedCPUStrategy
    if args.mode == "zero3":
        return kind(stage=3)
    offload: dict[str, Any] = {"offload_optimizer": True, "offload_parameters": True}
    if args.mode == "offload_nvme":
        offload |= {
            "remote_device": "nvme",
            "offload_params_device": "nvme",
            "offload_optimizer_device": "nvme",
            "nvme_path": str(args.nvme_path),
            # Lightning's default takes 2 GB of locked memory for each rank, and twice.
            "params_buffer_size": _largest_parameter(args.width),
            # Lightning's default keeps the first 1e9 elements in memory, which is all.
            "max_in_cpu": 0,
            # In larger groups DeepSpeed 0.19.8 applies swapped gradients to other parameters
            # (docs/known-faults.md, nvme-misaligned-gradient).
            "sub_group_size": 1,
        }
    return kind(stage=3, pin_memory=gpu, **offload)


def _largest_parameter(width: int) -> int:
    import torch

    from reference_training.model import Net

    with torch.device("meta"):
        return max(parameter.numel() for parameter in Net(width).parameters())


def devices(here: int) -> int:
    """Return the processes on each node, one for each device, as the launcher says.

    Args:
        here: Devices of this machine, where there is no launcher.
    """
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    if os.environ.get("SLURM_NTASKS", "").isdecimal():
        return int(os.environ["SLURM_NTASKS"]) // nodes()
    return max(1, here)


def nodes() -> int:
    """Return the number of nodes, as the launcher says."""
    if {"WORLD_SIZE", "LOCAL_WORLD_SIZE"} <= os.environ.keys():
        return int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"])
    return int(os.environ.get("SLURM_NNODES", "1"))


def _parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="reference_training.lightning_cifar10",
        description="Train a small convolutional net on CIFAR10 with Lightning and DeepSpeed's"
        " ZeRO-3, a process for each device.",
        epilog="; ".join(f"{mode}: {what}" for mode, what in MODES.items()),
    )
    parser.add_argument("--mode", choices=MODES, default="zero3", help="default: zero3")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate (default: 0.001)")
    parser.add_argument("--max_epochs", type=_positive, default=2, help="default: 2")
    parser.add_argument(
        "--batch_size", type=_positive, default=768, help="images of one rank (default: 768)"
    )
    parser.add_argument(
        "--num_workers", type=int, default=0, help="processes that load images (default: 0)"
    )
    parser.add_argument(
        "--max_steps", type=int, default=-1, metavar="N", help="stop after N steps (default: no)"
    )
    parser.add_argument(
        "--width", type=_positive, default=8, help="factor on the net's hidden sizes (default: 8)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--data",
        help="directory that holds cifar-10-batches-py, or 'digits', or 'synthetic' (default)",
    )
    parser.add_argument(
        "--nvme_path",
        type=Path,
        default=os.environ.get("SLURM_TMPDIR"),
        help="directory on a local disk, for offload_nvme (default: $SLURM_TMPDIR)",
    )
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--precision", default="32-true", help="as Lightning's (default: 32-true)")
    parser.add_argument("--validate", action="store_true", help="judge held-out images at the end")
    parser.add_argument("--checkpoint", metavar="DIR", help="save the training here at its end")
    parser.add_argument(
        "--record", type=_writable, metavar="FILE", help="write rank 0's record here, as JSON"
    )
    parser.add_argument("--verbose", action="store_true", help="show what Lightning logs")
    args = parser.parse_args(argv)
    if args.mode == "offload_nvme" and args.nvme_path is None:
        parser.error(
            "--mode=offload_nvme needs a directory on a local disk, and SLURM_TMPDIR is not set:"
            " give one with --nvme_path"
        )
    if args.mode == "offload_nvme" and args.validate:
        parser.error(
            "--validate does not go with --mode=offload_nvme: the engine that Lightning makes for"
            " it removes the swap files of the trained one (DeepSpeed 0.19.8,"
            " runtime/swap_tensor/partitioned_param_swapper.py). Save with --checkpoint instead"
        )
    if args.mode == "offload_nvme":
        args.nvme_path = args.nvme_path.absolute()
    return args


if __name__ == "__main__":
    sys.exit(main())
