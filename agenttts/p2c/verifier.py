"""`agenttts tune verifier`: a classifier that tells right samples of a stage from wrong ones.

Trained on a search's own samples, search split only: each is right or wrong by the stage's metric or the
pipeline's score, and of a right and a wrong one of the same prompt the right one is preferred (P2C with
preferences about the class `right`). It is exported as a plain classifier; served by vLLM it is one of a
stage's `verifiers`, or the model of an aggregator of kind `verifier`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agenttts.errors import UserError
from agenttts.p2c import metrics
from agenttts.p2c.texts import LabelledText, Pairs
from agenttts.tasktune.data.traces import judged_prompts
from agenttts.training.weights import read_tuned
from datastore.store import Store
from pipelines.extras import library
from pipelines.prompts import verified_text
from pipelines.spec import PipelineSpec

LABELS = ("wrong", "right")
OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class JudgedTexts:
    """What a verifier reads, labelled; the group is the example, so that one is on one side of a split."""

    texts: Sequence[LabelledText]
    groups: Sequence[str]
    prompts: Sequence[int]

    def part(self, groups: Collection[str]) -> JudgedTexts:
        """Those of some examples."""
        kept = [i for i, group in enumerate(self.groups) if group in groups]
        return JudgedTexts(
            texts=[self.texts[i] for i in kept],
            groups=[self.groups[i] for i in kept],
            prompts=[self.prompts[i] for i in kept],
        )

    def pairs(self) -> Pairs:
        """Each right text is preferred to the wrong ones of its prompt."""
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


async def judged_texts(
    store: Store,
    run_id: str | None,
    spec: PipelineSpec,
    stage: str,
    *,
    only: Collection[str] | None = None,
    per_prompt: int = 8,
) -> JudgedTexts:
    """Distinct samples of a stage in a run, right and wrong; of a prompt the most frequent of each kind.

    UserError where all samples are right, or all wrong.
    """
    texts: list[LabelledText] = []
    groups: list[str] = []
    prompts: list[int] = []
    judged = await judged_prompts(store, run_id, spec, spec.stage(stage), only=only)
    for number, (one, good, bad) in enumerate(judged):
        for label, found in ((1, good), (0, bad)):
            frequent = sorted(found, key=lambda text: (-len(found[text]), text))[:per_prompt]
            for text in frequent:
                read = verified_text({"messages": one.messages}, text)
                texts.append(LabelledText(text=read, label=label))
                groups.append(one.example.id)
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
    settings: dict[str, Any] | None = None,
    tune_share: float = 1.0,
    seed: int = 0,
    on_event: OnEvent = lambda _: None,
) -> dict[str, Any]:
    """Train on a run's samples, measure on a fifth of the examples, export. JSON-able figures.

    tune_share: of the search examples to use, the same as `improve` draws; others stay unseen for a search.
    Raises UserError for what a person must put right.
    """
    library("transformers")
    from agenttts.p2c.trainer import P2CSettings, train_classifier
    from agenttts.tasktune.improve import drawn_ids
    from pipelines.dataset import load_examples, seeded_order

    if out.exists():
        raise UserError(f"{out}: must be free; choose another --out")
    examples = load_examples(spec, "search")
    lent = drawn_ids(examples, tune_share, seed)

    async def gather() -> JudgedTexts:
        with Store.read(db) as store:
            return await judged_texts(store, run_id, spec, stage, only=lent)

    found = asyncio.run(gather())
    order = seeded_order(set(found.groups), str, seed, "v")
    n_held = max(1, len(order) // 5)
    held, train = found.part(set(order[:n_held])), found.part(set(order[n_held:]))
    chosen = P2CSettings.model_validate({"seed": seed, "balance": True, **(settings or {})})
    pairs = train.pairs() if chosen.method == "p2c" else None
    made = train_classifier(
        base,
        LABELS,
        train.texts,
        held.texts,
        chosen,
        out.with_name(out.name + ".work"),
        pairs=pairs,
        on_event=on_event,
    )
    gold = [one.label for one in held.texts]
    said = made.predict([one.text for one in held.texts], gold)
    made.export(out)
    return {
        "path": str(out.resolve()),
        "stage": stage,
        "texts": {"train": len(train.texts), "validation": len(held.texts)},
        "share_right": float(np.mean([one.label for one in train.texts])),
        "accuracy": metrics.accuracy(gold, said.probs.argmax(1)),
        "matthews": metrics.matthews(gold, said.probs.argmax(1)),
        "calibration_error": metrics.calibration_error(gold, said.probs),
        "right_above_wrong": _right_above_wrong(held, said.probs[:, 1]),
        "active_params": read_tuned(out).n_params,
        **made.card,
    }


def _right_above_wrong(held: JudgedTexts, right: np.ndarray[Any, Any]) -> float | None:
    """How often a right sample scores above a wrong one of its prompt; None without such a pair."""
    pairs = held.pairs().known or {}
    return float(np.mean([right[i] > right[j] for i, j in pairs])) if pairs else None
