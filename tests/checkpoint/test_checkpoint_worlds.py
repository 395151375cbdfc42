"""Real checkpoints, saved and loaded in worlds of their own."""

from pathlib import Path

import torch
from checkpoint_worlds import STEADY, checked, config

from pytest_deepspeed.training.checkpoint import (
    check,
    check_reshard,
    equivalence,
    limits,
    manifest,
)
from pytest_deepspeed.training.matrix import Mode
from reference_training.trap import Trap


def steady_and_more():
    """A workload that is made on the ranks."""
    return Trap([*STEADY, "frozen", "buffer"])


def named(findings):
    """Name and parameter of each."""
    return [(finding.name, finding.parameter) for finding in findings]


def test_stage_1_resumes_reshards_and_loses_frozen_layers_in_files(ds_run, tmp_path):
    """Protects: at stage 1 the whole trap model comes back bit by bit, and what DeepSpeed's tools
    drop of it is found: the frozen layer in the fp32 file, and buffers too in a universal one.
    """
    ds_config, workload = config(Mode(1)), Trap()

    evidence = checked(ds_run, ds_config, workload, tmp_path)

    findings = check.check(evidence)
    keys = len(evidence.saved[0].model.state_dict)
    assert named(findings) == [
        ("consolidated_keys", "frozen.weight"),
        ("consolidated_keys", "frozen.bias"),
    ]
    assert findings[0].message == (
        "frozen.weight is missing in zero_to_fp32/pytorch_model.bin, which zero_to_fp32 made; the"
        f" model's state_dict has {keys} keys, the file {keys - 2}."
        " load_state_dict(strict=False) would leave it at its initial value: add it from"
        " the module's own file, mp_rank_00_model_states.pt"
    )
    assert len(evidence.resumed[0].loaded.moments) == len(evidence.saved[0].model.trained)

    resharded = equivalence.resharding(ds_run, ds_config, workload, tmp_path, evidence.saved)
    assert named(check_reshard.check(resharded)) == [
        ("loaded_weights", "frozen.weight"),
        ("loaded_weights", "frozen.bias"),
        ("loaded_buffers", "scale"),
    ]
    assert [(one.world_size, one.stage) for one in resharded.resharded] == [(1, 1), (1, 2), (4, 1)]
    assert resharded.skipped == {
        "stage 3": limits.why_not_across(1, 3),
    }


def test_stage_2_with_offload_in_bf16(ds_run, tmp_path):
    """Protects: no false alarm in bf16 and with the optimizer on the CPU, resharded and trained on
    too, and each damage is refused or detected.
    """
    ds_config = config(Mode(2, offload_optimizer="cpu", dtype="bf16"))
    workload = Trap(STEADY)

    evidence = checked(ds_run, ds_config, workload, tmp_path)

    assert check.check(evidence) == []
    assert {d.kind: (d.accepted, bool(d.problems)) for d in evidence.resumed[0].damages} == {
        "truncated_shards": (False, True),
        "missing_shards": (False, True),
        "missing_latest": (True, True),
        "flipped_byte": (True, True),
    }
    assert check.notes(evidence) == [
        (
            "DeepSpeed loads a checkpoint with no file latest without an error, and trains from"
            " scratch"
        ),
        "DeepSpeed loads a checkpoint with a flipped byte without an error",
    ]
    resharded = equivalence.resharding(ds_run, ds_config, workload, tmp_path, evidence.saved)
    assert check_reshard.check(resharded) == []
    assert all(one.weights and one.moments for one in resharded.resharded)


def test_stage_3_loads_the_latest_tag(ds_run, tmp_path):
    """Protects: that stage 3 gives the weights of another tag than the one asked for is found, for
    each trained parameter, and nothing else is wrong there.
    """
    evidence = checked(ds_run, config(Mode(3)), steady_and_more, tmp_path, damages=())

    findings = check.check(evidence)
    assert named(findings) == [("tagged_weights", name) for name in evidence.saved[0].model.trained]
    assert findings[0].message == (
        "encoder.weight: load_checkpoint(tag='older', load_optimizer_states=False) should give the"
        " weight of the tag 'older' and gave that of the tag 'later', which the file latest names."
        " Load with optimizer states, or write the tag into the file latest first"
    )


def test_one_bit_of_one_shard(ds_run, tmp_path):
    """Protects: a weight of one rank's shard changed by one bit between save and load is found in
    the state that comes back, in the consolidated file and by the manifest.
    """

    def run(function, **kwargs):
        values = ds_run(function, **kwargs)
        if function.__name__ == "save":
            spoil(tmp_path / "checkpoint" / "older")
        return values

    workload = Trap([*STEADY, "buffer"])
    evidence = checked(run, config(Mode(2)), workload, tmp_path, damages=())

    # The layer in which the second rank's partition begins.
    assert named(check.check(evidence)) == [
        ("loaded_weights", "reused.weight"),
        ("consolidated_values", "reused.weight"),
        ("files_changed", ""),
    ]
    assert manifest.verify(tmp_path / "checkpoint")[0] == (
        "older/zero_pp_rank_1_mp_rank_00_optim_states.pt has other bytes than when it was saved"
    )


def spoil(directory):
    """Moves one fp32 weight in the second rank's shard by its smallest step: one bit."""
    path = Path(directory, "zero_pp_rank_1_mp_rank_00_optim_states.pt")
    shard = torch.load(path, weights_only=False)
    weights = shard["optimizer_state_dict"]["single_partition_of_fp32_groups"][0].data
    weights[7] = weights[7].nextafter(torch.tensor(1.0))
    torch.save(shard, path)
