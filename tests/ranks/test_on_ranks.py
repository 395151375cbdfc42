"""What a test that runs on ranks finds there. These tests run on ranks themselves."""
# ruff: noqa: NPY002 (NumPy's global generator is what is tested)

import os
import random
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist

import pytest_deepspeed

two = pytest.mark.world_size(2)
pytestmark = pytest.mark.also_without_xdist

module_setups = []


@pytest.fixture(scope="module")
def counted():
    """A module fixture that remembers how often it was set up in this process."""
    module_setups.append(os.getpid())
    return len(module_setups)


def gathered(value):
    """The value of each rank."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@two
def test_the_process_group_is_there_before_the_fixtures(rank, world_size):
    """Protects: the default group is formed, with this rank and size."""
    assert dist.is_initialized()
    assert (dist.get_rank(), dist.get_world_size()) == (rank, world_size)
    assert dist.get_backend() == "gloo"
    assert gathered(rank) == [0, 1]


@pytest.mark.world_size([1, 2, 3])
def test_a_list_of_sizes_is_one_test_for_each(world_size, request):
    """Protects: each size of the list is a test of its own, with the size in its id."""
    assert request.node.name.endswith(f"[world_size_{world_size}]")
    assert dist.get_world_size() == world_size


@pytest.mark.world_size(3)
def test_ranks_are_processes_of_their_own(rank):
    """Protects: isolation; every rank is a fresh process in a session of its own."""
    pids = gathered(os.getpid())

    assert len(set(pids)) == 3
    assert os.getsid(0) == os.getpid()
    assert threading.active_count() == 1


@two
def test_environment_is_torchruns(rank, local_rank, world_size):
    """Protects: code that reads torchrun's variables works on our ranks."""
    assert os.environ["RANK"] == str(rank)
    assert os.environ["LOCAL_RANK"] == str(local_rank)
    assert os.environ["WORLD_SIZE"] == os.environ["LOCAL_WORLD_SIZE"] == str(world_size)
    assert os.environ["GROUP_RANK"] == "0"
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"
    assert len(set(gathered(os.environ["MASTER_PORT"]))) == 1
    assert len(set(gathered(os.environ["TORCHELASTIC_RUN_ID"]))) == 1


@pytest.mark.world_size(2, init_process_group=False)
def test_a_test_can_form_its_own_group(rank):
    """Protects: ``env://`` works without a free port, as under torchrun."""
    assert not dist.is_initialized()
    dist.init_process_group("gloo")
    total = torch.ones(1) * rank
    dist.all_reduce(total)

    assert total.item() == 1


@two
def test_deepspeed_takes_the_group(rank):
    """Protects: ``deepspeed.init_distributed`` finds the group and leaves no segment behind."""
    import deepspeed

    before = set(os.listdir("/dev/shm"))
    deepspeed.init_distributed()

    assert deepspeed.comm.get_world_size() == 2
    assert {n for n in os.listdir("/dev/shm") if "deepspeed" in n.lower()} <= before


@two
def test_generators_start_alike(request):
    """Protects: random, NumPy and torch are seeded, the same on each rank and in each run."""
    drawn = gathered((random.random(), float(np.random.rand()), float(torch.rand(1))))

    assert drawn[0] == drawn[1]
    if not request.config.pluginmanager.hasplugin("randomly"):  # which seeds by its own option
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        assert drawn[0] == (random.random(), float(np.random.rand()), float(torch.rand(1)))


@two
def test_tmp_path_is_one_for_all(rank, tmp_path, rank_tmp_path, tmp_path_factory):
    """Protects: ranks share ``tmp_path`` and what the factory makes, not ``rank_tmp_path``."""
    (tmp_path / str(rank)).touch()
    made = tmp_path_factory.mktemp("data")
    dist.barrier()

    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["0", "1"]
    assert len(set(gathered(str(made)))) == 1
    assert len(set(gathered(str(rank_tmp_path)))) == 2
    assert rank_tmp_path.parent == tmp_path


@two
def test_module_fixtures_are_set_up_in_each_rank(counted):
    """Protects: every scope is set up on the rank, per test: nothing leaks from test to test."""
    assert counted == 1


@two
def test_module_fixtures_are_set_up_again(counted):
    """Protects: the second test of a module does not see the first one's module fixture."""
    assert counted == 1


@two
def test_device_is_the_cpu(device):
    """Protects: ``device`` is a torch device that this session runs on."""
    assert device == torch.device("cpu")


@two
def test_role_is_rank(request):
    """Protects: a conftest can tell ranks from agent and controller."""
    assert pytest_deepspeed.ds_role(request.config) == "rank"


def test_role_is_controller(request):
    """Protects: an unmarked test runs in the pytest that was typed."""
    assert pytest_deepspeed.ds_role(request.config) == "controller"


@two
def test_capsys_works(rank, capsys):
    """Protects: capsys on ranks."""
    print(f"from rank {rank}")

    assert capsys.readouterr().out == f"from rank {rank}\n"


@two
def test_capfd_works(rank, capfd):
    """Protects: capfd on ranks, whose descriptors are not the agent's."""
    os.write(1, b"from rank %d" % rank)

    assert capfd.readouterr().out == f"from rank {rank}"


@two
def test_logs_and_monkeypatch_work(rank, caplog, monkeypatch):
    """Protects: caplog and monkeypatch on ranks."""
    import logging

    monkeypatch.setenv("SOME_VARIABLE", str(rank))
    logging.getLogger("test").warning("rank %d", rank)

    assert caplog.messages == [f"rank {rank}"]


@two
def test_stdin_is_empty():
    """Protects: a rank that reads stdin gets its end and not the agent's commands."""
    assert os.read(0, 1) == b""


@two
@pytest.mark.parametrize("value", ["ü", "a/b", "x y"])
def test_ids_with_odd_characters_are_found(value):
    """Protects: the agent finds an item by the very id of the controller."""
    assert value in {"ü", "a/b", "x y"}


class TestInClass:
    """Methods run on ranks like functions."""

    @two
    def test_method(self, rank):
        """Protects: methods."""
        assert gathered(rank) == [0, 1]


@two
def test_breakpoint_says_how_to_debug():
    """Protects: a breakpoint on a rank is answered with the command that has a terminal."""
    with pytest.raises(RuntimeError) as caught:
        breakpoint()  # noqa: T100

    assert str(caught.value) == (
        "breakpoint() on a rank: it has no terminal. Run the test in this process, as the only"
        " rank: pytest --ds-world-size=1 --pdb"
    )


@two
def test_parallel_ops_after_the_fork(rank):
    """Protects: multi-threaded math in a forked rank does not hang on the agent's dead pool."""
    torch.set_num_threads(2)
    x = torch.randn(512, 512)

    assert torch.allclose(x @ x, x @ x)


@two
def test_data_loader_workers(rank):
    """Protects: a DataLoader with workers runs on a rank and leaves nothing behind."""
    from torch.utils.data import DataLoader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches = list(DataLoader(range(8), batch_size=4, num_workers=2))

    assert [b.tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7]]
