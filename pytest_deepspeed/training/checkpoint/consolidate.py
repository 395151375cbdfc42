"""The files that hold a whole model, read back as the tools read them that load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_deepspeed.training.checkpoint import snapshot
from pytest_deepspeed.training.checkpoint.evidence import StateFile
from pytest_deepspeed.training.checkpoint.limits import stage_of, why_not


def files(directory: Path, tag: str, ds_config: dict[str, Any]) -> dict[str, StateFile]:
    """The consolidated files of ``tag`` in a run's directory, by what makes them.

    ``zero_to_fp32`` where there are ZeRO shards, which is converted here, in one process;
    ``module`` where there are none, as at stage 0: the checkpoint's own file; ``save_16bit_model``
    where it wrote one.
    """
    import torch

    checkpoint = directory / "checkpoint"
    found = {}
    if stage_of(ds_config) == 0:
        path = checkpoint / tag / "mp_rank_00_model_states.pt"
        module = torch.load(path, map_location="cpu", weights_only=False)["module"]
        found["module"] = _described(path, directory, module)
    elif why_not(ds_config, "consolidate") is None:
        found["zero_to_fp32"] = _converted(checkpoint, tag, directory / "zero_to_fp32")
    exported = directory / "exported" / "pytorch_model.bin"
    if exported.exists():
        # Where it was saved from a GPU it would be loaded to that one.
        tensors = torch.load(exported, map_location="cpu")
        found["save_16bit_model"] = _described(exported, directory, tensors)
    return found


def _converted(checkpoint: Path, tag: str, output: Path) -> StateFile:
    import torch
    from deepspeed.utils.zero_to_fp32 import convert_zero_checkpoint_to_fp32_state_dict

    path = output / "pytorch_model.bin"
    try:
        # max_shard_size other than None needs huggingface_hub, and writes one file all the same.
        convert_zero_checkpoint_to_fp32_state_dict(
            str(checkpoint), str(output), max_shard_size=None, tag=tag
        )
    except Exception as error:  # noqa: BLE001 (whatever it raises, there is no file)
        text = f"{type(error).__name__}: {error}"
        return StateFile(file=path.name, digests={}, shapes={}, dtypes={}, error=text)
    return _described(path, checkpoint.parent, torch.load(path, map_location="cpu"))


def _described(path: Path, directory: Path, tensors: dict[str, Any]) -> StateFile:
    return StateFile(
        file=path.relative_to(directory).as_posix(),
        digests=snapshot.digests(tensors),
        shapes=snapshot.shapes(tensors),
        dtypes={name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items()},
    )
