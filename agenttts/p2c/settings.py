"""How a classifier is trained, as configuration files have it. Needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from agenttts.training.lora import LoraSettings
from pipelines.spec.strict import Strict

Method = Literal[
    "p2c", "plain", "pair-plain", "soft-labels", "label-smoothing", "max-entropy", "cs-kd", "multi-annotator"
]
Sampling = Literal["random", "disagreement", "inconsistency"]
PAIRED = ("p2c", "pair-plain", "cs-kd")
"""Methods that see two texts of one class at a time."""


class P2CSettings(Strict):
    """How a classifier is trained; the defaults are those of the paper.

    Attributes:
        method: `p2c` is prefer-to-classify, the others are its baselines. `plain` is cross-entropy on the
            labels, `pair-plain` the same on pairs of texts, `soft-labels` cross-entropy on the shares of
            votes, `label-smoothing`, `max-entropy` (Pereyra et al. 2017), `cs-kd` (Yun et al. 2020), and
            `multi-annotator` a head for each annotator (Davani et al. 2022).
        sampling: Of p2c: how the pairs of an epoch are drawn. `disagreement` takes one of the partners on
            which most pairs of preference heads differ, `inconsistency` draws partners in proportion to how
            far the task head contradicts the preference.
        n_heads: Of p2c: the number of preference heads.
        weight_classification: The weight of the classification loss in p2c's sum.
        weight_preference: The weight of the preference loss.
        weight_consistency: The weight of the consistency between task head and preferences.
        weight_diversity: The weight of the diversity of the preference heads, which is maximised.
        smoothing: Of label-smoothing: the probability mass that goes to the other classes.
        penalty: Of max-entropy: the weight of the predictions' entropy.
        distillation: Of cs-kd: the weight of the partner's prediction.
        epochs: How often each text is seen.
        batch_size: The texts, or pairs, of one step.
        learning_rate: The learning rate of AdamW.
        schedule: How the learning rate develops.
        weight_decay: The weight decay of AdamW.
        dropout: The dropout of the backbone and the task head.
        max_tokens: Longer texts are cut at the end.
        balance: Weigh the classes as though each had as many texts.
        freeze: Train the heads alone, on mean token states that are computed once. Such a classifier can't be
            exported, and p2c is refused: no preference reaches the classifier then.
        lora: Train adapters instead of all weights.
        seed: Decides initial heads, batches and pairs.
    """

    method: Method = "p2c"
    sampling: Sampling = Field(default="random", description="p2c: how each epoch's pairs are drawn")
    n_heads: int = Field(default=3, ge=1, description="p2c: preference heads")
    weight_classification: float = Field(default=1.0, ge=0)
    weight_preference: float = Field(default=1.0, ge=0)
    weight_consistency: float = Field(default=1.0, ge=0)
    weight_diversity: float = Field(default=0.1, ge=0)
    smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="label-smoothing: mass on the other classes"
    )
    penalty: float = Field(default=0.1, ge=0, description="max-entropy: weight of the predictions' entropy")
    distillation: float = Field(default=1.0, ge=0, description="cs-kd: weight of the partner's prediction")
    epochs: float = Field(default=20, gt=0)
    batch_size: int = Field(default=16, gt=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    schedule: Literal["constant", "linear"] = "constant"
    weight_decay: float = Field(default=0.0, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    max_tokens: int = Field(default=256, gt=0)
    balance: bool = Field(default=False, description="weigh classes as though each had as many texts")
    freeze: bool = Field(
        default=False, description="train heads alone, on mean token states that are computed once"
    )
    lora: LoraSettings | None = Field(default=None, description="adapters instead of all weights")
    seed: int = 0

    @model_validator(mode="after")
    def _one_way(self) -> P2CSettings:
        if self.freeze and self.lora is not None:
            raise ValueError("freeze and lora exclude each other")
        if self.freeze and self.method == "p2c":
            raise ValueError(
                "freeze excludes the method p2c: preference heads on frozen states can't change the "
                "classifier; leave freeze out, or take pair-plain"
            )
        return self
