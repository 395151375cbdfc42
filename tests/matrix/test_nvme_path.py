"""Where a config swaps to that does not say it."""

import pytest

from pytest_deepspeed.training import nvme

OFFLOADED = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}


def test_path_is_filled_in_where_it_is_missing(tmp_path):
    """Protects: a missing path is filled in, one that is given stays, the given dict too."""
    given = {"zero_optimization": {"offload_param": {"device": "nvme", "nvme_path": "/mine"}}}

    assert nvme.lacks_path(OFFLOADED)
    assert not nvme.lacks_path(given)
    filled = nvme.with_path(OFFLOADED, tmp_path)
    assert filled["zero_optimization"]["offload_optimizer"]["nvme_path"] == str(tmp_path)
    assert nvme.with_path(given, tmp_path) == given
    assert nvme.lacks_path(OFFLOADED)


def test_the_last_rank_removes_the_directory(tmp_path):
    """Protects: a rank that is done takes away nothing that another still uses."""
    folder = nvme.folder_of_test(tmp_path, tmp_path / "test0")
    for rank in (0, 1):
        swap = folder / "zero_stage_3" / "optimizer" / f"rank{rank}"
        swap.mkdir(parents=True)
        swap.joinpath("1.tensor.swp").touch()

    nvme.remove_rank(folder, 0)
    assert [path.name for path in folder.rglob("*.swp")] == ["1.tensor.swp"]
    nvme.remove_rank(folder, 1)
    assert not folder.exists()


@pytest.mark.world_size(2)
@pytest.mark.ds_config(stage=3, dtype="bf16", offload_optimizer="nvme", offload_param="nvme")
def test_nvme_in_a_marker_trains(ds_config, ds_train):
    """Protects: "nvme" in a marker is enough for a training on ranks."""
    zero = ds_config["zero_optimization"]

    assert zero["offload_optimizer"]["nvme_path"] == zero["offload_param"]["nvme_path"]
    ds_train(steps=2)


SWAPS = """
    import pytest

    @pytest.mark.world_size(2)
    @pytest.mark.ds_config(stage=3, offload_optimizer="nvme")
    def test_swaps(ds_config, rank):
        from pathlib import Path
        path = Path(ds_config["zero_optimization"]["offload_optimizer"]["nvme_path"])
        assert path.parent.name == "disk"
        path.joinpath("zero_stage_3", "optimizer", f"rank{rank}").mkdir(parents=True)
"""


def test_nvme_path_option(inner_session, tmp_path):
    """Protects: --ds-nvme-path is where a test swaps, and nothing of it is left."""
    disk = tmp_path / "disk"
    disk.mkdir()

    assert inner_session(SWAPS, args=[f"--ds-nvme-path={disk}"]).status == 0
    assert list(disk.iterdir()) == []
