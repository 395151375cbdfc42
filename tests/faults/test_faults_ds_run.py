# ruff: noqa: E501 (messages are compared as they are shown)
"""ds_run from a test of the controller: what goes to ranks and back, and how it fails."""

import pytest
from inner import text


@pytest.mark.inner(
    """
    import torch.distributed as dist

    def train(rank, steps):
        loss = [2.0, 1.0, 1.5][:steps]
        if rank == 1:
            assert loss == sorted(loss, reverse=True)
        dist.barrier()

    def test_function(ds_run):
        ds_run(train, world_size=2, steps=3)
    """
)
def test_a_function_fails_on_a_rank(shown):
    """The rank's assertion stands in the failure of the controller's test, below the call."""
    assert shown.failure == text(
        """
        test_function

        ds_run = <pytest_deepspeed.fixtures.DsRun object at 0xN>

            def test_function(ds_run):
        >       ds_run(train, world_size=2, steps=3)
        E       pytest_deepspeed.RanksFailed: rank 1: assert [2.0, 1.0, 1.5] == [2.0, 1.5, 1.0]
        E       rank = 1, steps = 3
        E
        E           def train(rank, steps):
        E               loss = [2.0, 1.0, 1.5][:steps]
        E               if rank == 1:
        E       >           assert loss == sorted(loss, reverse=True)
        E       E           assert [2.0, 1.0, 1.5] == [2.0, 1.5, 1.0]
        E       E
        E       E             At index 1 diff: 1.0 != 1.5
        E       E             Use -v to get more diff
        E
        E       test_function.py:6: AssertionError
        E       ------------------------------------ ranks -------------------------------------
        E       rank 0: aborted in call, N ms later: it lost the connection to a peer
        E       rank 1: failed first, in call
        E
        E       repeat it outside pytest:
        E       env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed --call TMP/ranks_test_function0/call.json

        test_function.py:10: RanksFailed
        """
    )


@pytest.mark.inner(
    """
    import time

    def save(rank):
        time.sleep(rank / 4)
        return lambda: 1

    def test_unpicklable_value(ds_run):
        ds_run(save, world_size=2)
    """
)
def test_a_value_that_cannot_be_pickled(shown):
    """A return value that no pipe can carry is named, with what to return instead."""
    assert shown.failure == text(
        """
        test_unpicklable_value

        ds_run = <pytest_deepspeed.fixtures.DsRun object at 0xN>

            def test_unpicklable_value(ds_run):
        >       ds_run(save, world_size=2)
        E       pytest_deepspeed.RanksFailed: rank 0: save returned a function that cannot be pickled (AttributeError: Can't pickle local object 'save.<locals>.<lambda>'). Return plain data: numbers, lists, CPU tensors
        E       ------------------------------------ ranks -------------------------------------
        E       rank 0: failed first, in call
        E       rank 1: aborted in call, N ms later: save returned a function that cannot be pickled (AttributeError: Can't pickle local object 'save.<locals>.<lambda>'). Return plain data: numbers, lists, CPU tensors
        E
        E       repeat it outside pytest:
        E       env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed --call TMP/ranks_test_unpicklable_value0/call.json

        test_unpicklable_value.py:8: RanksFailed
        """
    )


@pytest.mark.inner(
    """
    def test_lambda(ds_run):
        ds_run(lambda: 1, world_size=2)
    """
)
def test_a_lambda(shown):
    """A function that ranks cannot import is refused before anything is started."""
    assert shown.failure == text(
        """
        test_lambda

        ds_run = <pytest_deepspeed.fixtures.DsRun object at 0xN>

            def test_lambda(ds_run):
        >       ds_run(lambda: 1, world_size=2)
        E       ValueError: ds_run needs a function at the top level of a module, which ranks can import by name; test_lambda.<locals>.<lambda> is not. Move it out of the test

        test_lambda.py:2: ValueError
        """
    )


@pytest.mark.inner(
    """
    def save(model):
        pass

    def test_unpicklable_argument(ds_run):
        ds_run(save, world_size=2, model=lambda x: x)
    """
)
def test_an_argument_that_cannot_be_pickled(shown):
    """An argument that no pipe can carry is refused before anything is started."""
    assert shown.failure == text(
        """
        test_unpicklable_argument

        ds_run = <pytest_deepspeed.fixtures.DsRun object at 0xN>

            def test_unpicklable_argument(ds_run):
        >       ds_run(save, world_size=2, model=lambda x: x)
        E       ValueError: ds_run cannot pickle the arguments of save: AttributeError: Can't pickle local object 'test_unpicklable_argument.<locals>.<lambda>'. Pass plain data: numbers, paths, lists, CPU tensors

        test_unpicklable_argument.py:5: ValueError
        """
    )


@pytest.mark.inner(
    """
    import os, signal

    def die(rank):
        print("last words of", rank)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def test_killed_function(ds_run):
        ds_run(die, world_size=2)
    """
)
def test_a_killed_function(shown):
    """A rank that dies in a function is told as in a test, with what it printed."""
    assert shown.failure == text(
        """
        test_killed_function

        ds_run = <pytest_deepspeed.fixtures.DsRun object at 0xN>

            def test_killed_function(ds_run):
        >       ds_run(die, world_size=2)
        E       pytest_deepspeed.RanksFailed: rank 1 was killed by SIGKILL in call: not by pytest-deepspeed; the kernel's OOM killer is the usual sender (dmesg tells)
        E       ------------------------------------ ranks -------------------------------------
        E       rank 0: passed
        E       rank 1: was killed by SIGKILL in call
        E
        E       repeat it outside pytest:
        E       env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed --call TMP/ranks_test_killed_function0/call.json
        E       Captured stdout [rank 0]:
        E       last words of 0
        E
        E       Captured stdout [rank 1]:
        E       last words of 1

        test_killed_function.py:9: RanksFailed
        """
    )
