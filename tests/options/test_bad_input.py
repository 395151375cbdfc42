"""Bad input: one clear usage error each, with what to type instead, and no traceback."""

from pathlib import Path

import inner
import pytest

import pytest_deepspeed
from pytest_deepspeed.values.world import RANKS_PER_CORE, cores

PASSES = """
    def test_passes():
        pass
"""

ON_COMMAND_LINE = {
    "--ds-nodes=0": "--ds-nodes: nodes must be a positive integer, got '0': --ds-nodes=2",
    "--ds-nodes=-1": "--ds-nodes: nodes must be a positive integer, got '-1': --ds-nodes=2",
    "--ds-nodes=x": "--ds-nodes: nodes must be a positive integer, got 'x': --ds-nodes=2",
    "--ds-launcher=mpi": "--ds-launcher: unknown value 'mpi': use one of slurm, local",
    "--ds-launcher=local": (
        "--ds-launcher=local says how nodes are started, and none are asked for: add --ds-nodes=2"
    ),
    "--ds-world-size=0": (
        "--ds-world-size: world_size must be a positive integer, got 0: write --ds-world-size=2"
    ),
    "--ds-world-size=-1": (
        "--ds-world-size: world_size must be a positive integer, got -1: write --ds-world-size=2"
    ),
    "--ds-world-size=two": (
        "--ds-world-size: world_size must be a positive integer, got 'two': write --ds-world-size=2"
    ),
    "--ds-device=tpu": "--ds-device: unknown value 'tpu': use one of auto, cpu, cuda",
    "--ds-device=cuda": (
        "--ds-device=cuda, but this process has no GPU (none under /proc/driver/nvidia, or"
        " CUDA_VISIBLE_DEVICES hides them): use --ds-device=cpu"
    ),
    "--ds-backend=mpi": "--ds-backend: unknown value 'mpi': use one of auto, gloo, nccl",
    "--ds-timeout=soon": "--ds-timeout: seconds, more than 0, got 'soon': --ds-timeout=60",
    "--ds-timeout=0": "--ds-timeout: seconds, more than 0, got '0': --ds-timeout=60",
    "--ds-seed=x": "--ds-seed: a whole number, got 'x': --ds-seed=0",
    "--ds-require=nothing": (
        "--ds-require: unknown value 'nothing': use one of exact, cuda, nvme, slurm"
    ),
    "--ds-nvme-path=/no/such/folder": (
        "--ds-nvme-path: /no/such/folder is no existing directory: give a writable directory on a"
        " local disk"
    ),
    "--ds-nvme-path=/proc": (
        "--ds-nvme-path: /proc cannot be written (No such file or directory): give a writable"
        " directory on a local disk"
    ),
    "--ds-data=/no/such/folder": (
        "--ds-data: the data directory /no/such/folder does not exist: give the one that holds"
        " cifar-10-batches-py"
    ),
}

MARKERS = {
    "world_size(0)": "world_size must be a positive integer, got 0: write world_size(2)",
    "world_size(-1)": "world_size must be a positive integer, got -1: write world_size(2)",
    "world_size('two')": "world_size must be a positive integer, got 'two': write world_size(2)",
    "world_size(True)": "world_size must be a positive integer, got True: write world_size(2)",
    "world_size([2, 0])": "world_size must be a positive integer, got 0: write world_size(2)",
    "world_size()": (
        "world_size takes a size or a list of sizes, and init_process_group; write world_size(2)"
    ),
    "world_size(2, backend='x')": (
        "world_size takes a size or a list of sizes, and init_process_group; write world_size(2)"
    ),
    **dict.fromkeys(
        ("multinode(1)", "multinode('two')", "multinode(2, 3)", "multinode(nodes=2)"),
        "multinode takes a number of nodes, at least 2; write multinode(2)",
    ),
    "ds_config(stage=4)": "ZeRO stage must be 0, 1, 2 or 3, got 4; write ds_config(stage=2)",
    "ds_config(dtype='int8')": "dtype must be one of fp32, bf16, fp16, got 'int8'",
    "ds_config('no.json')": "the DeepSpeed config DIR/no.json does not exist",
    "ds_config(3)": "ds_config takes a dict or a path, got 3; write ds_config(stage=2)",
}


def errors(session):
    """What was shown, from the first ``ERROR`` on."""
    assert "Traceback" not in session.output
    return session.output[session.output.index("ERROR:") :].split("\n\n")[0].strip()


@pytest.mark.parametrize("argument", ON_COMMAND_LINE)
def test_option(argument, inner_session):
    """Protects: a wrong option is one line that says what to type, before any test."""
    session = inner_session(PASSES, args=[argument])

    assert session.status == 4
    assert errors(session) == f"ERROR: {ON_COMMAND_LINE[argument]}"


