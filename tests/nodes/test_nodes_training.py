"""The reference training over two nodes is that over one, and so are its checkpoints."""

import pytest


@pytest.mark.over_nodes(
    """
    import os
    import pytest

    def trained(config):
        from pytest_deepspeed.training.run import train
        run = train(config, data="synthetic", steps=5, seed=0, width=1)
        return int(os.environ["GROUP_RANK"]), run.record.loss, run.record.grad_norm

    @pytest.mark.parametrize("stage", [0, 3])
    def test_trains(ds_run, stage):
        from reference_training import configs
        config = configs.load(stage)
        over_two = ds_run(trained, world_size=4, config=config)
        on_one = ds_run(trained, world_size=4, nodes=1, config=config)
        assert [node for node, *_ in over_two] == [0, 0, 1, 1]
        assert [node for node, *_ in on_one] == [0, 0, 0, 0]
        losses = on_one[0][1]
        assert len(set(losses)) == 5
        # Compared as numbers, to the last bit.
        assert [rest for _, *rest in over_two] == [rest for _, *rest in on_one]
    """
)
def test_the_loss_curve(over_nodes):
    """Protects: how ranks are spread over nodes changes no bit of losses and gradient norms."""
    assert over_nodes.summary == [
        f"PASSED test_trains.py::test_trains[{stage}]" for stage in (0, 3)
    ]


@pytest.mark.over_nodes(
    """
    import os
    import pytest
    from pytest_deepspeed.training import matrix
    from pytest_deepspeed.training.checkpoint import phases, snapshot
    from pytest_deepspeed.training.matrix import Mode

    def steady():
        from reference_training.trap import Trap
        return Trap(["tied", "reused", "odd_shapes", "groups"])

    def save(rank, **given):
        saved = phases.save(rank=rank, workload=steady, more=1, **given)
        return int(os.environ["GROUP_RANK"]), saved.at_save

    def load(ds_config, directory):
        workload = phases.Scrambled(steady())
        engine = phases.build(ds_config, workload, directory, "load")
        before = snapshot.take(engine)
        engine.load_checkpoint(directory + "/" + phases.CHECKPOINT, tag=phases.OLDER)
        loaded = snapshot.take(engine)
        engine.destroy()
        return int(os.environ["GROUP_RANK"]), before, loaded

    def test_checkpoint(ds_run, tmp_path):
        given = {"ds_config": matrix.config(Mode(3), nvme_path=None), "directory": str(tmp_path)}
        saved = ds_run(save, world_size=2, at=2, **given)
        loaded = ds_run(load, world_size=2, nodes=1, **given)
        assert [node for node, _ in saved] == [0, 1]
        assert [node for node, *_ in loaded] == [0, 0]
        for (_, written), (_, before, found) in zip(saved, loaded, strict=True):
            assert before.weights != written.weights
            assert found.weights == written.weights
            assert found.moments == written.moments
            assert found.optimizer_steps == written.optimizer_steps == 2
    """
)
def test_a_checkpoint(over_nodes):
    """Protects: ZeRO-3 shards that two nodes wrote come back bit by bit on one."""
    assert over_nodes.summary == ["PASSED test_checkpoint.py::test_checkpoint"]
