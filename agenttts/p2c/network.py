"""The network of a training: a sequence classifier, and beside it the heads that a method needs.

The task head is the checkpoint's own, so that what is exported is a plain sequence classifier. The preference
heads read the state of the first token (of a decoder the last) and are thrown away after the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agenttts.p2c import losses
from agenttts.p2c.backbone import Tokenizer, tokenized
from agenttts.p2c.batches import PairBatch
from agenttts.p2c.settings import P2CSettings
from agenttts.training.checkpoints import predicting


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network says of N texts.

    Attributes:
        probs: The probability of each class, shape (N, C).
        preference_scores: The score of each preference head for the label that was given, shape (N, K); None
            without preference heads or labels.
    """

    probs: NDArray[np.float64]
    preference_scores: NDArray[np.float64] | None


class Network(nn.Module):
    """A sequence classifier with the heads that a method needs.

    Args:
        model: A sequence classifier of transformers, with or without adapters, or a FrozenModel.
        settings: The method and its weights.
        n_classes: The number of classes C.
        n_annotators: The number of annotators; of use to the method `multi-annotator` alone.
    """

    def __init__(self, model: Any, settings: P2CSettings, n_classes: int, n_annotators: int = 0) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.reads_last = hasattr(inner, "score")  # the head of a decoder
        width = int(model.config.hidden_size)
        heads = settings.n_heads if settings.method == "p2c" else 0
        self.preference = nn.ModuleList(_preference_head(width) for _ in range(heads))
        n_annotators = n_annotators if settings.method == "multi-annotator" else 0
        self.annotators = nn.ModuleList(nn.Linear(width, n_classes) for _ in range(n_annotators))

    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The task head's logits (B, C), and the state of the token that stands for the text (B, H)."""
        out = self.model(**batch, output_hidden_states=True)
        states = out.hidden_states[-1]
        if not self.reads_last:
            return out.logits, states[:, 0]
        last = batch["attention_mask"].sum(-1) - 1
        return out.logits, states[torch.arange(len(last), device=states.device), last]

    def scores(self, states: Tensor, labels: Tensor) -> Tensor:
        """The score of each preference head, shape (B, K).

        Args:
            states: The texts' states, shape (B, H).
            labels: The class that the scores are about, shape (B,). A head reads it beside the state,
                repeated to the same width.
        """
        wide = labels.to(states.dtype)[:, None].expand_as(states)
        return torch.cat([head(torch.cat([states, wide], -1)) for head in self.preference], -1)

    def forward(
        self,
        first: Mapping[str, Tensor],
        labels: Tensor,
        pair: PairBatch | None = None,
        class_weights: Tensor | None = None,
        soft: Tensor | None = None,
        annotations: Tensor | None = None,
        **_: object,
    ) -> dict[str, Tensor]:
        """The loss of a batch under `loss`; the parameters are the keys of `batches.Batch`."""
        settings = self.settings
        logits, states = self.encode(first)
        match settings.method:
            case "plain":
                loss = nn.functional.cross_entropy(logits, labels, weight=class_weights)
            case "label-smoothing":
                loss = nn.functional.cross_entropy(
                    logits, labels, weight=class_weights, label_smoothing=settings.smoothing
                )
            case "soft-labels":
                assert soft is not None
                loss = losses.soft_cross_entropy(logits, soft)
            case "max-entropy":
                loss = nn.functional.cross_entropy(logits, labels, weight=class_weights)
                loss = loss - settings.penalty * losses.entropy(logits)
            case "multi-annotator":
                assert annotations is not None
                loss = self._annotators_loss(states, annotations)
            case _:
                assert pair is not None
                loss = self._pair_loss(logits, states, labels, pair, class_weights)
        return {"loss": loss}

    def _annotators_loss(self, states: Tensor, annotations: Tensor) -> Tensor:
        """Each annotator's head on that annotator's classes, mean over annotations (Davani et al. 2022)."""
        logits = torch.stack([head(states) for head in self.annotators], 1)
        present = annotations >= 0
        return nn.functional.cross_entropy(logits[present], annotations[present])

    def _pair_loss(
        self, logits: Tensor, states: Tensor, labels: Tensor, pair: PairBatch, class_weights: Tensor | None
    ) -> Tensor:
        settings, paired = self.settings, pair["paired"]
        other_logits, other_states = self.encode(pair["second"])
        loss = settings.weight_classification * losses.classification_loss(
            logits, other_logits, labels, class_weights, pair["labels"]
        )
        if settings.method == "cs-kd":
            return loss + settings.distillation * losses.class_wise_distillation(logits, other_logits)
        if settings.method == "pair-plain" or not paired.any():
            return loss
        about, preferred = pair["about"][paired], pair["preferred"][paired]
        first, second = (self.scores(s[paired], about) for s in (states, other_states))
        probs, other_probs = (x[paired].softmax(-1) for x in (logits, other_logits))
        if "first_soft" in pair:
            consistency = losses.annotated_consistency_terms(
                probs, other_probs, pair["first_soft"][paired], pair["second_soft"][paired]
            )
        else:
            column = about[:, None]
            consistency = losses.consistency_terms(
                probs.gather(1, column)[:, 0], other_probs.gather(1, column)[:, 0], preferred
            )
        return (
            loss
            + settings.weight_preference * losses.preference_loss(first, second, preferred)
            + settings.weight_consistency * consistency.mean()
            - settings.weight_diversity * losses.diversity(first, second)
        )

    def predicted(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Probabilities (B, C) and states (B, H); of several annotators the mean of their probabilities."""
        logits, states = self.encode(batch)
        if self.annotators:
            return torch.stack([head(states).softmax(-1) for head in self.annotators]).mean(0), states
        return logits.softmax(-1), states


def predict(
    network: Network,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    labels: Sequence[int] | None = None,
    batch_size: int = 64,
) -> Prediction:
    """Apply a network to texts, in evaluation mode.

    Args:
        network: The network.
        tokenizer: Its tokenizer.
        texts: The texts.
        labels: For each text the class that the preference heads are asked about; None asks none.
        batch_size: How many texts are encoded at once.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    probs: list[Tensor] = [torch.empty(0)] * len(texts)
    scores: list[Tensor] = [torch.empty(0)] * len(texts)
    about = labels if len(network.preference) else None
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenized(tokenizer, [texts[i] for i in chosen], network.settings.max_tokens)
        with predicting(torch, device):
            batch_probs, states = network.predicted({name: value.to(device) for name, value in batch.items()})
            if about is not None:
                classes = torch.tensor([about[i] for i in chosen], device=device)
                for i, score in zip(chosen, network.scores(states, classes).cpu(), strict=True):
                    scores[i] = score
        for i, prob in zip(chosen, batch_probs.cpu(), strict=True):
            probs[i] = prob
    network.train(was_training)
    return Prediction(
        probs=torch.stack(probs).double().numpy(),
        preference_scores=None if about is None else torch.stack(scores).double().numpy(),
    )


def _preference_head(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(2 * width, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 1),
        nn.Tanh(),
    )
