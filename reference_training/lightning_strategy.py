"""Lightning's DeepSpeed strategy without a GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from reference_training.compat import import_torchvision

import_torchvision()  # Lightning imports it through torchmetrics

import torch  # noqa: E402
from pytorch_lightning.accelerators import CPUAccelerator  # noqa: E402
from pytorch_lightning.strategies import DeepSpeedStrategy  # noqa: E402


class DeepSpeedCPUStrategy(DeepSpeedStrategy):
    """`pytorch_lightning.strategies.DeepSpeedStrategy` on CPU ranks with gloo.

    Lightning refuses DeepSpeed on anything but CUDA (`DeepSpeedStrategy.setup_environment`), where
    DeepSpeed itself has a CPU accelerator. Everything else is Lightning's own: hooks, config,
    checkpoints, so that what is seen of a training here is what a GPU shows, but for half precision
    in fp16 (take ``precision="bf16-mixed"``), pinned memory and speed.

    ```python
    Trainer(accelerator="cpu", devices=2, strategy=DeepSpeedCPUStrategy(stage=3))
    ```

    The processes are started as for Lightning on GPUs: by torchrun, by srun, by pytest-deepspeed,
    or by Lightning.

    Args:
        process_group_backend: of torch.distributed.
        pin_memory: False, since there is no device that pinned memory would be copied to.
        **kwargs: as Lightning's.

    Raises:
        RuntimeError: in `Trainer.fit` and its like: the accelerator is not the CPU, on either side.
    """

    strategy_name = "deepspeed_cpu"

    def __init__(
        self,
        *,
        process_group_backend: str | None = "gloo",
        pin_memory: bool = False,
        **kwargs: Any,
    ) -> None:
        # DeepSpeed settles its accelerator when it is first asked for it.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        super().__init__(
            process_group_backend=process_group_backend, pin_memory=pin_memory, **kwargs
        )

    @classmethod
    def of(cls, strategy: DeepSpeedStrategy) -> DeepSpeedCPUStrategy:
        """The same strategy on the CPU: its config and all else that it was given.

        Args:
            strategy: one that no `Trainer` has been given yet.
        """
        made = cls.__new__(cls)
        made.__dict__.update(strategy.__dict__)
        made._process_group_backend = "gloo"
        zero = (made.config or {}).get("zero_optimization")
        for block in zero.values() if isinstance(zero, dict) else ():
            if isinstance(block, dict) and block.get("pin_memory"):
                block["pin_memory"] = False
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        return made

    @property
    def root_device(self) -> torch.device:
        """The CPU, with the index that `deepspeed.initialize` wants of a device."""
        return torch.device("cpu", 0)

    def setup_environment(self) -> None:
        """As Lightning's, on the CPU alone."""
        from deepspeed.accelerator import get_accelerator

        if not isinstance(self.accelerator, CPUAccelerator):
            raise RuntimeError(
                f"DeepSpeedCPUStrategy runs on the CPU, and the Trainer has"
                f" {type(self.accelerator).__name__}: write Trainer(accelerator='cpu', ...), or"
                " take Lightning's DeepSpeedStrategy on GPUs"
            )
        if (name := get_accelerator().device_name()) != "cpu":
            raise RuntimeError(
                f"DeepSpeedCPUStrategy runs on the CPU, and DeepSpeed has taken {name!r}: set"
                " DS_ACCELERATOR=cpu before deepspeed is imported"
            )
        # Not DeepSpeedStrategy's own, which refuses all but CUDA and does nothing else.
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """As Lightning's, but for the indices of devices, which CPUs do not have."""
        from lightning_fabric.utilities.seed import reset_seed

        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """As Lightning's, with words for what DeepSpeed cannot.

        Raises:
            RuntimeError: a checkpoint of stage 3 is loaded for anything but `fit`, as
                ``trainer.test(ckpt_path=...)`` does.
        """
        try:
            return super().load_checkpoint(checkpoint_path, weights_only)
        except AttributeError as error:
            if "_restore_from_bit16_weights" not in str(error):
                raise
            raise RuntimeError(
                f"DeepSpeed cannot load the ZeRO-3 checkpoint {checkpoint_path} into a model that"
                " has no optimizer, as validate, test and predict have it (DeepSpeed #7272; on GPUs"
                f" Lightning fails alike, with {error}): make one file of it with"
                " pytorch_lightning.utilities.deepspeed.convert_zero_checkpoint_to_fp32_state_dict,"
                " and load that with DeepSpeedStrategy(load_full_weights=True)"
            ) from error
