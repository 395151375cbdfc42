"""The campaign in short: each fault of ranks once, and whether wrong verdicts would be seen."""

import dataclasses
import json

import campaign_controller
import campaign_judge
import campaign_ops
import campaign_plan
import campaign_sessions
import campaign_slurm
import campaign_storage
import campaign_strikes
import campaign_struck
import campaign_table
import pytest
from campaign_catalogue import BY_NAME, RANKS
from campaign_judge import Try

#: What takes longer than a session of all others, or a gigabyte: `make faults` has it.
LONG = ("agent_stopped", "flood", "late")

SECRET = "correct horse battery staple"


@pytest.fixture(scope="module")
def struck(tmp_path_factory):
    """A session in which each fault strikes once: how it ended, and its plan."""
    names = [fault.name for fault in RANKS if fault.name not in LONG]
    folder = tmp_path_factory.mktemp("campaign") / "session"
    plan = campaign_plan.victims(seed=0, number=len(names), names=names)
    campaign_sessions.write(folder, plan)
    before = campaign_sessions.segments()
    more = {"AWS_SECRET_ACCESS_KEY": SECRET}
    reports = campaign_sessions.reports()
    with campaign_sessions.session(folder, *reports, more=more) as (process, mark):
        return campaign_sessions.ended(folder, process, mark, before, 900), plan


def test_each_fault_once(struck):
    """Protects: whatever strikes a rank or its agent, the verdict is right and names it, the
    reports are whole, all other tests have the outcome they always have, and nothing is left.
    """
    ended, plan = struck
    tries, others = campaign_judge.victims(ended, plan, seed=0)

    assert others == []
    assert [each for each in tries if each.wrong or each.left] == []
    assert {each.fault for each in tries} == {fault.name for fault in RANKS} - {*LONG}


def test_no_report_tells_the_environment(struck):
    """Protects: a secret in the environment of a session is in nothing that it writes, whatever
    has happened to its ranks and its agent.
    """
    ended, _ = struck

    names = ("output", "junit.xml", "report.html", "report.json", "report.md")
    told = {name: ended.folder.joinpath(name).read_text(errors="replace") for name in names}

    assert [name for name, text in told.items() if SECRET in text] == []


def changed(ended, folder, change):
    """The same session with a report in which something is otherwise."""
    report = ended.report()
    for test in report["tests"]:
        change(test)
    folder.joinpath("report.json").write_text(json.dumps(report))
    for name in ("junit.xml", "report.html", "report.md", "output"):
        folder.joinpath(name).write_bytes(ended.folder.joinpath(name).read_bytes())
    return dataclasses.replace(ended, folder=folder)


def passes(test):
    """All is green."""
    test["outcome"] = "passed"


def blames_another(test):
    """Another rank is to blame."""
    swapped = str.maketrans("0123", "1230")
    test["text"] = test["text"].translate(swapped)
    test["message"] = test["message"].translate(swapped)
    test["ranks"] = [[part.translate(swapped) for part in parts] for parts in test["ranks"]]


def late(test):
    """It took an hour."""
    test["seconds"] += 3600


@pytest.mark.parametrize("change", [passes, blames_another, late], ids=lambda c: c.__name__)
def test_wrong_verdicts_are_seen(struck, tmp_path, change):
    """Protects: a green test, another culprit or a late verdict is no right one to the campaign."""
    ended, plan = struck
    tries, others = campaign_judge.victims(changed(ended, tmp_path, change), plan, seed=0)

    wrong = {each.fault for each in tries if each.wrong}
    killed = {"sigkill", "sigsegv", "sigterm", "abort", "exit_0", "exit_3", "sigstop"}
    assert killed <= wrong
    assert bool(others) == (change is passes), "test_that_fails does not fail any more"


def test_what_is_left_is_seen(struck):
    """Protects: a process or a file that a session leaves counts against it."""
    ended, plan = struck
    left = dataclasses.replace(ended, left=("process sleep 600",))

    tries, _ = campaign_judge.victims(left, plan, seed=0)

    assert [each.left for each in tries if each.left] == [("process sleep 600",)]


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (campaign_controller, "two_sessions"),
        (campaign_controller, "ipv6_only"),
        (campaign_ops, "op_build_killed"),
        (campaign_storage, "nvme_removed"),
    ],
    ids=["controller", "network", "ops", "storage"],
)
def test_a_session_that_is_struck(tmp_path, group, name):
    """Protects: what strikes a session as a whole, or what it works with, is told; nothing is left.

    One of each kind; `make faults` has the others.
    """
    (fault,) = [fault for fault in group.FAULTS if fault.name == name]

    done = campaign_struck.run(fault, 0, tmp_path / "session")

    if done is None:
        pytest.skip("a network of its own is for root: unshare, of util-linux, and ip, of iproute2")
    assert (done.wrong, done.left) == ((), ())


def test_a_seed_decides_all():
    """Protects: a round can be repeated: moments, ranks and order come from its seed alone."""
    names = [fault.name for fault in RANKS]

    first, again, other = (campaign_plan.victims(seed, 60, names) for seed in (3, 3, 4))

    assert first == again
    assert first != other
    assert {entry["fault"] for entry in first} == {*names, ""}


def test_table():
    """Protects: the table counts what was tried, what was right and what was left."""
    tries = [
        Try("sigkill", 0, "a", 0.5),
        Try("sigkill", 1, "a", 1.5, ("says nothing",)),
        Try("sigkill", 2, "a", 0.7, (), ("process sleep",)),
    ]

    assert list(campaign_table.table(tries, RANKS)) == [
        "| fault | tries | right | median s | worst s | left behind |",
        "|---|---|---|---|---|---|",
        f"| {BY_NAME['sigkill'].what} | 3 | 2 | 0.7 | 1.5 | 1 |",
        "| all | 3 | 2 | | | 1 |",
    ]


def test_each_fault_is_one():
    """Protects: names are told apart, and each stands for something that is done."""
    groups = (campaign_controller, campaign_ops, campaign_slurm, campaign_storage)
    names = [fault.name for fault in (*RANKS, *(f for group in groups for f in group.FAULTS))]

    assert len(set(names)) == len(names)
    assert all(callable(getattr(campaign_strikes, fault.name)) for fault in RANKS)
