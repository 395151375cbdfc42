"""The network that is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """A small LeNet for images of 3 x 32 x 32.

    Two convolutions of 5 x 5 with pooling, three linear layers: at width 1, 3 -> 6 -> 16 channels
    and 400 -> 120 -> 84 -> `num_classes` features, 62,006 parameters. The logits are returned as
    they are. (The plain DeepSpeed script of the Alliance wiki, https://docs.alliancecan.ca/wiki/
    Deepspeed, put a ReLU on them too, which lets no logit be negative and stops the gradient of
    each that is.)

    Args:
        width: Factor on all hidden sizes. Width 1 is too small for ZeRO-3 to partition and for
            NVMe swapping to engage at DeepSpeed's default thresholds; the parameters grow with
            its square.
        num_classes: Number of logits.
    """

    def __init__(self, width: int = 1, num_classes: int = 10) -> None:
        if width < 1:
            raise ValueError(f"width must be 1 or more, not {width}")
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6 * width, 5)
        self.conv2 = nn.Conv2d(6 * width, 16 * width, 5)
        self.fc1 = nn.Linear(16 * width * 5 * 5, 120 * width)
        self.fc2 = nn.Linear(120 * width, 84 * width)
        self.fc3 = nn.Linear(84 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, 32, 32) to logits (N, num_classes)."""
        x = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits
