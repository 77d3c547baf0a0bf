"""Training a text classifier on labels and on preferences between texts.

Kim, Shin and Kang, ICML 2023 (arXiv 2306.04925). The best epoch is chosen on the validation texts, never on
test ones: by macro-F1, or by a score of the caller's.

Differences from the published code: the extractive preferences do train the preference model; ties between
votes are a stated margin; nothing is selected on test texts. In the paper's annotated consistency the sign of
a zero difference is 0, so that such a class adds nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from agenttts.p2c import losses
from agenttts.p2c.backbone import Tokenizer, load_backbone
from agenttts.p2c.batches import Collator, PairDataset, require_trainable, without_silent_annotators
from agenttts.p2c.metrics import macro_f1
from agenttts.p2c.network import Network, Prediction, predict
from agenttts.p2c.settings import P2CSettings, Sampling
from agenttts.p2c.texts import LabelledText, Pairs, Weigh, class_weights
from agenttts.p2c.trained import ClassifierCard, TrainedClassifier
from agenttts.training.checkpoints import (
    STATE,
    newest_checkpoint,
    on_one_gpu,
    precision,
    quiet,
    save_json,
    saving,
    work_state,
)
from agenttts.training.events import OnTuneEvent, TuneScore
from agenttts.training.finite import finite_or_stop
from agenttts.training.weights import base_digest

Score: TypeAlias = Callable[[NDArray[np.float64]], float]
"""How good class probabilities, of shape (N, C), are: more is better."""


def train_classifier(
    base: str,
    labels: Sequence[str],
    train: Sequence[LabelledText],
    validation: Sequence[LabelledText],
    settings: P2CSettings,
    work: Path,
    *,
    pairs: Pairs | None = None,
    score: Score | None = None,
    on_event: OnTuneEvent = lambda _: None,
) -> TrainedClassifier:
    """Train a classifier, and keep the epoch with the best score on the validation texts.

    Checkpoints are in `work` until the export; the same call resumes from the newest whole one.

    Args:
        base: The directory or hub name of the backbone.
        labels: The names of the classes.
        train: The training texts.
        validation: The validation texts.
        settings: How it is trained.
        work: The directory of the checkpoints.
        pairs: The preferences between the training texts; needed by p2c.
        score: How good class probabilities of the validation texts are. None: macro-F1.
        on_event: Is called with the score after each epoch.

    Raises:
        UserError: The method lacks what it needs, the backbone can't be loaded, or the checkpoints belong to
            another training.
    """
    require_trainable(settings, train, validation, labels, pairs)
    if settings.method == "multi-annotator":
        train = without_silent_annotators(train)
        require_trainable(settings, train, validation, labels, pairs)
    started = time.monotonic()
    work = work.resolve()
    state = work_state(work, _fingerprint(base, labels, train, validation, settings, pairs))
    with saving(work):
        save_json(work / STATE, state)
    with quiet():
        transformers.set_seed(settings.seed)
        tokenizer, model = load_backbone(base, labels, settings)
        network = Network(model, settings, len(labels), len(train[0].annotations))
        weights = class_weights(train, len(labels)) if settings.balance else None
        dataset = PairDataset(train, pairs, settings)
        trainer = _Trainer(
            model=network,
            args=_arguments(settings, work),
            train_dataset=dataset,
            eval_dataset=[0],
            data_collator=Collator(tokenizer, settings, weights),  # type: ignore[arg-type]
            callbacks=[_Redraw(dataset, network, tokenizer), finite_or_stop(settings.learning_rate)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.validation, trainer.tokenizer_used, trainer.on_event = validation, tokenizer, on_event
        gold = [one.label for one in validation]
        trainer.score = score or (lambda probs: macro_f1(gold, probs.argmax(1)))
        checkpoint = newest_checkpoint(work)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    history = [entry for entry in trainer.state.log_history if "eval_score" in entry]
    if settings.freeze:
        shutil.rmtree(work, ignore_errors=True)
    card = ClassifierCard(
        base=base,
        labels=tuple(labels),
        settings=settings,
        rows=len(train),
        share_of_ties=pairs.share_of_ties if pairs is not None and settings.method == "p2c" else None,
        validation_scores=tuple(round(float(entry["eval_score"]), 4) for entry in history),
        seconds=round(time.monotonic() - started, 1),
    )
    return TrainedClassifier(network=network.eval(), tokenizer=tokenizer, card=card, work=work)


def _arguments(settings: P2CSettings, work: Path) -> transformers.TrainingArguments:
    machine = precision(torch)
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
        metric_for_best_model="eval_score",
        greater_is_better=True,
        seed=settings.seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        bf16=machine["bf16"],
        use_cpu=machine["use_cpu"],
    )
    return on_one_gpu(arguments)


class _Trainer(transformers.Trainer):
    """Scores the validation texts after each epoch."""

    validation: Sequence[LabelledText]
    tokenizer_used: Tokenizer
    score: Score
    on_event: OnTuneEvent

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with saving(Path(str(self.args.output_dir))):
            super()._save_checkpoint(model, trial)

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        assert isinstance(self.model, Network)
        texts = [one.text for one in self.validation]
        score = self.score(predict(self.model, self.tokenizer_used, texts).probs)
        figures = {"eval_score": score}
        self.log(figures)
        self.on_event(TuneScore(step=self.state.global_step, score=score))
        return figures


class _Redraw(transformers.TrainerCallback):
    """Draws new pairs at the start of each epoch."""

    def __init__(self, dataset: PairDataset, network: Network, tokenizer: Tokenizer) -> None:
        self._dataset, self._network, self._tokenizer = dataset, network, tokenizer

    def on_epoch_begin(
        self, args: object, state: transformers.TrainerState, control: object, **_: object
    ) -> None:
        epoch, dataset = round(state.epoch or 0), self._dataset
        sampling, weigh = dataset.settings.sampling, None
        if dataset.pairs is not None and sampling != "random" and epoch > 0:
            labels = [dataset.about(i) for i in range(len(dataset.texts))]
            texts = [one.text for one in dataset.texts]
            prediction = predict(self._network, self._tokenizer, texts, labels)
            weigh = _weigher(sampling, dataset.pairs, prediction, labels)
        dataset.redraw(epoch, weigh)


def _weigher(sampling: Sampling, pairs: Pairs, prediction: Prediction, labels: Sequence[int]) -> Weigh:
    """How likely each candidate is to be drawn.

    By disagreement: those on which most pairs of heads differ, alike, and no others. By inconsistency: in
    proportion to the consistency term that training adds for the pair. (The published code scales the terms
    of a text to 0 to 1 first. It counts the text itself, whose term is 0, so that their proportions stay.)
    """
    scores, probs = torch.tensor(prediction.preference_scores), torch.tensor(prediction.probs)
    label_probs = probs[torch.arange(len(labels)), torch.tensor(labels)]
    soft = torch.tensor([one.soft for one in pairs.texts]) if pairs.known is None else None

    def weigh(i: int, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        chosen = torch.tensor(candidates)
        if sampling == "disagreement":
            apart = losses.disagreement(scores[i].expand(len(chosen), -1), scores[chosen]).numpy()
            return np.asarray(apart == apart.max(), dtype=np.float64)
        if soft is not None:
            terms = losses.annotated_consistency_terms(probs[i], probs[chosen], soft[i], soft[chosen])
        else:
            preferred = torch.tensor([pairs.preferred(i, int(j)) for j in candidates])
            terms = losses.consistency_terms(label_probs[i], label_probs[chosen], preferred)
        return np.asarray(terms, dtype=np.float64)

    return weigh


def _fingerprint(
    base: str,
    labels: Sequence[str],
    train: Sequence[LabelledText],
    validation: Sequence[LabelledText],
    settings: P2CSettings,
    pairs: Pairs | None,
) -> str:
    """The digest of everything that decides a training."""
    known = None if pairs is None or pairs.known is None else sorted(pairs.known.items())
    shares = None if pairs is None or pairs.shares is None else sorted(pairs.shares.items())
    content = {
        "base": base_digest(base) or base,
        "labels": list(labels),
        "texts": [[asdict(one) for one in texts] for texts in (train, validation)],
        "settings": settings.model_dump(mode="json"),
        "pairs": None if pairs is None else [known, pairs.tie, pairs.about, shares],
    }
    return hashlib.sha256(json.dumps(content, default=float).encode()).hexdigest()
