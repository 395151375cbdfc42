"""Which faults strike in which session, when and whom: decided by a seed, and so repeatable."""

import random

from campaign_catalogue import RANKS

#: Seconds from a test's first meeting of ranks in which a fault may strike; they meet for 0.45 s.
WINDOW = 0.4

#: Meetings of a test; see `campaign_meetings`.
STEPS = 45


def victims(seed, number, names=()):
    """The tests of a session: a control first, then victims with a control after each.

    Args:
        seed: decides all of it.
        number: how many victims.
        names: of faults to choose from; all, each as often as another, unless given.
    """
    choice = random.Random(f"victims {seed}")
    faults = [fault for fault in RANKS if not names or fault.name in names]
    wanted = [faults[(seed * number + i) % len(faults)] for i in range(number)]
    choice.shuffle(wanted)
    plan = [_control(0)]
    for i, fault in enumerate(wanted, 1):
        size = choice.choice(fault.world_sizes)
        plan.append(
            {
                "id": f"{i:03}-{fault.name}",
                "fault": fault.name,
                "world_size": size,
                "rank": choice.randrange(size),
                "moment": choice.uniform(0, WINDOW),
                "step": choice.randrange(STEPS) if fault.at_a_step else None,
                "budget": fault.budget,
            }
        )
        plan.append(_control(i))
    return plan


def _control(number):
    return {
        "id": f"{number:03}-control",
        "fault": "",
        "world_size": 2,
        "rank": -1,
        "moment": None,
        "step": None,
        "budget": 60.0,
    }


def controls(number):
    """The plan of a session without victims."""
    return [_control(i) for i in range(number)]
