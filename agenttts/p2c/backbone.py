"""The model under the heads: a sequence classifier of transformers, or states that are computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import TypeAlias

import torch
import transformers
from torch import Tensor, nn

from agenttts.errors import UserError
from agenttts.p2c.settings import P2CSettings
from agenttts.training.checkpoints import one_line


class FrozenFeatures:
    """Stands for the tokenizer of a frozen backbone: a text's one token is its place among those encoded.

    Args:
        encoder: The backbone, in evaluation mode.
        tokenizer: Its tokenizer.
        max_tokens: Longer texts are cut at the end.

    Attributes:
        states: The mean token state of each text that was encoded so far, shape (texts, width).
    """

    def __init__(
        self,
        encoder: transformers.PreTrainedModel,
        tokenizer: transformers.PreTrainedTokenizerBase,
        max_tokens: int,
    ) -> None:
        self._encoder, self._tokenizer, self._max_tokens = encoder, tokenizer, max_tokens
        self._places: dict[str, int] = {}
        self.states = torch.empty(0, int(encoder.config.hidden_size))

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], **_: object) -> dict[str, Tensor]:
        """The place of each text, shape (texts, 1), and a mask of ones; texts that are new are encoded."""
        fresh = sorted({text for text in texts if text not in self._places}, key=len)
        for start in range(0, len(fresh), 64):
            chunk = fresh[start : start + 64]
            batch = tokenized(self._tokenizer, chunk, self._max_tokens)
            states = self._encoder(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(states.dtype)
            for text in chunk:
                self._places[text] = len(self._places)
            self.states = torch.cat([self.states, (states * mask).sum(1) / mask.sum(1)])
        ids = torch.tensor([[self._places[text]] for text in texts])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


Tokenizer: TypeAlias = transformers.PreTrainedTokenizerBase | FrozenFeatures


class FrozenModel(nn.Module):
    """A linear head on states that are looked up, with the outputs of a sequence classifier."""

    def __init__(self, features: FrozenFeatures, width: int, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=width)
        self._features = features
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, n_classes)

    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        """Logits and hidden states of texts that are named by their place, shape (B, 1)."""
        states = self._features.states[input_ids.cpu()].to(self.head.weight.device)
        logits = self.head(self.dropout(states[:, 0]))
        return SimpleNamespace(logits=logits, hidden_states=(states,))


def tokenized(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> dict[str, Tensor]:
    """Turn texts into a batch.

    Args:
        tokenizer: The backbone's tokenizer.
        texts: The texts.
        max_tokens: Longer texts are cut at the end.

    Returns:
        `input_ids` and `attention_mask`, padded on the right, shape (texts, tokens).
    """
    batch: Mapping[str, Tensor] = tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=max_tokens,
        padding_side="right",
        return_tensors="pt",
    )
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def load_backbone(base: str, labels: Sequence[str], settings: P2CSettings) -> tuple[Tokenizer, nn.Module]:
    """Load a checkpoint as a sequence classifier.

    Args:
        base: The directory or hub name of the checkpoint.
        labels: The names of the classes, in the order of the logits.
        settings: Dropout, adapters, and whether the backbone is frozen.

    Returns:
        The tokenizer, and the model, whose outputs have `logits` and `hidden_states`.

    Raises:
        UserError: The checkpoint can't be loaded, or has the same labels in another order.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(base)
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise UserError(f"base: {base} can't be loaded: {one_line(error)}") from None
    base_labels = [str(name) for _, name in sorted((config.id2label or {}).items())]
    if set(base_labels) == set(labels) and base_labels != list(labels):
        raise UserError(f"labels: {base} has them as {', '.join(base_labels)}; give them in that order")
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        if hasattr(config, name):
            setattr(config, name, settings.dropout)
    if settings.freeze:
        features = _features(base, settings.max_tokens)
        return features, FrozenModel(features, int(config.hidden_size), len(labels), settings.dropout)
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, config=config, ignore_mismatched_sizes=True, dtype=torch.float32
    )
    return tokenizer, model if settings.lora is None else _with_adapters(model, settings)


def _with_adapters(model: transformers.PreTrainedModel, settings: P2CSettings) -> nn.Module:
    import peft

    lora = settings.lora
    assert lora is not None
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=round(lora.alpha or 2 * lora.rank),
        lora_dropout=lora.dropout,
        target_modules=lora.peft_targets,
        task_type="SEQ_CLS",
    )
    return peft.get_peft_model(model, config)


@lru_cache(maxsize=1)
def _features(base: str, max_tokens: int) -> FrozenFeatures:
    """Shared by trainings in one process, so that a text is encoded once."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    return FrozenFeatures(transformers.AutoModel.from_pretrained(base).eval(), tokenizer, max_tokens)
