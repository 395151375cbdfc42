"""The command line: `torchrun --nproc_per_node 2 -m reference_training.cifar10 --help`."""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

from reference_training import configs
from reference_training.adapt import adapt, uses_fp16
from reference_training.datasource import DataError
from reference_training.record import Record, Step


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; return 0, or 2 where it asks for what cannot be.

    What breaks during the training is raised: its traceback says more than any line of ours.
    """
    # torch looks for ninja on PATH only, and a virtual environment need not be activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    args = _parse(argv)
    import deepspeed
    from torch import distributed

    from reference_training.data import load
    from reference_training.train import train

    if not args.verbose:
        deepspeed.utils.logger.setLevel(logging.WARNING)
        # DeepSpeed calls collectives by names that torch has renamed.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    first = _is_rank_0()
    try:
        config = _runnable(_config(args.deepspeed_config), args.adapt, say=first)
        configs.require_optimizer(config)
        dataset = load(args.data, seed=args.seed)
    except (configs.ConfigError, DataError) as error:
        if first:
            print(f"reference_training.cifar10: error: {error}", file=sys.stderr)
        return 2
    if first:
        print("starting DeepSpeed, which compiles its ops on first use (minutes)", flush=True)
    deepspeed.init_distributed()
    progress = Progress(args.steps, args.log_every) if first else None
    if first:
        print(f"data: {dataset.description}", flush=True)
    record = train(
        config,
        data=dataset,
        steps=args.steps,
        width=args.width,
        seed=args.seed,
        on_step=progress,
    )
    if progress is not None:
        progress.close()
        print(summary(record), flush=True)
        if args.record is not None:
            args.record.write_text(record.to_json() + "\n", encoding="utf-8")
    # Not in a `finally`: a rank that failed would wait here for peers that wait for it.
    distributed.destroy_process_group()
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="reference_training.cifar10",
        description="Train a small convolutional net on CIFAR10 with DeepSpeed, under torchrun.",
    )
    parser.add_argument(
        "--local_rank", type=int, default=-1, help="set by some launchers; LOCAL_RANK counts"
    )
    parser.add_argument(
        "--data",
        help="directory that holds cifar-10-batches-py, or 'digits', or 'synthetic' (default)",
    )
    parser.add_argument("--steps", type=_positive, default=20, help="optimizer steps (default: 20)")
    parser.add_argument(
        "--width", type=_positive, default=1, help="factor on the net's hidden sizes (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--record", type=_writable, metavar="FILE", help="write rank 0's record here, as JSON"
    )
    parser.add_argument(
        "--adapt",
        action="store_true",
        help="on a CPU replace fp16, which it does not train in, by bf16",
    )
    parser.add_argument(
        "--log-every",
        type=_positive,
        default=5,
        metavar="N",
        help="steps between two lines where there is no terminal for a bar (default: 5)",
    )
    parser.add_argument("--verbose", action="store_true", help="show DeepSpeed's own log")
    _add_deepspeed_arguments(parser)
    args = parser.parse_args(argv)
    if args.deepspeed_config is None:
        parser.error(
            "--deepspeed_config is missing: give a file, or one of the reference configs "
            + ", ".join(configs.NAMES)
        )
    if "RANK" not in os.environ:
        parser.error(
            "RANK is not set: start this with torchrun, such as "
            "torchrun --standalone --nproc_per_node 2 -m reference_training.cifar10"
        )
    return args


def _add_deepspeed_arguments(parser: argparse.ArgumentParser) -> None:
    import deepspeed

    deepspeed.add_config_arguments(parser)


def _positive(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return value


def _writable(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write a file {text!r}")
    return path


def _is_rank_0() -> bool:
    return os.environ["RANK"] == "0"


def _config(name: str) -> dict[str, Any]:
    if name in configs.NAMES and not Path(name).exists():
        return configs.load(name)
    return configs.read(name)


def _runnable(config: dict[str, Any], may_adapt: bool, *, say: bool) -> dict[str, Any]:
    """Return the config as this accelerator can run it, changed only if `may_adapt`.

    Raises:
        ConfigError: it cannot run it, and nobody allowed a change.
    """
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    if not uses_fp16(config) or accelerator.is_fp16_supported():
        return config
    if not may_adapt:
        raise configs.ConfigError(
            f"the config enables fp16, which this accelerator ({accelerator._name}) does not "
            'train in: set "fp16": {"enabled": false}, for fp32, and "bf16": {"enabled": true}, '
            "for bf16, or pass --adapt, which takes bf16 for this run"
        )
    config, changes = adapt(config, accelerator._name)
    for change in changes if say else []:
        print(f"adapted: {change}", flush=True)
    return config


def summary(record: Record) -> str:
    """Return one line: how far the loss fell, how fast, and whether the optimizer stepped."""
    window = max(1, len(record.loss) // 4)
    first, last = (statistics.mean(part) for part in (record.loss[:window], record.loss[-window:]))
    return (
        f"{len(record.loss)} steps of {record.train_batch_size} images on {record.world_size} "
        f"ranks: loss {first:.4f} -> {last:.4f} (means of {window}), "
        f"{record.samples_per_second:,.0f} images/s, {record.optimizer_steps} optimizer steps, "
        f"{record.skipped_steps} skipped"
    )


class Progress:
    """Shows this rank's steps: a bar on a terminal, elsewhere a line for every `every` steps."""

    def __init__(self, steps: int, every: int) -> None:
        self.steps = steps
        self.every = every
        self.bar: Any = None
        if sys.stderr.isatty():
            import tqdm

            tqdm.tqdm.monitor_interval = 0  # no thread beside the training
            self.bar = tqdm.tqdm(total=steps, unit="step")

    def __call__(self, number: int, step: Step) -> None:
        if self.bar is not None:
            self.bar.update()
            self.bar.set_postfix_str(
                f"loss {step.loss:.4f}, {step.samples_per_second:,.0f} images/s"
            )
        elif (number + 1) % self.every == 0 or number + 1 == self.steps:
            print(
                f"step {number + 1}/{self.steps}: loss {step.loss:.4f}, lr {step.lr:.2e}, "
                f"{step.samples_per_second:,.0f} images/s",
                flush=True,
            )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


if __name__ == "__main__":
    sys.exit(main())
