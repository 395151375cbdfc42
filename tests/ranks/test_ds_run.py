"""``ds_run``: several worlds in one test of the controller."""

import pytest
import torch
import torch.distributed as dist

pytestmark = pytest.mark.also_without_xdist


def total(start, rank, world_size):
    """The sum over ranks of ``start + rank``."""
    tensor = torch.tensor([start + rank])
    dist.all_reduce(tensor)
    return {"total": int(tensor), "world_size": world_size}


def save(path, rank):
    """Writes this rank's number."""
    (path / f"{rank}.pt").write_bytes(b"x" * rank)


def load(path, rank):
    """The sizes that all ranks of the other world wrote."""
    return sorted(p.stat().st_size for p in path.iterdir())


def fails(rank):
    """Fails on one rank while the other waits."""
    values = {"loss": rank}
    if rank == 1:
        assert values == {"loss": 0}
    dist.barrier()


def returns_tensor(device):
    """A tensor on this rank's device."""
    return torch.arange(3, device=device)


def own_group():
    """Whether the default group is there."""
    return dist.is_initialized()


def skips():
    """Skips."""
    pytest.skip("nothing here")


def test_values_come_back_in_rank_order(ds_run):
    """Protects: each rank's return value, in rank order, with rank and size filled in."""
    assert ds_run(total, world_size=2, start=5) == [{"total": 11, "world_size": 2}] * 2


def test_worlds_of_different_sizes_in_one_test(ds_run, tmp_path):
    """Protects: what a world of 3 wrote, a fresh world of 2 can read."""
    ds_run(save, world_size=3, path=tmp_path)

    assert ds_run(load, world_size=2, path=tmp_path) == [[0, 1, 2]] * 2


def test_tensors_come_back(ds_run):
    """Protects: a CPU tensor is a value like any other."""
    (value,) = ds_run(returns_tensor, world_size=1)

    assert torch.equal(value, torch.arange(3))


def test_without_process_group(ds_run):
    """Protects: ``init_process_group=False`` leaves it to the function."""
    assert ds_run(own_group, world_size=2, init_process_group=False) == [False, False]


def test_failure_has_the_assertion(ds_run):
    """Protects: the first failing rank's assertion with its values, and every rank's fate."""
    with pytest.raises(Exception, match="rank 1: AssertionError") as caught:
        ds_run(fails, world_size=2)

    text = str(caught.value)
    assert type(caught.value).__name__ == "RanksFailed"
    assert "assert {'loss': 1} == {'loss': 0}" in text
    assert "rank 1: failed first, in call" in text
    assert "torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed" in text


def test_skip_of_all_ranks_skips_the_test(ds_run):
    """Protects: a skip on every rank is a skip of the test."""
    with pytest.raises(pytest.skip.Exception, match="rank 0: nothing here"):
        ds_run(skips, world_size=2)


def test_local_function_is_refused(ds_run):
    """Protects: what cannot be imported by name is refused before any rank is forked."""

    def local():
        """Only here."""

    with pytest.raises(ValueError, match="ds_run needs a function at the top level") as caught:
        ds_run(local, world_size=2)

    assert str(caught.value) == (
        "ds_run needs a function at the top level of a module, which ranks can import by name;"
        " test_local_function_is_refused.<locals>.local is not. Move it out of the test"
    )


def test_unpicklable_argument_is_refused(ds_run):
    """Protects: an argument that cannot travel is named before any rank is forked."""
    with pytest.raises(ValueError, match="cannot pickle the arguments of total"):
        ds_run(total, world_size=2, start=lambda: 1)


def test_world_size_zero_is_refused(ds_run):
    """Protects: a size that is none."""
    with pytest.raises(ValueError, match=r"ds_run: world_size must be a positive integer"):
        ds_run(total, world_size=0, start=1)
