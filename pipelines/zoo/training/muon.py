"""Muon, an optimiser for weight matrices: momentum, then the nearest orthogonal matrix.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). PyTorch's own
runs its Newton-Schulz iteration in bfloat16, which is slow on processors without that type;
this one stays in float32. Embeddings and norms belong to AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonalize(matrix: Tensor, n_steps: int = 5) -> Tensor:
    """Approximate the orthogonal factor of a matrix: its singular values end between 0.7 and 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.size(0) <= matrix.size(1)
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(n_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x if wide else x.T
    return result


class Muon(torch.optim.Optimizer):
    """The optimiser, with Nesterov momentum.

    Args:
        params: The matrices to optimise.
        lr: The learning rate: the spectral norm of a step for a square matrix.
        momentum: The share of the former velocity that is kept in each step.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                velocity: Tensor = state["momentum"]
                velocity.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalize(p.grad.lerp(velocity, group["momentum"]))
                p.add_(update, alpha=-group["lr"] * max(1.0, p.size(0) / p.size(1)) ** 0.5)
