"""What the trainings on two ranks (trainings.py) recorded."""

import pytest
import torch
from torch.nn import functional

from reference_training import configs, order
from reference_training.data import load
from reference_training.model import Net
from reference_training.train import build_engine, run_steps
from reference_training.workload import Images

STAGES = ["zero0", "zero1", "zero2", "zero3"]


def mean(values):
    """Return the arithmetic mean."""
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def twin(trainings):
    """Train the same 20 steps in plain torch in one process: the losses and gradient norms."""
    torch.manual_seed(0)
    net, data = Net(), load("synthetic")
    params = configs.load(0)["optimizer"]["params"]
    optimizer = torch.optim.Adam(net.parameters(), betas=tuple(params["betas"]), eps=params["eps"])
    losses, norms = [], []
    for step, lr in enumerate(trainings["zero0"][0].lr):
        chosen = [
            order.indices(len(data), seed=0, step=step, rank=r, world_size=2, micro_batch_size=16)
            for r in (0, 1)
        ]
        images, labels = data.batch(torch.cat(chosen, dim=1)[0])
        loss = functional.cross_entropy(net(images), labels)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)))
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


@pytest.mark.parametrize("data", ["", " digits"], ids=["synthetic", "digits"])
@pytest.mark.parametrize("stage", STAGES)
def test_each_reference_config_learns(trainings, stage, data):
    """A reference run of 20 steps must be long enough to tell training from not training."""
    loss = trainings[stage + data][0].loss
    assert len(loss) == 20
    assert mean(loss[-5:]) <= 0.8 * mean(loss[:5])


@pytest.mark.parametrize("stage", [*STAGES, "zero0 accumulated", "zero2 accumulated"])
def test_it_trains_what_plain_torch_trains(trainings, twin, stage):
    """Losses and gradient norms are those of one process with the whole batch, step by step.

    Rounding sometimes moves an activation over the kink of a ReLU: the later steps get room for it.
    """
    losses, norms = twin
    record = trainings[stage][0]
    assert max(norms) > 1.0, "clipping must have engaged for the comparison to cover it"
    assert record.loss[:5] == pytest.approx(losses[:5], rel=1e-5)
    assert record.grad_norm[:5] == pytest.approx(norms[:5], rel=1e-5)
    assert record.loss == pytest.approx(losses, rel=1e-2)
    assert record.grad_norm == pytest.approx(norms, rel=2e-2)


def test_ranks_see_different_images_and_the_same_gradients(trainings):
    """Sharding: each rank has its own loss, their mean is `loss`, the reduced norm is shared."""
    first, second = trainings["zero1"]
    assert (first.rank, second.rank) == (0, 1)
    assert first.local_loss != second.local_loss
    assert first.loss == second.loss
    assert first.grad_norm == second.grad_norm
    halves = zip(first.local_loss, second.local_loss, strict=True)
    assert first.loss == pytest.approx([mean(pair) for pair in halves], rel=1e-12)


def test_the_record_tells_what_ran(trainings):
    """The values beside the curves come from the engine and the model that were used."""
    record = trainings["zero3"][0]
    assert record.data == "synthetic (2,048 images)"
    assert (record.world_size, record.train_batch_size, record.parameters) == (2, 32, 62_006)
    assert (record.optimizer_steps, record.skipped_steps, record.start_step) == (20, 0, 0)
    assert record.lr[:7] == pytest.approx([4e-4, 4e-4, 7.2e-4, 1.04e-3, 1.36e-3, 1.68e-3, 2e-3])
    assert all(seconds > 0 for seconds in record.step_time)
    assert record.samples_per_second > 0


def test_optimizer_steps_without_a_counter_in_the_optimizer(trainings):
    """SGD keeps no step count; the engine's is taken."""
    assert trainings["sgd"][0].optimizer_steps == 3


def test_unmanaged_accumulation_steps_once_per_batch(trainings):
    """With `managed_gradient_accumulation: false` step() is the boundary, so it is called once."""
    record = trainings["zero0 unmanaged"][0]
    assert record.loss == pytest.approx(trainings["zero0"][0].loss, rel=1e-4)
    assert record.optimizer_steps == 20
    assert record.grad_norm == (None,) * 20


def test_bf16_is_fed_bf16(trainings):
    """Inputs follow the engine's dtype: the run works and its rounding shows."""
    loss = trainings["bf16"][0].loss
    assert loss != trainings["zero2"][0].loss
    assert loss[:5] == pytest.approx(trainings["zero2"][0].loss[:5], rel=0.02)


def test_a_run_in_two_halves_is_the_run(trainings):
    """`start_step` continues the order of the images where the first half stopped."""
    first, second = trainings["first half"][0], trainings["second half"][0]
    assert second.start_step == 10
    assert first.loss + second.loss == trainings["zero1"][0].loss


def test_no_process_group():
    """Called outside ranks, it says what to do, and does not go looking for MPI as DeepSpeed."""
    with pytest.raises(RuntimeError) as error:
        build_engine(Images(load("synthetic")), configs.load(0))
    assert str(error.value) == (
        "there is no process group: call deepspeed.init_distributed() first, "
        "in processes that torchrun started"
    )


def test_no_steps():
    """A run of nothing would be a record without a loss."""
    with pytest.raises(ValueError, match=r"^steps must be 1 or more, not 0$"):
        run_steps(None, Images(load("synthetic")), steps=0)
