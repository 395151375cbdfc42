"""Warnings that are no news of a user's config."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

_LIGHTNING = (
    "The `srun` command is available on your system",
    ".*isinstance.treespec, LeafSpec.. is deprecated",
    "You're resuming from a checkpoint that ended before the epoch ended",
    "When saving the DeepSpeed Stage 3 checkpoint, each worker will save a shard",
    "You have overridden `[^`]*configure_sharded_model` which is deprecated",  # PL301 says it
)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Inside, or in a function that it decorates, torch's deprecations are not shown.

    They are torch's news for DeepSpeed, which calls it under old names, not for whoever asks
    whether a config trains. Of Lightning's, those about how it was started and cut, which are this
    plugin's doing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is deprecated. Please use", FutureWarning)
        for text in _LIGHTNING:
            warnings.filterwarnings("ignore", text)
        yield
