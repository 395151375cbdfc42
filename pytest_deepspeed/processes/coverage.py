"""Coverage of what only ranks execute.

pytest-cov cannot follow a fork that ends in `os._exit`: each rank measures by itself, into a data
file of its own beside the controller's, which pytest-cov combines at the end of the session.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def measured(settings: dict[str, Any] | None) -> Iterator[None]:
    """Measures the block where ``settings``, arguments of `coverage.Coverage`, are given."""
    if settings is None:
        yield
        return
    from coverage import Coverage

    coverage = Coverage(data_suffix=True, **settings)
    # Modules were imported before the fork, and a rank may touch none of them: both are normal.
    coverage.set_option(
        "run:disable_warnings", ["module-not-measured", "no-data-collected", "module-not-imported"]
    )
    coverage.start()
    try:
        yield
    finally:
        coverage.stop()
        coverage.save()
