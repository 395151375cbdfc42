"""The peaks, against allocations of known size."""

import gc

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from pytest_deepspeed.training.memory.peak import HostPeak, TensorPeak

#: Memory of the agent, which its ranks share until they write to it.
INHERITED = bytearray(b"x") * (32 * 2**20)

MIB = 2**20


def test_peak_of_tensors_that_come_and_go():
    """Protects: storages are counted once, while they live, and the peak stays."""
    peak = TensorPeak()
    with peak.watch():
        a = torch.zeros(1000)
        b = a + 1  # 8000 live
        view = b[10:20].view(2, 5)
        assert (peak.now, peak.peak) == (8000, 8000)
        del b
        assert peak.now == 8000  # the view holds the storage
        del view
        assert peak.now == 4000
        a.add_(1)

    assert (peak.now, peak.peak) == (4000, 8000)


def test_a_storage_that_is_resized():
    """Protects: a storage that grows or shrinks in place is counted at its size."""
    peak = TensorPeak()
    with peak.watch():
        a = torch.zeros(100)
        a.resize_(200)
        assert peak.now == 800
        a.untyped_storage().resize_(40)
        a.set_(a.untyped_storage(), 0, (10,))
        assert peak.now == 40

    assert peak.peak == 800


def test_what_autograd_saves_is_seen():
    """Protects: activations that only the graph holds count, and recomputing them is cheaper."""

    def body(x):
        for _ in range(4):
            x = torch.sigmoid(x)
        return x

    x = torch.ones(1000, requires_grad=True)
    peaks = []
    for run in (body, lambda x: checkpoint(body, x, use_reentrant=False)):
        peak = TensorPeak()
        peak.add([x])
        with peak.watch():
            y = run(x)
            held = peak.now
            y.sum().backward()
        peaks.append(held)
        x.grad = None

    assert peaks[0] == 4000 * (1 + 4)
    assert peaks[1] == 4000 * (1 + 1)


def test_a_tensor_that_exists_already_counts_once():
    """Protects: what was there is part of the peak, also when it is used inside."""
    a = torch.zeros(1000)
    peak = TensorPeak()
    peak.add([a, a[:10]])
    with peak.watch():
        a * 2

    assert (peak.now, peak.peak) == (4000, 8000)


def measured(body):
    """MiB that a body raises the host's peak by."""
    gc.collect()
    peak = HostPeak()
    body()
    return peak.read() / MIB


@pytest.mark.world_size(1)
def test_host_peak_of_memory_that_is_freed_again():
    """Protects: the peak, not what is left, of memory that a rank maps and gives back."""
    assert measured(lambda: torch.ones(64 * MIB // 4)) == pytest.approx(64, abs=6)


@pytest.mark.world_size(1)
def test_host_peak_of_memory_that_stays():
    """Protects: memory that is kept counts once."""
    kept = []

    assert measured(lambda: kept.append(torch.ones(64 * MIB // 4))) == pytest.approx(64, abs=6)


@pytest.mark.world_size(1)
def test_host_peak_of_copies_of_the_agents_pages():
    """Protects: writing to memory that the agent has costs a copy, which the resident size hides;
    reading it costs nothing.
    """
    view = memoryview(INHERITED)

    assert measured(lambda: sum(view[::4096])) == pytest.approx(0, abs=3)
    assert measured(lambda: [view.__setitem__(i, 1) for i in range(0, len(view), 4096)]) == (
        pytest.approx(32, abs=5)
    )
