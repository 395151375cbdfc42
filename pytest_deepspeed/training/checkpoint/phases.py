"""What the ranks of each world do; each function takes and returns plain data.

A world that loads starts from weights that are all wrong, so that what a checkpoint fails to bring
back shows, a frozen layer too; and from an NVMe directory of its own, so that it cannot find the
saving world's swap files.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from pytest_deepspeed.processes import progress
from pytest_deepspeed.training import accelerator
from pytest_deepspeed.training.checkpoint import consolidate, damage, manifest, snapshot
from pytest_deepspeed.training.checkpoint.evidence import Damage, Resumed, Saved
from pytest_deepspeed.training.checkpoint.limits import why_not
from pytest_deepspeed.training.quiet import quietly

#: Tags of the two checkpoints.
OLDER, LATER = "older", "later"

#: Subdirectories and files of the run's directory.
CHECKPOINT, EXPORTED, TENSORS = "checkpoint", "exported", "straight.pt"


class Scrambled:
    """A workload whose model starts from other weights and buffers than the one it wraps."""

    def __init__(self, workload: Any) -> None:
        self._workload = workload

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workload, name)

    def model(self) -> Any:
        """The model, with each floating-point value one larger.

        But for buffers that no checkpoint has, such as a table of rotary angles: they are made
        anew with the model.
        """
        import torch

        model = self._workload.model()
        saved = model.state_dict()
        buffers = [b for name, b in model.named_buffers() if name in saved]
        with torch.no_grad():
            for tensor in (*model.parameters(), *buffers):
                if tensor.is_floating_point():
                    tensor.add_(1.0)
        return model


@quietly()
def save(
    ds_config: dict[str, Any],
    workload: Any,
    directory: str,
    at: int,
    more: int,
    rank: int,
) -> Saved:
    """Trains ``at`` steps, saves the tag ``older``, trains ``more``, saves ``later``.

    The state is read before it is saved: a save that disturbs the training shows too.
    """
    import torch

    from pytest_deepspeed.training.workload.verify import verify

    progress.phase("saving", ds_config, at + more)
    workload = made(workload)
    verify(workload, ds_config)
    engine = build(ds_config, workload, directory, "save")
    checkpoint = str(Path(directory, CHECKPOINT))
    run(engine, workload, at, 0)
    at_save = snapshot.take(engine)
    engine.save_checkpoint(checkpoint, tag=OLDER)
    exported = None
    if why_not(ds_config, "export") is None:
        exported = bool(engine.save_16bit_model(str(Path(directory, EXPORTED))))
    losses, lr = run(engine, workload, more, at)
    tensors = snapshot.Tensors(engine)
    at_end = tensors.snapshot(engine)
    engine.save_checkpoint(checkpoint, tag=LATER)
    if rank == 0:
        torch.save((tensors.weights, tensors.moments), Path(directory, TENSORS))
        manifest.write(checkpoint)
    engine.destroy()
    return Saved(
        model=snapshot.describe(workload.model()),
        at_save=at_save,
        at_end=at_end,
        losses=losses,
        lr=lr,
        exported=exported,
        first_step=at,
    )


@quietly()
def resume(
    ds_config: dict[str, Any],
    workload: Any,
    directory: str,
    at: int,
    more: int,
    damages: tuple[str, ...],
    rank: int,
) -> Resumed:
    """Loads what `save` wrote: to train on, without optimizer states, by ``latest``, damaged."""
    progress.phase("resuming", ds_config, at + more)
    checkpoint = Path(directory, CHECKPOINT)
    workload = made(workload)
    scrambled = Scrambled(workload)
    before = tuple(manifest.verify(checkpoint)) if rank == 0 else ()

    engine = build(ds_config, scrambled, directory, "resume")
    engine.load_checkpoint(str(checkpoint), tag=OLDER)
    loaded = snapshot.take(engine)
    losses, lr = run(engine, workload, more, at)
    at_end = snapshot.take(engine)
    engine.destroy()

    progress.phase("loading again", ds_config)
    without_optimizer = None
    if why_not(ds_config, "without_optimizer") is None:
        engine = build(ds_config, scrambled, directory, "weights")
        engine.load_checkpoint(str(checkpoint), tag=OLDER, load_optimizer_states=False)
        without_optimizer = snapshot.take(engine)
        engine.destroy()

    engine = build(ds_config, scrambled, directory, "latest")
    engine.load_checkpoint(str(checkpoint))
    latest = snapshot.take(engine)
    engine.destroy()

    return Resumed(
        loaded=loaded,
        at_end=at_end,
        losses=losses,
        lr=lr,
        without_optimizer=without_optimizer,
        latest=latest,
        before=before,
        after=tuple(manifest.verify(checkpoint)) if rank == 0 else (),
        files=consolidate.files(Path(directory), OLDER, ds_config) if rank == 0 else {},
        damages=tuple(_damaged(k, ds_config, scrambled, directory, rank) for k in damages),
    )


def made(workload: Any) -> Any:
    """The workload, or what a function without arguments makes it of, on the ranks."""
    return workload() if callable(workload) else workload


def build(ds_config: dict[str, Any], workload: Any, directory: str, phase: str) -> Any:
    """An engine that swaps, where it swaps, to a directory of this phase alone: below `nvme_path`,
    or the run's directory where the config has none.
    """
    from reference_training.train import build_engine

    accelerator.be_exact()
    config = copy.deepcopy(ds_config)
    for key in ("offload_optimizer", "offload_param"):
        block = config.get("zero_optimization", {}).get(key) or {}
        if block.get("device") == "nvme":
            path = Path(block.get("nvme_path") or Path(directory, "nvme"), f"checkpoint_{phase}")
            path.mkdir(parents=True, exist_ok=True)
            block["nvme_path"] = str(path)
    return build_engine(workload, config)


def run(
    engine: Any, workload: Any, steps: int, start_step: int
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """Trains; returns this rank's losses and each step's learning rates."""
    from reference_training.train import run_steps

    lr: list[tuple[float, ...]] = []
    record = run_steps(
        engine,
        workload,
        steps=steps,
        start_step=start_step,
        before_update=lambda _: lr.append(tuple(float(one) for one in engine.get_lr())),
        on_step=progress.stepped,
    )
    return record.local_loss, tuple(lr)


def _damaged(
    kind: str, ds_config: dict[str, Any], workload: Any, directory: str, rank: int
) -> Damage:
    """Loads a damaged copy into a fresh engine; collective, and each rank meets the damage."""
    import torch.distributed as dist

    copied = Path(directory, "damaged", kind)
    files: list[tuple[str, ...]] = [()]
    if rank == 0:
        files = [damage.damaged_copy(kind, Path(directory, CHECKPOINT), OLDER, copied)]
    dist.broadcast_object_list(files, src=0)
    engine = build(ds_config, workload, directory, kind)
    refusal, load_path = "", None
    try:
        tag = None if kind == "missing_latest" else OLDER
        load_path, _ = engine.load_checkpoint(str(copied), tag=tag)
    except Exception as error:  # noqa: BLE001 (whatever it raises, it has refused)
        refusal = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    engine.destroy()
    dist.barrier()
    return Damage(
        kind=kind,
        files=files[0],
        refusal=refusal,
        load_path=load_path,
        problems=tuple(manifest.verify(copied)) if rank == 0 else (),
    )
