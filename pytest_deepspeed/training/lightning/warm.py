"""What an agent imports for the ranks of Lightning tests."""

from __future__ import annotations

import warnings


def warm() -> None:
    """Imports Lightning and all of it that a training needs: two seconds for each rank else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import reference_training.lightning_module
        import reference_training.lightning_record
        import reference_training.lightning_strategy  # noqa: F401
