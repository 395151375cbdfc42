"""What the checks say of a checkpoint, each with the smallest fault it exists for."""

from dataclasses import replace

import pytest
from checkpoint_made import (
    FLIPPED,
    RESHARDED,
    RESUMED,
    SAVED,
    digest,
    evidence,
    file,
    reshard,
    snapshot,
)

from pytest_deepspeed.training.checkpoint import check, check_reshard
from pytest_deepspeed.training.checkpoint.evidence import (
    CheckpointEvidence,
    Difference,
    ReshardEvidence,
)
from pytest_deepspeed.values import plain

LOADED = "after load_checkpoint(tag='older') in new processes"
REPEAT = "Give the scheduler to deepspeed.initialize, or name it in the config: no other is saved"


def shown(findings):
    """Name, parameter, step and message of the one finding that there should be."""
    (one,) = findings
    return one.name, one.parameter, one.step, one.message


def spoiled(state, **changes):
    """A snapshot with one entry of a dict, or one value, another."""
    for name, value in changes.items():
        old = getattr(state, name)
        new = {**old, **value} if isinstance(value, dict) and isinstance(old, dict) else value
        state = replace(state, **{name: new})
    return state


def without(mapping, key):
    """The mapping less one key."""
    return {name: value for name, value in mapping.items() if name != key}


def test_equal_trainings_have_no_finding():
    """Protects: no false alarm; and an accepted damage that the manifest finds is a note."""
    assert check.check(evidence()) == []
    assert check.notes(evidence()) == [
        "DeepSpeed loads a checkpoint with a flipped byte without an error"
    ]
    assert check_reshard.check(reshard()) == []


def test_evidence_is_plain():
    """Protects: evidence can be stored as JSON and judged elsewhere."""
    assert plain.load(CheckpointEvidence, plain.dump(evidence())) == evidence()
    assert plain.load(ReshardEvidence, plain.dump(reshard())) == reshard()


def test_what_deepspeed_cannot_do_is_no_finding():
    """Protects: a config without these files and loads passes, and one without any."""
    assert check.check(evidence(without_optimizer=None, files={}, damages=())) == []
    assert check.check(CheckpointEvidence((), (), {"resume": "cannot"})) == []
    assert check.notes(CheckpointEvidence((), (), {"resume": "cannot"})) == []


