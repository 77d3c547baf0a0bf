"""The settings of LoRA adapters, as configuration files have them. Needs no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agenttts.training.weights import RANKS
from pipelines.spec.strict import Number, Strict

Rate = Annotated[float, Number]
"""A number; YAML texts such as `2e-4` count as one."""


class LoraSettings(Strict):
    """A low-rank adapter (Hu et al. 2021, arXiv 2106.09685).

    Attributes:
        rank: The rank of the adapter's two matrices.
        alpha: The adapter's output is scaled by alpha / rank. None: alpha is twice the rank.
        dropout: The dropout on the adapter's input.
        target_modules: The names of the layers that get an adapter, a pattern for whole names, or
            `all-linear`.
        rslora: Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv 2312.03732).
        dora: Learn the lengths of the weight columns apart (DoRA, arXiv 2402.09353). vLLM serves no such
            adapter, so it has to be merged into its base.
        plus: How many times larger the learning rate of the adapters' second matrix is (LoRA+, Hayou et al.
            2024, arXiv 2402.12354). None: the two learn alike.
        quantize: Keep the base weights in 4 bits (QLoRA, arXiv 2305.14314). Needs a GPU.
    """

    rank: int = Field(default=16, ge=1, le=RANKS[-1])
    alpha: float | None = Field(default=None, gt=0, description="twice the rank where not given")
    dropout: Rate = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear", description="names of the layers that get an adapter"
    )
    rslora: bool = False
    dora: bool = Field(default=False, description="needs merge: vLLM serves no DoRA adapter")
    plus: Rate | None = Field(
        default=None, gt=0, description="LoRA+: learning rate of B over that of A, such as 16"
    )
    quantize: bool = Field(default=False, description="4-bit base weights (QLoRA); needs a GPU")

    @property
    def peft_targets(self) -> str | list[str]:
        """`target_modules` in the form that peft takes."""
        return self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
