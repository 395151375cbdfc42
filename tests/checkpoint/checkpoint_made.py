"""Evidence written by hand: a model of two trained weights, one tied, a frozen one, a buffer."""

from dataclasses import replace

from pytest_deepspeed.training.checkpoint.evidence import (
    CheckpointEvidence,
    Damage,
    Difference,
    Model,
    Resharded,
    ReshardEvidence,
    Resumed,
    Saved,
    Snapshot,
    StateFile,
)

SHAPES = {"w": (3, 2), "b": (3,), "frozen": (2,)}
MODEL = Model(
    shapes=SHAPES,
    trained=("w", "b"),
    state_dict=("w", "b", "frozen", "tied", "scale"),
    aliases={"tied": "w"},
)


def digest(text):
    """A digest that is another for another text."""
    return f"{text:0<64}"


def snapshot(step):
    """The state after so many steps."""
    weights = {"w": digest(f"w{step}"), "b": digest(f"b{step}"), "frozen": digest("f")}
    return Snapshot(
        weights=weights,
        compute=dict(weights),
        shapes=SHAPES,
        moments={name: {"exp_avg": digest(f"m{name}{step}")} for name in ("w", "b")},
        moment_shapes={name: {"exp_avg": SHAPES[name]} for name in ("w", "b")},
        buffers={"scale": digest("s")},
        optimizer_steps=step,
        global_steps=step,
        skipped_steps=0,
        lr=(0.1 * step,),
        groups=({"weight_decay": 0.01},),
        scheduler={"last_batch_iteration": step - 1},
        loss_scale=1.0,
    )


SAVED = Saved(
    model=MODEL,
    at_save=snapshot(3),
    at_end=snapshot(5),
    losses=(2.0, 1.5),
    lr=((0.3,), (0.4,)),
    exported=True,
    first_step=3,
)


def file():
    """A whole fp32 file of the older tag."""
    weights = snapshot(3).weights
    digests = weights | {"tied": weights["w"], "scale": digest("s")}
    shapes = SHAPES | {"tied": SHAPES["w"], "scale": (4,)}
    return StateFile(
        "zero_to_fp32/pytorch_model.bin", digests, shapes, dict.fromkeys(digests, "float32")
    )


FLIPPED = Damage("flipped_byte", ("older/a.pt",), "", "older", ("older/a.pt has other bytes",))
RESUMED = Resumed(
    loaded=snapshot(3),
    at_end=snapshot(5),
    losses=(2.0, 1.5),
    lr=((0.3,), (0.4,)),
    without_optimizer=replace(snapshot(3), moments={}, moment_shapes={}, optimizer_steps=0),
    latest=snapshot(5),
    before=(),
    after=(),
    files={"zero_to_fp32": file()},
    damages=(FLIPPED,),
)
SMALL = Difference(error=1e-6, scale=1.0)
RESHARDED = Resharded(
    world_size=1,
    stage=1,
    losses=((2.0000001, 1.5),),
    loaded=snapshot(3),
    weights={"w": SMALL, "b": SMALL, "frozen": Difference(0.0, 1.0)},
    moments={"w": {"exp_avg": SMALL}, "b": {"exp_avg": SMALL}},
    dtype="float32",
)


def evidence(saved=SAVED, **changes):
    """Of two ranks that saw the same, but for the changes."""
    resumed = replace(RESUMED, **changes)
    return CheckpointEvidence((saved, saved), (resumed, replace(resumed, files={})), {})


def reshard(**changes):
    """Of one load, but for the changes."""
    return ReshardEvidence((SAVED, SAVED), 1, (replace(RESHARDED, **changes),), {})
