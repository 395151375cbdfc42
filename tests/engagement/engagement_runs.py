"""Short trainings of the trap model on the ranks of a test, and what is read off their engines."""

import dataclasses
from collections.abc import Mapping

from pytest_deepspeed.training import state
from pytest_deepspeed.training.engagement import observe
from pytest_deepspeed.training.engagement.check import check
from reference_training.train import build_engine, run_steps
from reference_training.trap import Trap, wide_enough

STEPS = 2
TRAITS = ("tied", "frozen", "odd_shapes", "groups", "buffer")

#: Rows of the wide layer with which each of two ranks has 1 MiB of it in 16 bits.
WIDE = wide_enough(world_size=2)


def config(stage, dtype="fp32", *, optimizer="none", param="none", torch_adam=False, **zero):
    """A config of small buckets and little persistence; ``nvme_path`` is set on the ranks."""
    # The defaults of weight_decay differ, and stage 0 in bf16 decays weights at its start.
    params = {"lr": 1e-2, "weight_decay": 0.0} | ({"torch_adam": True} if torch_adam else {})
    made = {
        "train_micro_batch_size_per_gpu": 10,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": params},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 50, **zero},
    }
    if dtype != "fp32":
        made[dtype] = {"enabled": True}
    if optimizer != "none":
        made["zero_optimization"]["offload_optimizer"] = {"device": optimizer}
    if param != "none":
        made["zero_optimization"]["offload_param"] = {"device": param}
    if param == "nvme":
        buffers = {"buffer_size": 600_000, "buffer_count": 5, "max_in_cpu": 0}
        made["zero_optimization"]["offload_param"] |= buffers
    return made


def on(ds_config, folder):
    """The config with its NVMe blocks in a folder."""
    zero = dict(ds_config["zero_optimization"])
    for name, block in zero.items():
        if isinstance(block, Mapping) and block.get("device") == "nvme":
            zero[name] = {**block, "nvme_path": str(folder)}
    return {**ds_config, "zero_optimization": zero}


@dataclasses.dataclass
class Read:
    """What `state` read: before the first step, and after the last."""

    fresh: dict
    parameters: dict
    compute: dict
    moments: dict
    steps: int
    digest: dict | None


def read(ds_config, wide=0):
    """Trains on this rank and reads the state."""
    workload = Trap(TRAITS, wide=wide)
    engine = build_engine(workload, ds_config)
    try:
        fresh = state.full_parameters(engine)
        run_steps(engine, workload, steps=STEPS)
        return Read(
            fresh=fresh,
            parameters=state.full_parameters(engine),
            compute=state.compute_weights(engine),
            moments=state.full_moments(engine),
            steps=state.optimizer_steps(engine),
            digest=state.local_digest(engine),
        )
    finally:
        engine.destroy()


def observed(ds_config, wide=0):
    """Trains on this rank and returns its evidence and the workload's parameter groups.

    The branches that some steps leave out take part: they have no gradient to be seen.
    """
    workload = Trap((*TRAITS, "alternating", "late_branch"), wide=wide)
    engine = build_engine(workload, ds_config)
    seen = []
    try:
        run_steps(
            engine,
            workload,
            steps=STEPS,
            before_update=lambda _: seen.append(observe.before_step(engine)),
        )
        evidence = observe.observe(engine, seen[-1])
    finally:
        engine.destroy()
    return evidence, workload.parameter_groups(workload.model())


def findings(ds_config, wide=0):
    """Name and message of what this rank's evidence alone shows."""
    evidence, groups = observed(ds_config, wide)
    found = check(ds_config, [evidence], steps=STEPS, groups=groups)
    return [(finding.name, finding.message) for finding in found]
