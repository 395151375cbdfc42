"""The fixture `ds_check`: what a person sees of its checks, in whole inner sessions."""
# ruff: noqa: E501 (what a person sees is shown as it is)

import os
import re
import textwrap

import inner
import pytest
from filelock import FileLock

#: A fault that no training shows, for the one config that meets it.
CONFTEST = """
    from pytest_deepspeed.training import faults

    faults.FAULTS = (
        *faults.FAULTS,
        faults.Fault(
            id="never-shows",
            what="nothing at all",
            versions=">=0",
            source="made up",
            meets=lambda config: config.get("gradient_clipping") == 0.07,
            trait=None,
            check="ranks",
            names=frozenset({"weights"}),
            parameter=".*",
        ),
    )
"""

HEAD = """
import pytest
from pytest_deepspeed.training.matrix import Mode, config

SGD = {"optimizer": "SGD", "nvme_path": "/not/used"}
ADAM = {"optimizer": "Adam", "nvme_path": "/not/used"}
"""

SHARED = """
    @pytest.mark.parametrize("check", ["loss", "ranks", "parity", "engagement", "memory"])
    @pytest.mark.ds_config(config(Mode(2), **ADAM))
    def test_shares(check, ds_check):
        ds_check(check)
"""

NVME = """
    @pytest.mark.ds_config(config(Mode(3, "nvme", dtype="bf16"), **SGD))
    def test_too_small_to_swap(ds_check):
        ds_check("engagement", wide=0)

    @pytest.mark.ds_config(config(Mode(3, "nvme", dtype="bf16"), **SGD))
    def test_large_enough_to_swap(ds_check):
        ds_check("engagement")
"""

REFUSED = """
    WRONG = {**config(Mode(1), **SGD), "optimizer": {"type": "SGD", "params": {"speed": 9}}}

    @pytest.mark.parametrize("check", ["loss", "ranks", "parity"])
    @pytest.mark.ds_config(WRONG)
    def test_refused(check, ds_check):
        ds_check(check)
"""

NO_CONFIG = """
    def test_without_a_config(ds_check):
        ds_check("loss")
"""

UNKNOWN = """
    @pytest.mark.ds_config(config(Mode(2), **ADAM))
    def test_unknown_check(ds_check):
        ds_check("losses")
"""

FP16 = """
    @pytest.mark.ds_config({**config(Mode(2, dtype="fp16"), **SGD)})
    def test_fp16(ds_check):
        ds_check("engagement")
"""

IGNORED_OFFLOAD = """
    IGNORED = config(Mode(2), **SGD)
    IGNORED["zero_optimization"]["offload_param"] = {"device": "cpu"}

    @pytest.mark.ds_config(IGNORED)
    def test_ignored_offload(ds_check):
        ds_check("engagement")
"""

KNOWN = """
    @pytest.mark.ds_config(config(Mode(0, dtype="bf16"), **ADAM))
    def test_known_fault(ds_check):
        ds_check("parity")
"""

NEVER = """
    @pytest.mark.ds_config({**config(Mode(1), **SGD), "gradient_clipping": 0.07})
    def test_fault_that_does_not_show(ds_check):
        ds_check("ranks")
"""

LIMIT = """
    @pytest.mark.limit_rank_memory(optimizer="1 KiB")
    @pytest.mark.ds_config(config(Mode(2), **ADAM))
    def test_over_its_limit(ds_check):
        ds_check("memory")
"""

SLOW = """
    SLOW = config(Mode(1), **ADAM)
    # Not in the optimizer, as a parameter group has a rate of its own.
    SLOW["scheduler"]["params"] |= {"warmup_min_lr": 1e-7, "warmup_max_lr": 1e-7}

    @pytest.mark.ds_config(SLOW)
    def test_learns_nothing(ds_check):
        ds_check("loss")
"""


