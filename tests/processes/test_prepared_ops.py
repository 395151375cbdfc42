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


LEARNS = """
    import sys
    import pytest
    from deepspeed.ops.op_builder import AsyncIOBuilder, CPUAdamBuilder
    from deepspeed.ops.op_builder.builder import OpBuilder

    @pytest.mark.world_size(1)
    def test_loads_an_op():
        assert "cpu_adam" not in OpBuilder._loaded_ops
        CPUAdamBuilder().load()

    @pytest.mark.world_size(1)
    def test_has_it_loaded():
        assert "cpu_adam" in OpBuilder._loaded_ops
        assert "cpuinfo" in sys.modules

    @pytest.mark.world_size(1)
    def test_loads_one_that_needs_another():
        if not AsyncIOBuilder().is_compatible():
            pytest.skip("async_io needs libaio: apt-get install libaio-dev")
        AsyncIOBuilder().load()

    @pytest.mark.world_size(1)
    def test_has_both_loaded():
        if "async_io" not in OpBuilder._loaded_ops:
            pytest.skip("async_io needs libaio: apt-get install libaio-dev")
        assert {"async_io", "pin_memory"} <= set(OpBuilder._loaded_ops)
"""


def test_ops_that_a_rank_has_loaded(inner_session):
    """Protects: what no config has announced is loaded and asked once, not by each test's ranks."""
    session = inner_session(LEARNS)

    assert session.status == 0, session.output
