"""The trap model and its samples: each trait is there, and can be left out."""

import pytest
import torch

from reference_training.trap import TRAITS, Trap, TrapNet, wide_enough


def batches(trap, *, step=0, world_size=2, accumulation=2, micro=2):
    """All micro-batches of a step, as (micro_step, rank)."""
    return {
        (micro_step, rank): trap.micro_batch(
            step=step,
            micro_step=micro_step,
            accumulation_steps=accumulation,
            rank=rank,
            world_size=world_size,
            micro_batch_size=micro,
        )
        for micro_step in range(accumulation)
        for rank in range(world_size)
    }


def gradients(traits, **flags):
    """The names of the parameters that get a gradient, and all names."""
    net = Trap(traits).model()
    net(torch.ones(2, 16), **flags).sum().backward()
    named = dict(net.named_parameters())
    return {name for name, p in named.items() if p.grad is not None}, set(named)


def test_all_traits_are_in_the_model():
    """Protects: every fault class that the model exists for has its structure in it."""
    net = Trap().model()
    named = dict(net.named_parameters())

    assert net.last.weight is net.first.weight
    assert not net.frozen.weight.requires_grad
    assert net.bucket_sized.weight.numel() == 600
    assert named["odd_shapes.across.weight"].numel() == 77
    assert dict(net.named_buffers()).keys() == {"scale"}
    assert len(Trap().parameter_groups(net)) == 2
    assert sum(p.numel() for p in net.parameters()) == 12_505


def test_no_traits():
    """Protects: each trait can be left out, and then nothing of it stays."""
    trap = Trap(traits=())
    net = trap.model()

    assert net.last.weight is not net.first.weight
    assert all(p.requires_grad for p in net.parameters())
    assert not dict(net.named_buffers())
    assert len(trap.parameter_groups(net)) == 1
    assert not {
        "frozen",
        "alternating",
        "late_branch",
        "early_branch",
        "odd_shapes",
        "bucket_sized",
    } & {name for name, _ in net.named_children()}


@pytest.mark.parametrize("trait", TRAITS)
def test_each_trait_changes_the_result_or_the_groups(trait):
    """Protects: no trait is a name only: leaving it out changes logits or parameter groups."""
    with_all, without = Trap(), Trap([t for t in TRAITS if t != trait])
    x = torch.linspace(-1, 1, 32).view(2, 16)
    flags = {"alternate": True, "late": True, "early": True}

    if trait == "groups":
        groups = [trap.parameter_groups(trap.model()) for trap in (with_all, without)]
        assert [len(some) for some in groups] == [2, 1]
    else:
        assert not torch.equal(with_all.model()(x, **flags), without.model()(x, **flags))


def test_weights_do_not_depend_on_the_traits():
    """Protects: trials with and without a trait start from the same weights elsewhere."""
    few = dict(Trap(("frozen",)).model().named_parameters())
    every = dict(Trap().model().named_parameters())

    common = few.keys() & every.keys() - {"last.weight"}
    assert len(common) > 10
    assert all(torch.equal(few[name], every[name]) for name in common)


def test_the_branches_get_gradients_only_when_used():
    """Protects: outside its steps a sometimes used branch has no gradient, rather than zeros."""
    used, every = gradients(TRAITS, alternate=True, late=False)
    neither, _ = gradients(TRAITS)

    frozen = {"frozen.weight", "frozen.bias"}
    late = {"late_branch.weight", "late_branch.bias"}
    alternating = {"alternating.weight", "alternating.bias"}
    early = {"early_branch.weight", "early_branch.bias"}
    assert every - used == frozen | late | early
    assert every - neither == frozen | late | early | alternating


def test_when_the_branches_are_used():
    """Protects: even steps use one branch, the first and the second of several micro-batches one
    each, and a single micro-batch neither of these.
    """
    found = {
        (step, micro_step): (batch.alternate, batch.late, batch.early)
        for step in (0, 1)
        for (micro_step, rank), batch in batches(Trap(), step=step).items()
        if rank == 0
    }

    assert found == {
        (0, 0): (True, False, True),
        (0, 1): (True, True, False),
        (1, 0): (False, False, True),
        (1, 1): (False, True, False),
    }
    single = batches(Trap(), accumulation=1).values()
    assert not any(batch.late or batch.early for batch in single)


@pytest.mark.parametrize(
    ("world_size", "accumulation", "micro"), [(1, 1, 8), (1, 2, 4), (2, 1, 4), (2, 2, 2), (4, 2, 1)]
)
def test_samples_of_a_step_are_the_same_for_any_split(world_size, accumulation, micro):
    """Protects: world sizes and accumulations train on the same samples, so they compare."""
    whole = batches(Trap(), step=3, world_size=1, accumulation=1, micro=8)[0, 0]
    split = batches(
        Trap(), step=3, world_size=world_size, accumulation=accumulation, micro=micro
    ).values()

    assert torch.equal(torch.cat([batch.features for batch in split]), whole.features)
    assert torch.equal(torch.cat([batch.labels for batch in split]), whole.labels)


def test_samples_differ_between_steps_and_seeds():
    """Protects: no step trains on what another does, and no seed on what another does."""
    seen = [
        batches(Trap(seed=seed), step=step)[0, 0].features for seed in (0, 1) for step in (0, 1, 2)
    ]

    assert len({tuple(features.flatten().tolist()) for features in seen}) == 6


def test_it_learns():
    """Protects: the loss falls clearly in eight steps, so that a training is not noise."""
    trap = Trap()
    net = trap.model()
    optimizer = torch.optim.AdamW(trap.parameter_groups(net), lr=0.005)
    losses = []
    for step in range(8):
        batch = batches(trap, step=step, world_size=1, accumulation=1, micro=32)[0, 0]
        loss = trap.loss(net, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.6 * losses[0]


def test_the_model_is_the_same_each_time_and_leaves_the_generator_alone():
    """Protects: ranks and the twin start from the same weights, whatever was drawn before."""
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one, two = Trap().model().state_dict(), Trap().model().state_dict()

    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("size", [2, 4])
def test_wide_enough_fills_a_block(world_size, size):
    """Protects: the wide layer's partition is what NVMe swapping wants, and not much more."""
    wide = wide_enough(world_size=world_size, bytes_per_element=size)

    partition = wide * 40 * size / world_size
    assert 2**20 <= partition < 1.001 * 2**20
    assert TrapNet((), wide=wide).wide.weight.shape == (wide, 40)


def test_an_unknown_trait_is_an_error():
    """Protects: a misspelt trait is not one that is silently off."""
    with pytest.raises(ValueError, match="no trait") as caught:
        TrapNet(("tide",))
    assert str(caught.value) == f"no trait of TrapNet: tide; there are {', '.join(TRAITS)}"


def test_a_bucket_that_no_weight_fills_is_an_error():
    """Protects: `bucket_sized` is exactly the bucket, or says that it cannot be."""
    with pytest.raises(ValueError, match="multiple") as caught:
        TrapNet(bucket_elements=601)
    assert str(caught.value) == "bucket_elements must be a positive multiple of 40, not 601"