@pytest.mark.parametrize("marker", MARKERS)
def test_marker(marker, inner_session):
    """Protects: a wrong marker is one line with file and line, before any test runs."""
    session = inner_session(
        f"""
        import pytest

        @pytest.mark.{marker}
        def test_marked():
            pass
        """
    )

    assert session.status == 4
    shown = errors(session).replace("[world_size_2]", "")
    assert shown == f"ERROR: test_marked.py:3: test_marked: {MARKERS[marker]}"


def test_more_ranks_than_the_machine_holds(inner_session):
    """Protects: the arithmetic is shown, with what to type."""
    most = RANKS_PER_CORE * cores()
    session = inner_session(PASSES, args=[f"--ds-world-size={most + 1}"])

    assert errors(session) == (
        f"ERROR: --ds-world-size: world_size {most + 1} is more than the {most} ranks this machine"
        f" may hold (8 for each of {cores()} cores): use --ds-world-size={most} or fewer"
    )


def test_nodes_outside_a_job(inner_session, monkeypatch):
    """Protects: without an allocation the lines to type are shown, the user's arguments in them."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    session = inner_session(PASSES, args=["--ds-nodes=2", "-k", "a or b"])

    assert session.status == 4
    given = "-rfEsxXp --junitxml=junit.xml --ds-nodes=2 -k 'a or b'"
    script = Path(pytest_deepspeed.__file__).parents[1] / "slurm/pytest.sbatch"
    assert errors(session) == (
        "ERROR: --ds-nodes=2 needs a Slurm job, and this is none (SLURM_JOB_ID is not set). Submit"
        " one:\n"
        f"    sbatch --nodes=2 {script} {given}\n"
        "or run in an interactive one:\n"
        "    salloc --nodes=2 --ntasks-per-node=1 --cpus-per-task=4 --time=00:30:00 bash"
        f" {script} {given}\n"
        "With --ds-launcher=local the nodes are emulated on this machine."
    )


def test_broken_data(inner_session, tmp_path):
    """Protects: a data folder with broken files is named before any training."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    folder.joinpath("data_batch_1").write_bytes(b"broken")

    session = inner_session(PASSES, args=["--ds-data=data"])

    assert session.status == 4
    assert errors(session).startswith("ERROR: --ds-data: ")
    assert "data_batch" in errors(session) or "batches.meta" in errors(session)


def test_where_a_value_comes_from(inner_session, tmp_path, monkeypatch):
    """Protects: an error names the environment variable or the ini file, not an option."""
    monkeypatch.setattr(inner, "_INI", inner._INI + "ds_timeout = never\n")
    from_ini = errors(inner_session(PASSES))
    monkeypatch.setattr(inner, "_INI", "[pytest]\n")
    process = inner.start(tmp_path, PYTEST_DS_TIMEOUT="never")
    process.wait()
    from_environment = tmp_path.joinpath("output").read_text()

    assert from_ini == (
        "ERROR: ds_timeout in pytest.ini: seconds, more than 0, got 'never': ds_timeout=60"
    )
    assert (
        "ERROR: PYTEST_DS_TIMEOUT: seconds, more than 0, got 'never': PYTEST_DS_TIMEOUT=60"
        in from_environment
    )


def test_header_shows_what_is_set(inner_session, tmp_path):
    """Protects: the header says what is not the default, and where it came from."""
    shown = inner_session(PASSES, args=["--ds-seed=3"]).output
    process = inner.start(tmp_path, PYTEST_DS_DEVICE="cpu")
    process.wait()
    from_environment = tmp_path.joinpath("output").read_text()

    assert "\ndeepspeed: seed=3\n" in shown
    assert "\ndeepspeed: device=cpu (PYTEST_DS_DEVICE)\n" in from_environment


def test_header_is_silent_by_default(inner_session):
    """Protects: a session that sets nothing has no line of ours."""
    assert "deepspeed: " not in inner_session(PASSES).output


def test_rank_fixture_without_marker(inner_session):
    """Protects: a fixture of ranks in an unmarked test says which marker is missing."""
    session = inner_session(
        """
        def test_unmarked(rank):
            pass
        """
    )

    assert (
        "test_unmarked.py:1: test_unmarked: the fixture 'rank' exists on ranks only: mark the test"
        " with @pytest.mark.world_size(2)" in session.output
    )


def test_other_platforms(inner_session):
    """Protects: macOS and Windows get one clear message and no crash in fork."""
    conftest = """
        import sys
        sys.platform = "darwin"

        def test_platform(): pass
    """
    session = inner_session(conftest, args=["-p", "test_platform"])

    assert session.status == 4
    assert errors(session) == (
        "ERROR: pytest-deepspeed forks its ranks and supervises them with pidfd and prctl: it runs"
        " on Linux and WSL2, not on darwin. Leave it out here with -p no:pytest_deepspeed"
    )
