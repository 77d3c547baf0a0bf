"""`agenttts tune verifier`: a classifier that tells right samples of a stage from wrong ones.

It is trained on the samples that a search recorded, of the search split only: each is right or wrong by the
stage's metric or the pipeline's score, and of a right and a wrong one of the same prompt the right one is
preferred (P2C with preferences about the class `right`). It is exported as a plain classifier; served by vLLM
it is one of a stage's `verifiers`, or the model of an aggregator of kind `verifier`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agenttts.blocking import run_blocking
from agenttts.errors import UserError
from agenttts.p2c import metrics
from agenttts.p2c.settings import P2CSettings
from agenttts.p2c.texts import LabelledText, Pairs
from agenttts.replay.judged import drawn_ids, judged_prompts
from agenttts.training.events import OnTuneEvent
from agenttts.training.weights import read_tuned
from datastore.store import Store
from pipelines.dataset.splits import load_examples, seeded_order
from pipelines.extras import library
from pipelines.jsonvalues import JSON
from pipelines.spec.pipeline import PipelineSpec
from pipelines.stages.prompts import verified_text

if TYPE_CHECKING:
    from agenttts.p2c.trained import ClassifierCard

LABELS = ("wrong", "right")


@dataclass(frozen=True, kw_only=True)
class JudgedTexts:
    """What a verifier reads, labelled.

    Attributes:
        texts: Prompt and sample as one text each; the label is 1 for right, 0 for wrong.
        groups: For each text the id of its example, so that an example is on one side of a split.
        prompts: For each text the number of its prompt.
    """

    texts: Sequence[LabelledText]
    groups: Sequence[str]
    prompts: Sequence[int]

    def part(self, groups: Collection[str]) -> JudgedTexts:
        """The texts of some examples.

        Args:
            groups: The ids of the examples.
        """
        chosen = [i for i, group in enumerate(self.groups) if group in groups]
        return JudgedTexts(
            texts=[self.texts[i] for i in chosen],
            groups=[self.groups[i] for i in chosen],
            prompts=[self.prompts[i] for i in chosen],
        )

    def pairs(self) -> Pairs:
        """Preferences: each right text before the wrong ones of its prompt."""
        by_prompt: dict[int, list[int]] = {}
        for i, prompt in enumerate(self.prompts):
            by_prompt.setdefault(prompt, []).append(i)
        known = {
            (i, j): 1.0
            for members in by_prompt.values()
            for i in members
            for j in members
            if self.texts[i].label == 1 and self.texts[j].label == 0
        }
        return Pairs(texts=self.texts, known=known, about=1)


@dataclass(frozen=True, kw_only=True)
class VerifierReport:
    """What came of training a verifier. The figures are on samples of examples that it did not see.

    Attributes:
        path: The exported checkpoint.
        stage: The stage whose samples it tells apart.
        n_train: The number of training texts.
        n_validation: The number of validation texts.
        share_right: The share of right samples among the training texts.
        accuracy: The share of samples that are judged rightly.
        matthews: The correlation of verdict and judgement, from -1 to 1.
        calibration_error: The expected calibration error.
        right_above_wrong: How often a right sample scores above a wrong one of its prompt; None without such
            a pair.
        active_params: The number of parameters of the verifier.
        card: How it was trained.
    """

    path: Path
    stage: str
    n_train: int
    n_validation: int
    share_right: float
    accuracy: float
    matthews: float
    calibration_error: float
    right_above_wrong: float | None
    active_params: int
    card: ClassifierCard

    def to_json_dict(self) -> dict[str, JSON]:
        """JSON-able, in one mapping."""
        return {
            "path": str(self.path),
            "stage": self.stage,
            "texts": {"train": self.n_train, "validation": self.n_validation},
            "share_right": self.share_right,
            "accuracy": self.accuracy,
            "matthews": self.matthews,
            "calibration_error": self.calibration_error,
            "right_above_wrong": self.right_above_wrong,
            "active_params": self.active_params,
            **self.card.to_json_dict(),
        }


async def judged_texts(
    store: Store,
    run_id: str | None,
    spec: PipelineSpec,
    stage: str,
    *,
    only: Collection[str] | None = None,
    per_prompt: int = 8,
) -> JudgedTexts:
    """Collect distinct samples of a stage in a run, right and wrong.

    Args:
        store: The store of the run.
        run_id: The run; None: the newest.
        spec: The pipeline that the run searched.
        stage: The name of the stage.
        only: The ids of the search examples to look at; None: all.
        per_prompt: Of each prompt the most frequent samples of each kind are taken, at most so many.

    Raises:
        UserError: All samples are right, or all are wrong, or there are none.
    """
    texts: list[LabelledText] = []
    groups: list[str] = []
    prompts: list[int] = []
    judged = await judged_prompts(store, run_id, spec, spec.stage(stage), only=only)
    for number, prompt in enumerate(judged):
        for label, samples in ((1, prompt.right), (0, prompt.wrong)):
            frequent = sorted(samples, key=lambda text: (-len(samples[text]), text))[:per_prompt]
            for text in frequent:
                shown = verified_text({"messages": prompt.messages}, text)
                texts.append(LabelledText(text=shown, label=label))
                groups.append(prompt.example.id)
                prompts.append(number)
    if len({one.label for one in texts}) < 2:
        raise UserError(
            f"stage {stage}: its samples are all alike, right or wrong; there is nothing to tell apart"
        )
    return JudgedTexts(texts=texts, groups=groups, prompts=prompts)


def train_verifier(
    spec: PipelineSpec,
    stage: str,
    base: str,
    out: Path,
    *,
    db: Path,
    run_id: str | None = None,
    settings: P2CSettings,
    tune_share: float = 1.0,
    seed: int = 0,
    on_event: OnTuneEvent = lambda _: None,
) -> VerifierReport:
    """Train a verifier on a run's samples, measure it on a fifth of the examples, and export it.

    Args:
        spec: The pipeline that the run searched.
        stage: The name of the stage whose samples are told apart.
        base: The directory or hub name of the backbone.
        out: The directory of the verifier.
        db: The store of the run.
        run_id: The run; None: the newest.
        settings: How it is trained.
        tune_share: The share of the search examples to use, the same as `improve` draws; the others stay
            unseen for a search.
        seed: Decides which examples are used, and which of them are for measuring.
        on_event: Is called with the score after each epoch.

    Raises:
        UserError: There is something that a person must put right.
        MissingDependency: The extra `tune` is not installed.
    """
    library("transformers")
    from agenttts.p2c.trainer import train_classifier

    if out.exists():
        raise UserError(f"{out}: must be free; choose another --out")
    lent = drawn_ids(load_examples(spec, "search"), tune_share, seed)

    async def gather() -> JudgedTexts:
        with Store.read(db) as store:
            return await judged_texts(store, run_id, spec, stage, only=lent)

    judged = run_blocking(gather())
    order = seeded_order(set(judged.groups), str, seed, "v")
    n_validation = max(1, len(order) // 5)
    validation, train = judged.part(set(order[:n_validation])), judged.part(set(order[n_validation:]))
    trained = train_classifier(
        base,
        LABELS,
        train.texts,
        validation.texts,
        settings,
        out.with_name(out.name + ".work"),
        pairs=train.pairs() if settings.method == "p2c" else None,
        on_event=on_event,
    )
    gold = [one.label for one in validation.texts]
    probs = trained.predict([one.text for one in validation.texts], gold).probs
    trained.export(out)
    return VerifierReport(
        path=out.resolve(),
        stage=stage,
        n_train=len(train.texts),
        n_validation=len(validation.texts),
        share_right=float(np.mean([one.label for one in train.texts])),
        accuracy=metrics.accuracy(gold, probs.argmax(1)),
        matthews=metrics.matthews(gold, probs.argmax(1)),
        calibration_error=metrics.calibration_error(gold, probs),
        right_above_wrong=_right_above_wrong(validation, probs[:, 1]),
        active_params=read_tuned(out).n_params,
        card=trained.card,
    )


def _right_above_wrong(judged: JudgedTexts, right: NDArray[np.float64]) -> float | None:
    pairs = judged.pairs().known or {}
    return float(np.mean([right[i] > right[j] for i, j in pairs])) if pairs else None
