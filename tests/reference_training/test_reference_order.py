"""Which images a rank sees at a step."""

import pytest
import torch

from reference_training import order


def batch(step, *, images=100, seed=0, ranks=(0, 1), world_size=2, micro=8, accumulation=1):
    """Return the images of one step on the given ranks, one list for each rank."""
    return [
        order.indices(
            images,
            seed=seed,
            step=step,
            rank=rank,
            world_size=world_size,
            micro_batch_size=micro,
            accumulation_steps=accumulation,
        )
        for rank in ranks
    ]


def together(parts):
    """Return all images of a step, sorted."""
    return torch.cat(parts, dim=1).flatten().sort().values.tolist()


def test_an_epoch_sees_each_image_once():
    """Neither ranks nor steps may share or miss images within an epoch."""
    seen = [i for step in range(4) for i in together(batch(step, images=64))]
    assert sorted(seen) == list(range(64))


def test_the_next_epoch_is_shuffled_anew():
    """Without a new order per epoch (`set_epoch` elsewhere) training sees one order for ever."""
    first, second = (batch(step, images=64, ranks=[0])[0] for step in (0, 4))
    assert first.tolist() != second.tolist()
    assert first.tolist() != sorted(first.flatten().tolist())


def test_a_batch_may_straddle_epochs():
    """No image is dropped at the end of an epoch, whatever the batch size."""
    seen = [i for step in range(25) for i in together(batch(step))]
    assert sorted(seen) == sorted(list(range(100)) * 4)


def test_a_batch_may_be_larger_than_the_data():
    """A large train_batch_size on a small set repeats images instead of failing."""
    assert set(together(batch(0, images=10))) == set(range(10))


@pytest.mark.parametrize(
    ("world_size", "micro", "accumulation"), [(1, 16, 1), (4, 4, 1), (2, 4, 2), (1, 2, 8)]
)
def test_the_same_images_on_any_world(world_size, micro, accumulation):
    """Runs with one train_batch_size are comparable over world sizes and accumulation."""
    other = batch(
        3,
        ranks=range(world_size),
        world_size=world_size,
        micro=micro,
        accumulation=accumulation,
    )
    assert together(other) == together(batch(3))


def test_the_global_generator_plays_no_part():
    """The order is a function of its arguments: it must not read or move torch's generator."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    order.permutation.cache_clear()
    first = batch(2)[0]
    assert torch.equal(torch.get_rng_state(), before)
    order.permutation.cache_clear()
    torch.manual_seed(2)
    assert torch.equal(batch(2)[0], first)
    assert not torch.equal(batch(2, seed=5)[0], first)
