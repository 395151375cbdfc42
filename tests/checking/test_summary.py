"""What stands at the end of a session, of reports made by hand; and a session that shows it."""

import json
import re

import inner
import pytest

from pytest_deepspeed.summary import Summary
from pytest_deepspeed.training import faults
from pytest_deepspeed.values.finding import CHECKS


def report(*properties, outcome="passed", wasxfail=None, when="call", nodeid="test_a.py::test_a"):
    """The report of a test that has recorded these properties."""
    made = pytest.TestReport(
        nodeid=nodeid,
        location=("test_a.py", 0, "test_a"),
        keywords={},
        outcome=outcome,
        longrepr=None,
        when=when,
        user_properties=list(properties),
        duration=1.25,
    )
    if wasxfail is not None:
        made.wasxfail = wasxfail
    return made


def checked(*checks, mode="zero2-fp32", more=(), **kwargs):
    """The report of a test with these checks."""
    names = [("ds_check", check) for check in checks]
    return report(*names, ("ds_mode", mode), ("ds_world_size", 2), *more, **kwargs)


def lines(*reports, args=None):
    """What is shown at the end of a session with these reports."""
    summary = Summary()
    for one in reports:
        summary.pytest_runtest_logreport(one)
    return summary.lines(args)


LOSSES = (("ds_loss_first", 2.5), ("ds_loss_last", 1.25))
MEMORY = (("ds_memory", 120_400), ("ds_memory_expected", 120_400))


def of_file(*checks, path="ds_config.json", mode="zero2-optimizer_cpu-bf16", **kwargs):
    """The report of a test of a config file that was trained."""
    more = [("ds_case", mode), *LOSSES, *MEMORY]
    return checked(*checks, mode=path, more=more, **kwargs)


def test_nothing_was_trained():
    """Protects: a session without trainings has no section."""
    assert lines(report()) == []


def test_a_table_of_trainings():
    """Protects: the table of `ds_train`, with the time and the verdict of each test."""
    own = [("ds_steps", 20), *LOSSES, ("ds_samples_per_second", 99.6), ("ds_data", "synthetic")]
    passed = report(("ds_mode", "zero1-bf16"), ("ds_world_size", 2), *own)
    failed = report(("ds_mode", "zero0-fp32"), ("ds_world_size", 4), *own, outcome="failed")

    assert "\n".join([*lines(passed, failed), ""]) == inner.text("""
        mode        ranks  steps  loss            samples/s  time    verdict
        zero0-fp32  4      20     2.500 -> 1.250  100        1.25 s  failed
        zero1-bf16  2      20     2.500 -> 1.250  100        1.25 s  passed
        data: synthetic
    """)


def test_a_table_of_checks():
    """Protects: a row for each mode: how many checks passed, and each that did not by its name."""
    shown = lines(
        checked("loss", mode="zero3-fp32", more=LOSSES),
        checked("memory", mode="zero3-fp32", outcome="failed"),
        checked("ranks", mode="zero3-fp32", outcome="failed"),
        checked("parity", mode="zero3-fp32", outcome="skipped", wasxfail="known"),
        checked("checkpoint", mode="zero3-fp32", outcome="passed", wasxfail="known"),
        checked("reshard", mode="zero3-fp32", outcome="skipped"),
        *(checked(check, more=[*LOSSES, *MEMORY]) for check in CHECKS),
    )

    assert "\n".join([*shown, ""]) == inner.text("""
        config      ranks  loss            memory/expected  time    checks
        zero2-fp32  2      2.500 -> 1.250  118/118 KiB      8.75 s  7 passed
        zero3-fp32  2      2.500 -> 1.250                   7.50 s  1 passed, ranks
                                                                    memory failed,
                                                                    checkpoint xpassed,
                                                                    parity known fault,
                                                                    reshard skipped
    """)


def test_configs_of_files():
    """Protects: a file's row says in what mode it trained, and its checks have the line below."""
    shown = lines(
        *(of_file(check) for check in CHECKS),
        of_file("loss", path="ds_config_large.json", mode="zero3-bf16"),
        of_file("parity", path="ds_config_large.json", mode="zero3-bf16", outcome="failed"),
        checked("schema", mode="ds_config_old.json", outcome="failed"),
    )

    assert "\n".join([*shown, ""]) == inner.text("""
        config                ranks  loss            memory/expected  time
          mode: checks
        ds_config.json        2      2.500 -> 1.250  118/118 KiB      8.75 s
          zero2-optimizer_cpu-bf16: 7 passed
        ds_config_large.json  2      2.500 -> 1.250  118/118 KiB      2.50 s
          zero3-bf16: 1 passed, parity failed
        ds_config_old.json    2                                       1.25 s
          schema failed
    """)


