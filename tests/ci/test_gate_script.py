"""The steps of ci/gate.sh, on a real remote; where its arguments count, with a pytest that says
them.
"""

import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import job
import pytest

from pytest_deepspeed.processes.op_cache import cache_dir

REPORTS = [
    "--junitxml=reports/junit.xml",
    *("--ds-report", "html:reports/report.html"),
    *("--ds-report", "md:reports/report.md"),
    *("--ds-report", "sarif:reports/report.sarif"),
]


def test_shellcheck():
    """Protects: the script has none of the mistakes that shellcheck knows."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is missing: apt-get install shellcheck")
    done = subprocess.run(["shellcheck", job.SCRIPT], capture_output=True, text=True, check=False)

    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(
    "env",
    [
        {"GITHUB_BASE_REF": "main"},
        {"CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main"},
        {"GATE_BASE": "main"},
        {"GATE_BASE": "origin/main"},
    ],
    ids=" ".join,
)
def test_a_shallow_checkout_is_deepened_to_the_base(checkout, env):
    """Protects: HEAD and its target meet, though one commit of one branch was checked out."""
    done = job.of_script("base", checkout, **env)

    assert (done.returncode, done.stdout) == (0, "origin/main\n")
    assert "fetched" not in done.stderr
    parted = job.git(checkout, "merge-base", "HEAD", "origin/main")
    assert job.git(checkout, "log", "-1", "--format=%s", parted) == "first"


@pytest.mark.parametrize("variable", ["GATE_BEFORE", "CI_COMMIT_BEFORE_SHA", "GATE_BASE"])
def test_a_commit_as_the_base(checkout, remote, variable):
    """Protects: a push is compared with what was there before it, however long that is ago."""
    before = job.git(remote, "rev-parse", "change~2")
    done = job.of_script("base", checkout, **{variable: before})

    assert (done.returncode, done.stdout) == (0, f"{before}\n")
    assert job.git(checkout, "merge-base", "HEAD", before) == before


@pytest.mark.parametrize("tag", ["parted", "refs/tags/parted"])
def test_a_tag_as_the_base(checkout, tag):
    """Protects: a tag that the checkout has not is fetched, by its name."""
    done = job.of_script("base", checkout, GATE_BASE=tag)

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tag}\n", "")
    assert job.git(checkout, "log", "-1", "--format=%s", tag) == "first"
    assert job.git(checkout, "merge-base", "HEAD", tag)


@pytest.mark.parametrize("env", [{}, {"GATE_BEFORE": "0" * 40}], ids=["nothing", "a new branch"])
def test_no_base(checkout, env):
    """Protects: a schedule, or the first push of a branch, has no base, and says so."""
    done = job.of_script("base", checkout, **env)

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "gate: no base: this is no pull or merge request, and nothing was there before the push\n"
    )


def test_a_base_that_cannot_be_had(checkout):
    """Protects: a base that is gone stops nothing here: pytest is asked, and says what it does."""
    done = job.of_script("base", checkout, GITHUB_BASE_REF="gone")

    assert (done.returncode, done.stdout) == (0, "origin/gone\n")
    said = "gate: HEAD and origin/gone do not meet in the history that could be fetched\n"
    assert done.stderr.endswith(said)


def test_gitlab_knows_where_they_parted(checkout, remote):
    """Protects: where a job may not fetch its target, GitLab's own answer is taken."""
    job.git(checkout, "fetch", "--quiet", "--unshallow")
    parted = job.git(remote, "rev-parse", "parted")
    job.git(checkout, "remote", "set-url", "origin", "/nowhere")

    done = job.of_script(
        "base",
        checkout,
        CI_MERGE_REQUEST_TARGET_BRANCH_NAME="main",
        CI_MERGE_REQUEST_DIFF_BASE_SHA=parted,
    )

    assert (done.returncode, done.stdout) == (0, f"{parted}\n")


@pytest.mark.parametrize(
    ("service", "own"),
    [
        ("github", ["--ds-report", "github"]),
        ("gitlab", ["--ds-report", "codequality:reports/codequality.json"]),
    ],
)
def test_what_pytest_is_asked(tmp_path, stand_in, service, own):
    """Protects: all reports are asked for, and words of the user are split as a shell splits them,
    and not run.
    """
    done = job.of_script(
        f"test {service}",
        tmp_path,
        GATE_BASE="origin/main",
        GATE_REPORTS="reports",
        GATE_ARGUMENTS="-n 2 -k 'zero2 or zero3' $(touch run) `touch run` ; touch run *",
    )

    words = ["-n", "2", "-k", "zero2 or zero3"]
    words += ["$(touch", "run)", "`touch", "run`", ";", "touch", "run", "*"]
    assert stand_in.read_text().splitlines() == [
        *("--ds-against", "origin/main"),
        *REPORTS,
        *own,
        *words,
    ]
    assert done.returncode == 0
    assert not (tmp_path / "run").exists()


