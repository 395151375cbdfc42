"""What has changed since a base, and which configs that concerns; nothing is trained."""

import json

import gating
import pytest
from gating import git

CONFIG = {"train_batch_size": 16, "zero_optimization": {"stage": 2}}

WORKLOAD = "from parts import model\n\n\ndef workload():\n    return model\n"


def commit(folder, **contents):
    """Commits files, whose names have ``_dot_`` for a point."""
    gating.commit(folder, {name.replace("_dot_", "."): text for name, text in contents.items()})


@pytest.fixture
def project(tmp_path):
    """A repository with a config and a workload on ``main``; HEAD is on another branch."""
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commit(
        tmp_path,
        ds_config_dot_json=json.dumps(CONFIG),
        own_dot_py=WORKLOAD,
        parts_dot_py="model = 1\n",
        other_dot_py="raise SystemExit('imported')\n",
        test_other_dot_py="raise SystemExit('collected')\n",
    )
    git(tmp_path, "checkout", "--quiet", "-b", "change")
    return tmp_path


def collected(folder, *args, ref="main"):
    """What a session that only collects says: the tests that would run, and all lines."""
    status, output = gating.gate(folder, "--collect-only", "-q", *args, ref=ref)
    tests = [line for line in output.splitlines() if "::" in line and not line.startswith(" ")]
    return [line.partition("::")[2] for line in tests], output, status


ALL = ["schema", "loss", "ranks", "parity", "engagement", "memory", "checkpoint", "reshard"]


def test_nothing_has_changed(project):
    """Protects: a change that is about no config runs no test, imports no module, and is no
    error.
    """
    commit(project, other_dot_py="raise SystemExit('imported, changed')\n")

    tests, output, status = collected(project)

    assert tests == []
    assert status == 0, output
    assert "1 config has not changed" in output
    assert "SystemExit" not in output


def test_nothing_has_changed_for_workers(project):
    """Protects: that is no error with pytest-xdist either, whose workers alone see the configs."""
    status, output = gating.gate(project, "-n", "2")

    assert status == 0, output
    assert "1 config has not changed" in output


def test_no_config(project):
    """Protects: a repository without a config, where the gate can never be red, is an error."""
    commit(project, ds_config_dot_json=None)
    git(project, "checkout", "--quiet", "-B", "main")

    status, output = gating.gate(project)

    assert status == 5, output


def test_a_changed_config(project):
    """Protects: all checks of a config whose values have changed run, and ``::against``."""
    commit(project, ds_config_dot_json=json.dumps({**CONFIG, "train_batch_size": 32}))

    tests, output, _ = collected(project)

    assert tests == [*ALL, "against"], output


def test_a_layout(project):
    """Protects: of a config that was only laid out anew no more is run than what takes no time."""
    commit(project, ds_config_dot_json=json.dumps(CONFIG, indent=8))

    tests, output, _ = collected(project)

    assert tests == ["schema", "against"], output


def test_what_is_not_committed(project):
    """Protects: the work tree is judged, not the last commit; a config that git does not know yet
    counts as new.
    """
    project.joinpath("ds_config.json").write_text(json.dumps({**CONFIG, "steps_per_print": 3}))
    project.joinpath("ds_config_new.json").write_text(json.dumps(CONFIG))

    tests, output, _ = collected(project)

    assert tests == [*ALL, "against", *ALL]
    assert "ds_config_new.json: not compared: it is new: all its own checks ran" in output


@pytest.mark.parametrize(
    ("file", "text", "runs"),
    [
        ("own.py", "from parts import model\n\n\ndef workload():\n    return 2\n", True),
        ("parts.py", "model = 2\n", True),
        ("other.py", "x = 1\n", False),
    ],
)
def test_the_workload_s_code(project, file, text, runs):
    """Protects: a config whose workload has changed is looked at, also where what has changed is
    what that imports; code that it does not import makes no difference.
    """
    commit(project, **{file.replace(".", "_dot_"): text})

    tests, output, _ = collected(project, "--ds-workload=own:workload")

    assert tests == ([*ALL, "against"] if runs else []), output


def test_a_hook_s_code(project):
    """Protects: where the workload is a hook's, which only pytest can bring, its change is said,
    and nothing is compared that was not trained.
    """
    hook = "def pytest_ds_workload():\n    return {}\n"
    git(project, "checkout", "--quiet", "main")
    commit(project, conftest_dot_py=hook.format(1))
    git(project, "checkout", "--quiet", "-B", "change")
    commit(project, conftest_dot_py=hook.format(2))

    tests, output, _ = collected(project)

    assert tests == ALL
    assert (
        "ds_config.json: not compared: conftest.py has changed; what a hook of another\n"
        "  commit would bring cannot be had: all its own checks ran"
    ) in output


def test_settings_in_pyproject(project):
    """Protects: what ``pyproject.toml`` says of a config is part of it, and nothing else there."""
    commit(project, pyproject_dot_toml="[tool.pytest_deepspeed]\nworld_sizes = [2, 4]\n")

    tests, output, _ = collected(project)

    assert tests[-2:] == ["against[world_size_2]", "against[world_size_4]"], output

    git(project, "checkout", "--quiet", "-B", "main")
    commit(project, pyproject_dot_toml=project.joinpath("pyproject.toml").read_text() + "# more\n")

    assert collected(project, ref="HEAD~1")[0] == []


def test_a_renamed_config(project):
    """Protects: a config that was moved is compared with what git takes it for."""
    text = project.joinpath("ds_config.json").read_text()
    commit(project, ds_config_dot_json=None, ds_config_moved_dot_json=text)

    tests, _, _ = collected(project)

    assert tests == [*ALL, "against"]


def test_a_config_that_is_gone(project):
    """Protects: a config that was taken away is named."""
    commit(project, ds_config_dot_json=None)

    tests, output, _ = collected(project)

    assert tests == []
    assert "ds_config.json: gone" in output


def _no_base(folder):
    return "elsewhere", "there is no commit 'elsewhere' here: fetch it"


def _no_common_commit(folder):
    git(folder, "checkout", "--quiet", "--orphan", "apart")
    gating.commit(folder, {}, "another root")
    return "main", "main and HEAD have no commit in common"


def _shallow(folder):
    commit(folder, other_dot_py="")
    git(folder, "checkout", "--quiet", "main")
    commit(folder, other_dot_py="# main goes on\n")
    clone = folder / "clone"
    git(folder, "clone", "--quiet", "--depth=1", "--no-single-branch", f"file://{folder}", clone)
    git(clone, "checkout", "--quiet", "change")
    return "origin/main", "the clone is shallow, and its history ends before"


def _no_repository(folder):
    folder.joinpath(".git").rename(folder / "git")
    return "main", "lies in no git repository"


@pytest.mark.parametrize("broken", [_no_base, _no_common_commit, _no_repository, _shallow])
def test_undecided(project, broken):
    """Protects: where nothing can be compared everything runs, and the reason is said, with what
    to type.
    """
    ref, reason = broken(project)
    folder = project / "clone" if project.joinpath("clone").is_dir() else project

    tests, output, _ = collected(folder, ref=ref)

    assert tests == ALL, output
    assert reason in " ".join(output.split())


def test_a_module_that_is_named(project):
    """Protects: test functions run beside the gate where somebody names them."""
    project.joinpath("test_named.py").write_text("def test_it():\n    pass\n")

    tests, output, _ = collected(project, "test_named.py")

    assert "test_it" in tests, output
