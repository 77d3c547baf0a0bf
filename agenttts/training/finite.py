"""Stops a training whose loss, gradients or weights are no longer finite, before a checkpoint keeps them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from agenttts.errors import UserError
from pipelines.extras import library

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback


def finite_or_stop(learning_rate: float) -> TrainerCallback:
    """Make the callback that ends a training with a UserError.

    Gradients are looked at before each step of the optimizer (a loss that is not finite makes them so), the
    weights that are trained at the end of each epoch and before each checkpoint.

    Args:
        learning_rate: The largest learning rate, for the message.
    """
    callback: Any = library("transformers").TrainerCallback

    class Finite(callback):  # type: ignore[misc]
        def on_pre_optimizer_step(
            self, args: object, state: Any, control: object, *, model: Any, **_: object
        ) -> None:
            gradients = (p.grad for p in model.parameters() if p.grad is not None)
            self._require("the loss or its gradients", gradients, state)

        def on_step_end(self, args: object, state: Any, control: Any, *, model: Any, **named: object) -> None:
            if control.should_save:
                self.on_epoch_end(args, state, control, model=model, **named)

        def on_epoch_end(self, args: object, state: Any, control: object, *, model: Any, **_: object) -> None:
            weights = (p.detach() for p in model.parameters() if p.requires_grad)
            self._require("the weights", weights, state)

        def _require(self, what: str, tensors: Iterable[Tensor], state: Any) -> None:
            largest = library("torch").nn.utils.get_total_norm(tensors, norm_type=math.inf)
            if not math.isfinite(largest):
                raise UserError(
                    f"training stopped at step {state.global_step} of {state.max_steps}: {what} must be "
                    f"finite; lower learning_rate, {learning_rate:g}, or look for broken rows or base weights"
                )

    guard: TrainerCallback = Finite()
    return guard
