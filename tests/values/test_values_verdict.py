"""One verdict from what N ranks did: the order of outcomes, of time, and who has no vote."""

import pytest

from pytest_deepspeed.values.outcome import Phase, RankResult, WorldResult
from pytest_deepspeed.values.verdict import judge

PEER_LOST = "RuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]:1234"


def failed(message="assert 1 == 2", when="call", at=1.0, **more):
    """A report that failed."""
    report = {"longrepr": {"reprcrash": {"message": message}}, **more}
    return Phase(when, "failed", at, report)


def skipped(reason="no NVMe", when="call", at=1.0):
    """A report that was skipped."""
    return Phase(when, "skipped", at, {"longrepr": ["test_a.py", 3, f"Skipped: {reason}"]})


def xfailed(at=1.0):
    """A report that failed as its mark expects."""
    report = {"longrepr": {"reprcrash": {"message": "assert 1 == 2"}}, "wasxfail": "a known bug"}
    return Phase("call", "skipped", at, report)


def xpassed(at=1.0):
    """A report that passed though its mark expects a failure."""
    return Phase("call", "passed", at, {"wasxfail": "a known bug"})


def strict_xpassed(at=1.0):
    """The same under a strict mark."""
    return Phase("call", "failed", at, {"longrepr": "[XPASS(strict)] was fixed"})


def passed(when="call", at=1.0):
    """A report that passed."""
    return Phase(when, "passed", at, {})


def ended(*phases, at=2.0, status=0):
    """A rank that reported these phases and ended as it should."""
    return {"phases": phases, "finished_at": at, "exited_at": at, "status": status}


def body(*phases, **more):
    """A rank whose set-up passed, and that reported these phases after it."""
    return ended(passed("setup", 0.5), *phases, **more)


PASS = body(passed(), passed("teardown", 1.5))


def crashed(status=-9, at=2.0, *phases):
    """A rank that ended without saying so."""
    return {"phases": (passed("setup", 0.5), *phases), "exited_at": at, "status": status}


def killed(*phases, why="killed 1 s after the first failure", at=9.0):
    """A rank that the harness ended."""
    return {**crashed(-9, at, *phases), "killed": why}


def world(*ranks, **more):
    """The ranks' results as a world."""
    results = [
        RankResult(
            number, pid=100 + number, ready_at=0.1, **{**rank, "phases": list(rank["phases"])}
        )
        for number, rank in enumerate(ranks)
    ]
    return WorldResult(results, budget=60.0, **more)


def test_all_pass():
    """N bodies that ran and N exit codes 0 are a pass."""
    verdict = judge(world(PASS, PASS))
    assert (verdict.kind, verdict.when, verdict.rank) == ("pass", "call", None)
    assert verdict.reason == "2 ranks passed"
    assert not verdict.failed


@pytest.mark.parametrize(
    ("rank", "reason"),
    [
        (crashed(0), "rank 1 exited with code 0 in call, before the test ended (os._exit, or a library that ends the process)"),  # noqa: E501
        (crashed(3), "rank 1 exited with code 3 in call, before the test ended (os._exit, or a library that ends the process)"),  # noqa: E501
        (crashed(-11), "rank 1 was killed by SIGSEGV in call"),
        (crashed(-63), "rank 1 was killed by signal 63 in call"),
        ({**PASS, "status": 1}, "rank 1 exited with code 1 in teardown"),
        ({**PASS, "finished_at": None}, "rank 1 exited with code 0 in teardown, before the test ended (os._exit, or a library that ends the process)"),  # noqa: E501
        (ended(passed("setup", 0.5)), "rank 1 exited with code 0 in call"),
        (ended(), "rank 1 exited with code 0 in setup"),
        ({"phases": ()}, "rank 1 was never started in setup"),
    ],
    ids=["exit 0", "exit 3", "SIGSEGV", "unnamed signal", "exit 1 after its report",
         "no last word", "no body", "no report", "never forked"],
)  # fmt: skip
def test_a_pass_needs_a_body_and_a_zero_exit_of_each_rank(rank, reason):
    """Whatever lacks of N reports, N last words and N exit codes 0, it is a crash and no pass."""
    verdict = judge(world(PASS, rank))
    assert (verdict.kind, verdict.rank, verdict.reason) == ("crash", 1, reason)
    assert verdict.failed


