"""The scripts in slurm/, as a person at a cluster runs them."""

import re
import subprocess
import sys
import tarfile
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path

from wrappers_jobs import SLURM, environment, job_of_two_nodes, make_wheel, submit

MESSAGES = {
    "site": (
        {"SITE": "mars"},
        """\
        pytest.sbatch: error: SITE=mars is not known.
          Use SITE=alliance or SITE=plain.
        """,
    ),
    "modules": (
        {"CC_CLUSTER": "narval"},
        """\
        pytest.sbatch: error: there is no command 'module' on n1 to load python/3.11 with.
          Where modules are not used: MODULES= sbatch ...
        """,
    ),
    "a module that is not there": (
        {"MODULES": "python/2.5", "BASH_FUNC_module%%": "() { return 1; }"},
        """\
        pytest.sbatch: error: 'module load python/2.5' failed on n1.
          See what there is: module spider python/2.5
        """,
    ),
    "no environment": (
        {},
        """\
        config_env.sh: error: neither VENV nor WHEELHOUSE is set.
          An environment that all nodes see:                 VENV=~/env sbatch ...
          Or, after slurm/wheelhouse.sh ~/wheels, its wheels: WHEELHOUSE=~/wheels sbatch ...
        """,
    ),
    "venv": (
        {"VENV": "/nowhere/env"},
        """\
        config_env.sh: error: VENV=/nowhere/env has no bin/python, as seen from n1.
          Make it where all nodes see it:  python3 -m venv /nowhere/env
          and fill it:  /nowhere/env/bin/pip install 'pytest-deepspeed[digits]'
        """,
    ),
    "wheelhouse": (
        {"WHEELHOUSE": "/nowhere/wheels"},
        """\
        config_env.sh: error: there are no wheels in WHEELHOUSE=/nowhere/wheels, as seen from n1.
          Fill it on a machine with internet: slurm/wheelhouse.sh /nowhere/wheels
        """,
    ),
    "data": (
        {"VENV": sys.prefix, "NODE_DIR": "/tmp", "DATA": "/nowhere/data"},
        """\
        stage_data.sh: error: /nowhere/data is neither a directory nor an archive.
          Archives are .tar, .tar.gz, .tgz and .zip. Put it on storage that all nodes see.
        """,
    ),
}


def test_wrong_settings_end_in_one_message(slurm):
    """Protects: a job that cannot start fails at once, and says what to type."""
    jobs = {
        name: submit(slurm, SLURM / "pytest.sbatch", **settings)
        for name, (settings, _) in MESSAGES.items()
    }
    shown = {}
    for name, job in jobs.items():
        assert slurm.wait(job).status == 1
        shown[name] = slurm.output(job)

    assert shown == {name: textwrap.dedent(message) for name, (_, message) in MESSAGES.items()}


def test_environment_of_wheels_and_data_on_each_node(isolated_slurm, tmp_path):
    """Protects: from a wheelhouse, without an index, each node gets its environment once, on a
    disk of its own; data likewise; and what is missing from the wheelhouse is named.
    """
    made, wheels = tmp_path / "made", tmp_path / "wheels"
    make_wheel(made, "tiny-on-nodes")
    collected = subprocess.run(
        [SLURM / "wheelhouse.sh", wheels, "tiny-on-nodes"],
        env=environment(
            isolated_slurm, PYTHON=sys.executable, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(made)
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert collected.returncode == 0, collected.stderr
    (tmp_path / "one").write_text("one\n")
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "one", "part/one")
    local = isolated_slurm.folder / "local"
    settings = {"WHEELHOUSE": str(wheels), "NODE_DIR": str(local), "PYTHON": sys.executable}
    good = submit(
        isolated_slurm,
        job_of_two_nodes(
            f"VENV=$({SLURM}/config_env.sh)",
            f"again=$({SLURM}/config_env.sh)",
            '[ "$VENV" = "$again" ]; echo same: $?',
            "srun $VENV/bin/python -c 'import tiny_on_nodes; print(tiny_on_nodes.WHERE)'",
            f"{SLURM}/stage_data.sh {tmp_path}/data.tar.gz {local}/data",
            f"{SLURM}/stage_data.sh {tmp_path}/data.tar.gz {local}/data",
            f"srun cat {local}/data/part/one",
        ),
        REQUIREMENTS="tiny-on-nodes",
        **settings,
    )
    bad = submit(
        isolated_slurm,
        job_of_two_nodes(f"{SLURM}/config_env.sh"),
        "--nodes=1",
        REQUIREMENTS="not-collected",
        **settings,
    )

    assert isolated_slurm.wait(good).status == 0, isolated_slurm.output(good)
    varying = re.compile(r"env-\w{8}|\d+ s$", re.MULTILINE)
    lines = varying.sub("N", isolated_slurm.output(good)).splitlines()
    assert sorted(lines) == sorted(
        [
            f"config_env.sh: n1: {local}/N is ready after N",
            f"config_env.sh: n2: {local}/N is ready after N",
            "same: 0",
            *[f"{local}/N/lib"] * 2,
            f"stage_data.sh: n1: {local}/data is ready after N",
            f"stage_data.sh: n2: {local}/data is ready after N",
            *["one"] * 2,
        ]
    )
    assert isolated_slurm.wait(bad).status == 1
    shown = re.sub(r"^srun: .*\n", "", isolated_slurm.output(bad), flags=re.MULTILINE)
    assert re.fullmatch(
        r"config_env.sh: error: pip could not install not-collected on n1 without an index:\n"
        r"(  ERROR: .*not-collected.*\n|ERROR: .*not-collected.*\n)+"
        rf"  Python 3\.\d+\.\d+ looked in {wheels}\.\n"
        r"  Wheels are for one version of Python: make them with the one that runs here\.\n",
        shown,
    ), shown


def test_training_with_torchrun_over_two_nodes(isolated_slurm):
    """Protects: ``sbatch slurm/train.sbatch`` trains the reference model with a torchrun on each
    of two nodes that share no address.
    """
    job = submit(
        isolated_slurm,
        SLURM / "train.sbatch",
        args=("--steps", "4", "--seed", "1"),
        VENV=sys.prefix,
    )

    done = isolated_slurm.wait(job, timeout=240)
    shown = isolated_slurm.output(job)
    assert done.status == 0, shown
    assert f"on n[1-2], RANKS_PER_NODE=1, meeting at n1:{20000 + job}\n" in shown
    assert re.search(r"^4 steps of 32 images on 2 ranks: loss \d", shown, re.MULTILINE), shown


def test_a_node_that_fails_ends_the_step(slurm):
    """Protects: the other nodes do not wait for one that has failed until the time limit."""
    job = submit(
        slurm,
        job_of_two_nodes(
            f". {SLURM}/site.sh",
            # `exec`, since proctrack/linuxproc misses a child that is forked while it kills.
            "each_node bash -c 'test $SLURM_NODEID = 0 && exec sleep 600; exit 3'",
        ),
    )

    assert slurm.wait(job, timeout=30).state == "FAILED"


def test_pytest_over_two_nodes(slurm, tmp_path):
    """Protects: ``sbatch slurm/pytest.sbatch`` runs the suite of the wheel on two nodes, by
    markers, with the ranks asked for; writes one report; and exits as pytest does.
    """
    script, select = (
        SLURM / "pytest.sbatch",
        ("-m", "zero3", "-k", "test_zero and fp32", "-p", "no:randomly"),
    )
    jobs = {
        4: submit(
            slurm, script, args=("--ds-nodes=2", "--ds-world-size=4", *select), VENV=sys.prefix
        ),
        2: submit(slurm, script, args=select, VENV=sys.prefix, NODE_DIR=str(tmp_path)),
    }
    none = submit(slurm, script, args=("-k", "no_such_test", "-p", "no:randomly"), VENV=sys.prefix)

    for size, job in jobs.items():
        done, shown = slurm.wait(job, timeout=240), slurm.output(job)
        assert done.status == 0, shown
        report = Path(slurm.show(job)["WorkDir"]) / f"pytest-{job}.xml"
        (suite,) = ET.parse(report).getroot().iter("testsuite")
        assert int(suite.get("tests")) >= 1
        assert [suite.get(kind) for kind in ("failures", "errors", "skipped")] == ["0"] * 3
        sizes = {
            each.get("value")
            for each in suite.iter("property")
            if each.get("name") == "ds_world_size"
        }
        assert sizes == {str(size)}
        assert f"on n[1-2], {sys.prefix}, report: {report}\n" in shown
    assert slurm.wait(none).status == 5
    kind = subprocess.check_output(["stat", "-f", "-c", "%T", tmp_path], text=True)
    assert (tmp_path / "nvme").is_dir() == (kind != "tmpfs\n")
