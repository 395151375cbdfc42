"""The ops that a session's configs need are loaded before its first rank is forked."""

import pytest


def loaded():
    """On a rank: DeepSpeed's ops that it has by fork, and whether it knows what CPU this is."""
    from cpuinfo import get_cpu_info
    from deepspeed.ops.op_builder.builder import OpBuilder

    return sorted(OpBuilder._loaded_ops), get_cpu_info.cache_info().currsize


@pytest.mark.ds_config(stage=1, offload_optimizer="cpu")
def test_ops_of_a_caller_are_there(ds_run):
    """Protects: a rank of `ds_run` neither loads the op of the test's config nor starts a process
    to ask for the CPU, which takes 1.2 s each time.
    """
    ((ops, knows_the_cpu),) = ds_run(loaded, world_size=1)

    assert "cpu_adam" in ops  # and those of the session's other tests
    assert knows_the_cpu