def test_without_a_base_everything_runs(tmp_path, stand_in):
    """Protects: no base is no argument, not an empty one."""
    job.of_script("test github", tmp_path, GATE_REPORTS="reports")

    assert stand_in.read_text().splitlines() == [*REPORTS, "--ds-report", "github"]


@pytest.mark.parametrize("status", range(6))
def test_the_status_of_pytest_is_kept(tmp_path, stand_in, status):
    """Protects: the job is red exactly where pytest is, and its summary is there all the same."""
    summary = tmp_path / "summary"
    done = job.of_script(
        "test github",
        tmp_path,
        STATUS=str(status),
        GATE_REPORTS="reports",
        GITHUB_STEP_SUMMARY=str(summary),
    )

    assert done.returncode == status
    assert summary.read_text() == "what it found\n"


def test_a_report_of_an_earlier_run_is_not_shown(tmp_path, stand_in):
    """Protects: where pytest ends before it writes, the summary says so, and shows no old one."""
    tmp_path.joinpath("reports").mkdir()
    tmp_path.joinpath("reports", "report.md").write_text("of yesterday")
    summary = tmp_path / "summary"
    env = {"SILENT": "1", "STATUS": "4", "GATE_REPORTS": "reports"}
    done = job.of_script("test github", tmp_path, GITHUB_STEP_SUMMARY=str(summary), **env)

    assert done.returncode == 4
    assert summary.read_text() == (
        "pytest ended with status 4 and wrote no report: the log says why.\n"
    )


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_job_that_is_cancelled(tmp_path, stand_in, sent):
    """Protects: pytest hears of it and ends by itself, and what it wrote is shown."""
    summary = tmp_path / "summary"
    env = {"SLOW": "1", "GATE_REPORTS": "reports", "GITHUB_STEP_SUMMARY": str(summary)}
    process = subprocess.Popen(
        [job.SCRIPT, "test", "github"], cwd=tmp_path, env=job.environment(**env)
    )
    deadline = time.monotonic() + 30
    while not stand_in.with_name("started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(sent)

    assert process.wait(30) == 2
    assert stand_in.read_text().endswith("ended\n")
    assert summary.read_text() == "cut\n"


def wheel(folder, name):
    """An empty wheel of this name."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


def test_torch_is_installed_first(tmp_path):
    """Protects: pip gets torch, its index and the requirements as they are meant, in that order."""
    first, second = wheel(tmp_path, "probe_torch"), wheel(tmp_path, "probe_user")
    done = job.of_script(
        "install",
        tmp_path,
        GATE_TORCH=f"--no-deps --target 'site one' {first}",
        GATE_TORCH_INDEX="http://127.0.0.1:9/simple",
        GATE_REQUIREMENTS=f"--no-deps --no-index --target 'site two' {second}",
    )

    assert done.returncode == 0, done.stderr
    assert tmp_path.joinpath("site one", "probe_torch.py").exists()
    assert tmp_path.joinpath("site two", "probe_user.py").exists()
    assert re.findall(r"Successfully installed (\w+)", done.stdout.replace("-", "_")) == [
        "probe_torch_1",
        "probe_user_1",
    ]


def test_requirements_without_the_plugin(tmp_path):
    """Protects: a job that could test nothing ends at its cause, with what to name."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without site-packages
    python.chmod(0o755)
    done = job.of_script(
        "install", tmp_path, PYTHON=str(python), GATE_TORCH="", GATE_REQUIREMENTS=""
    )

    assert done.returncode == 4
    assert done.stderr == (
        "gate: pytest-deepspeed is not there: name it, or a file that does, in the requirements\n"
    )


def test_a_quote_without_its_end(tmp_path, stand_in):
    """Protects: what no shell could read is named, and nothing is run."""
    done = job.of_script("test github", tmp_path, GATE_ARGUMENTS="-k 'zero2")

    assert done.returncode == 4
    assert done.stderr == "gate: GATE_ARGUMENTS has a quote without its end: -k 'zero2\n"
    assert not stand_in.exists()


def test_what_a_cache_of_ops_goes_by(tmp_path):
    """Protects: the key is the folder that the plugin uses here, and changes with what is built."""
    env = {"PYTEST_DS_OPS_CACHE": str(tmp_path)}
    kind = cache_dir("cpu").name
    empty = job.of_script("ops", tmp_path, **env).stdout.splitlines()
    folder = tmp_path / kind
    folder.mkdir()
    folder.joinpath("fused_adam.json").touch()
    full = job.of_script("ops", tmp_path, **env).stdout.splitlines()

    assert empty[:2] == full[:2] == [f"folder={folder}", f"kind={kind}"]
    assert re.fullmatch(r"built=[0-9a-f]{10}", full[2])
    assert empty[2] != full[2]
