"""How models are applied beside a training: in the types of the weights on a CPU, in bfloat16 on a GPU."""

from __future__ import annotations

import importlib

import pytest

from agenttts.training.checkpoints import predicting

pytestmark = pytest.mark.usefixtures("tuning_libraries")


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_the_precision_of_a_prediction(place: str) -> None:
    """On a CPU float32 weights give what they give outside, to the bit; on a GPU that has it, bfloat16.
    Neither leaves gradients, and nothing lasts beyond the block."""
    torch = importlib.import_module("torch")
    if place == "cuda" and not (torch.cuda.is_available() and torch.cuda.is_bf16_supported()):
        pytest.skip("there is no GPU with bfloat16")
    device = torch.device(place)
    layer = torch.nn.Linear(64, 64, device=device)
    inputs = torch.randn(8, 64, device=device)
    outside = layer(inputs)
    with predicting(torch, device):
        inside = layer(inputs)
    assert not inside.requires_grad and layer(inputs).requires_grad
    assert layer(inputs).dtype == torch.float32
    if place == "cpu":
        assert torch.equal(inside, outside)
    else:
        assert inside.dtype == torch.bfloat16
