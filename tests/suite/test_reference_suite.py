"""The reference suite as a user has it: from the wheel, in an empty folder."""

import re
import subprocess
import sys

import inner
import pytest

SUITE = ("--pyargs", "pytest_deepspeed.suite")

#: The reference CIFAR10 training alone.
ZERO = ("--pyargs", "pytest_deepspeed.suite.test_zero")


def run(folder, *args, **env):
    """Runs pytest in an empty folder; the exit code and what was shown."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", *args],
        cwd=folder,
        env=inner.environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def table(output):
    """``{mode: verdict}`` of the table that is shown at the end."""
    rows = [line.split() for line in output.splitlines() if line.startswith("zero")]
    return {row[0]: row[-1] for row in rows}


@pytest.mark.parametrize("workers", [("-p", "no:xdist"), ("-n", "2")])
def test_m_zero3(tmp_path, workers):
    """Protects: ``-m zero3`` selects the stage and trains it, with and without ``-n``."""
    status, output = run(tmp_path, *ZERO, "-m", "zero3", *workers)

    assert status == 0, output
    assert table(output) == {"zero3-fp32": "passed", "zero3-bf16": "passed"}
    assert "data: synthetic (2,048 images)" in output


def test_every_stage_on_digits(tmp_path):
    """Protects: the demo: each stage trains on real images, and the known fault is expected."""
    status, output = run(tmp_path, *ZERO, "--ds-data=digits", "-m", "zero0 or zero2")

    assert status == 0, output
    assert table(output) == {
        "zero0-fp32": "passed",
        "zero0-bf16": "xfailed",
        "zero2-fp32": "passed",
        "zero2-bf16": "passed",
    }
    assert "data: digits: scikit-learn's 1,797 handwritten digits" in output


#: Where pinned memory is used.
ON_CPU = ("optimizer_cpu", "param_cpu", "optimizer_cpu-param_cpu")

#: Two checks of one mode of the matrix, in bf16 and fp16.
FEW = "(test_engagement or test_memory) and optimizer_nvme-param_cpu and not gas2 and not fp32"


@pytest.mark.parametrize("workers", [("-p", "no:xdist"), ("-n", "2")])
def test_the_matrix_on_nvme(tmp_path, workers):
    """Protects: ``-m "zero3 and offload_nvme" --ds-require=nvme`` trains with swap files on disk
    and passes; fp16 is skipped on a CPU, with the reason.
    """
    select = ("-m", "zero3 and offload_nvme", "--ds-require=nvme", "-k", FEW)
    status, output = run(tmp_path, *SUITE, *select, "-rsp", *workers)

    assert status == 0, output
    assert sorted(re.findall(r"^PASSED \S+::(\S+)", output, re.MULTILINE)) == [
        "test_engagement[zero3-optimizer_nvme-param_cpu-bf16]",
        "test_memory[zero3-optimizer_nvme-param_cpu-bf16]",
    ]
    skipped = re.findall(r"^SKIPPED \[(\d)\] \S+: (.+)", output, re.MULTILINE)
    reason = "a CPU does not train in fp16: run it on a machine with a GPU, or use bf16"
    assert {why for _, why in skipped} == {reason}
    assert sum(int(count) for count, _ in skipped) == 2
    lines = output.splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith("zero"))
    mode, ranks, first, _, last, *_ = lines[at].split()
    assert [mode, ranks] == ["zero3-opt..._nvme-param_cpu-bf16", "2"]
    assert lines[at + 1] == "  zero3-optimizer_nvme-param_cpu-bf16: 2 passed"
    assert float(last) < 0.5 * float(first)


def test_what_m_selects(tmp_path):
    """Protects: ``-m zero3`` selects the stage's modes and no other, by ids that stay; each check
    of each mode is a test.
    """
    status, output = run(tmp_path, *SUITE, "-p", "no:xdist", "-m", "zero3", "--collect-only", "-q")
    ids = re.findall(r"^\S*test_(?:zero|modes)\.py::(\S+)$", output, re.MULTILINE)
    lightning = re.findall(r"^\S*test_lightning\.py::(\S+)$", output, re.MULTILINE)
    per_mode = [id_ for id_ in ids if not id_.startswith("test_stages_agree[")]

    assert status == 0, output
    assert len(ids) + len(lightning) == output.count("::")
    programs = {re.sub(r"test_lightning\[\w+-(\w+)\]", r"\1", id_) for id_ in lightning}
    assert programs == {"zero3", "offload_cpu", "offload_nvme"}
    assert all(re.fullmatch(r"test_\w+\[zero3-\S+\]", id_) for id_ in per_mode)
    modes = {id_.partition("[")[2] for id_ in per_mode if id_.startswith("test_parity[")}
    assert "zero3-optimizer_nvme-param_cpu-bf16-gas2]" in modes
    for check in ("loss", "ranks", "engagement", "memory"):
        assert {x.partition("[")[2] for x in per_mode if x.startswith(f"test_{check}[")} == modes
    for check in ("checkpoint", "reshard"):
        saved = {x.partition("[")[2] for x in per_mode if x.startswith(f"test_{check}[")}
        assert saved == {mode for mode in modes if "-gas" not in mode}
    pinned = {mode for mode in modes if mode.endswith("-pinned]")}
    assert pinned == {f"zero3-{on}-bf16-pinned]" for on in ON_CPU}
    # Optimizer and parameters on none, cpu and nvme; dtypes; accumulation.
    assert len(modes - pinned) == 3 * 3 * 3 * 2


FP16 = """
    import pytest

    @pytest.mark.world_size(2)
    @pytest.mark.ds_config(stage=1, dtype="fp16")
    def test_fp16(ds_train):
        assert ds_train(steps=10).check() == []
"""


def test_what_is_adapted_is_said(inner_session):
    """Protects: fp16 on a CPU is changed, and report, summary and JUnit say so."""
    session = inner_session(FP16)
    change = (
        "fp16 -> bf16 (a CPU does not train in fp16; the fp16 block's\n  loss scaling is not used)."
    )

    assert session.status == 0, session.output
    assert f"adapted in 1 test: {change}" in session.output
    assert "(--ds-require=exact makes an adaptation a failure)" in session.output
    junit = session.folder.joinpath("junit.xml").read_text()
    assert 'name="ds_adapted"' in junit


def test_exact_makes_an_adaptation_a_failure(inner_session):
    """Protects: ``--ds-require=exact`` fails what cannot run as written, and says why."""
    session = inner_session(FP16, args=["--ds-require=exact"])

    assert session.status == 1
    assert "\n--ds-require=exact: fp16 -> bf16 (a CPU does not train in fp16;" in session.output


def test_the_seeds_config_runs(inner_session):
    """Protects: the seed's own config, as it is, trains on a CPU with what was changed said."""
    session = inner_session(
        """
        import pytest
        from pathlib import Path
        import reference_training

        SEED = Path(reference_training.__file__).parent / "examples/seed/ds_config.json"

        @pytest.mark.world_size(2)
        @pytest.mark.ds_config(SEED)
        def test_seed(ds_train, ds_config):
            run = ds_train(steps=5)
            assert run.record.train_batch_size == 16
            assert ds_config["bf16"]["enabled"]
        """,
        args=["-m", "zero0"],
    )

    assert session.status == 0, session.output
    assert "zero0-bf16  2      5" in session.output
