"""`agenttts tune verifier`: a classifier that tells right samples of a stage from wrong ones.

It is trained on the samples that a search recorded, of the search split only: each is right or wrong by the
stage's metric or the pipeline's score. It learns from pairs of a right and a wrong one of the same prompt
(P2C with preferences about the class `right`). They are drawn by prompt, and by how often samples said each
text, which balances the classes once. What it is worth is measured inside prompts, where best-of-n chooses.
It is exported as a plain classifier; served by vLLM it is one of a stage's `verifiers`, or the model of an
aggregator of kind `verifier`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agenttts.blocking import run_blocking
from agenttts.errors import UserError
from agenttts.p2c.judgements import JudgedTexts, judged_texts
from agenttts.p2c.settings import P2CSettings
from agenttts.replay.judged import drawn_ids
from agenttts.training.events import OnTuneEvent
from agenttts.training.weights import read_tuned
from datastore.store import Store
from pipelines.dataset.splits import load_examples, seeded_order
from pipelines.extras import library
from pipelines.jsonvalues import JSON
from pipelines.spec.pipeline import PipelineSpec

if TYPE_CHECKING:
    from agenttts.p2c.trained import ClassifierCard

LABELS = ("wrong", "right")
_MOST = 16  # training texts of each kind of a prompt


@dataclass(frozen=True, kw_only=True)
class VerifierReport:
    """What came of training a verifier.

    The figures are on samples of examples that chose neither weights nor epoch nor threshold.

    Attributes:
        path: The exported checkpoint.
        stage: The stage whose samples it tells apart.
        n_train: The number of training texts.
        n_test: The number of texts that the figures are on.
        n_prompts: The number of prompts among them that have right and wrong samples.
        auc: How often a right sample scores above a wrong one of its prompt, mean over prompts; 0.5 is
            chance. None without such a prompt.
        auc_error: The standard error of that mean; None with fewer than two prompts.
        base_rate: The share of right samples.
        accuracy: The share of samples that are judged rightly. The better of the base rate and its rest is
            had without a verifier.
        threshold: The probability of `right` from which a sample counts as right.
        active_params: The number of parameters of the verifier.
        card: How it was trained.
    """

    path: Path
    stage: str
    n_train: int
    n_test: int
    n_prompts: int
    auc: float | None
    auc_error: float | None
    base_rate: float
    accuracy: float
    threshold: float
    active_params: int
    card: ClassifierCard

    @property
    def tells_apart(self) -> bool:
        """Whether the AUC is shown to be above chance: by two standard errors."""
        return self.auc is not None and self.auc_error is not None and self.auc - 2 * self.auc_error > 0.5

    def to_json_dict(self) -> dict[str, JSON]:
        """JSON-able, in one mapping."""
        return {
            "path": str(self.path),
            "stage": self.stage,
            "texts": {"train": self.n_train, "test": self.n_test},
            "prompts": self.n_prompts,
            "auc": self.auc,
            "auc_error": self.auc_error,
            "base_rate": self.base_rate,
            "accuracy": self.accuracy,
            "threshold": self.threshold,
            "active_params": self.active_params,
            **self.card.to_json_dict(),
        }


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
    """Train a verifier on a run's samples, and export it.

    A fifth of the examples chooses the epoch, by the AUC inside prompts, and the threshold. Another fifth
    measures.

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
        seed: Decides which examples are used, and for what.
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
    n_held_out = max(1, len(order) // 5)
    test, chooser, train = (
        judged.part(set(ids))
        for ids in (order[:n_held_out], order[n_held_out : 2 * n_held_out], order[2 * n_held_out :])
    )
    train = train.frequent(_MOST, seed)
    if not test.texts or not chooser.texts or not train.texts:
        raise UserError(
            f"stage {stage}: a verifier needs samples of three examples at least, got {len(order)}; "
            "search more, or raise --tune-share"
        )

    def auc(probs: NDArray[np.float64]) -> float:
        mean = _mean(chooser.prompt_aucs(probs[:, 1]))
        return 0.5 if mean is None else mean

    trained = train_classifier(
        base,
        LABELS,
        train.texts,
        chooser.texts,
        settings,
        out.with_name(out.name + ".work"),
        pairs=train.pairs() if settings.method == "p2c" else None,
        score=auc,
        on_event=on_event,
    )
    right = trained.predict([one.text for one in test.texts]).probs[:, 1]
    threshold = _threshold(chooser, trained.predict([one.text for one in chooser.texts]).probs[:, 1])
    trained.export(out)
    aucs = test.prompt_aucs(right)
    return VerifierReport(
        path=out.resolve(),
        stage=stage,
        n_train=len(train.texts),
        n_test=len(test.texts),
        n_prompts=len(aucs),
        auc=_mean(aucs),
        auc_error=float(aucs.std(ddof=1) / np.sqrt(len(aucs))) if len(aucs) > 1 else None,
        base_rate=test.base_rate,
        accuracy=test.accuracy(right, threshold),
        threshold=threshold,
        active_params=read_tuned(out).n_params,
        card=trained.card,
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _threshold(judged: JudgedTexts, right: NDArray[np.float64]) -> float:
    """The probability of `right` with the best accuracy; one above all of them says `wrong` always."""
    candidates = [*sorted({float(p) for p in right}), float(np.nextafter(right.max(), 2.0))]
    return max(candidates, key=lambda threshold: judged.accuracy(right, threshold))