def _session(tmp_path_factory, name, sources, *args):
    """One inner session for all tests of this file, also across xdist's workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if folder.joinpath("status").exists():
            return inner.Session(folder)
        folder.mkdir(exist_ok=True)
        folder.joinpath("conftest.py").write_text(textwrap.dedent(CONFTEST))
        whole = [HEAD + textwrap.dedent(source) for source in sources]
        return inner.run(folder, *whole, args=[f"--basetemp={folder}/tmp", *args])


@pytest.fixture(scope="session")
def session(tmp_path_factory):
    """The session of all sources."""
    sources = (SHARED, NVME, REFUSED, NO_CONFIG, UNKNOWN, FP16, IGNORED_OFFLOAD, KNOWN, NEVER)
    args = ("-p", "no:xdist", "--ds-require=nvme")
    return _session(tmp_path_factory, "ds_check", [*sources, LIMIT, SLOW], *args)


@pytest.fixture(scope="session")
def workers_session(tmp_path_factory):
    """The session with two workers, in which nothing may be adapted."""
    args = ("-n", "2", "--ds-require=exact")
    return _session(tmp_path_factory, "ds_check_workers", [SHARED, REFUSED, FP16], *args)


def shown(session, source):
    """What the session shows of a source."""
    name = re.search(r"def (test_\w+)", source)[1]
    return session.test(session.folder / f"{name}.py")


def row(session, mode):
    """What the table at the end says of the checks of a mode, with the time replaced."""
    (found,) = re.findall(rf"^{mode} .*\n(?: .*\n)*", session.section("DeepSpeed"), re.MULTILINE)
    return re.sub(r"\d+\.\d+ s", "N s", " ".join(found.split()))


def trained(session, name=""):
    """How many trainings are kept to be shared, and how many worlds there were for it."""
    made = session.folder / "tmp"
    worlds = [w for w in made.glob(f"**/ranks_{name}*") if not w.is_symlink()]
    return len(list(made.glob("ds_shared/*"))), len(worlds)


def test_a_config_that_is_right(session):
    """Protects: each check of a trial passes for a mode that trains, and the table says so."""
    assert shown(session, SHARED).summary == [
        f"PASSED test_shares.py::test_shares[{check}]"
        for check in ("loss", "ranks", "parity", "engagement", "memory")
    ]
    # The limit of another test of this config is not theirs.
    assert (
        row(session, "zero2-fp32")
        == "zero2-fp32 2 2.765 -> 1.494 134/134 KiB N s 4 passed, memory failed"
    )


def test_checks_share_a_training(session):
    """Protects: six tests of a config train it once, and once with SGD."""
    # The one that is over its limit comes first, and has trained for the others.
    assert trained(session, "test_shares")[1] == 0
    assert trained(session, "test_over_its_limit")[1] == 2
    assert trained(session) == (12, 12)


def test_workers_share_a_training(workers_session):
    """Protects: so do workers: five checks and a config that is refused are three trainings."""
    assert trained(workers_session) == (3, 3)
    assert len([x for x in shown(workers_session, SHARED).summary if "PASSED" in x]) == 5
    assert (
        row(workers_session, "zero2-fp32") == "zero2-fp32 2 2.765 -> 1.494 134/134 KiB N s 5 passed"
    )


def test_a_model_too_small_to_swap(session):
    """Protects: a mode that did not engage fails, and says what to change; wide enough, it passes
    where NVMe is required.
    """
    assert shown(session, NVME).failure == inner.text("""
        test_too_small_to_swap
        engagement of zero3-optimizer_nvme-bf16: 1 finding
        - engagement.offload_optimizer (with SGD): offload_optimizer.device is 'nvme', but nothing is swapped: the largest partition of a group has 800 elements on this rank, 3.12 KiB, and DeepSpeed swaps from 1.00 MiB on. Widen the model to 262,144 elements a rank, or use fewer ranks.
    """)
    assert shown(session, NVME).summary[1:] == [
        "PASSED test_too_small_to_swap.py::test_large_enough_to_swap"
    ]
    assert list(session.folder.glob("tmp/ds_shared/*/ds_nvme_*")) == []


def test_an_offload_that_is_ignored(session):
    """Protects: DeepSpeed's silence about what it does not do is a failure."""
    assert shown(session, IGNORED_OFFLOAD).failure == inner.text("""
        test_ignored_offload
        engagement of zero2-param_cpu-fp32: 1 finding
        - engagement.offload_param (with SGD): zero_optimization.offload_param.device is 'cpu', but DeepSpeedZeroOptimizer at stage 2 keeps the parameters on the accelerator: DeepSpeed ignored it. Use a stage that has it (3 has all), or write "device": "none", which is what this config does.
    """)


def check_refused(session):
    """One test of the refused config shows why, and the others refer to it."""
    (head, text), *others = sorted(
        session.failures(shown(session, REFUSED).file).items(), key=lambda pair: -len(pair[1])
    )
    error = "TypeError: SGD.__init__() got an unexpected keyword argument 'speed'"

    assert re.findall(r"^rank [01]: (?=TypeError)", text, re.MULTILINE)
    assert f"E   {error}\n" in text
    assert len(re.findall(r"^rank [01]: failed first, in call$", text, re.MULTILINE)) == 1
    line = 1 + shown(session, REFUSED).file.read_text().splitlines().index(
        '@pytest.mark.parametrize("check", ["loss", "ranks", "parity"])'
    )
    assert len(others) == 2
    for _, other in others:
        (said,) = [x for x in other.splitlines() if not x.startswith("[gw")]
        assert said == (
            f"its training failed; the failure is shown at test_refused.py:{line}: {head}"
        )


def test_a_config_that_deepspeed_refuses(session):
    """Protects: the first check shows the traceback of the rank that failed, the others name it;
    the table has its row.
    """
    check_refused(session)
    assert trained(session, "test_refused")[1] == 1
    assert row(session, "zero1-fp32").endswith(" loss ranks parity failed")


