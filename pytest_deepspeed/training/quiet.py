"""Warnings that are no news of a user's config."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Inside, or in a function that it decorates, torch's deprecations are not shown.

    They are torch's news for DeepSpeed, which calls it under old names, not for whoever asks
    whether a config trains.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is deprecated. Please use", FutureWarning)
        yield
