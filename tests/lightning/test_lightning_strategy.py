"""Lightning's DeepSpeed strategy on CPU ranks: every entry point, every stage and offload."""

import math

import pytest

from pytest_deepspeed.options import SETTINGS
from pytest_deepspeed.requirements import need_nvme

pytestmark = [pytest.mark.lightning, pytest.mark.world_size(2), pytest.mark.ds_timeout(200)]

CPU = {"offload_optimizer": True}
CPU_3 = {**CPU, "offload_parameters": True}
NVME = {
    **CPU_3,
    "remote_device": "nvme",
    "offload_params_device": "nvme",
    "offload_optimizer_device": "nvme",
    "params_buffer_size": 600_000,
    "max_in_cpu": 0,
    "sub_group_size": 1,
}

CASES = {
    "zero0": (0, {}, "32-true"),
    "zero1_offload_cpu": (1, CPU, "32-true"),
    "zero2_bf16_mixed": (2, {}, "bf16-mixed"),
    "zero3": (3, {}, "32-true"),
    "zero3_bf16_true": (3, {}, "bf16-true"),
    "zero3_offload_cpu": (3, CPU_3, "32-true"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_entry_point(case, made, rank, tmp_path):
    """Protects: what is trained, saved and loaded has the same weights, metrics and predictions,
    resumed at once or in one file, and two halves of a training are the whole of it.
    """
    from pytorch_lightning.utilities.deepspeed import convert_zero_checkpoint_to_fp32_state_dict
    from torch import distributed

    stage, offload, precision = CASES[case]
    saved, one_file = tmp_path / "saved", tmp_path / "one.pt"

    def net(seed=0):
        return made.Net(seed=seed, on_host=bool(offload))

    def trainer(*callbacks, epochs=1, **more):
        strategy = {"stage": stage, **offload, **more}
        arguments = {"strategy": strategy, "precision": precision, "max_epochs": epochs}
        return made.trainer(tmp_path, *callbacks, **arguments)

    trained, module = made.Weights(), net()
    first = trainer(trained)
    first.fit(module, made.loader(), made.loader())
    at_end_of_fit = float(first.callback_metrics["judged"])
    first.save_checkpoint(saved)
    (judged,) = first.validate(module, made.loader(), verbose=False)
    predicted = first.predict(module, made.loader())

    assert math.isfinite(judged["judged"])
    assert judged["judged"] == at_end_of_fit
    assert not made.equal(trained.first, trained.last)

    resumed, straight = made.Weights(), made.Weights()
    second = trainer(resumed, epochs=2)
    second.fit(net(seed=1), made.loader(), made.loader(), ckpt_path=saved)
    whole = trainer(straight, epochs=2)
    whole.fit(net(), made.loader(), made.loader())

    assert made.equal(resumed.first, trained.last)
    assert second.global_step == whole.global_step == 2 * made.STEPS
    assert made.equal(resumed.last, straight.last)
    assert second.callback_metrics == whole.callback_metrics
    assert float(second.callback_metrics["judged"]) != judged["judged"]

    loaded, how = saved, {}
    if stage == 3:
        loaded, how = one_file, {"load_full_weights": True}
        if rank == 0:
            convert_zero_checkpoint_to_fp32_state_dict(saved, one_file)
        distributed.barrier()
    third, other = trainer(**how), net(seed=1)
    tested = third.test(other, made.loader(), ckpt_path=loaded, verbose=False)
    again = trainer(**how).predict(net(seed=1), made.loader(), ckpt_path=loaded)

    assert tested == [judged]
    assert len(again) == made.STEPS
    assert all((a == b).all() for a, b in zip(again, predicted, strict=True))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_nvme_swaps_and_trains_alike(request, precision, made, tmp_path):
    """Protects: what lies on NVMe is swapped there, and is trained and judged as on the CPU."""
    need_nvme(request.config.stash[SETTINGS], tmp_path)
    there = tmp_path / "nvme"
    runs = []
    # DeepSpeed's Adam on the host rounds otherwise where it has other groups.
    for strategy in ({**NVME, "nvme_path": str(there)}, {**CPU_3, "sub_group_size": 1}):
        weights = made.Weights(there)
        trainer = made.trainer(
            tmp_path, weights, strategy={"stage": 3, **strategy}, precision=precision, max_epochs=2
        )
        # 268,800 elements of the first layer on each rank are 1.03 MiB in fp32.
        net = made.Net(hidden=4200 if precision != "32-true" else 2100, on_host=True)
        trainer.fit(net, made.loader(), made.loader())
        runs.append((weights, float(trainer.callback_metrics["judged"])))
    (swapped, judged), (kept, judged_kept) = runs

    folders = {path.relative_to(there).parts[1] for path in swapped.swapped}
    assert folders == {"optimizer", "float32params" if precision == "32-true" else "bfloat16params"}
    assert made.equal(swapped.first, kept.first)
    assert made.equal(swapped.last, kept.last)
    assert not made.equal(kept.first, kept.last)
    assert judged == judged_kept
    assert math.isfinite(judged)


def test_a_checkpoint_of_stage_3_is_for_fit_alone(made, tmp_path):
    """Protects: what DeepSpeed cannot load is told with what can be loaded in its place."""
    trainer = made.trainer(tmp_path, strategy={"stage": 3}, max_steps=1, limit_val_batches=0)
    trainer.fit(made.Net(), made.loader())
    trainer.save_checkpoint(tmp_path / "saved")

    other = made.trainer(tmp_path, strategy={"stage": 3})
    with pytest.raises(RuntimeError, match="ZeRO-3") as raised:
        other.test(made.Net(), made.loader(), ckpt_path=tmp_path / "saved", verbose=False)

    assert str(raised.value) == (
        f"DeepSpeed cannot load the ZeRO-3 checkpoint {tmp_path}/saved into a model that has no"
        " optimizer, as validate, test and predict have it (DeepSpeed #7272; on GPUs Lightning"
        " fails alike, with 'DeepSpeedZeRoOffload' object has no attribute"
        " '_restore_from_bit16_weights'): make one file of it with"
        " pytorch_lightning.utilities.deepspeed.convert_zero_checkpoint_to_fp32_state_dict, and"
        " load that with DeepSpeedStrategy(load_full_weights=True)"
    )


def test_of_a_strategy_for_gpus(made, tmp_path):
    """Protects: what a strategy for GPUs was given is trained on the CPU, pinned memory aside."""
    from pytorch_lightning.strategies import DeepSpeedStrategy

    theirs = DeepSpeedStrategy(
        **CPU_3, stage=3, pin_memory=True, process_group_backend="nccl", load_full_weights=True
    )
    ours = made.DeepSpeedCPUStrategy.of(theirs)
    zero = ours.config["zero_optimization"]
    trained = made.Weights()
    made.trainer(tmp_path, trained, strategy=ours, max_steps=1, limit_val_batches=0).fit(
        made.Net(on_host=True), made.loader()
    )

    assert zero["stage"] == 3
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "cpu"
    assert zero["offload_optimizer"]["pin_memory"] is zero["offload_param"]["pin_memory"] is False
    assert (ours.load_full_weights, ours.process_group_backend) == (True, "gloo")
    assert str(ours.root_device) == "cpu:0"
    assert not made.equal(trained.first, trained.last)


def test_another_accelerator_is_refused(made):
    """Protects: on a GPU Lightning's own strategy is pointed at; so is what DeepSpeed took."""
    from deepspeed.accelerator import set_accelerator
    from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator
    from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator

    with pytest.raises(RuntimeError) as of_lightning:
        made.DeepSpeedCPUStrategy(accelerator=CUDAAccelerator()).setup_environment()
    set_accelerator(CUDA_Accelerator())
    with pytest.raises(RuntimeError) as of_deepspeed:
        made.DeepSpeedCPUStrategy(accelerator=CPUAccelerator()).setup_environment()

    assert str(of_lightning.value) == (
        "DeepSpeedCPUStrategy runs on the CPU, and the Trainer has CUDAAccelerator: write"
        " Trainer(accelerator='cpu', ...), or take Lightning's DeepSpeedStrategy on GPUs"
    )
    assert str(of_deepspeed.value) == (
        "DeepSpeedCPUStrategy runs on the CPU, and DeepSpeed has taken 'cuda': set"
        " DS_ACCELERATOR=cpu before deepspeed is imported"
    )
