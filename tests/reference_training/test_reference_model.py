"""The network."""

import pytest
import torch

from reference_training.model import Net


def test_width_1_is_the_net_of_the_tutorial():
    """The number of parameters pins every layer's shape down."""
    assert sum(p.numel() for p in Net().parameters()) == 62_006


def test_width_multiplies_the_hidden_sizes_alone():
    """Wider nets still take the same images and give the same number of logits."""
    net = Net(width=3, num_classes=7)
    shapes = [tuple(module.weight.shape[:2]) for module in net.children()]
    assert shapes == [(18, 3), (48, 18), (360, 1200), (252, 360), (7, 252)]
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_no_relu_on_the_logits():
    """A ReLU on the logits, as in the plain script of the tutorial, would hide these signs."""
    torch.manual_seed(0)
    logits = Net()(torch.rand(8, 3, 32, 32))
    assert (logits < 0).any()


def test_width_0():
    """A net without hidden units is refused where it is asked for."""
    with pytest.raises(ValueError, match=r"^width must be 1 or more, not 0$"):
        Net(width=0)
