"""Scripts as test files, run: the wiki's own NVMe script, unchanged, and one with all settings."""
# ruff: noqa: E501 (what a person sees is shown as it is)

import re
import shutil
from pathlib import Path

import inner
import pytest

from pytest_deepspeed.options import SETTINGS
from pytest_deepspeed.requirements import need_nvme

pytestmark = pytest.mark.lightning

HERE = Path(__file__).parent
SEED = "deepspeed-stage3-offload-nvme.py"

PROJECT = f"""
[[tool.pytest_deepspeed.configs]]
files = "{SEED}"
arguments = ["--batch_size", "16"]
checks = ["schema", "loss", "parity", "engagement", "memory"]

[[tool.pytest_deepspeed.configs]]
files = "train_epochs.py"
arguments = ["epochs"]
steps = 3
limit_rank_memory = {{optimizer = "1 KiB"}}
checks = ["loss", "memory"]
"""


@pytest.fixture(scope="session")
def session(whole_session):
    """The inner session of all scripts, on two workers."""

    def prepare(folder):
        shutil.copy(HERE.parent / "seed" / "deepspeed_stage3_offload_nvme.py", folder / SEED)
        shutil.copy(HERE / "variants.py", folder / "train_epochs.py")
        folder.joinpath("pyproject.toml").write_text(PROJECT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_TMPDIR", "/no/such/disk")  # which the script asks for
        args = ["-n", "2", "-o", f"ds_lightning_files={SEED} train_*.py"]
        return whole_session("ds_lightning_scripts", prepare, args=args)


def failure(session, test):
    """What a test shows, up to what DeepSpeed made of the config, without the worker's line."""
    for title in ("ERRORS", "FAILURES"):
        parts = re.split(r"^_+ (\S+) _+\n", session.section(title), flags=re.MULTILINE)
        blocks = dict(zip(parts[1::2], parts[2::2], strict=True))
        if test in blocks:
            text = re.sub(r"^\[gw\d\] .+\n", "", blocks[test])
            return text.partition("\nwhat DeepSpeed made of it:\n")[0]
    raise AssertionError(f"{test} did not fail:\n{session.output}")


def passed(session):
    """The tests that passed."""
    lines = session.section("short test summary info").splitlines()
    return sorted(line.split("::")[1] for line in lines if line.startswith(f"PASSED {SEED}"))


def test_what_the_rules_say_of_the_seed(session):
    """Protects: the unused flag, the hook that shards nothing and the literal path, in words."""
    assert session.status == 1
    assert failure(session, f"{SEED}::schema") == inner.text("""
        deepspeed-stage3-offload-nvme.py:20:1: PL101 unused-flag
            parser.add_argument('--lr', default=0.1, help='')
          --lr is read nowhere: whatever is given, the script trains the same.
          Use args.lr, or take the flag away.
          (more: python -m pytest_deepspeed.explain PL101)

        deepspeed-stage3-offload-nvme.py:73:9: PL301 deprecated-hook
            def configure_sharded_model(self):
          configure_sharded_model is deprecated: Lightning builds what is in it
          without the trainer's precision and device.
          Name it configure_model.
          (more: python -m pytest_deepspeed.explain PL301)

        deepspeed-stage3-offload-nvme.py:73:9: PL302 hook-shards-nothing
            def configure_sharded_model(self):
          configure_sharded_model builds no weights: zero.Init shards what is built in
          it, and here all were built before (ConvPart and MLPPart), whole on each
          rank.
          Build the layers in configure_model.
          (more: python -m pytest_deepspeed.explain PL302)

        deepspeed-stage3-offload-nvme.py:110:9: PL201 nvme-path-names-a-variable
            nvme_path="local_scratch",
          nvme_path is the text "local_scratch", not the variable local_scratch of
          line 99: DeepSpeed makes a directory of that very name where the ranks are
          started, and swaps there.
          Write nvme_path=local_scratch, without quotes.
          (more: python -m pytest_deepspeed.explain PL201)

        4 errors in deepspeed-stage3-offload-nvme.py
    """)


def test_what_the_seed_trains(request, session, tmp_path):
    """Protects: run as it is, the model is found too small for anything to be offloaded, and what
    is trained is right all the same.
    """
    need_nvme(request.config.stash[SETTINGS], tmp_path)

    assert failure(session, f"{SEED}::engagement").splitlines() == [
        "engagement of deepspeed-stage3-offload-nvme.py: 3 findings",
        "- engagement.offload_optimizer: offload_optimizer.device is 'nvme', but nothing is swapped: the largest partition of a group has 31,003 elements on this rank, 121.11 KiB, and DeepSpeed swaps from 1.00 MiB on. Widen the model to 262,144 elements a rank, or use fewer ranks.",
        "- engagement.offload_param: offload_param.device is 'nvme', but nothing is swapped: the largest part of a parameter has 24,000 elements on this rank, 93.75 KiB, and DeepSpeed swaps from 1.00 MiB on. Widen the model to 262,144 elements a rank, or use fewer ranks.",
        "- engagement.persistence: ZeRO-3 partitions nothing: none of the 10 parameters has more elements than stage3_param_persistence_threshold = 100,000, so that each rank keeps them whole. Set it below 48,000, the elements of mlp_part.fc1.weight, or widen the model.",
    ]
    assert passed(session) == ["loss", "memory", "parity"]


def test_what_was_changed_of_the_seed_is_said(request, session, tmp_path):
    """Protects: the CPU strategy, the images and the directory in place of its own are told, and
    nothing is left where the script lies.
    """
    need_nvme(request.config.stash[SETTINGS], tmp_path)
    said = " ".join(session.section("DeepSpeed").split())

    assert f"ran here: 6 steps on cpu ranks with gloo: {SEED} --batch_size 16 " in said
    assert (
        "tests: DeepSpeedStrategy -> DeepSpeedCPUStrategy with gloo, since Lightning refuses"
        " DeepSpeed on a CPU."
    ) in said
    assert "tests: CIFAR10 is not in './data': synthetic (2,048 images) in its place." in said
    assert (
        "nvme_path: a directory of the test is swapped to in its place, and removed after it"
    ) in said
    assert not session.folder.joinpath("local_scratch").exists()
    assert not session.folder.joinpath("lightning_logs").exists()


def test_settings_of_a_script(session):
    """Protects: steps, arguments and memory limits of ``pyproject.toml`` hold for a script."""
    limit = failure(session, "train_epochs.py::memory").splitlines()[:2]

    assert limit == [
        "memory of train_epochs.py: 1 finding",
        "- memory.limit_optimizer: rank 0: optimizer states: 1.32 KiB, more than the 1.00 KiB that limit_rank_memory in pyproject.toml allows (optimizer: 1,352 bytes of 1,024)",
    ]
    assert "ran here: 3 steps on cpu ranks with gloo: train_epochs.py epochs\n" in session.output
    assert "PASSED train_epochs.py::loss" in session.output
