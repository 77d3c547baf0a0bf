"""Prefer-to-classify and its baselines: text classifiers trained on labels and on preferences between texts.

Kim, Shin and Kang, ICML 2023 (arXiv 2306.04925). The task head is the checkpoint's own, so that what is
exported is a plain sequence classifier; three preference heads on the first token's state (a decoder's last)
are thrown away then. The best epoch is chosen on the validation texts, never on test ones.

Differences from the published code: the extractive preferences do train the preference model; ties between
votes are a stated margin; nothing is selected on test texts. Of the paper's annotated consistency the sign of
a zero difference is 0, so that such a class adds nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from agenttts.errors import UserError
from agenttts.p2c import losses as terms
from agenttts.p2c.texts import LabelledText, Pairs, class_weights
from agenttts.tasktune.fit import LoraSettings
from agenttts.training.checkpoints import (
    STATE,
    newest_checkpoint,
    precision,
    quiet,
    save_json,
    saving,
    work_state,
)
from agenttts.training.weights import CARD, weights_digest
from pipelines.strict import Strict

Method = Literal[
    "p2c", "plain", "pair-plain", "soft-labels", "label-smoothing", "max-entropy", "cs-kd", "multi-annotator"
]
Sampling = Literal["random", "disagreement", "inconsistency"]
OnEvent = Callable[[dict[str, Any]], None]
PAIRED = ("p2c", "pair-plain", "cs-kd")
"""Methods that see two texts of one class at a time."""


class P2CSettings(Strict):
    """How a classifier is trained; the defaults are the paper's."""

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
        return self


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """probs (N, C); preference_scores (N, K), each head's h_k for the label given; None without heads."""

    probs: NDArray[np.float64]
    preference_scores: NDArray[np.float64] | None


@dataclass(frozen=True, kw_only=True)
class TrainedClassifier:
    """A trained network in memory. labels: the classes' names in the checkpoint's order."""

    network: Any
    tokenizer: Any
    labels: tuple[str, ...]
    settings: P2CSettings
    card: Mapping[str, Any]
    work: Path

    def predict(
        self, texts: Sequence[str], labels: Sequence[int] | None = None, batch: int = 64
    ) -> Prediction:
        """Class probabilities; with `labels`, the preference heads' scores under them too."""
        return _predict(self.network, self.tokenizer, self.settings, texts, labels, batch)

    def export(self, path: Path) -> Path:
        """A sequence-classification checkpoint of its own, without preference heads.

        The training's checkpoints go then. UserError where the place is taken, the disk is full, or the
        backbone was frozen: no head of a checkpoint reads means.
        """
        if self.settings.freeze:
            raise UserError("a head on frozen states has no checkpoint of its own; train with freeze: false")
        if path.exists():
            raise UserError(f"{path}: must be free; choose another directory")
        model = self.network.model
        if self.settings.lora is not None:
            model = model.merge_and_unload()
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with quiet(), saving(self.work):
            model.save_pretrained(str(partial), safe_serialization=True)
            self.tokenizer.save_pretrained(str(partial))
            save_json(partial / CARD, self.card)
            partial.rename(path)
        shutil.rmtree(self.work, ignore_errors=True)
        return path


