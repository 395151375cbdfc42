"""Lightning without a GPU, and its strategies under the rules; imports Lightning, and so torch.

```python
from pytest_deepspeed.lightning import DeepSpeedCPUStrategy, problems

trainer = Trainer(accelerator="cpu", devices=2, strategy=DeepSpeedCPUStrategy(stage=3))


def test_strategy():
    assert problems(make_strategy()) == []
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_deepspeed.lightning_case import problems_of
from reference_training.lightning_strategy import DeepSpeedCPUStrategy

if TYPE_CHECKING:
    from pytorch_lightning.strategies import DeepSpeedStrategy

__all__ = ["DeepSpeedCPUStrategy", "problems"]


def problems(strategy: DeepSpeedStrategy, *, warnings: bool = False) -> list[str]:
    """What the rules find wrong in the config of a strategy, as `pytest ds_config.json` would.

    Of what Lightning sets by itself no error is found, since no argument takes it away.

    Args:
        strategy: whose ``config`` is judged, before a Trainer has it or after.
        warnings: whether warnings count too: hazards, such as an ``nvme_path`` that is relative.

    Returns:
        a line for each: the rule's id and name, what DeepSpeed does, what to write instead.
    """
    return problems_of(strategy.config or {}, warnings=warnings)