#: From the worst to the best, each against a peer that did the next.
ORDER = [
    ("crash", crashed(at=1.0), PASS),
    ("crash", {**PASS, "status": 1}, body(skipped())),
    ("fail", body(failed()), PASS),
    ("fail", body(failed()), body(skipped())),
    ("fail", body(failed(at=1.0)), body(xfailed(at=1.1))),
    ("divergent skip", body(skipped()), PASS),
    ("divergent skip", body(skipped()), body(xpassed())),
    ("xfail", body(xfailed()), PASS),
    ("fail", body(strict_xpassed()), body(strict_xpassed())),
    ("xpass", body(xpassed()), body(xpassed())),
    ("skip", body(skipped()), body(skipped())),
    ("skip", ended(skipped(when="setup")), ended(skipped(when="setup"))),
    ("pass", PASS, PASS),
]


@pytest.mark.parametrize(
    ("kind", "one", "other"), ORDER, ids=[f"{n} {o[0]}" for n, o in enumerate(ORDER)]
)
@pytest.mark.parametrize("swapped", [False, True], ids=["", "swapped"])
def test_the_worst_vote_counts(kind, one, other, swapped):
    """The outcome does not depend on which rank it happened."""
    ranks = (other, one) if swapped else (one, other)
    assert judge(world(*ranks)).kind == kind


HANG = {"hang": "body", "hang_at": 5.0}


@pytest.mark.parametrize(
    ("kind", "rank"),
    [
        ("hang", PASS),
        ("hang", body(skipped())),
        ("hang", body(failed(PEER_LOST, at=5.2), at=5.3)),
        ("hang", crashed(at=5.2)),
        ("fail", body(failed(at=4.0))),
        ("crash", crashed(at=4.0)),
        ("xfail", body(xfailed(at=4.0))),
    ],
    ids=["pass", "skip", "failed after the deadline", "crashed after the deadline",
         "failed before", "crashed before", "xfail before"],
)  # fmt: skip
def test_what_came_before_the_deadline_counts(kind, rank):
    """A failure before the deadline decides; one after it is what the deadline's signal caused."""
    verdict = judge(world(rank, killed(why="still running"), **HANG))
    assert verdict.kind == kind


def test_a_hang_names_who_had_not_ended():
    """Only ranks that were still there are named, with the budget and the phase they were in."""
    verdict = judge(world(PASS, killed(why="still running"), **HANG))
    assert (
        verdict.reason
        == "hang: 1 rank of 2 (1) had not ended the body after 60 s (--ds-timeout allows more)"
    )
    assert verdict.fates == ("rank 0: passed", "rank 1: was still in call")
    assert verdict.when == "call"


def test_a_hang_at_start_up_is_an_error_at_set_up():
    """A world that never formed is set-up's error."""
    never = {**killed(why="still running"), "phases": ()}
    already_in_the_body = killed(why="still running")
    verdict = judge(world(already_in_the_body, never, hang="start-up", hang_at=5.0))
    assert (verdict.kind, verdict.when) == ("hang", "setup")
    assert verdict.reason == "hang: 2 ranks of 2 (0, 1) had not ended the start-up after 60 s"


