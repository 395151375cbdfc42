"""Ranks on GPUs: NCCL, devices, and whose CUDA context it is."""

import os

import pytest
import torch
import torch.distributed as dist


def opened(pid):
    """What a process has open."""
    links = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(entry.path))
        except OSError:
            continue
    return links


@pytest.mark.world_size(1)
def test_nccl_alone(device):
    """Protects: NCCL forms a group of one rank, sums on its GPU, and splits a group off."""
    tensor = torch.full((4,), 3.0, device=device)

    dist.all_reduce(tensor)
    dist.all_reduce(tensor, group=dist.new_group([0]))

    assert dist.get_backend() == "nccl"
    assert tensor.tolist() == [3.0] * 4


@pytest.mark.world_size(2)
def test_nccl_on_two_gpus(device, rank, local_rank, world_size):
    """Protects: each rank has a GPU of its own, and objects travel through it."""
    if world_size != 2:
        pytest.skip("needs two ranks: leave --ds-world-size out")
    tensor = torch.full((4,), float(rank + 1), device=device)
    names = [None, None]

    dist.all_reduce(tensor)
    dist.all_gather_object(names, str(device))

    assert tensor.tolist() == [3.0] * 4
    assert names == ["cuda:0", "cuda:1"]
    assert torch.cuda.current_device() == local_rank


@pytest.mark.world_size(1)
def test_only_the_rank_has_a_context():
    """Protects: the agent, which is forked for each test, never touches CUDA; the rank does."""
    assert "/dev/nvidia-uvm" in opened("self")
    assert "/dev/nvidia-uvm" not in opened(os.getppid())


@pytest.mark.world_size(1)
def test_memory_is_free_at_the_start(device):
    """Protects: a rank starts with nothing on its GPU but its context, whatever ran before."""
    assert torch.cuda.memory_allocated(device) == 0
    torch.empty(2**28, dtype=torch.uint8, device=device)