def test_what_was_not_trained_has_no_columns_for_it():
    """Protects: where the rules alone were asked the table is as short as what they said."""
    assert lines(checked("schema", mode="ds_config.json"))[:2] == [
        "config          ranks  time    checks",
        "ds_config.json  2      1.25 s  1 passed",
    ]


LONG = "configs/experiments/large_language_models/ds_config_pretraining_stage2_offload.json"
PINNED = "zero3-optimizer_nvme-param_nvme-bf16-gas2-pinned"


def test_80_columns():
    """Protects: no row is wider than a terminal: a long path loses its middle, a long mode is told
    in full below, and checks that failed go on below.
    """
    shown = lines(
        *(of_file(check, path=LONG, outcome="failed") for check in ("schema", *CHECKS)),
        *(checked(check, mode=PINNED, more=LOSSES) for check in CHECKS),
    )

    assert "\n".join([*shown, ""]) == inner.text("""
        config                            ranks  loss            memory/expected  time
          mode: checks
        configs/e..._stage2_offload.json  2      2.500 -> 1.250  118/118 KiB      10.0 s
          zero2-optimizer_cpu-bf16: schema loss ranks parity engagement memory
            checkpoint reshard failed
        zero3-opt...vme-bf16-gas2-pinned  2      2.500 -> 1.250                   8.75 s
          zero3-optimizer_nvme-param_nvme-bf16-gas2-pinned: 7 passed
    """)
    assert max(map(len, shown)) <= 80


@pytest.mark.parametrize(
    ("held", "expected", "shown"),
    [
        (800, 800, "800/800 B"),
        (120_400, 240_800, "118/235 KiB"),
        (120_404, 120_400, "118/118 KiB (+4 B)"),
        (5_138_022, 5_138_122, "4.90/4.90 MiB (-100 B)"),
        (3 * 2**30, 12 * 2**30, "3.00/12.0 GiB"),
    ],
)
def test_memory(held, expected, shown):
    """Protects: both in one unit, and a difference that the digits do not show is told."""
    memory = [("ds_memory", held), ("ds_memory_expected", expected)]

    said = lines(checked("loss", more=[*LOSSES, *memory]))

    (row,) = (line for line in said if line.startswith("zero2-fp32 "))
    assert re.split("  +", row)[3] == shown


@pytest.mark.parametrize("outcomes", [("passed", "failed"), ("failed", "passed")])
def test_the_worst_of_several_tests(outcomes):
    """Protects: a check that two tests made of one mode has failed where one of them has."""
    shown = lines(*(checked("loss", outcome=outcome) for outcome in outcomes))

    assert shown[1:] == ["zero2-fp32  2      2.50 s  loss failed"]


def test_several_checks_in_one_test():
    """Protects: each of a test's checks is counted; only the last can have failed it."""
    shown = lines(checked("loss", "ranks", "parity", outcome="failed"))

    assert shown[1:] == ["zero2-fp32  2      1.25 s  2 passed, parity failed"]


def test_reruns():
    """Protects: of a test that is run again the last try counts, and the summary is there."""
    again = checked("loss", outcome="rerun")

    assert lines(again) == []
    assert lines(again, checked("loss"))[1:] == ["zero2-fp32  2      1.25 s  1 passed"]


def test_what_failed_before_its_check():
    """Protects: reports of set-up and teardown are no second row, and no training."""
    assert lines(checked("loss", when="setup"), checked("loss", when="teardown")) == []


def test_known_faults_are_told_once():
    """Protects: what the configs can meet of DeepSpeed's known faults, in the registry's order."""
    told = [(fault.id, f"{fault.id}: {fault.what}") for fault in faults.FAULTS[:2]]
    (_, first), (_, second) = told
    shown = lines(
        checked("loss", more=[("ds_fault", second)]),
        checked("ranks", more=[("ds_fault", first), ("ds_fault", second)]),
    )[2:]

    assert shown == faults.summary_of({id_ for id_, _ in told})
    assert shown[0].startswith(f"this DeepSpeed ({faults.installed()}) has 2 known silent faults")
    text = " ".join(" ".join(shown).split())
    assert text.index(faults.FAULTS[0].what) < text.index(faults.FAULTS[1].what)


