"""What is decided of GPUs without one: who gets which, what is skipped, what is left on them."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator

from pytest_deepspeed.processes import compile_op, containment, devices, gpu, gpu_contexts
from pytest_deepspeed.processes.op_cache import OpBuildError


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        ("0,1,3", 3),
        (" 2 , 0 ", 2),
        ("GPU-8f6e,GPU-11aa", 2),
        ("MIG-1f2e,MIG-77aa", 1),
        ("", 0),
        ("-1", 0),
        ("1,-1,0", 1),
        ("NoDevFiles", 0),
    ],
)
def test_visible_gpus_are_counted_as_cuda_counts_them(visible, count):
    """Protects: what follows a name that is none is not seen, and of MIG slices one is."""
    assert devices.named_gpus(visible) == count


@pytest.mark.parametrize(
    ("gpus", "of_ranks"), [(1, [0, 0, 0, 0]), (2, [0, 1, 0, 1]), (4, [0, 1, 2, 3])]
)
def test_ranks_share_gpus_in_turn(monkeypatch, gpus, of_ranks):
    """Protects: one rule for a rank's GPU wherever it is asked for, without a context."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)

    assert [devices.gpu_of(rank, gpus) for rank in range(4)] == of_ranks
    assert [devices.of_rank("cuda", rank).index for rank in range(4)] == of_ranks
    assert devices.of_rank("cpu", 3) == torch.device("cpu")
    assert not torch.cuda.is_initialized()


def test_no_gpu_for_a_rank(monkeypatch):
    """Protects: a torch that finds no GPU is told, not a division by zero."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    why = "finds no GPU here" if torch.version.cuda else "is built without CUDA"

    with pytest.raises(RuntimeError) as raised:
        devices.of_rank("cuda", 0)

    assert str(raised.value) == (
        f"ranks are to run on CUDA, and the installed torch {torch.__version__} {why}: see what"
        " nvidia-smi and CUDA_VISIBLE_DEVICES say, or use --ds-device=cpu"
    )


@pytest.mark.parametrize(
    ("world_size", "nodes", "gpus", "one", "text"),
    [
        (1, [""], [1], False, ""),
        (4, [""], [4], False, ""),
        (
            2,
            [""],
            [1],
            False,
            (
                "world_size 2 needs 2 GPUs with NCCL, which refuses two ranks on one, and this"
                " process has 1: --ds-backend=gloo lets ranks share a GPU, --ds-world-size=1 runs"
                " marked tests and configs on fewer ranks"
            ),
        ),
        (4, ["n1", "n2"], [2, 2], False, ""),
        (
            5,
            ["n1", "n2"],
            [2, 4],
            False,
            (
                "world_size 5 needs 3 GPUs on n1 with NCCL, which refuses two ranks on one, and n1"
                " has 2: --ds-backend=gloo lets ranks share a GPU, --ds-world-size=4 runs marked"
                " tests and configs on fewer ranks"
            ),
        ),
        (1, ["node0", "node1"], [4, 4], True, ""),
        (
            2,
            ["node0", "node1"],
            [4, 4],
            True,
            (
                "world_size 2 puts ranks of 2 emulated nodes on the same GPUs, and NCCL refuses two"
                " ranks on one: --ds-backend=gloo lets ranks share a GPU, and in a Slurm job"
                " --ds-nodes has nodes of its own"
            ),
        ),
    ],
)
def test_too_few_gpus(world_size, nodes, gpus, one, text):
    """Protects: a world that NCCL would refuse is known before it starts, with the arithmetic."""
    assert devices.too_few_gpus(world_size, nodes, gpus, one) == text


def test_deepspeed_shares_gpus(monkeypatch):
    """Protects: DeepSpeed's own accelerator takes LOCAL_RANK, a number or a text, modulo GPUs."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    accelerator = CUDA_Accelerator()

    gpu.share(accelerator, 2)
    accelerator.set_device(3)
    accelerator.set_device(torch.device("cuda", 1))

    assert chosen == [1, torch.device("cuda", 1)]
    assert [accelerator.device_name(i) for i in (None, 0, 3, "2")] == [
        "cuda",
        "cuda:0",
        "cuda:1",
        "cuda:0",
    ]
    assert accelerator.device(5) == torch.device("cuda", 1)


def _initialise(monkeypatch):
    """Torch as on a GPU, as far as its initialisation goes."""
    state = types.SimpleNamespace(done=False)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: setattr(state, "done", True))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: state.done)
    monkeypatch.setattr(gpu._Initialised, "where", "")


def test_who_initialised_cuda_is_named(monkeypatch):
    """Protects: the file, line and code that make an agent unfit to be forked."""
    _initialise(monkeypatch)
    gpu.watch()
    assert gpu.touched() == ""

    torch.cuda._lazy_init()
    line = sys._getframe().f_lineno - 1

    where = f"{os.path.relpath(__file__)}:{line}: torch.cuda._lazy_init()"
    assert gpu.touched() == f"{where} has initialised CUDA"


