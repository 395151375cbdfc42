"""Files in CIFAR10's own format, and trainings on two real ranks that several tests look at."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from pytest_deepspeed.processes import op_cache

TRAININGS = Path(__file__).with_name("trainings.py")


def write_batch(path, images, rng):
    """Write a batch file as the original's authors did: a pickled dict, channels first."""
    labels = rng.integers(0, 10, images).tolist()
    data = rng.integers(0, 256, (images, 3072), dtype=np.uint8)
    path.write_bytes(pickle.dumps({"data": data, "labels": labels, "batch_label": "b"}, protocol=2))
    return data, labels


@pytest.fixture(name="write_batch")
def write_batch_fixture():
    """Return the function that writes a batch file."""
    return write_batch


@pytest.fixture
def cifar10_dir(tmp_path):
    """Return a directory with five batches of 6 images, a test batch of 4, and the label names."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number in range(1, 6):
        write_batch(folder / f"data_batch_{number}", 6, rng)
    write_batch(folder / "test_batch", 4, rng)
    names = [f"class {number}" for number in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    return folder.parent


def torchrun(*arguments, timeout=420):
    """Run a script or module on two CPU ranks; the compiled ops may first have to be built."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
        "TORCH_EXTENSIONS_DIR": str(op_cache.cache_dir("cpu")),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", *map(str, arguments)),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(name="torchrun")
def torchrun_fixture():
    """Return the function that runs a script or module on two ranks."""
    return torchrun


@pytest.fixture(scope="session")
def trainings(tmp_path_factory):
    """Return what `trainings.py` recorded: name of the training -> the two ranks' records.

    It runs once per session, also where xdist spreads the tests over workers.
    """
    from reference_training.record import Record

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    result = folder / "trainings.json"
    with FileLock(folder / "trainings.lock"):
        if not result.exists():
            run = torchrun(TRAININGS, result)
            assert run.returncode == 0, run.stdout + run.stderr
    runs = json.loads(result.read_text())
    return {
        name: [Record.from_json(json.dumps(record)) for record in records]
        for name, records in runs.items()
    }
