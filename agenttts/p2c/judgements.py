"""The samples of a search as texts that a verifier reads, labelled right or wrong, prompt by prompt."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agenttts.errors import UserError
from agenttts.p2c.texts import LabelledText, Pairs
from agenttts.replay.judged import judged_prompts
from datastore.store import Store
from pipelines.dataset.splits import seeded_order
from pipelines.spec.pipeline import PipelineSpec
from pipelines.stages.prompts import verified_text

_DRAWN = 8.0  # pairs of a prompt in an epoch


@dataclass(frozen=True, kw_only=True)
class JudgedTexts:
    """What a verifier reads, labelled.

    Attributes:
        texts: Prompt and sample as one text each; the label is 1 for right, 0 for wrong.
        counts: For each text how many samples said it.
        groups: For each text the id of its example, so that an example is on one side of a split.
        prompts: For each text the number of its prompt.
    """

    texts: Sequence[LabelledText]
    counts: Sequence[int]
    groups: Sequence[str]
    prompts: Sequence[int]

    def part(self, groups: Collection[str]) -> JudgedTexts:
        """The texts of some examples.

        Args:
            groups: The ids of the examples.
        """
        return self._chosen([i for i, group in enumerate(self.groups) if group in groups])

    def frequent(self, most: int, seed: int) -> JudgedTexts:
        """Leave the most frequent right and wrong texts of each prompt.

        Args:
            most: At most so many of each kind.
            seed: Decides between texts that are as frequent.
        """
        order = seeded_order(range(len(self.texts)), lambda i: self.texts[i].text, seed)
        by_kind: dict[tuple[int, int], list[int]] = {}
        for i in sorted(order, key=lambda i: -self.counts[i]):
            by_kind.setdefault((self.prompts[i], self.texts[i].label), []).append(i)
        return self._chosen(sorted(i for members in by_kind.values() for i in members[:most]))

    def pairs(self) -> Pairs:
        """Preferences: each right text before the wrong ones of its prompt.

        In an epoch every prompt is drawn eight times, and in it a text as often as samples said it.
        """
        shares: dict[tuple[int, int], float] = {}
        for right, wrong in self._kinds():
            total = sum(self.counts[i] for i in right) * sum(self.counts[j] for j in wrong)
            each = _DRAWN / total
            shares |= {(i, j): self.counts[i] * self.counts[j] * each for i in right for j in wrong}
        return Pairs(texts=self.texts, known=dict.fromkeys(shares, 1.0), about=1, shares=shares)

    def prompt_aucs(self, scores: ArrayLike) -> NDArray[np.float64]:
        """How often a right sample scores above a wrong one of its prompt, by prompt; a tie counts half.

        Args:
            scores: The score of each text.

        Returns:
            A value for each prompt that has both kinds; a text counts as often as samples said it.
        """
        by_text, counts = np.asarray(scores), np.asarray(self.counts)
        aucs = []
        for right, wrong in self._kinds():
            gaps = by_text[right][:, None] - by_text[wrong][None, :]
            weights = counts[right][:, None] * counts[wrong][None, :]
            aucs.append(np.sum(weights * ((gaps > 0) + 0.5 * (gaps == 0))) / np.sum(weights))
        return np.array(aucs)

    def accuracy(self, scores: ArrayLike, threshold: float) -> float:
        """The share of samples, repeats included, that a threshold judges rightly.

        Args:
            scores: The score of each text.
            threshold: The score from which a text counts as right.
        """
        judged = np.asarray(scores) >= threshold
        return float(np.average(judged == self._is_right, weights=self.counts))

    @property
    def base_rate(self) -> float:
        """The share of right samples, repeats included."""
        return float(np.average(self._is_right, weights=self.counts))

    def _chosen(self, chosen: Sequence[int]) -> JudgedTexts:
        return JudgedTexts(
            texts=[self.texts[i] for i in chosen],
            counts=[self.counts[i] for i in chosen],
            groups=[self.groups[i] for i in chosen],
            prompts=[self.prompts[i] for i in chosen],
        )

    @property
    def _is_right(self) -> NDArray[np.bool_]:
        return np.array([one.label == 1 for one in self.texts])

    def _kinds(self) -> Iterator[tuple[list[int], list[int]]]:
        """The right and the wrong texts of each prompt that has both."""
        by_prompt: dict[int, tuple[list[int], list[int]]] = {}
        for i, prompt in enumerate(self.prompts):
            by_prompt.setdefault(prompt, ([], []))[0 if self.texts[i].label == 1 else 1].append(i)
        return (kinds for kinds in by_prompt.values() if all(kinds))


async def judged_texts(
    store: Store,
    run_id: str | None,
    spec: PipelineSpec,
    stage: str,
    *,
    only: Collection[str] | None = None,
) -> JudgedTexts:
    """Collect distinct samples of a stage in a run, right and wrong.

    Args:
        store: The store of the run.
        run_id: The run; None: the newest.
        spec: The pipeline that the run searched.
        stage: The name of the stage.
        only: The ids of the search examples to look at; None: all.

    Raises:
        UserError: All samples are right, or all are wrong, or there are none.
    """
    texts: list[LabelledText] = []
    counts: list[int] = []
    groups: list[str] = []
    prompts: list[int] = []
    judged = await judged_prompts(store, run_id, spec, spec.stage(stage), only=only)
    for number, prompt in enumerate(judged):
        for label, samples in ((1, prompt.right), (0, prompt.wrong)):
            for text in sorted(samples):
                shown = verified_text({"messages": prompt.messages}, text)
                texts.append(LabelledText(text=shown, label=label))
                counts.append(len(samples[text]))
                groups.append(prompt.example.id)
                prompts.append(number)
    if len({one.label for one in texts}) < 2:
        raise UserError(
            f"stage {stage}: its samples are all alike, right or wrong; there is nothing to tell apart"
        )
    return JudgedTexts(texts=texts, counts=counts, groups=groups, prompts=prompts)
