"""Judges the evidence of a checkpoint: the state that comes back is the one that was saved."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_deepspeed.training.checkpoint import compare
from pytest_deepspeed.training.checkpoint.evidence import (
    CheckpointEvidence,
    Model,
    Resumed,
    Saved,
    Snapshot,
    StateFile,
)
from pytest_deepspeed.values.finding import Finding

#: What each of `damage.KINDS` leaves.
_DAMAGED = {
    "truncated_shards": "truncated shards",
    "missing_shards": "missing shards",
    "missing_latest": "no file latest",
    "flipped_byte": "a flipped byte",
}


def check(evidence: CheckpointEvidence) -> list[Finding]:
    """What is wrong with the checkpoints of one config; empty where nothing is.

    Everything is compared bit by bit: one world size, one order of the samples, one machine.
    """
    found: list[Finding] = []
    for rank, (saved, resumed) in enumerate(zip(evidence.saved, evidence.resumed, strict=True)):
        found += _complete(saved)
        found += _resumed(saved, resumed, rank)
        found += _tagged(saved, resumed)
        found += _files(saved, resumed)
        found += _damages(resumed, verifies=rank == 0)
    return compare.once(found)


def notes(evidence: CheckpointEvidence) -> list[str]:
    """The damages that DeepSpeed loads without an error, and a manifest detects: no fault of a
    config, but the reason to keep one (`manifest.write`, `manifest.verify`).
    """
    return [
        f"DeepSpeed loads a checkpoint with {_DAMAGED[damage.kind]} without an error"
        + ("" if damage.load_path else ", and trains from scratch")
        for resumed in evidence.resumed[:1]
        for damage in resumed.damages
        if damage.accepted and damage.problems
    ]


def _complete(saved: Saved) -> Iterator[Finding]:
    """What was read off the engine is the whole model: a comparison of nothing proves nothing."""
    model = saved.model
    for moment, snapshot in (("at the save", saved.at_save), ("at the end", saved.at_end)):
        for name, shape in model.shapes.items():
            found = snapshot.shapes.get(name)
            if found != shape:
                text = "no weight" if found is None else f"a weight of shape {found}"
                yield Finding(
                    "checkpoint",
                    "state_shapes",
                    f"{name}: {text} was gathered {moment}, where the model has shape {shape}. The"
                    " other findings about checkpoints are incomplete until this is mended",
                    name,
                )
        for name in model.trained if snapshot.moments else ():
            states = snapshot.moment_shapes.get(name, {})
            odd = {key: shape for key, shape in states.items() if shape != model.shapes[name]}
            if not states or odd:
                yield Finding(
                    "checkpoint",
                    "state_shapes",
                    f"{name}: the optimizer's states {odd or 'are missing'} {moment}, where the"
                    f" parameter is trained and has shape {model.shapes[name]}",
                    name,
                )


def _resumed(saved: Saved, resumed: Resumed, rank: int) -> list[Finding]:
    loaded = list(
        compare.states(
            "checkpoint",
            "loaded",
            saved.at_save,
            resumed.loaded,
            "after load_checkpoint(tag='older') in new processes",
        )
    )
    # What follows from a finding is not told a second time.
    found = loaded or [*compare.losses(saved, resumed.losses, rank), *_rates(saved, resumed)]
    if found:
        return found
    steps = len(saved.losses)
    when = f"{steps} steps after load_checkpoint(tag='older') in new processes"
    return list(compare.states("checkpoint", "resume", saved.at_end, resumed.at_end, when))


def _rates(saved: Saved, resumed: Resumed) -> Iterator[Finding]:
    for number, (expected, found) in enumerate(
        zip(saved.lr, resumed.lr, strict=True), saved.first_step
    ):
        if expected != found:
            yield Finding(
                "checkpoint",
                "resume_lr",
                f"the resumed training takes step {number} with learning rates {list(found)}, the"
                f" uncut one with {list(expected)}. Give the scheduler to deepspeed.initialize, or"
                " in the config: no other is saved",
                step=number,
            )
            return


def _tagged(saved: Saved, resumed: Resumed) -> Iterator[Finding]:
    yield from compare.states(
        "checkpoint",
        "latest",
        saved.at_end,
        resumed.latest,
        "after load_checkpoint() without a tag, with 'later' in the file latest",
    )
    found = resumed.without_optimizer
    if found is None:
        return
    for name, exact in saved.at_save.weights.items():
        # In half precision the masters are made anew of the compute weights.
        allowed = {exact, saved.at_save.compute.get(name)}
        both = (found.weights.get(name), found.compute.get(name))
        if both[0] not in allowed or both[1] != saved.at_save.compute.get(name):
            yield _wrong_tag(name, saved, found)
    for name, digest in saved.at_save.buffers.items():
        if found.buffers.get(name) != digest:
            yield Finding(
                "checkpoint",
                "tagged_buffers",
                f"{name}: load_checkpoint(tag='older', load_optimizer_states=False) did not bring"
                " this buffer back. Load with optimizer states",
                name,
            )


def _wrong_tag(name: str, saved: Saved, found: Snapshot) -> Finding:
    compute, text = found.compute.get(name), "another"
    if compute == saved.at_save.compute.get(name):
        text = "it to the forward pass alone: the fp32 master, which the next step makes it of, is"
        text += " another"
    elif compute == saved.at_end.compute.get(name):
        text = "that of the tag 'later', which the file latest names"
    return Finding(
        "checkpoint",
        "tagged_weights",
        f"{name}: load_checkpoint(tag='older', load_optimizer_states=False) should give the weight"
        f" of the tag 'older' and gave {text}. Load with optimizer states, or write the tag into"
        " the file latest first",
        name,
    )


def _files(saved: Saved, resumed: Resumed) -> Iterator[Finding]:
    if saved.exported is False:
        yield Finding(
            "checkpoint",
            "export",
            "save_16bit_model returned False and wrote nothing, where the config asks for the file."
            " Use zero_to_fp32 instead",
        )
    for tool, file in resumed.files.items():
        yield from _file(tool, file, saved)


def _file(tool: str, file: StateFile, saved: Saved) -> Iterator[Finding]:
    """Each key of the plain model's `state_dict` has the gathered values."""
    if file.error:
        text = f"{tool} raised {file.error}. Load the checkpoint with load_checkpoint instead"
        yield Finding("checkpoint", "consolidated_error", text)
        return
    state = saved.at_save
    weights = state.weights if tool == "zero_to_fp32" else state.compute
    for key in saved.model.state_dict:
        name = saved.model.aliases.get(key, key)
        if key not in file.digests:
            yield Finding(
                "checkpoint",
                "consolidated_keys",
                f"{key} is missing in {file.file}, which {tool} made; the model's state_dict has"
                f" {len(saved.model.state_dict)} keys, the file {len(file.digests)}."
                " load_state_dict(strict=False) would leave it at its initial value: add it from"
                " the module's own file, mp_rank_00_model_states.pt",
                key,
            )
            continue
        problem = _value(key, name, file, saved.model, weights | state.buffers)
        if not problem and tool == "zero_to_fp32" and key not in state.buffers:
            dtype = file.dtypes[key]
            problem = "" if dtype == "float32" else f"is {dtype}, not float32"
        if problem:
            yield Finding(
                "checkpoint",
                "consolidated_values",
                f"{key} {problem} in {file.file}, which {tool} made. Do not use this file:"
                " take the weights from a loaded engine, with GatheredParameters at stage 3",
                key,
            )
    for key in sorted(set(file.digests) - set(saved.model.state_dict)):
        text = f"{key} is in {file.file}, which {tool} made, and not in the model's state_dict."
        text += " Delete it before load_state_dict(strict=True)"
        yield Finding("checkpoint", "consolidated_keys", text, key)


def _value(key: str, name: str, file: StateFile, model: Model, expected: dict[str, str]) -> str:
    shape = model.shapes.get(name)
    if shape is not None and file.shapes[key] != shape:
        return f"has shape {file.shapes[key]}, not {shape},"
    if file.digests[key] != expected.get(name):
        tied = f" (tied to {name})" if name != key else ""
        return f"has other values than the gathered weight{tied}"
    return ""


def _damages(resumed: Resumed, *, verifies: bool) -> Iterator[Finding]:
    for when, problems in (("before", resumed.before), ("after", resumed.after)):
        for problem in problems:
            yield Finding(
                "checkpoint",
                "files_changed",
                f"{problem}, {when} it was loaded in new processes. Look for what else writes into"
                " the checkpoint's directory",
            )
            break
    for damage in resumed.damages if verifies else ():
        if damage.accepted and not damage.problems:
            yield Finding(
                "checkpoint",
                "damage_undetected",
                f"{', '.join(damage.files)} was damaged ({damage.kind}), load_checkpoint raised no"
                " error, and the manifest finds nothing. The manifest does not list these files:"
                " write it after save_checkpoint returned on all ranks",
            )