def test_cuda_of_an_import_before_anybody_watched(monkeypatch):
    """Protects: what DeepSpeed or a library did is not laid on a test module."""
    _initialise(monkeypatch)
    torch.cuda._lazy_init()
    gpu.watch()

    assert gpu.touched() == "importing torch, DeepSpeed or what they import has initialised CUDA"


def test_cuda_without_torch(monkeypatch):
    """Protects: a library that uses the driver by itself is seen by the driver's device file."""
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    assert gpu.touched() == ""
    monkeypatch.setattr(gpu, "_OPENED_BY_CUDA", "/dev/full")

    with Path("/dev/full").open():
        assert gpu.touched() == (
            "importing a conftest or test module has initialised CUDA without torch"
            " (/dev/full is open)"
        )


PRINTED = """\
4021, 518
4021, 1024
77, [N/A]
No running processes found
"""


def test_what_nvidia_smi_prints():
    """Protects: a process on two GPUs is added up, and what the driver does not tell is None."""
    assert gpu_contexts.parse(PRINTED) == {4021: 1542 * 2**20, 77: None}


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a program of that name first on PATH, that prints a text and keeps its arguments."""

    def put(text):
        program = tmp_path / "nvidia-smi"
        program.write_text(
            f"#!/bin/sh\necho \"$*\" > {tmp_path}/arguments\ncat <<'END'\n{text}\nEND\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


def test_nvidia_smi_is_asked(nvidia_smi, tmp_path):
    """Protects: the columns that are parsed are those that are asked for."""
    nvidia_smi("12, 3")

    assert gpu_contexts.query() == {12: 3 * 2**20}
    assert tmp_path.joinpath("arguments").read_text() == (
        "--query-compute-apps=pid,used_gpu_memory --format=csv,noheader,nounits\n"
    )


def test_no_nvidia_smi(monkeypatch, tmp_path):
    """Protects: a machine without nvidia-smi says nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))

    assert gpu_contexts.query() == {}
    assert gpu_contexts.still_held([1]) == []


def test_only_who_has_a_gpu_open_is_asked_for(nvidia_smi, tmp_path, monkeypatch):
    """Protects: the question, a tenth of a second, is spared where no process has a GPU open."""
    nvidia_smi(f"{os.getpid()}, 518")

    assert gpu_contexts.held([os.getpid()]) == {}
    assert not tmp_path.joinpath("arguments").exists()

    monkeypatch.setattr(gpu_contexts, "may_hold", lambda _: True)
    held = gpu_contexts.held([os.getpid(), 1])
    assert held == {os.getpid(): "a GPU context with 518.00 MiB"}


def test_a_context_that_outlives_its_rank(nvidia_smi):
    """Protects: memory that the driver holds for a rank that was killed is told, with its size."""
    nvidia_smi("99, 518\n98, [N/A]\n97, 5")

    assert gpu_contexts.still_held([99, 98, 96]) == [
        (
            "a GPU context with 518.00 MiB was left by a rank that was killed (pid 99): its process"
            " has ended, and nvidia-smi still lists it"
        ),
        (
            "a GPU context was left by a rank that was killed (pid 98): its process has ended, and"
            " nvidia-smi still lists it"
        ),
    ]


def test_strays_are_looked_at_while_they_live():
    """Protects: who is about to be killed is asked for before, when it still holds something."""
    mine = set(containment.children())
    process = subprocess.Popen(["sleep", "600"])
    looked = []

    left = containment.kill_strays(mine, looked.append)

    assert looked == [[process.pid]]
    assert left == [(process.pid, "sleep 600")]


def test_no_nvcc(monkeypatch, tmp_path):
    """Protects: a GPU without the CUDA toolkit is told what to type, not torch's traceback."""
    for tool in ("c++", "ninja"):
        (tmp_path / tool).write_text("#!/bin/sh\n")
        (tmp_path / tool).chmod(0o755)
    for name, value in {"PATH": tmp_path, "CUDA_HOME": tmp_path, "CXX": "c++"}.items():
        monkeypatch.setenv(name, str(value))

    with pytest.raises(OpBuildError) as raised:
        compile_op._check_tools("fused_adam", "cuda")

    assert str(raised.value) == (
        "DeepSpeed op fused_adam cannot be built: there is no CUDA compiler, nvcc is neither in"
        " $CUDA_HOME/bin nor on PATH; type: module load cuda (or install the CUDA toolkit of"
        " torch's version and set CUDA_HOME). An Adam of the config can do without:"
        ' "torch_adam": true in optimizer.params'
    )
    compile_op._check_tools("cpu_adam", "cuda")
    compile_op._check_tools("fused_adam", "cpu")
