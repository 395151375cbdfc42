"""DeepSpeed damaged on purpose inside a rank, one fault at a time."""

from mutants import checkpoints, gradients, offload, optimizer, partitioning
from mutants.damage import MUTANTS, Damage, Mutant

__all__ = [
    "MUTANTS",
    "Damage",
    "Mutant",
    "checkpoints",
    "gradients",
    "offload",
    "optimizer",
    "partitioning",
]
