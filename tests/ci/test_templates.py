"""The action, the GitLab job and the workflow: their schemas, and their steps as a service runs
them, with the real pytest.
"""

import json
import re
import signal
import subprocess
import sys
import time

import job
import pytest

SCHEMAS = {
    job.ACTION: "vendor.github-actions",
    job.WORKFLOW: "vendor.github-workflows",
    job.GITLAB: "vendor.gitlab-ci",
}

#: Green by its rules; and with one key more, which DeepSpeed does not know.
GOOD = """{
  "train_batch_size": 8,
  "gradient_clipping": 1.0,
  "optimizer": {"type": "Adam", "params": {"lr": 0.01}}
}
"""
BAD = GOOD.replace('  "gradient_clipping"', '  "gradient_cliping": 1.0,\n  "gradient_clipping"')

#: All that is not decided by the rules alone takes ranks, and minutes.
RULES_ALONE = "-p no:cacheprovider --ds-checks=schema"


def check_schema(path, schema):
    """Asserts that check-jsonschema finds the file as the schema that it ships says."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("path", "schema"), SCHEMAS.items(), ids=lambda x: getattr(x, "name", x))
def test_schema(path, schema):
    """Protects: each file is what its service takes, by the schema that is published for it."""
    check_schema(path, schema)


def test_no_expression_in_a_script():
    """Protects: no name of a branch, and no input, is pasted into shell code."""
    steps = job.loaded(job.ACTION)["runs"]["steps"]
    scripts = [step["run"] for step in steps if "run" in step]

    assert len(scripts) == 6
    assert [script for script in scripts if "${{" in script] == []
    assert [step for step in steps if "run" in step and step["shell"] != "bash"] == []


def test_each_input_is_used_and_described():
    """Protects: no input of the action is without effect, and each that is used is declared."""
    text = job.ACTION.read_text()
    declared = job.loaded(job.ACTION)["inputs"]

    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(declared)
    assert all(entry["description"] for entry in declared.values())


def test_each_output_of_a_step_is_written():
    """Protects: no expression names an output that no step has, which is empty and no error."""
    steps = {step["id"]: step for step in job.loaded(job.ACTION)["runs"]["steps"] if "id" in step}
    used = set(re.findall(r"steps\.([\w-]+)\.outputs\.([\w-]+)", job.ACTION.read_text()))
    of_script = dict.fromkeys(["folder", "kind", "built"])
    written = {
        "wheels": {"folder", "kind", "asked"},
        "ops": set(of_script),
        "built": set(of_script),
        "base": {"base"},
        # Those of actions/cache/restore.
        "wheels-cache": {"cache-hit"},
        "ops-cache": {"cache-matched-key"},
    }

    assert {(step, name) for step, names in written.items() for name in names} >= used
    assert set(written) == set(steps)


def test_reports_and_caches_survive_a_red_run():
    """Protects: what is uploaded and kept after the tests is so where they failed."""
    steps = job.loaded(job.ACTION)["runs"]["steps"]
    names = [step["name"] for step in steps]
    after = steps[names.index("Tests") + 1 :]

    assert [step["name"] for step in after] == [
        "Reports",
        "Which ops there are now",
        "Keep the ops",
    ]
    assert all("always()" in step["if"] for step in after)
    gitlab = job.loaded(job.GITLAB)[".deepspeed-gate"]
    assert [gitlab["artifacts"]["when"], *(c["when"] for c in gitlab["cache"])] == ["always"] * 3


def test_the_workflow_here_pins_what_is_tested():
    """Protects: the project's own gate runs the versions that its tests run."""
    steps = job.loaded(job.WORKFLOW)["jobs"]["configs"]["steps"]
    own = next(step for step in steps if step["uses"] == "./ci/github")
    pinned = (job.ROOT / "constraints.txt").read_text().splitlines()

    assert set(own["with"]["torch"].split()) <= set(pinned)
    assert set(own["with"]) <= set(job.loaded(job.ACTION)["inputs"])


def on_a_branch(checkout, text):
    """Commits a config on the branch of the request."""
    job.commit(checkout, "a config", ds_config__json=text)
    checkout.joinpath("pytest.ini").write_text("[pytest]\n")


def test_a_red_pull_request(checkout, tmp_path):
    """Protects: the action's steps, in turn: the job ends with pytest's status, its summary and its
    annotations name the reason, and all reports are there to be uploaded.
    """
    on_a_branch(checkout, BAD)
    given = {"torch": "", "requirements": "", "arguments": RULES_ALONE}
    action = job.GitHub(tmp_path, checkout, given, GITHUB_BASE_REF="main")

    done = action.run()

    tests = done["Tests"]
    assert [name for name, step in done.items() if step.returncode] == ["Tests"], done
    assert tests.returncode == pytest.ExitCode.TESTS_FAILED, tests.stdout + tests.stderr
    assert action.values["steps.base.outputs.base"] == "origin/main"
    assert "gradient_cliping" in action.summary.read_text()
    assert re.search(r"^::error .*file=ds_config\.json,.*line=3\b", tests.stdout, re.MULTILINE)
    reports = checkout / "ds-reports"
    assert {path.name for path in reports.iterdir()} == {
        *("report.html", "report.md", "report.sarif", "junit.xml"),
    }
    rules = json.loads(reports.joinpath("report.sarif").read_text())["runs"][0]["results"]
    assert [result["ruleId"] for result in rules] == ["DS101"]


def test_a_green_pull_request(checkout, tmp_path):
    """Protects: a config that its rules find right leaves the job green, with a summary."""
    on_a_branch(checkout, GOOD)
    given = {"torch": "", "requirements": "", "arguments": RULES_ALONE}
    action = job.GitHub(tmp_path, checkout, given, GITHUB_BASE_REF="main")

    done = action.run(but=["Install"])

    assert [name for name, step in done.items() if step.returncode] == [], done["Tests"].stdout
    assert "ds_config.json" in action.summary.read_text()


def test_a_merge_request(checkout):
    """Protects: GitLab's job likewise, with the format that its merge requests show."""
    on_a_branch(checkout, BAD)
    done = job.of_gitlab(
        checkout,
        CI_MERGE_REQUEST_TARGET_BRANCH_NAME="main",
        GATE_TORCH="",
        GATE_REQUIREMENTS="",
        GATE_ARGUMENTS=RULES_ALONE,
    )

    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    found = json.loads(checkout.joinpath("ds-reports", "codequality.json").read_text())
    assert [(one["check_name"], one["location"]["path"]) for one in found] == [
        ("DS101", "ds_config.json")
    ]
    assert checkout.joinpath("ds-reports", "junit.xml").exists()


def test_a_run_that_is_cancelled(tmp_path):
    """Protects: what ran before a job was cancelled is in its reports."""
    tmp_path.joinpath("ds_config.json").write_text(BAD)
    tmp_path.joinpath("test_long.py").write_text(
        "import pathlib, time\n\n"
        "def test_long():\n    pathlib.Path('started').touch()\n    time.sleep(300)\n"
    )
    summary = tmp_path / "summary"
    env = {"GATE_ARGUMENTS": RULES_ALONE, "GITHUB_STEP_SUMMARY": str(summary)}
    process = subprocess.Popen(
        [job.SCRIPT, "test", "github"], cwd=tmp_path, env=job.environment(**env)
    )
    deadline = time.monotonic() + 60
    while not tmp_path.joinpath("started").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)

    assert process.wait(60) == pytest.ExitCode.INTERRUPTED
    assert "gradient_cliping" in summary.read_text()
    assert tmp_path.joinpath("ds-reports", "report.html").exists()