def test_what_was_left_open_is_told():
    """Protects: a note of a check stands in the summary, once for all tests that have it."""
    note = ("ds_note", "loss: not decidable in 6 steps: plain torch does not learn either")
    shown = lines(
        checked("loss", more=[note]),
        checked("loss", mode="zero3-fp32", more=[note]),
    )

    assert sum("not decidable in 6 steps" in line for line in shown) == 1


def test_what_was_adapted_is_told():
    """Protects: how many tests ran another config than is written, and how to refuse that."""
    change = ("ds_adapted", "fp16 -> bf16")
    phases = [
        checked("loss", more=[change], nodeid=name, when=when)
        for name in ("a", "b")
        for when in ("setup", "call", "teardown")
    ]

    assert lines(*phases)[2:] == [
        "adapted in 2 tests: fp16 -> bf16",
        "(--ds-require=exact makes an adaptation a failure)",
    ]


def test_of_many_configs_those_that_passed_are_counted():
    """Protects: a thousand configs leave no thousand lines, and none that failed is missed."""
    many = [checked("schema", mode=f"ds_config_{n:03}.json") for n in range(60)]

    shown = lines(*many, checked("schema", mode="ds_config_x.json", outcome="failed"))

    assert "\n".join([*shown, ""]) == inner.text("""
        config            ranks  time    checks
        ds_config_x.json  2      1.25 s  schema failed
        and 60 more, all passed
    """)


FIXABLE = [("ds_fixable", 2)]


def test_the_next_command():
    """Protects: after a failure stands what to type: what mends a file, and what repeats the rest
    under the same options.
    """
    schema = checked("schema", mode="ds_config.json", outcome="failed", more=FIXABLE)
    parity = of_file("parity", outcome="failed")
    args = ["-n", "2", "-k", "parity or schema"]
    again = "again, what failed: pytest --lf -n 2 -k 'parity or schema'"

    assert lines(schema, args=args)[-1] == "mend: pytest --ds-fix ds_config.json"
    assert lines(parity, args=args)[-1] == again
    assert lines(schema, parity, args=args)[-2:] == ["mend: pytest --ds-fix ds_config.json", again]
    assert lines(parity, args=["--lf"])[-1] == "again, what failed: pytest --lf"
    # Without pytest's cache there is nothing to repeat it from; what passed needs nothing.
    assert lines(parity)[-1] == lines(parity, args=args)[-2]
    assert not lines(of_file("parity"), args=args)[-1].startswith("again")


def test_a_long_command_can_be_pasted():
    """Protects: a command that is wider than a terminal goes on as a shell reads it."""
    files = [f"conf/ds_config_number_{n}.json" for n in range(4)]
    failed = (checked("schema", mode=file, outcome="failed", more=FIXABLE) for file in files)

    command = lines(*failed)[-2:]

    assert (
        command
        == [
            "mend: pytest --ds-fix conf/ds_config_number_0.json \\",
            "  conf/ds_config_number_1.json conf/ds_config_number_2.json \\",
            "  conf/ds_config_number_3.json",
        ][-2:]
    )
    assert all(len(line) <= 80 for line in command)


def table_of(session):
    """The table of a session, with its losses and times replaced."""
    section = session.folder.joinpath("output").read_text().partition("= DeepSpeed =")[2]
    return re.sub(r"\d+\.\d+", "N", section.partition("\n")[2].partition("ran here")[0])


def test_words_and_colours(inner_session, tmp_path):
    """Protects: what went wrong is red where there are colours, and the same words say so where
    there are none; the memory of a trained config stands beside the arithmetic's.
    """
    config = {
        "train_batch_size": 16,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.01}},
        "zero_optimization": {"stage": 1, "cpu_offload": False},
    }
    tmp_path.joinpath("ds_config.json").write_text(json.dumps(config))
    checks = "--ds-checks=schema,loss"

    plain = table_of(inner_session(args=["--color=no", checks]))
    colours = table_of(inner_session(args=["--color=yes", checks, "-k", "schema"]))

    assert plain == inner.text("""
        config          ranks  loss            memory/expected  time
          mode: checks
        ds_config.json  2      N -> N  134/134 KiB      N s
          zero1-fp32: 1 passed, schema failed
    """)
    assert "\x1b[31mschema failed\x1b[0m" in colours