class _Features:
    """Stands for the tokenizer of a frozen backbone: a text's one token is its place among those encoded."""

    def __init__(self, encoder: Any, tokenizer: Any, max_tokens: int) -> None:
        self._encoder, self._tokenizer, self._max_tokens = encoder, tokenizer, max_tokens
        self._places: dict[str, int] = {}
        self.states = torch.empty(0, int(encoder.config.hidden_size))

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, Tensor]:
        fresh = sorted({text for text in texts if text not in self._places}, key=len)
        for start in range(0, len(fresh), 64):
            some = fresh[start : start + 64]
            batch = tokenized(self._tokenizer, some, self._max_tokens)
            states = self._encoder(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(states.dtype)
            for text in some:
                self._places[text] = len(self._places)
            self.states = torch.cat([self.states, (states * mask).sum(1) / mask.sum(1)])
        ids = torch.tensor([[self._places[text]] for text in texts])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@lru_cache(maxsize=1)
def _features(base: str, max_tokens: int) -> _Features:
    """Shared by trainings in one process: a text is encoded once."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    return _Features(transformers.AutoModel.from_pretrained(base).eval(), tokenizer, max_tokens)


class _FrozenModel(nn.Module):
    """A linear head on states looked up, with the outputs of a sequence classifier."""

    def __init__(self, features: _Features, width: int, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=width)
        self._features = features
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, n_classes)

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        states = self._features.states[input_ids.cpu()].to(self.head.weight.device)
        logits = self.head(self.dropout(states[:, 0]))
        return SimpleNamespace(logits=logits, hidden_states=(states,))


class Network(nn.Module):
    """A sequence classifier of transformers, and beside it the heads that a method needs."""

    def __init__(self, model: Any, settings: P2CSettings, n_classes: int, n_annotators: int = 0) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.reads_last = hasattr(_inner(model), "score")
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
        """h_k of each preference head (B, K): the state beside the label, as wide as the state."""
        wide = labels.to(states.dtype)[:, None].expand_as(states)
        return torch.cat([head(torch.cat([states, wide], -1)) for head in self.preference], -1)

    def forward(self, first: Mapping[str, Tensor], **batch: Any) -> dict[str, Tensor]:
        """The loss of a batch, as `_Collator` makes it."""
        settings, labels = self.settings, batch["labels"]
        weights = batch.get("class_weights")
        logits, states = self.encode(first)
        match settings.method:
            case "plain":
                loss = nn.functional.cross_entropy(logits, labels, weight=weights)
            case "label-smoothing":
                loss = nn.functional.cross_entropy(
                    logits, labels, weight=weights, label_smoothing=settings.smoothing
                )
            case "soft-labels":
                loss = terms.soft_cross_entropy(logits, batch["soft"])
            case "max-entropy":
                loss = nn.functional.cross_entropy(logits, labels, weight=weights)
                loss = loss - settings.penalty * terms.entropy(logits)
            case "multi-annotator":
                loss = self._annotators_loss(states, batch["annotations"])
            case _:
                loss = self._pair_loss(logits, states, batch, weights)
        return {"loss": loss}

    def _annotators_loss(self, states: Tensor, annotations: Tensor) -> Tensor:
        """Each annotator's head on what that annotator said, mean over annotations (Davani et al. 2022)."""
        logits = torch.stack([head(states) for head in self.annotators], 1)
        said = annotations >= 0
        return nn.functional.cross_entropy(logits[said], annotations[said])

    def _pair_loss(
        self, logits: Tensor, states: Tensor, batch: Mapping[str, Any], weights: Tensor | None
    ) -> Tensor:
        settings, labels = self.settings, batch["labels"]
        other_logits, other_states = self.encode(batch["second"])
        loss = settings.weight_classification * terms.classification_loss(
            logits, other_logits, labels, weights, batch["other_labels"]
        )
        if settings.method == "cs-kd":
            return loss + settings.distillation * terms.class_wise_distillation(logits, other_logits)
        if settings.method == "pair-plain":
            return loss
        paired = batch["paired"]
        if not paired.any():
            return loss
        about = batch["about"][paired]
        first, second = (self.scores(s[paired], about) for s in (states, other_states))
        preferred = batch["preferred"][paired]
        probs, other_probs = (x[paired].softmax(-1) for x in (logits, other_logits))
        if batch.get("soft") is not None:
            consistency = terms.annotated_consistency_terms(
                probs, other_probs, batch["soft"][paired], batch["other_soft"][paired]
            )
        else:
            picked = about[:, None]
            consistency = terms.consistency_terms(
                probs.gather(1, picked)[:, 0], other_probs.gather(1, picked)[:, 0], preferred
            )
        return (
            loss
            + settings.weight_preference * terms.preference_loss(first, second, preferred)
            + settings.weight_consistency * consistency.mean()
            - settings.weight_diversity * terms.diversity(first, second)
        )

    @torch.no_grad()
    def predicted(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Probabilities and states; of several annotators the mean of their probabilities."""
        logits, states = self.encode(batch)
        if self.annotators:
            return torch.stack([head(states).softmax(-1) for head in self.annotators]).mean(0), states
        return logits.softmax(-1), states


def train_classifier(
    base: str,
    labels: Sequence[str],
    train: Sequence[LabelledText],
    validation: Sequence[LabelledText],
    settings: P2CSettings,
    work: Path,
    *,
    pairs: Pairs | None = None,
    on_event: OnEvent = lambda _: None,
) -> TrainedClassifier:
    """Train a backbone on texts; `pairs`: of `train`, needed by p2c.

    Checkpoints lie in `work` until the export; the same call goes on from the newest whole one. The epoch
    with the best macro-F1 on the validation texts is kept. UserError when the method lacks what it needs.
    """
    _require(settings, train, validation, labels, pairs)
    if settings.method == "multi-annotator":
        train = _heard(train)
        _require(settings, train, validation, labels, pairs)
    started = time.monotonic()
    work = work.resolve()
    state = work_state(work, _fingerprint(base, labels, train, validation, settings, pairs))
    with saving(work):
        save_json(work / STATE, state)
    with quiet():
        transformers.set_seed(settings.seed)
        tokenizer, model = _loaded(base, labels, settings)
        network = Network(model, settings, len(labels), len(train[0].annotations))
        weights = class_weights(train, len(labels)) if settings.balance else None
        dataset = _Dataset(train, pairs, settings)
        where = precision(torch)
        arguments = transformers.TrainingArguments(
            output_dir=str(work),
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.schedule,
            weight_decay=settings.weight_decay,
            optim="adamw_torch",
            logging_steps=20,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_macro_f1",
            greater_is_better=True,
            seed=settings.seed,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"],
            bf16=where["bf16"],
            use_cpu=where["use_cpu"],
        )
        trainer = _Trainer(
            model=network,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=[0],
            data_collator=_Collator(tokenizer, settings, weights),
            callbacks=[_Redraw(dataset, network, tokenizer, settings)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.validation, trainer.tokenizer_used = validation, tokenizer
        trainer.on_event, trainer.settings = on_event, settings
        checkpoint = newest_checkpoint(work)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    history = [entry for entry in trainer.state.log_history if "eval_macro_f1" in entry]
    if settings.freeze:
        shutil.rmtree(work, ignore_errors=True)
    card = {
        "base": base,
        "labels": list(labels),
        "settings": settings.model_dump(mode="json"),
        "rows": len(train),
        "share_of_ties": pairs.share_of_ties if pairs is not None and settings.method == "p2c" else None,
        "validation_macro_f1": [round(float(entry["eval_macro_f1"]), 4) for entry in history],
        "seconds": round(time.monotonic() - started, 1),
    }
    best: Any = trainer.model
    return TrainedClassifier(
        network=best.eval(),
        tokenizer=tokenizer,
        labels=tuple(labels),
        settings=settings,
        card=card,
        work=work,
    )


class _Dataset(torch.utils.data.Dataset[dict[str, Any]]):
    """One text an item, or a text and its partner of this epoch."""

    def __init__(self, texts: Sequence[LabelledText], pairs: Pairs | None, settings: P2CSettings) -> None:
        self.texts = texts
        self.settings = settings
        self.pairs = pairs if settings.method == "p2c" else None
        self._classes = _same_class(texts) if settings.method in PAIRED and self.pairs is None else None
        self.drawn: list[tuple[int, int]] = []
        self.redraw(0, None)

    def redraw(self, epoch: int, weigh: Any) -> None:
        """The pairs of an epoch, by the seed, the epoch and, where sampling asks for it, the network."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        if self.pairs is not None:
            self.drawn = self.pairs.draw(rng, weigh)
        elif self._classes is not None:
            self.drawn = [(i, int(rng.choice(self._classes[one.label]))) for i, one in enumerate(self.texts)]
        else:
            self.drawn = [(i, i) for i in range(len(self.texts))]

    def about(self, i: int) -> int:
        """The class that a text's preferences are about."""
        shared = None if self.pairs is None else self.pairs.about
        return self.texts[i].label if shared is None else shared

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, index: int) -> dict[str, Any]:
        i, j = self.drawn[index]
        paired = self.pairs is not None and i != j
        return {
            "first": self.texts[i],
            "second": self.texts[j],
            "paired": paired,
            "preferred": self.pairs.preferred(i, j) if paired and self.pairs is not None else 0.5,
            "voted": self.pairs is not None and self.pairs.known is None,
            "about": self.about(i),
        }


class _Collator:
    def __init__(self, tokenizer: Any, settings: P2CSettings, weights: Sequence[float] | None) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self._weights = None if weights is None else torch.tensor(weights)

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        first = [item["first"] for item in items]
        batch: dict[str, Any] = {
            "first": tokenized(self._tokenizer, [one.text for one in first], self._settings.max_tokens),
            "labels": torch.tensor([one.label for one in first]),
        }
        if self._weights is not None:
            batch["class_weights"] = self._weights
        if self._settings.method == "soft-labels":
            batch["soft"] = torch.tensor([one.soft for one in first])
        if self._settings.method == "multi-annotator":
            said = [[-1 if c is None else c for c in one.annotations] for one in first]
            batch["annotations"] = torch.tensor(said)
        if self._settings.method in PAIRED:
            second = [item["second"] for item in items]
            texts = [one.text for one in second]
            batch["second"] = tokenized(self._tokenizer, texts, self._settings.max_tokens)
            batch["other_labels"] = torch.tensor([one.label for one in second])
            batch["about"] = torch.tensor([item["about"] for item in items])
            batch["paired"] = torch.tensor([item["paired"] for item in items])
            batch["preferred"] = torch.tensor([float(item["preferred"]) for item in items])
            if all(item["voted"] for item in items):
                batch["soft"] = torch.tensor([one.soft for one in first])
                batch["other_soft"] = torch.tensor([one.soft for one in second])
        return batch


class _Trainer(transformers.Trainer):
    """Scores the validation texts after each epoch."""

    validation: Sequence[LabelledText]
    tokenizer_used: Any
    settings: P2CSettings
    on_event: OnEvent

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        with saving(Path(str(self.args.output_dir))):
            super()._save_checkpoint(*arguments, **named)

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        from agenttts.p2c.metrics import macro_f1

        texts, gold = [one.text for one in self.validation], [one.label for one in self.validation]
        found = _predict(self.model, self.tokenizer_used, self.settings, texts, None, 64)
        measured = {"eval_macro_f1": macro_f1(gold, found.probs.argmax(1))}
        self.log(measured)
        told = {"kind": "tune_score", "step": self.state.global_step, "score": measured["eval_macro_f1"]}
        self.on_event(told)
        return measured


class _Redraw(transformers.TrainerCallback):
    """New pairs at the start of each epoch."""

    def __init__(self, dataset: _Dataset, network: Network, tokenizer: Any, settings: P2CSettings) -> None:
        self._dataset, self._network, self._tokenizer = dataset, network, tokenizer
        self._settings = settings

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        epoch = round(state.epoch or 0)
        texts = self._dataset.texts
        weigh = None
        if self._dataset.pairs is not None and self._settings.sampling != "random" and epoch > 0:
            labels = [self._dataset.about(i) for i in range(len(texts))]
            known = _predict(
                self._network, self._tokenizer, self._settings, [one.text for one in texts], labels, 64
            )
            weigh = _weigher(self._settings.sampling, self._dataset.pairs, known, labels)
        self._dataset.redraw(epoch, weigh)


def _weigher(sampling: Sampling, pairs: Pairs, known: Prediction, labels: Sequence[int]) -> Any:
    """How much each candidate is wanted: only the one the heads disagree on most, or by its inconsistency."""
    scores = torch.tensor(known.preference_scores)
    own = torch.tensor(known.probs)[torch.arange(len(labels)), torch.tensor(labels)]

    def weigh(i: int, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        chosen = torch.tensor(candidates)
        if sampling == "disagreement":
            apart = terms.disagreement(scores[i].expand(len(chosen), -1), scores[chosen]).numpy()
            return np.asarray(apart == apart.max(), dtype=np.float64)
        preferred = torch.tensor([pairs.preferred(i, int(j)) for j in candidates], dtype=own.dtype)
        loss = terms.consistency_terms(own[i].expand(len(chosen)), own[chosen], preferred)
        return np.asarray(loss, dtype=np.float64)

    return weigh


def tokenized(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> dict[str, Tensor]:
    """Padded token ids and mask, longer texts cut at the end."""
    found = tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=max_tokens,
        padding_side="right",
        return_tensors="pt",
    )
    return {name: found[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def _predict(
    network: Any,
    tokenizer: Any,
    settings: P2CSettings,
    texts: Sequence[str],
    labels: Sequence[int] | None,
    batch: int,
) -> Prediction:
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    probs: list[Tensor] = [torch.empty(0)] * len(texts)
    scores: list[Tensor] = [torch.empty(0)] * len(texts)
    wanted = labels is not None and len(network.preference) > 0
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        ready = tokenized(tokenizer, [texts[i] for i in chosen], settings.max_tokens)
        found, states = network.predicted({name: value.to(device) for name, value in ready.items()})
        if wanted and labels is not None:
            own = torch.tensor([labels[i] for i in chosen], device=device)
            for i, score in zip(chosen, network.scores(states, own).cpu(), strict=True):
                scores[i] = score
        for i, prob in zip(chosen, found.cpu(), strict=True):
            probs[i] = prob
    network.train(was_training)
    return Prediction(
        probs=torch.stack(probs).double().numpy(),
        preference_scores=torch.stack(scores).double().numpy() if wanted else None,
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


def _loaded(base: str, labels: Sequence[str], settings: P2CSettings) -> tuple[Any, Any]:
    """Tokenizer and sequence classifier. UserError for a checkpoint whose own labels are in another order."""
    try:
        config = transformers.AutoConfig.from_pretrained(base)
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise UserError(f"base: {base} can't be loaded: {' '.join(str(error).split())[:200]}") from None
    own = [str(name) for _, name in sorted((config.id2label or {}).items())]
    if set(own) == set(labels) and own != list(labels):
        raise UserError(f"labels: {base} has them as {', '.join(own)}; give them in that order")
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        if hasattr(config, name):
            setattr(config, name, settings.dropout)
    if settings.freeze:
        features = _features(base, settings.max_tokens)
        return features, _FrozenModel(features, int(config.hidden_size), len(labels), settings.dropout)
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, config=config, ignore_mismatched_sizes=True
    )
    if settings.lora is not None:
        import peft

        model = peft.get_peft_model(
            model,
            peft.LoraConfig(
                r=settings.lora.rank,
                lora_alpha=round(settings.lora.alpha or 2 * settings.lora.rank),
                lora_dropout=settings.lora.dropout,
                target_modules=settings.lora.target_modules
                if isinstance(settings.lora.target_modules, str)
                else list(settings.lora.target_modules),
                task_type="SEQ_CLS",
            ),
        )
    return tokenizer, model


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _fingerprint(
    base: str,
    labels: Sequence[str],
    train: Sequence[LabelledText],
    validation: Sequence[LabelledText],
    settings: P2CSettings,
    pairs: Pairs | None,
) -> str:
    """Of all that decides a training."""
    known = None if pairs is None or pairs.known is None else sorted(pairs.known.items())
    told = {
        "base": weights_digest(Path(base)) if Path(base).is_dir() else base,
        "labels": list(labels),
        "texts": [[asdict(one) for one in texts] for texts in (train, validation)],
        "settings": settings.model_dump(mode="json"),
        "pairs": None if pairs is None else [known, pairs.tie, pairs.about],
    }
    return hashlib.sha256(json.dumps(told, default=float).encode()).hexdigest()


def _heard(texts: Sequence[LabelledText]) -> list[LabelledText]:
    """Without the annotators of whom no text has anything: their heads would stay as they began."""
    columns = [
        k for k, said in enumerate(zip(*(t.annotations for t in texts), strict=True)) if set(said) - {None}
    ]
    return [replace(text, annotations=tuple(text.annotations[k] for k in columns)) for text in texts]


def _same_class(texts: Sequence[LabelledText]) -> dict[int, NDArray[np.int64]]:
    return {
        label: np.array([i for i, one in enumerate(texts) if one.label == label], dtype=np.int64)
        for label in {one.label for one in texts}
    }


def _require(
    settings: P2CSettings,
    train: Sequence[LabelledText],
    validation: Sequence[LabelledText],
    labels: Sequence[str],
    pairs: Pairs | None,
) -> None:
    if len({one.label for one in train}) < 2:
        raise UserError("a classifier needs texts of two classes at least")
    if not validation:
        raise UserError("a classifier needs validation texts, to choose the best epoch on")
    if any(not 0 <= one.label < len(labels) for one in (*train, *validation)):
        raise UserError(f"a text's class must be one of the {len(labels)} labels")
    if settings.method == "p2c":
        if pairs is None:
            raise UserError("p2c needs preferences; collect some, or train with another method")
        if pairs.share_of_ties == 1.0:
            raise UserError("every preference is a tie: p2c has nothing to learn from them")
    if settings.method == "soft-labels" and any(one.soft is None for one in train):
        raise UserError("soft-labels needs the votes of every text; one has none")
    if settings.method == "multi-annotator":
        annotators = {len(one.annotations) for one in train}
        if annotators <= {0, 1}:
            raise UserError("multi-annotator needs two annotators at least")
        if len(annotators) > 1:
            raise UserError(
                "multi-annotator needs as many annotations for every text, None where one is missing"
            )