@pytest.mark.parametrize(
    "rank",
    [body(failed(PEER_LOST, at=5.2), at=5.3), body(passed(at=5.2), at=5.3), crashed(at=5.2)],
    ids=["failed", "passed", "crashed"],
)
def test_who_ended_after_the_deadline_had_not_ended(rank):
    """The signal that asks for a stack can wake a rank: what it did then is not its fate."""
    verdict = judge(world(rank, killed(why="still running"), **HANG))
    assert (
        verdict.reason
        == "hang: 2 ranks of 2 (0, 1) had not ended the body after 60 s (--ds-timeout allows more)"
    )
    assert verdict.fates == ("rank 0: was still in call", "rank 1: was still in call")


def test_the_first_failure_is_shown():
    """Of two failures the earlier decides, in whatever order they stand; the other is one line."""
    verdict = judge(
        world(body(failed("assert 0 == 1", at=1.2)), body(failed("assert 2 == 1", at=1.0)))
    )
    assert (verdict.rank, verdict.reason) == (1, "rank 1: assert 2 == 1")
    assert verdict.fates == (
        "rank 0: aborted in call, 200 ms later: assert 0 == 1",
        "rank 1: failed first, in call",
    )


def test_a_crash_is_the_cause_of_a_lost_connection_seen_before_it():
    """A peer feels a crash before the agent sees it: the crash still decides."""
    verdict = judge(world(body(failed(PEER_LOST, at=1.0)), crashed(at=1.1)))
    assert (verdict.kind, verdict.rank) == ("crash", 1)
    assert verdict.reason == "rank 1 was killed by SIGKILL in call"
    assert verdict.fates == (
        "rank 0: aborted in call, 100 ms later: it lost the connection to a peer",
        "rank 1: was killed by SIGKILL in call",
    )


@pytest.mark.parametrize(
    ("first", "peer"),
    [
        (failed("assert 1 == 2", at=1.0), crashed(at=1.1)),
        (failed(PEER_LOST, at=1.0), crashed(at=4.0)),
        (failed(PEER_LOST, at=1.0), killed(at=2.1)),
    ],
    ids=["an own failure", "a crash much later", "the harness's own kill"],
)
def test_a_crash_is_not_the_cause(first, peer):
    """A failure of its own keeps its vote, and so does one long before the crash."""
    verdict = judge(world(body(first), peer))
    assert (verdict.kind, verdict.rank) == ("fail", 0)


def test_a_skip_is_the_cause_of_a_lost_connection():
    """A rank that skipped left its peer alone: a divergent skip, which names the reason."""
    verdict = judge(world(body(skipped()), body(failed(PEER_LOST, at=1.2))))
    assert (verdict.kind, verdict.rank) == ("divergent skip", 0)
    assert verdict.reason == (
        "rank 0 skipped (no NVMe) and rank 1 did not: all ranks must skip, or none"
    )
    assert verdict.fates == (
        "rank 0: skipped",
        "rank 1: aborted in call: it lost the connection to a peer",
    )


@pytest.mark.parametrize(
    ("rank", "fate"),
    [
        (killed(), "rank 1: aborted in call: killed 1 s after the first failure"),
        (body(failed(PEER_LOST, at=1.3)), "rank 1: aborted in call, 300 ms later: it lost the connection to a peer"),  # noqa: E501
        (PASS, "rank 1: passed"),
    ],
    ids=["killed", "lost its peer", "passed"],
)  # fmt: skip
@pytest.mark.parametrize("vote", [failed, xfailed])
def test_aborted_ranks_have_no_vote(vote, rank, fate):
    """What a rank did after the first failure changes nothing: an xfail stays an xfail."""
    verdict = judge(world(body(vote(at=1.0)), rank))
    assert (verdict.kind, verdict.rank) == ("fail" if vote is failed else "xfail", 0)
    assert verdict.fates[1] == fate


@pytest.mark.parametrize("when", ["setup", "call", "teardown"])
def test_the_phase_of_a_failure(when):
    """A failure belongs to the phase in which it happened."""
    before = {"setup": [], "call": [passed("setup")], "teardown": [passed("setup"), passed()]}[when]
    verdict = judge(world(ended(*before, failed(when=when)), PASS))
    assert (verdict.kind, verdict.when) == ("fail", when)


