"""How nodes are asked for, and lines that failures over them share."""

import re
import shlex

TWO_NODES = ("--ds-nodes=2", "--ds-launcher=local")


def repeat(test, world_size=2):
    """The end of a failure: how to repeat it, on one node for want of another."""
    return (
        "\nrepeat it outside pytest:\n"
        "env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone"
        f" --nproc_per_node={world_size} -m pytest_deepspeed {shlex.quote(test)} --ds-seed=0\n"
    )


RANKS = "------------------------------------ ranks -------------------------------------\n"


def fates(first, second):
    """One line for each of two ranks on two nodes."""
    return f"{RANKS}rank 0 on node0: {first}\nrank 1 on node1: {second}\n"


def captured(rank, said, stream="stdout"):
    """A section of output of a rank that has a node of its own."""
    title = f" Captured {stream} [rank {rank} on node{rank}] "
    return f"{title:-^80}\n{said}\n"


def freed(text):
    """Without what ended a rank whose peer failed: the lost connection, or on a busy machine, where
    telling of it takes longer than the grace, the harness.
    """
    how = r"(, N ms later: it lost the connection to a peer|: killed 1 s after the first failure)$"
    return re.sub(rf"(: aborted in \w+){how}", r"\1", text, flags=re.MULTILINE)