def test_a_refused_config_with_workers(workers_session):
    """Protects: whichever worker tried it, the others refer to its test."""
    check_refused(workers_session)
    assert row(workers_session, "zero1-fp32") == "zero1-fp32 2 N s loss ranks parity failed"


def test_no_config(session):
    """Protects: a test without a config is told which marker it lacks, and where it stands."""
    assert shown(session, NO_CONFIG).failure == inner.text("""
        test_without_a_config
        test_without_a_config.py:7: test_without_a_config: the fixture 'ds_check' needs a config: mark the test with @pytest.mark.ds_config(stage=2)
    """)


def test_unknown_check(session):
    """Protects: a check that there is not is an error at the user's line, with those there are."""
    assert shown(session, UNKNOWN).failure == inner.text("""
        test_unknown_check

        ds_check = <pytest_deepspeed.checking.DsCheck object at 0xN>

            @pytest.mark.ds_config(config(Mode(2), **ADAM))
            def test_unknown_check(ds_check):
        >       ds_check("losses")
        E       ValueError: there is no check 'losses': take one of loss, ranks, parity, engagement, memory, checkpoint, reshard

        test_unknown_check.py:9: ValueError
    """)


def test_an_adapted_config(session, workers_session):
    """Protects: fp16 on a CPU is trained in bf16 and said to be, or fails where that is refused."""
    change = (
        "fp16 -> bf16 (a CPU does not train in fp16; the fp16 block's loss scaling is not used)"
    )

    assert shown(session, FP16).summary == ["PASSED test_fp16.py::test_fp16"]
    assert f"adapted in 1 test: {change}." in " ".join(session.section("DeepSpeed").split())
    assert row(session, "zero2-bf16").endswith(" 1 passed")
    failure = re.sub(r"\[gw\d\] .+\n", "", shown(workers_session, FP16).failure)
    assert failure == f"test_fp16\n--ds-require=exact: {change}.\n"


def test_a_known_fault(session):
    """Protects: what a known fault explains is an expected failure, with its id."""
    what = "the optimizer takes one step with zero gradients before the training starts"

    assert shown(session, KNOWN).summary == [
        f"XFAIL test_known_fault.py::test_known_fault - bf16-step-at-init: {what}"
    ]
    assert row(session, "zero0-bf16").endswith(" parity known fault")
    assert "\n  bf16-step-at-init " in session.section("DeepSpeed")


def test_a_fault_that_does_not_show(session):
    """Protects: a known fault is expected strictly, so that a release that mends it is noticed."""
    assert shown(session, NEVER).failure == inner.text("""
        test_fault_that_does_not_show
        ranks of zero1-fp32: the known fault never-shows of DeepSpeed does not show. This release may have mended it: narrow its versions in pytest_deepspeed/training/faults.py
    """)


def test_a_limit_on_memory(session):
    """Protects: a config over its limit fails, with what each category holds and what is large."""
    whole = shown(session, LIMIT).failure
    own = whole[: whole.index("- memory.limit_optimizer (with SGD)")]
    own = re.sub(r"(peak of \w+) +\d+\.\d+ .iB", r"\1 SIZE", own)
    own = re.sub(r"\n  other .*", "", own)

    assert own == inner.text("""
        test_over_its_limit
        memory of zero2-fp32: 2 findings
        - memory.limit_optimizer (with Adam): rank 0: optimizer states: 42.45 KiB, more than the 1.00 KiB that limit_rank_memory allows (optimizer: 43,472 bytes of 1,024)
        held after the last step:
          parameters         48.86 KiB
          masters            21.23 KiB
          optimizer          42.45 KiB
          gradients          22.34 KiB
          module buffers          64 B
          peak of tensors SIZE
          peak of host SIZE
        largest tensors:
            40.78 KiB  encoder.weight and 10 more (parameters, float32, cpu)
            20.39 KiB  single_partition_of_fp32_groups[0] (masters, float32, cpu)
            20.39 KiB  exp_avg of single_partition_of_fp32_groups[0] (optimizer, float32, cpu)
            20.39 KiB  exp_avg_sq of single_partition_of_fp32_groups[0] (optimizer, float32, cpu)
             6.25 KiB  frozen.weight (parameters, float32, cpu)
             1.67 KiB  encoder.bias and 12 more (parameters, float32, cpu)
                856 B  single_partition_of_fp32_groups[1] (masters, float32, cpu)
                856 B  exp_avg of single_partition_of_fp32_groups[1] (optimizer, float32, cpu)
    """)


def test_where_plain_torch_does_not_learn_either(session):
    """Protects: a loss that stays where plain torch's does passes, and is said to prove nothing."""
    assert shown(session, SLOW).summary == ["PASSED test_learns_nothing.py::test_learns_nothing"]
    text = " ".join(session.section("DeepSpeed").split())
    assert "not decidable in 6 steps: plain torch does not learn either" in text
