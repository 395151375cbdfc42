"""A CI job as its service runs it: a checkout of a real remote, and the templates' shell steps.

Only what the service itself provides is made here: its variables, its files for outputs and the
summary, and the values of expressions. Steps that use other actions are left out.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import inner
import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "ci" / "gate.sh"
ACTION = ROOT / "ci" / "github" / "action.yml"
GITLAB = ROOT / "ci" / "gitlab" / "gate.yml"
WORKFLOW = ROOT / ".github" / "workflows" / "gate.yml"

#: How GitHub starts a step with `shell: bash`.
BASH = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail"]

#: Of the service that these tests themselves may run under.
_SERVICE = re.compile(r"GITHUB_|GITLAB_|CI_|GATE_|PYTEST_DS_REPORT|PYTEST_DS_AGAINST")

_EXPRESSION = re.compile(r"\$\{\{ (.+?) \}\}")


def loaded(path):
    """A YAML file as data."""
    return yaml.safe_load(path.read_text())


def environment(**more):
    """That of a fresh job, whose python is the one that runs the tests."""
    kept = {name: value for name, value in inner.environment().items() if not _SERVICE.match(name)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # pytest-randomly and pytest-asyncio are here for other tests.
    plugins = "-p no:randomly -p no:asyncio"
    return {**kept, "PATH": path, "PYTEST_ADDOPTS": plugins, **more}


def git(folder, *args, input=None):  # noqa: A002 (as subprocess calls it)
    """Runs git there, as somebody; returns what it prints."""
    who = ["-c", "user.name=A", "-c", "user.email=a@localhost", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *who, *args],
        cwd=folder,
        input=input,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def commit(folder, message, **files):
    """Commits files with these texts, ``name__json`` for ``name.json``; returns the commit."""
    for name, text in files.items():
        folder.joinpath(name.replace("__", ".")).write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", f"--message={message}")
    return git(folder, "rev-parse", "HEAD")


def shell(script, folder, env, *, command=BASH):
    """Runs a step's script; what it printed, and its status."""
    return subprocess.run(
        [*command, "-c", script],
        cwd=folder,
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=400,
    )


def of_script(step, folder, **env):
    """One step of `ci/gate.sh`."""
    return shell(f"{shlex.quote(str(SCRIPT))} {step}", folder, environment(**env))


class GitHub:
    """The composite action in a checkout, with the inputs of its user.

    Args:
        folder: of the files that the service provides.
        checkout: the working tree.
        inputs: those that are not the default.
        event: what else expressions may name: ``{"github.event.before": ...}``.
        env: further variables.
    """

    def __init__(self, folder, checkout, inputs=(), event=(), **env):
        self.action = loaded(ACTION)
        declared = self.action["inputs"]
        assert set(inputs) <= set(declared)
        given = {name: dict(inputs).get(name, entry["default"]) for name, entry in declared.items()}
        self.values = {f"inputs.{name}": value for name, value in given.items()} | dict(event)
        self.summary = folder / "summary"
        self._output = folder / "output"
        self._checkout = checkout
        self._env = environment(
            CI="true",
            GITHUB_ACTIONS="true",
            GITHUB_ACTION_PATH=str(ACTION.parent),
            GITHUB_OUTPUT=str(self._output),
            GITHUB_STEP_SUMMARY=str(self.summary),
            **env,
        )

    def run(self, *, but=()):
        """Runs each shell step in turn, later ones too where one fails and they say ``always()``.

        Returns:
            What each did, by its name.
        """
        done, red = {}, False
        for step in self.action["runs"]["steps"]:
            always = "always()" in step.get("if", "")
            if "run" in step and step["name"] not in but and (always or not red):
                done[step["name"]] = ended = self._step(step)
                red = red or ended.returncode != 0
        return done

    def _step(self, step):
        self._output.write_text("")
        env = {name: _EXPRESSION.sub(self._value, v) for name, v in step.get("env", {}).items()}
        ended = shell(step["run"], self._checkout, {**self._env, **env})
        for line in self._output.read_text().splitlines():
            name, _, value = line.partition("=")
            self.values[f"steps.{step['id']}.outputs.{name}"] = value
        return ended

    def _value(self, found):
        if found[1].startswith("hashFiles("):
            return "0123456789"
        return self.values.get(found[1], "")


def of_gitlab(checkout, **env):
    """The script of the GitLab job, in one shell as its runner has it."""
    job = loaded(GITLAB)[".deepspeed-gate"]
    variables = {
        name: value.replace("$CI_PROJECT_DIR", str(checkout))
        for name, value in job["variables"].items()
    }
    place = checkout / "ci"
    if not place.exists():
        place.symlink_to(SCRIPT.parent)
    # The ops that are there, and what pip has, are as good here.
    del variables["PYTEST_DS_OPS_CACHE"], variables["PIP_CACHE_DIR"]
    return shell("\n".join(job["script"]), checkout, environment(CI="true", **variables, **env))
