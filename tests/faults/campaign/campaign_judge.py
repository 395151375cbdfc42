"""Whether what a session said of a fault is right, in words where it is not."""

import dataclasses
import re

from campaign_catalogue import BY_NAME, FAILS, PASSES

#: Seconds from a fault to its verdict, where nothing waits for a budget: on a machine that is busy.
PROMPT = 20.0


@dataclasses.dataclass(frozen=True)
class Try:
    """One fault that was made to happen.

    Attributes:
        fault: its name.
        seed: of its session.
        test: that was struck, or empty.
        seconds: from the strike to the verdict.
        wrong: what was wrong with the verdict; empty where it was right.
        left: what was left behind.
    """

    fault: str
    seed: int
    test: str
    seconds: float
    wrong: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def victims(ended, plan, seed):
    """A `Try` for each victim of a session, and what of the session none of them is to blame for.

    Returns:
        the tries, and a line for each control, report or status that is not as it must be.
    """
    try:
        tests = {test["nodeid"].partition("::")[2]: test for test in ended.report()["tests"]}
    except (OSError, ValueError) as error:
        return [], [f"no report: {error}", ended.output[-2000:]]
    others = list(ended.broken_files())
    if ended.status != 1:
        others.append(f"exit status {ended.status}, not 1")
    others += _unexpected(tests, {"test_that_fails": FAILS, "test_without_ranks": PASSES})
    tries = []
    for entry in plan:
        name = f"test_case[{entry['id']}]"
        if not entry["fault"]:
            others += _unexpected(tests, {name: PASSES})
        elif name not in tests:
            tries.append(Try(entry["fault"], seed, name, 0.0, ("it is not in the report",)))
        else:
            tries.append(_victim(entry, seed, name, tests[name], ended.output))
    if ended.left and tries:  # the last one's as good as any: which it was, nobody knows
        tries[-1] = dataclasses.replace(tries[-1], left=ended.left)
    return tries, others


def _unexpected(tests, expected):
    found = []
    for name, verdict in expected.items():
        test = tests.get(name)
        outcome = test["outcome"] if test else "not in the report"
        if outcome != ("passed" if verdict == PASSES else "failed"):
            found.append(f"{name}: {outcome}: {text_of(test)[-1500:] if test else ''}")
    return found


def _victim(entry, seed, name, test, output):
    fault = BY_NAME[entry["fault"]]
    text = text_of(test) if fault.verdict == FAILS else _warnings_of(name, output)
    wrong = []
    if (test["outcome"] == "passed") != (fault.verdict == PASSES) or test["outcome"] == "skipped":
        wrong.append(f"{test['outcome']}: {text_of(test)[-1500:]}")
    for says in fault.says:
        pattern = says.replace("{rank}", str(entry["rank"]))
        if not re.search(pattern, text, re.MULTILINE):
            wrong.append(f"does not say {pattern!r}: {text[-1500:]}")
    others = set(range(entry["world_size"])) - {entry["rank"]}
    blamed = [rank for rank in others if f"rank {rank}: failed first" in text]
    wrong += [f"blames rank {rank}, not {entry['rank']}: {text[-1500:]}" for rank in blamed]
    seconds = max(test["seconds"] - (entry["moment"] if fault.verdict == FAILS else 0.0), 0.0)
    allowed = fault.budget + fault.late if fault.late else PROMPT
    if seconds > allowed:
        wrong.append(f"took {seconds:.1f} s, not {allowed:.0f}")
    return Try(fault.name, seed, name, seconds, tuple(wrong))


def text_of(test):
    """All that a report shows of a test."""
    parts = [test["message"], test["text"]]
    parts += [f"{title}\n{text}" for title, text in [*test["ranks"], *test["sections"]]]
    return "\n".join(parts)


def _warnings_of(name, output):
    """What the warnings summary says of a test."""
    summary = output.rpartition("= warnings summary =")[2]
    blocks = summary.split("\n\n")
    return "\n".join(block for block in blocks if name in block.partition("\n  ")[0])