FAULTS = {
    "weights": (
        {"weights": {"w": digest("x")}},
        ("loaded_weights", "w", None),
        (
            f"w: {LOADED} its fp32 weight has other values than before (sha256 x0000000, not"
            " w3000000)."
            " Do not train on from such a checkpoint: save the weights with save_16bit_model too"
        ),
    ),
    "weight of an empty shape": (
        {"shapes": {"frozen": (0,)}},
        ("loaded_weights", "frozen", None),
        (
            f"frozen: {LOADED} its fp32 weight has shape (0,), not (2,). Do not train on from"
            " such a"
            " checkpoint: save the weights with save_16bit_model too"
        ),
    ),
    "compute": (
        {"compute": {"b": digest("x")}},
        ("loaded_compute", "b", None),
        (
            f"b: {LOADED} the weight that the forward pass uses is another than before. The forward"
            " pass does not use the restored weight: read the loss of the first step after a load"
            " before trusting it"
        ),
    ),
    "moments": (
        {"moments": {"b": {}}, "moment_shapes": {"b": {}}},
        ("loaded_moments", "b", None),
        (
            f"b: {LOADED} the optimizer's exp_avg is missing. The optimizer starts anew for this"
            " parameter: expect a step in the loss, or keep the run uncut"
        ),
    ),
    "buffers": (
        {"buffers": {"scale": digest("x")}},
        ("loaded_buffers", "scale", None),
        (
            f"scale: {LOADED} this buffer has other values than before (sha256 x0000000, not"
            " s0000000)."
            " Save it in client_state and copy it into the module after load_checkpoint"
        ),
    ),
    "steps": (
        {"optimizer_steps": 0},
        ("loaded_steps", "", None),
        (
            f"{LOADED} the steps are counted as {{'optimizer': 0, 'global': 3, 'skipped': 0}}, not"
            " {'optimizer': 3, 'global': 3, 'skipped': 0}. Adam's bias correction and every"
            " schedule"
            " depend on it: set it by hand after load_checkpoint"
        ),
    ),
    "lr": (
        {"lr": (0.1,)},
        ("loaded_lr", "", None),
        f"{LOADED} the learning rates are [0.1], not [0.30000000000000004]. {REPEAT}",
    ),
    "groups": (
        {"groups": ({"weight_decay": 0.0},)},
        ("loaded_groups", "", None),
        (
            f"{LOADED} the parameter groups' settings are [{{'weight_decay': 0.0}}], not"
            " [{'weight_decay': 0.01}]. Set the groups of engine.optimizer.param_groups by hand"
            " after"
            " load_checkpoint"
        ),
    ),
    "scheduler": (
        {"scheduler": None},
        ("loaded_scheduler", "", None),
        f"{LOADED} the scheduler's state is None, not {{'last_batch_iteration': 2}}. {REPEAT}",
    ),
    "loss scale": (
        {"loss_scale": 2.0},
        ("loaded_loss_scale", "", None),
        f"{LOADED} the loss scale is 2.0, not 1.0. Set it by hand after load_checkpoint",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_part_of_the_state(fault):
    """Protects: one part of the state that does not come back is found, told once for all ranks,
    and hides what follows from it.
    """
    changes, where, message = FAULTS[fault]
    loaded = spoiled(snapshot(3), **changes)

    findings = check.check(evidence(loaded=loaded, losses=(9.0, 9.0)))

    assert shown(findings) == (*where, message)


def test_a_weight_that_is_missing():
    """Protects: equal key sets: a weight that only one side has is found."""
    loaded = replace(snapshot(3), weights=without(snapshot(3).weights, "frozen"))
    more = spoiled(snapshot(3), weights={"new": digest("n")}, shapes={"new": (1,)})

    (missing,) = check.check(evidence(loaded=loaded))
    (added,) = check.check(evidence(loaded=more))

    assert missing.message.startswith(f"frozen: {LOADED} its fp32 weight is missing.")
    assert added.message.startswith(f"new: {LOADED} its fp32 weight is there, and was not before.")


def test_only_the_second_rank_differs():
    """Protects: every rank's state is compared, not the first one's alone."""
    good = evidence()
    bad = replace(good.resumed[1], loaded=spoiled(snapshot(3), weights={"w": digest("x")}))

    findings = check.check(replace(good, resumed=(good.resumed[0], bad)))

    assert [(f.name, f.parameter) for f in findings] == [("loaded_weights", "w")]


def test_nothing_was_gathered():
    """Protects: two empty states are equal, and no proof."""
    bare = replace(snapshot(3), shapes=without(snapshot(3).shapes, "b"))
    saved = replace(SAVED, at_save=bare)
    empty = replace(snapshot(3), moment_shapes={"w": {"exp_avg": (0,)}, "b": {"exp_avg": (3,)}})

    assert shown(check.check(evidence(saved, loaded=bare)))[3] == (
        "b: no weight was gathered at the save, where the model has shape (3,). The other findings"
        " about checkpoints are incomplete until this is mended"
    )
    assert shown(check.check(evidence(replace(SAVED, at_save=empty), loaded=empty))) == (
        "state_shapes",
        "w",
        None,
        (
            "w: the optimizer's states {'exp_avg': (0,)} at the save, where the parameter is"
            " trained"
            " and has shape (3, 2)"
        ),
    )


def test_the_resumed_training_goes_another_way():
    """Protects: the first loss that differs in its last bit, with its step and rank."""
    other = 1.5000000000000002

    assert shown(check.check(evidence(losses=(2.0, other)))) == (
        "resume_loss",
        "",
        4,
        (
            f"the loss of step 4 on rank 0 is {other} in the resumed training and 1.5 in the"
            " uncut one,"
            " though the whole saved state came back: something that is not saved takes part in the"
            " training, such as a gradient kept from an earlier step, random numbers, or the"
            " order of"
            " the samples"
        ),
    )


def test_the_learning_rate_of_a_resumed_step():
    """Protects: a schedule that starts anew, though its state looks restored."""
    assert shown(check.check(evidence(lr=((0.3,), (0.1,))))) == (
        "resume_lr",
        "",
        4,
        (
            "the resumed training takes step 4 with learning rates [0.1], the uncut one with [0.4]."
            " Give the scheduler to deepspeed.initialize, or in the config: no other is saved"
        ),
    )


def test_the_end_of_the_resumed_training():
    """Protects: a weight that comes back right and is then trained to another value."""
    at_end = spoiled(snapshot(5), weights={"b": digest("x")})

    name, parameter, _, message = shown(check.check(evidence(at_end=at_end)))

    assert (name, parameter) == ("resume_weights", "b")
    assert message.startswith("b: 2 steps after load_checkpoint(tag='older') in new processes its")


def test_the_older_tag_without_optimizer_states():
    """Protects: the later tag's weights under the older tag's name are told from others."""
    later = replace(RESUMED.without_optimizer, weights=snapshot(5).weights)
    later = replace(later, compute=snapshot(5).compute)
    wrong = spoiled(RESUMED.without_optimizer, compute={"w": digest("x")})
    asked = "load_checkpoint(tag='older', load_optimizer_states=False) should give the weight of"
    advice = "Load with optimizer states, or write the tag into the file latest first"

    findings = check.check(evidence(without_optimizer=later))

    assert [(f.name, f.parameter) for f in findings] == [
        ("tagged_weights", "w"),
        ("tagged_weights", "b"),
    ]
    assert findings[0].message == (
        f"w: {asked} the tag 'older' and gave that of the tag 'later', which the file latest"
        f" names. {advice}"
    )
    assert shown(check.check(evidence(without_optimizer=wrong)))[3] == (
        f"w: {asked} the tag 'older' and gave another. {advice}"
    )


def test_a_master_that_was_not_loaded():
    """Protects: a forward pass that is right, and a master from which the next step undoes it."""
    stale = spoiled(RESUMED.without_optimizer, weights={"b": digest("x")})

    assert shown(check.check(evidence(without_optimizer=stale))) == (
        "tagged_weights",
        "b",
        None,
        (
            "b: load_checkpoint(tag='older', load_optimizer_states=False) should give the weight of"
            " the tag 'older' and gave it to the forward pass alone: the fp32 master, which the"
            " next step makes it of, is another. Load with optimizer states, or write the tag into"
            " the file latest first"
        ),
    )


def test_masters_made_anew_of_compute_weights_are_right():
    """Protects: no false alarm in half precision, where masters lose their lower bits so."""
    at_save = spoiled(snapshot(3), compute={"w": digest("rounded")})
    rounded = spoiled(RESUMED.without_optimizer, compute={"w": digest("rounded")})
    rounded = spoiled(rounded, weights={"w": digest("rounded")})
    saved = replace(SAVED, at_save=at_save)

    assert check.check(evidence(saved, loaded=at_save, without_optimizer=rounded)) == []


def test_a_buffer_without_optimizer_states():
    """Protects: buffers come back with the weights."""
    lost = spoiled(RESUMED.without_optimizer, buffers={"scale": digest("x")})

    assert shown(check.check(evidence(without_optimizer=lost))) == (
        "tagged_buffers",
        "scale",
        None,
        (
            "scale: load_checkpoint(tag='older', load_optimizer_states=False) did not bring this"
            " buffer"
            " back. Load with optimizer states"
        ),
    )


def test_the_latest_tag():
    """Protects: without a tag the later checkpoint is loaded, not the older one."""
    findings = check.check(evidence(latest=snapshot(3)))

    assert {f.name for f in findings} == {
        f"latest_{what}" for what in ("weights", "moments", "steps", "lr", "scheduler")
    }
    assert findings[0].message.startswith(
        "w: after load_checkpoint() without a tag, with 'later' in the file latest its fp32 weight"
    )


MADE = "zero_to_fp32/pytorch_model.bin, which zero_to_fp32 made"
FILES = {
    "frozen key missing": (
        replace(file(), digests=without(file().digests, "frozen")),
        ("consolidated_keys", "frozen"),
        (
            f"frozen is missing in {MADE}; the model's state_dict has 5 keys, the file 4."
            " load_state_dict(strict=False) would leave it at its initial value: add it from the"
            " module's own file, mp_rank_00_model_states.pt"
        ),
    ),
    "key too many": (
        replace(file(), digests=file().digests | {"x": digest("x")}),
        ("consolidated_keys", "x"),
        (
            f"x is in {MADE}, and not in the model's state_dict. Delete it before"
            " load_state_dict(strict=True)"
        ),
    ),
    "tied to another": (
        replace(file(), digests=file().digests | {"tied": digest("b3")}),
        ("consolidated_values", "tied"),
        (
            f"tied has other values than the gathered weight (tied to w) in {MADE}. Do not use this"
            " file: take the weights from a loaded engine, with GatheredParameters at stage 3"
        ),
    ),
    "buffer": (
        replace(file(), digests=file().digests | {"scale": digest("x")}),
        ("consolidated_values", "scale"),
        (
            f"scale has other values than the gathered weight in {MADE}. Do not use this file:"
            " take the"
            " weights from a loaded engine, with GatheredParameters at stage 3"
        ),
    ),
    "shape": (
        replace(file(), shapes=file().shapes | {"w": (6,)}),
        ("consolidated_values", "w"),
        (
            f"w has shape (6,), not (3, 2), in {MADE}. Do not use this file: take the weights"
            " from a"
            " loaded engine, with GatheredParameters at stage 3"
        ),
    ),
    "dtype": (
        replace(file(), dtypes=file().dtypes | {"frozen": "bfloat16"}),
        ("consolidated_values", "frozen"),
        (
            f"frozen is bfloat16, not float32 in {MADE}. Do not use this file: take the weights"
            " from a"
            " loaded engine, with GatheredParameters at stage 3"
        ),
    ),
    "error": (
        replace(file(), error="ValueError: 3 shards, not 2"),
        ("consolidated_error", ""),
        (
            "zero_to_fp32 raised ValueError: 3 shards, not 2. Load the checkpoint with"
            " load_checkpoint"
            " instead"
        ),
    ),
}


@pytest.mark.parametrize("fault", FILES)
def test_the_consolidated_file(fault):
    """Protects: key set, values, ties, shapes and dtype of the fp32 file, one fault at a time."""
    made, (name, parameter), message = FILES[fault]

    found = shown(check.check(evidence(files={"zero_to_fp32": made})))

    assert found == (name, parameter, None, message)


def test_the_exported_file_has_the_compute_weights():
    """Protects: `save_16bit_model` is compared with what the forward pass computes with."""
    at_save = spoiled(snapshot(3), compute={"w": digest("rounded")})
    saved = replace(SAVED, at_save=at_save)
    digests = file().digests | {"w": digest("rounded"), "tied": digest("rounded")}
    exported = replace(file(), digests=digests, dtypes=dict.fromkeys(digests, "bfloat16"))
    given = {"loaded": at_save, "without_optimizer": None}

    good = evidence(saved, files={"save_16bit_model": exported}, **given)
    bad = evidence(saved, files={"save_16bit_model": file()}, **given)

    assert check.check(good) == []
    assert [f.parameter for f in check.check(bad)] == ["w", "tied"]


def test_nothing_was_exported():
    """Protects: a `save_16bit_model` that returns False where the config asks for the file."""
    assert shown(check.check(evidence(replace(SAVED, exported=False)))) == (
        "export",
        "",
        None,
        (
            "save_16bit_model returned False and wrote nothing, where the config asks for the"
            " file. Use"
            " zero_to_fp32 instead"
        ),
    )


def test_a_damage_that_nobody_finds():
    """Protects: a damage that DeepSpeed loads and the manifest does not see is red, and one that
    DeepSpeed refuses is not.
    """
    unseen = replace(FLIPPED, problems=())
    refused = replace(unseen, refusal="RuntimeError: corrupt")

    assert shown(check.check(evidence(damages=(unseen,)))) == (
        "damage_undetected",
        "",
        None,
        (
            "older/a.pt was damaged (flipped_byte), load_checkpoint raised no error, and the"
            " manifest"
            " finds nothing. The manifest does not list these files: write it after save_checkpoint"
            " returned on all ranks"
        ),
    )
    assert check.check(evidence(damages=(refused,))) == []


def test_a_checkpoint_that_changes():
    """Protects: files that other processes, or the load itself, changed."""
    assert shown(check.check(evidence(after=("latest is missing",))))[3] == (
        "latest is missing, after it was loaded in new processes. Look for what else writes into"
        " the checkpoint's directory"
    )


SAVED_AT_1 = (
    "saved by 2 ranks at ZeRO stage 1, converted by ds_to_universal and loaded at world size 1"
)


def test_a_universal_checkpoint_that_cannot_be_loaded():
    """Protects: the error, and where it was."""
    failed = replace(RESHARDED, loaded=None, stage=2, error="KeyError: 'exp_avg'")

    assert shown(check_reshard.check(replace(reshard(), resharded=(failed,)))) == (
        "error",
        "",
        None,
        (
            f"{SAVED_AT_1} and ZeRO stage 2: KeyError: 'exp_avg'. Resume at the world size and"
            " stage"
            " that it was saved at"
        ),
    )


def test_a_frozen_layer_that_a_universal_checkpoint_drops():
    """Protects: state that does not come back is found bit by bit, before any training."""
    loaded = spoiled(snapshot(3), weights={"frozen": digest("x")})

    assert shown(check_reshard.check(reshard(loaded=loaded, losses=((9.0, 9.0),)))) == (
        "loaded_weights",
        "frozen",
        None,
        (
            f"frozen: {SAVED_AT_1} its fp32 weight has other values than before (sha256 x0000000,"
            " not"
            " f0000000). Do not train on from such a checkpoint: save the weights with"
            " save_16bit_model"
            " too"
        ),
    )


def test_a_resharded_training_that_drifts():
    """Protects: the tolerances: just beyond them is found, the worst first."""
    weights = {"w": Difference(1.1e-5, 1.0), "b": Difference(3e-5, 1.0)}

    loss = check_reshard.check(reshard(losses=((2.0, 1.5000016),)))
    drifted = check_reshard.check(reshard(weights=weights))

    assert shown(loss) == (
        "loss",
        "",
        4,
        (
            f"{SAVED_AT_1}: the loss of step 4 is 1.500002, and 1.5 without the cut: 1.1e-06 of it,"
            " where 1e-06 is allowed in float32. Resume at the world size that it was saved at"
        ),
    )
    assert [f.parameter for f in drifted] == ["b", "w"]
    assert drifted[1].message == (
        f"w: {SAVED_AT_1}: after 2 more steps its weight is off by 1.1e-05, with values up to"
        " 1.0e+00, where 1e-05 of that is allowed in float32. Resume at the world size that it was"
        " saved at"
    )


def test_a_resharded_moment_that_is_gone():
    """Protects: an optimizer state that is missing at the end counts as wrong."""
    findings = check_reshard.check(reshard(moments={"w": RESHARDED.moments["w"]}))

    assert [(f.name, f.parameter) for f in findings] == [("moments", "b")]