def on_nodes(result, *nodes):
    """The same ranks, each on its node."""
    for rank, node in zip(result.ranks, nodes, strict=True):
        rank.node = node
    return result


GONE = (
    "node n2 was lost: Slurm reports a node failure.\nIts last output:\nsrun: error: Node failure"
)


def lost(*phases, at=2.0):
    """A rank that went with its node."""
    return {"phases": (passed("setup", 0.5), *phases), "exited_at": at, "lost": GONE}


def test_reasons_and_fates_name_the_nodes():
    """Each kind of reason says on which node its ranks were, and so does each fate."""
    ranks = (PASS, body(failed()), crashed(at=3.0))
    verdict = judge(on_nodes(world(*ranks), "n1", "n2", "n2"))
    assert verdict.reason == "rank 1 on n2: assert 1 == 2"
    assert verdict.fates == (
        "rank 0 on n1: passed",
        "rank 1 on n2: failed first, in call",
        "rank 2 on n2: aborted in call, 2000 ms later: was killed by SIGKILL",
    )
    reasons = {
        "crash": judge(on_nodes(world(PASS, crashed(-11)), "n1", "n2")).reason,
        "hang": judge(
            on_nodes(world(PASS, killed(why="still running"), **HANG), "n1", "n2")
        ).reason,
        "divergent skip": judge(on_nodes(world(PASS, body(skipped())), "n1", "n2")).reason,
    }
    assert reasons == {
        "crash": "rank 1 on n2 was killed by SIGSEGV in call",
        "hang": "hang: 1 rank of 2 (1 on n2) had not ended the body after 60 s (--ds-timeout allows"
        " more)",
        "divergent skip": "rank 1 on n2 skipped (no NVMe) and rank 0 on n1 did not: all ranks must"
        " skip, or none",
    }


def test_a_rank_lost_with_its_node():
    """It is a crash whose reason is the first line of the node's last words."""
    verdict = judge(on_nodes(world(killed(), lost()), "n1", "n2"))
    assert (verdict.kind, verdict.rank, verdict.when) == ("crash", 1, "call")
    assert verdict.reason == (
        "rank 1 on n2 was lost in call: node n2 was lost: Slurm reports a node failure."
    )
    assert verdict.fates == (
        "rank 0 on n1: aborted in call: killed 1 s after the first failure",
        "rank 1 on n2: was lost with its node in call",
    )


@pytest.mark.parametrize("seen", [1.1, 25.0], ids=["at once", "by keep-alive"])
def test_a_lost_node_is_the_cause_of_a_lost_connection(seen):
    """However late a dead node is noticed, a peer that lost its connection is not to blame."""
    verdict = judge(on_nodes(world(body(failed(PEER_LOST, at=1.0)), lost(at=seen)), "n1", "n2"))
    assert (verdict.kind, verdict.rank) == ("crash", 1)
    assert verdict.reason.startswith("rank 1 on n2 was lost in call: node n2 was lost: ")
    later = round((seen - 1.0) * 1000)
    assert verdict.fates[0] == (
        f"rank 0 on n1: aborted in call, {later} ms later: it lost the connection to a peer"
    )


def test_a_failure_before_its_node_was_lost():
    """What a rank has failed of by itself is shown, though a node was lost after it."""
    verdict = judge(on_nodes(world(body(failed(at=1.0)), lost()), "n1", "n2"))
    assert (verdict.kind, verdict.reason) == ("fail", "rank 0 on n1: assert 1 == 2")


def test_a_rank_that_had_ended_before_its_node_was_lost():
    """It has said all that it had to say: its report counts."""
    gone = {**PASS, "lost": GONE, "status": None}
    assert judge(on_nodes(world(body(failed()), gone), "n1", "n2")).rank == 0
    assert not judge(on_nodes(world(PASS, {**PASS, "lost": ""}), "n1", "n2")).failed
