"""What a person sees of the test `schema` of a config file."""

import re
import subprocess
import sys

import inner
import pytest

WRONG = """\
{
  "train_batch_size": 16,
  "gradient_acumulation_steps": 2,
  "gradient_clipping": 1.0,
  "optimizer": {"type": "AdamW", "params": {"lr": 0.001}},
  "zero_optimization": {
    "stage": 2,
    "cpu_offload": false
  }
}
"""

#: A hazard, and no error: the batch fits 4 ranks alone.
HAZARD = """\
{
  "train_batch_size": 16,
  "train_micro_batch_size_per_gpu": 4,
  "gradient_accumulation_steps": 1,
  "gradient_clipping": 1.0,
  "optimizer": {"type": "AdamW", "params": {"lr": 0.001}}
}
"""

ONLY_SCHEMA = ["--ds-checks=schema"]


def without_times(text):
    """A section of the output, with its times replaced."""
    return re.sub(r"\b\d\.\d\d s", "N s", text)


def test_errors_are_shown_with_their_places(inner_session, tmp_path):
    """Protects: each error says where, what DeepSpeed does and what to write; no traceback."""
    tmp_path.joinpath("ds_config.json").write_text(WRONG)

    session = inner_session(args=ONLY_SCHEMA)

    assert session.section("FAILURES") == inner.text("""
        ____________________________ ds_config.json::schema ____________________________
        ds_config.json:3:3: DS101 unknown-key
            "gradient_acumulation_steps": 2,
          DeepSpeed ignores "gradient_acumulation_steps", a key that it does not know.
          Did you mean "gradient_accumulation_steps"?
          (more: python -m pytest_deepspeed.explain DS101)

        ds_config.json:8:5: DS501 deprecated-key
            "cpu_offload": false
          DeepSpeed calls cpu_offload deprecated, and reads offload_optimizer from it.
          Take it away: nothing is offloaded.
          (more: python -m pytest_deepspeed.explain DS501)

        2 errors in ds_config.json
        mend 2 of them: pytest --ds-fix ds_config.json
    """)
    assert without_times(session.section("DeepSpeed")) == inner.text("""
        config          ranks  time    checks
        ds_config.json  2      N s  schema failed
        mend: pytest --ds-fix ds_config.json
    """)
    assert session.section("short test summary info") == (
        "FAILED ds_config.json::schema - ds_config.json:3:3: DS101 unknown-key\n"
    )


def test_hazards_are_green_and_shown(inner_session, tmp_path):
    """Protects: a warning leaves the test green, stands in pytest's own summary with its place, and
    ``-W error`` makes it a failure.
    """
    tmp_path.joinpath("ds_config.json").write_text(HAZARD)

    green = inner_session(args=ONLY_SCHEMA)
    shown = green.section("warnings summary"), green.status
    red = inner_session(args=[*ONLY_SCHEMA, "-W", "error::pytest_deepspeed.DsConfigWarning"])

    assert shown[1] == pytest.ExitCode.OK
    assert "DIR/ds_config.json:2: DsConfigWarning: 3: DS406 batch-pins-world-size: " in shown[0]
    assert red.status == pytest.ExitCode.TESTS_FAILED


def test_rules_are_left_out_with_a_reason(inner_session, tmp_path):
    """Protects: a comment in the file and ``ignore`` in ``pyproject.toml`` silence a rule."""
    commented = WRONG.replace(
        '"cpu_offload": false', '"cpu_offload": false // ds-ignore: DS501 (for an old cluster)'
    )
    tmp_path.joinpath("ds_config.json").write_text(commented)
    tmp_path.joinpath("pyproject.toml").write_text(
        '[tool.pytest_deepspeed]\nignore = {DS101 = "our launcher reads it"}\n'
    )

    session = inner_session(args=ONLY_SCHEMA)

    assert session.status == pytest.ExitCode.OK
    junit = session.folder.joinpath("junit.xml").read_text()
    assert 'value="8: DS501 deprecated-key: for an old cluster"' in junit


def test_fixing_writes_and_shows_what(inner_session, tmp_path):
    """Protects: ``--ds-fix`` mends the file, keeps the rest of it, shows the difference, and trains
    nothing; a second time there is nothing to do.
    """
    file = tmp_path / "ds_config.json"
    file.write_text(WRONG)
    mended = WRONG.replace("acum", "accum").replace(',\n    "cpu_offload": false', "")

    first = inner_session(args=["--ds-fix", "--ds-checks=loss"])  # its schema alone all the same
    shown = without_times(first.section("DeepSpeed")), first.status
    second = inner_session(args=["--ds-fix"])

    assert file.read_text() == mended
    assert shown == (
        inner.text("""
            --- ds_config.json
            +++ ds_config.json
            @@ -1,10 +1,9 @@
             {
               "train_batch_size": 16,
            -  "gradient_acumulation_steps": 2,
            +  "gradient_accumulation_steps": 2,
               "gradient_clipping": 1.0,
               "optimizer": {"type": "AdamW", "params": {"lr": 0.001}},
               "zero_optimization": {
            -    "stage": 2,
            -    "cpu_offload": false
            +    "stage": 2
               }
             }
            config          ranks  time    checks
            ds_config.json  2      N s  1 passed
        """),
        pytest.ExitCode.OK,
    )
    assert "---" not in second.section("DeepSpeed")


def test_the_batch_is_tried_at_the_declared_world_sizes(inner_session, tmp_path):
    """Protects: sizes of the cluster, that no laptop has, are tried by arithmetic."""
    file = tmp_path / "ds_config.json"
    file.write_text(WRONG.replace("acum", "accum").replace(',\n    "cpu_offload": false', ""))
    tmp_path.joinpath("pyproject.toml").write_text(
        "[tool.pytest_deepspeed]\ntarget_world_sizes = [8, 64]\n"
    )

    session = inner_session(args=ONLY_SCHEMA)

    assert session.status == pytest.ExitCode.TESTS_FAILED
    assert "ds_config.json:2:3: DS405 batch-not-divisible" in session.output
    assert " 64 " in session.section("FAILURES")


def test_rules_are_explained():
    """Protects: the command that stands below each finding prints the rule's page, also for those
    that have no clone; a rule that there is not is named.
    """
    explain = [sys.executable, "-m", "pytest_deepspeed.explain"]
    known = subprocess.run([*explain, "DS101"], capture_output=True, text=True, check=True)
    unknown = subprocess.run([*explain, "DS1"], capture_output=True, text=True, check=False)

    assert known.stdout.startswith("# DS101 unknown-key\n")
    assert unknown.stderr == (
        "there is no rule DS1; usage: python -m pytest_deepspeed.explain DS101 ...\n"
    )
    assert unknown.returncode == 2
