"""`DistributedTest` and `DistributedFixture` as a suite of DeepSpeed's style uses them."""

import os
import socket
from pathlib import Path

import deepspeed.comm as dist
import pytest
import torch

from pytest_deepspeed import DistributedFixture, DistributedTest


@pytest.fixture(params=[10, 20])
def value(request):
    """A parameter of tests and distributed fixtures."""
    return request.param


class _Leaves(DistributedFixture):
    world_size = None  # no fixture, but a base of some

    def run(self, value, class_tmpdir, unknown="default"):
        assert int(os.environ["WORLD_SIZE"]) == self.world_size == dist.get_world_size()
        assert unknown == "default"
        Path(class_tmpdir, f"{dist.get_rank()}.txt").write_text(f"{dist.get_rank()},{value}")


class left_behind(_Leaves):  # noqa: N801 (the class's name is the fixture's)
    world_size = 3


class left_behind_by_one(_Leaves):  # noqa: N801
    world_size = 1
    init_distributed = False

    def run(self, tmp_path, tmpdir, class_tmpdir):
        assert not torch.distributed.is_initialized()
        Path(class_tmpdir, "one.txt").write_text(os.environ["WORLD_SIZE"])
        Path(tmpdir, "own.txt").write_text(str(tmp_path))


class skips(DistributedFixture):  # noqa: N801
    def run(self):
        pytest.skip("the fixture says so")


@pytest.mark.parametrize("factor", [1, 2])
class TestMethods(DistributedTest):
    world_size = 2

    @pytest.fixture(params=["a", "b"])
    def letter(self, request):
        return request.param

    def test_class_attribute(self, factor, value, given="default"):  # noqa: PT028
        """Protects: a method runs on the class's ranks, with parameters, fixtures and defaults, and
        DeepSpeed's communication is ready.
        """
        assert dist.is_initialized()
        assert dist.get_world_size() == int(os.environ["WORLD_SIZE"]) == self.world_size
        assert (factor in (1, 2), value in (10, 20), given) == (True, True, "default")

    @pytest.mark.world_size(1)
    def test_mark(self, factor, letter):
        """Protects: a method's mark comes before the class's attribute."""
        assert dist.get_world_size() == 1
        assert letter in "ab"

    def test_shared_directory(self, factor, tmpdir, class_tmpdir):
        """Protects: all ranks of a test have the same directories; ``class_tmpdir`` outlives it."""
        tmpdir.join(f"{dist.get_rank()}").write("")
        dist.barrier()
        assert len(tmpdir.listdir()) == 2
        Path(class_tmpdir, f"{factor}-{dist.get_rank()}").write_text("")

    @pytest.mark.skipif("True", reason="marks are pytest's own")
    def test_skipped(self, factor):
        """Protects: a skipped test starts no ranks."""
        raise AssertionError


class TestSizes(DistributedTest):
    world_size = (1, 3)

    def test_list(self, world_size):
        """Protects: a list is a test for each size."""
        assert dist.get_world_size() == world_size
        assert world_size in self.world_size

    @pytest.mark.parametrize(("other", "world_size"), [(0, 2)])
    def test_parameter(self, other, world_size):
        """Protects: a parameter ``world_size`` is the size, before the class's attribute."""
        assert dist.get_world_size() == world_size == 2


class TestInherited(TestSizes):
    world_size = 2

    def test_list(self):
        """Protects: a derived class's attribute is its own."""
        assert dist.get_world_size() == 2


class TestFixtures(DistributedTest):
    world_size = 2

    def test_ran_before(self, left_behind, left_behind_by_one, value, class_tmpdir, tmp_path):
        """Protects: distributed fixtures run before the test on ranks of their own, with the test's
        parameters, and what they leave in ``class_tmpdir`` and ``tmpdir`` is there.
        """
        found = [Path(class_tmpdir, f"{rank}.txt").read_text() for rank in range(3)]
        assert found == [f"{rank},{value}" for rank in range(3)]
        assert Path(class_tmpdir, "one.txt").read_text() == "1"
        assert tmp_path.joinpath("own.txt").read_text() == str(tmp_path)
        assert left_behind is None

    @pytest.mark.usefixtures("skips")
    def test_is_skipped(self):
        """Protects: a fixture that skips on its ranks skips the test."""
        raise AssertionError


class TestWithoutEnvironment(DistributedTest):
    init_distributed = False
    set_dist_env = False

    def test_nothing_is_set(self):
        """Protects: ranks of a test that asks for it know nothing of each other."""
        assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_SIZE"} & set(os.environ)
        assert not torch.distributed.is_initialized()
        assert not dist.is_initialized()

    @pytest.mark.world_size(1)
    @pytest.mark.ds_timeout(20)
    def test_a_group_at_an_address_of_its_own(self):
        """Protects: a test forms a group where it says, and waits for no store of ours there."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        torch.distributed.init_process_group("gloo", address, world_size=1, rank=0)
        assert torch.distributed.is_initialized()


class TestBackend(DistributedTest):
    world_size = 2
    backend = "gloo"
    reuse_dist_env = True
    non_daemonic_procs = True
    requires_cuda_env = False
    exec_timeout = 100

    def test_named(self):
        """Protects: the other attributes of DeepSpeed's base are taken."""
        assert torch.distributed.get_backend() == "gloo"
