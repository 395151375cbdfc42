"""Lion, LAMB and Muon, written from their papers in DeepSpeed's parameterization."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

#: Updates a parameter by its gradient, with its own state and its group's settings.
Rule = Callable[["Tensor", "Tensor", dict[str, Any], dict[str, Any]], None]


class ByRule:
    """An optimizer as `torch.optim` has them, as far as a training loop sees.

    It is none: torch, and so its base class, is imported only where there are ranks.

    Args:
        groups: parameter groups.
        defaults: what a group does not set.
        rule: the update; a group's own `rule` takes its place.
    """

    def __init__(self, groups: list[dict[str, Any]], defaults: dict[str, Any], rule: Rule) -> None:
        self.defaults = defaults
        self.param_groups = [{"rule": rule, **defaults, **group} for group in groups]
        self.state: dict[Tensor, dict[str, Any]] = {}

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        import torch

        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        state = self.state.setdefault(parameter, {})
                        group["rule"](parameter, parameter.grad, state, group)


def lion(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Lion: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", program 2.

    Where the interpolation is exactly 0 the paper's sign is 0; DeepSpeed's CUDA kernel adds `lr`
    there (ops/csrc/lion/multi_tensor_lion.cu).
    """
    beta1, beta2 = group["betas"]
    moment = _zeros(state, "exp_avg", parameter)
    direction = (beta1 * moment + (1 - beta1) * grad).sign()
    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * direction)
    moment.mul_(beta2).add_((1 - beta2) * grad)


def lamb(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """LAMB: You et al. 2020, "Large Batch Optimization for Deep Learning", algorithm 2.

    DeepSpeed departs from it in three ways (ops/csrc/lamb/fused_lamb_cuda_kernel.cu): the biases
    are corrected in the step size, so that the trust ratio and `eps` meet uncorrected moments, the
    ratio lies between `min_coeff` and `max_coeff`, and it is 1 where either norm is 0.
    """
    beta1, beta2 = group["betas"]
    state["step"] = state.get("step", 0) + 1
    first = _zeros(state, "exp_avg", parameter)
    second = _zeros(state, "exp_avg_sq", parameter)
    first.mul_(beta1).add_((1 - beta1) * grad)
    second.mul_(beta2).add_((1 - beta2) * grad * grad)
    if group["eps_inside_sqrt"]:
        denominator = (second + group["eps"]).sqrt()
    else:
        denominator = second.sqrt() + group["eps"]
    update = first / denominator + group["weight_decay"] * parameter
    weight_norm, update_norm = float(parameter.norm()), float(update.norm())
    ratio = 1.0
    if weight_norm and update_norm:
        ratio = min(max(weight_norm / update_norm, group["min_coeff"]), group["max_coeff"])
    correction = (1 - beta2 ** state["step"]) ** 0.5 / (1 - beta1 ** state["step"])
    parameter.sub_(group["lr"] * correction * ratio * update)


def muon(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Muon with Nesterov momentum: Jordan 2024, https://kellerjordan.github.io/posts/muon/.

    DeepSpeed's momentum is an average, `m += (1 - beta) (g - m)`, and a matrix with more rows than
    columns moves further by the root of their ratio. The kernel of a convolution is an error in
    DeepSpeed 0.19.8 (`muon_update` compares it with its flattened update), and has no rule here.
    """
    beta = group["momentum"]
    moment = _zeros(state, "momentum_buffer", parameter)
    moment.add_((1 - beta) * (grad - moment))
    update = grad + beta * (moment - grad)
    rows, columns = grad.shape[-2:]
    scale = max(1.0, rows / columns) ** 0.5
    direction = orthogonalized(update)
    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * scale * direction)


def adamw(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """What Muon's optimizer does with all that is no matrix: Adam, decoupled by `decoupled`."""
    beta1, beta2 = group["betas"]
    decay = group["lr"] * group["weight_decay"]
    state["step"] = state.get("step", 0) + 1
    if group["decoupled"]:
        parameter.mul_(1 - decay)
    else:
        grad = grad + group["weight_decay"] * parameter
    first = _zeros(state, "exp_avg", parameter)
    second = _zeros(state, "exp_avg_sq", parameter)
    first.mul_(beta1).add_((1 - beta1) * grad)
    second.mul_(beta2).add_((1 - beta2) * grad * grad)
    denominator = (second / (1 - beta2 ** state["step"])).sqrt() + group["eps"]
    parameter.sub_(group["lr"] * first / (1 - beta1 ** state["step"]) / denominator)


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """About the nearest matrix with singular values of 1, by the quintic Newton-Schulz iteration.

    In the matrix' own precision; DeepSpeed's is fp16 on machines that compute in it. The
    coefficients are Jordan's: they bring the singular values to between about 0.7 and 1.2, no
    nearer.
    """
    x: Tensor = matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if matrix.shape[-2] > matrix.shape[-1] else x


def _zeros(state: dict[str, Any], name: str, like: Tensor) -> Any:
    import torch

    if name not in state:
        state[name] = torch.zeros_like(like)
    return state[name]
