"""The faults of the campaign: what each does, when it may strike, and what must be said of it.

The right verdicts were written down before the first run. ``{rank}`` stands for the rank that was
struck. What must be said stands in the test's own failure; where a fault is none of the test's
business, the test passes.
"""

import dataclasses
import os

import campaign_strikes

PASSES, FAILS = "passes", "fails"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One of them.

    Attributes:
        name: of its function in `campaign_strikes`, or of what `campaign_sessions` does.
        what: in a few words, for the table.
        verdict: of the test that is struck, `PASSES` or `FAILS`.
        says: patterns that its failure, or the session's output, must hold.
        at_a_step: whether it strikes between two meetings of the ranks, in the main thread, and not
            at any time.
        world_sizes: numbers of ranks that are tried.
        budget: seconds of a test's budget; of a hang all of it passes.
        every: it is tried in every so many rounds: what takes minutes, more rarely.
        late: seconds beyond the budget in which the verdict is there, on a machine that is busy.
    """

    name: str
    what: str
    verdict: str = FAILS
    says: tuple[str, ...] = ()
    at_a_step: bool = False
    world_sizes: tuple[int, ...] = (1, 2, 3)
    budget: float = 60.0
    late: float = 0.0
    every: int = 1


#: Up to a line in what is shown of the rank that was struck.
_OF_RANK = r"^rank {rank}: .*\n(?:(?!rank \d+: ).*\n)*?"


def _killed(name, what, how):
    where = "in (setup|call|teardown)"
    return Fault(
        name, what, says=(f"rank {{rank}} {how} {where}", f"^rank {{rank}}: {how} {where}")
    )


def _of_group_memory():
    if os.access(campaign_strikes.MEMORY_GROUPS / "cgroup.procs", os.W_OK):
        yield dataclasses.replace(
            _killed("out_of_group_memory", "rank: out of memory (cgroup)", "was killed by SIGKILL"),
            at_a_step=True,
        )


_AGENT_KILLED = "the agent that forks the ranks was killed by SIGKILL"

#: Struck inside a session, which goes on: many in one session.
RANKS = (
    _killed("sigkill", "rank: SIGKILL", "was killed by SIGKILL"),
    _killed("sigsegv", "rank: SIGSEGV", "was killed by SIGSEGV"),
    _killed("sigterm", "rank: SIGTERM", "was killed by SIGTERM"),
    _killed("abort", "rank: abort()", "was killed by SIGABRT"),
    _killed("exit_0", "rank: os._exit(0)", "exited with code 0"),
    _killed("exit_3", "rank: os._exit(3)", "exited with code 3"),
    Fault(
        "sigstop",
        "rank: SIGSTOP",
        says=(r"hang: ", r"^rank {rank}: was still in", rf"{_OF_RANK}no stack: .*T \(stopped\)"),
        budget=5.0,
        late=15.0,
    ),
    Fault(
        "never_returns",
        "rank: hangs",
        says=(r"hang: ", r"^rank {rank}: was still in", rf"{_OF_RANK}.*in never_returns"),
        at_a_step=True,
        budget=5.0,
        late=15.0,
    ),
    Fault(
        "out_of_memory",
        "rank: out of memory (RLIMIT_AS)",
        says=(r"allocate memory|not enough memory|MemoryError", r"^rank {rank}: failed first"),
        at_a_step=True,
    ),
    *_of_group_memory(),
    Fault("late", "rank: 30 s late", PASSES, at_a_step=True, late=1.0, every=5),
    Fault("port_taken", "rank: another takes MASTER_PORT", PASSES),
    Fault(
        "children",
        "rank: 300 children left",
        PASSES,
        (r"300 processes were left running and were killed: sleep 600",),
        True,
    ),
    Fault("endless_thread", "rank: thread that never ends", PASSES, at_a_step=True),
    Fault("flood", "rank: 1 GB on stdout", PASSES, at_a_step=True),
    Fault(
        "binary_output",
        "rank: binary and broken UTF-8 output",
        says=(r"with binary output", r"^rank {rank}: failed first"),
        at_a_step=True,
    ),
    Fault("original_stdout", "rank: prints past the capture", PASSES, at_a_step=True),
    Fault(
        "closed_descriptors",
        "rank: all descriptors closed",
        says=(r"^E   rank {rank} (exited with code \d+|was killed by SIGABRT) in",),
        at_a_step=True,
    ),
    Fault("directory", "rank: current directory gone", PASSES, at_a_step=True),
    Fault("environment", "rank: environment cleared", PASSES, at_a_step=True),
    Fault("handlers", "rank: all signals ignored", PASSES, at_a_step=True),
    Fault("modules", "rank: sys.modules without torch, json, _pytest", PASSES, at_a_step=True),
    Fault("start_method", "rank: start method of multiprocessing", PASSES, at_a_step=True),
    Fault("dtype", "rank: default dtype", PASSES, at_a_step=True),
    Fault("seed", "rank: seeds", PASSES, at_a_step=True),
    Fault("agent_sigkill", "agent: SIGKILL while ranks run", says=(_AGENT_KILLED,)),
    Fault(
        "agent_garbage",
        "agent: garbage in place of a frame",
        says=(r"the agent sent not a frame: b'Segmentation fault \(core dumped\)'",),
    ),
    Fault(
        "agent_cut_frame",
        "agent: a frame cut in half",
        says=(r"the agent sent not a frame: b'\{\"type\": \"finished\", \"text\": \"",),
    ),
    Fault("agent_huge_frame", "agent: an unknown frame of 100 MB", PASSES, at_a_step=True),
    Fault(
        "garbage",
        "rank: garbage in place of a frame",
        says=(
            r"^E   rank {rank} was killed by .*: .* it sent what is not a frame: b'Segmentation",
        ),
        at_a_step=True,
    ),
    Fault("agent_slow", "agent: answers a second late", PASSES),
    Fault(
        "agent_stopped",
        "agent: SIGSTOP",
        says=(r"nothing was heard of it for \d+ s, stopped by a signal, and it was killed",),
        late=60.0,
        every=20,
    ),
)
BY_NAME = {fault.name: fault for fault in RANKS}
