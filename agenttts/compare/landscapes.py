"""Pipelines whose every outcome is known, to compare proposers on: simulated families, and full banks.

A simulated pipeline has two to five stages. Each example has one right value and four wrong ones at every
stage. A model's sample is right with a probability that falls with the example's difficulty and, downstream,
when the stage before was wrong; where it is wrong, one wrong value may attract most samples. Votes, or a
verifier that errs, choose one value of n samples, so that curves over n saturate and may turn down. A search
sees a few examples; the true score is the mean on two thousand others. Recorded banks are read in
`agenttts.replay.bank`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from agenttts.errors import UserError
from agenttts.proposers import moves
from agenttts.replay.arrays import Outcomes, StageOutcomes
from agenttts.settings import MAX_ERROR_RATE
from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation
from pipelines.costs import stage_flops
from pipelines.spec.pipeline import PipelineSpec

N_TRUTH = 2000  # examples that no search sees
_VALUES = 5  # value 0 is right
_ENUMERATED = 30_000
_STARTS = 10
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """A search space whose true scores are known.

    Attributes:
        name: The family and the seed, or the pipeline's name.
        space: The allocations within the budget.
        outcomes: The outcomes on the examples that a search sees.
        truth: The outcomes on the examples that give the true scores; the same as `outcomes` for a full bank.
        best: The largest true score in the space: by enumeration when `exact`, else the best that a search
            from many starts reaches, or that a bank answers.
        exact: Whether `best` is known for sure.
    """

    name: str
    space: SearchSpace
    outcomes: Outcomes
    truth: Outcomes
    best: float
    exact: bool

    def true_scores(self, allocations: Sequence[Allocation]) -> _Floats:
        """Return the true scores of allocations.

        Args:
            allocations: The allocations to score.

        Returns:
            The mean scores, of shape [allocation]; NaN where more than a fifth of the examples are missing.
        """
        return true_means(self.truth, allocations)


@dataclass(frozen=True, kw_only=True)
class Family:
    """The distribution that a class of landscapes is drawn from. Pairs are ranges.

    Attributes:
        stages: The number of stages.
        models: The number of models that each stage chooses from.
        samples: The largest numbers of samples, one of which is drawn.
        examples: The numbers of examples that a search sees, one of which is drawn.
        gain: The skill of a model over the next smaller one, in logits.
        flat: The share of the stages with a tenth of that gain, where small models do nearly as well.
        ratio: The size of a model over that of the next smaller one.
        pull: The Dirichlet weight of the wrong values; small where one of them attracts most samples.
        difficulty_std: The standard deviation of the examples' difficulty, in logits.
        skill: The mean skill of the models, in logits.
        leak: The factor on the probability to be right when the input is wrong.
        verified: The share of stages with best-of-n by a verifier.
        error: The spread of the verifier's taste for values, right or wrong.
        verifier_noise: The standard deviation of the verifier's score of one sample.
        specialist: How much better one model of each stage is, whatever its size, in logits.
        tightness: The budget, as a share of what the largest models take at half their samples.
    """

    stages: tuple[int, int] = (2, 3)
    models: tuple[int, int] = (2, 4)
    samples: tuple[int, ...] = (16, 32)
    examples: tuple[int, ...] = (100, 200, 400)
    gain: tuple[float, float] = (0.6, 1.6)
    flat: float = 0.5
    ratio: tuple[float, float] = (2.0, 6.0)
    pull: tuple[float, float] = (0.5, 2.0)
    difficulty_std: tuple[float, float] = (0.6, 1.8)
    skill: tuple[float, float] = (-1.2, 0.8)
    leak: tuple[float, float] = (0.1, 0.6)
    verified: float = 0.0
    error: tuple[float, float] = (0.0, 1.0)
    verifier_noise: float = 1.0
    specialist: float = 0.0
    tightness: tuple[float, float] = (0.1, 0.4)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "bottleneck": Family(stages=(3, 4), leak=(0.0, 0.1), models=(2, 5)),
        "deep": Family(
            stages=(4, 5), models=(4, 6), samples=(32, 64), examples=(200, 500), leak=(0.3, 0.8), verified=0.3
        ),
        "scarce": Family(examples=(50,), pull=(0.2, 2.0), verified=0.3),
        "turning": Family(pull=(0.05, 0.3), difficulty_std=(0.2, 0.7), skill=(-1.0, 0.3)),
        "verified": Family(verified=1.0, error=(1.0, 4.0)),
        "voting": Family(),
        "difficulty": Family(difficulty_std=(2.0, 3.0), flat=0.2),
        "mode": Family(pull=(0.02, 0.08), difficulty_std=(0.2, 0.6), skill=(-0.8, 0.2)),
        "noisy": Family(verified=1.0, error=(0.0, 1.0), verifier_noise=3.0),
        "mediator": Family(stages=(3, 3), leak=(0.0, 0.02), flat=0.0, models=(3, 4), specialist=1.5),
        "specialists": Family(models=(4, 5), specialist=2.5, samples=(4,)),
        "fourstage": Family(stages=(4, 4), models=(3, 4), samples=(16,), examples=(100, 200)),
    }
)
"""The classes of landscapes; a landscape is drawn by the place of its class, so new ones come last.

In `voting` and `bottleneck` the three insights of AgentTTS hold as a rule; in `turning` and `verified` more
samples often hurt; `deep` is large; in `scarce` the differences are small against the noise. In `difficulty`
examples differ more than models; in `mode` a wrong value wins most votes; in `noisy` the verifier hardly
knows what is right. In `specialists` a model is good at one stage and not at another, whatever its size, so
that one model everywhere says little; in `mediator` whatever a stage gets wrong is lost, too.
"""


def draw(family: str, seed: int) -> Landscape:
    """Draw a landscape of a family.

    Args:
        family: A name of FAMILIES.
        seed: The seed; the same family and seed give the same landscape.

    Returns:
        The landscape.
    """
    space, outcomes, truth = pipeline(
        FAMILIES[family],
        f"{family}-{seed}",
        np.random.default_rng([list(FAMILIES).index(family), seed]),
    )
    best, exact = best_score(truth, space)
    return Landscape(
        name=f"{family}-{seed}", space=space, outcomes=outcomes, truth=truth, best=best, exact=exact
    )


def pipeline(
    kind: Family, name: str, rng: np.random.Generator, n_truth: int = N_TRUTH
) -> tuple[SearchSpace, Outcomes, Outcomes]:
    """Draw a simulated pipeline.

    Args:
        kind: The distribution to draw from.
        name: The name of the pipeline.
        rng: The random generator.
        n_truth: The number of examples that give the true scores.

    Returns:
        The space, the outcomes that a search sees, and the outcomes on `n_truth` other examples.
    """
    spec = _spec(kind, name, rng)
    n_search = int(rng.choice(kind.examples))
    parts = _Stages(kind, spec, n_search + n_truth, rng)
    return SearchSpace(spec, spec.budget.amount), parts(0, n_search), parts(n_search, n_search + n_truth)


def true_means(outcomes: Outcomes, allocations: Sequence[Allocation]) -> _Floats:
    """Return mean scores over the examples that are not missing.

    Args:
        outcomes: The outcomes to score on.
        allocations: The allocations to score.

    Returns:
        The means, of shape [allocation]; NaN where more than a fifth of the examples are missing.
    """
    size = max(1, 4_000_000 // len(outcomes.example_ids))
    parts = []
    for i in range(0, len(allocations), size):
        scores = outcomes.walk(allocations[i : i + size]).scores
        present = ~np.isnan(scores)
        sums = np.where(present, scores, 0.0).sum(axis=1)
        enough = present.mean(axis=1) >= 1 - MAX_ERROR_RATE
        parts.append(np.where(enough, sums / np.maximum(present.sum(axis=1), 1), np.nan))
    means: _Floats = np.concatenate(parts)
    return means


def best_score(outcomes: Outcomes, space: SearchSpace) -> tuple[float, bool]:
    """Find the best mean score in a space.

    Small spaces are enumerated. In larger ones hill climbing by all moves of the rules starts from the
    defaults and from seeded random allocations.

    Args:
        outcomes: The outcomes to score on.
        space: The allocations within the budget.

    Returns:
        The best mean score, and whether it is known for sure, by enumeration.

    Raises:
        UserError: The outcomes answer no allocation of the space.
    """
    if space.size <= _ENUMERATED:
        scores = true_means(outcomes, list(space.enumerate(_ENUMERATED)))
        if np.isnan(scores).all():
            raise UserError(f"the bank answers no allocation within {space.budget_units:g} units")
        return float(np.nanmax(scores)), not np.isnan(scores).any()
    rng = np.random.default_rng(space.size % 2**32)
    best = -np.inf
    for start in [*space.defaults(), *(moves.drawn(space, rng) for _ in range(_STARTS))]:
        here, score = start, float(np.nan_to_num(true_means(outcomes, [start]), nan=-np.inf)[0])
        while True:
            near = [m.allocation for m in moves.untried(moves.around(space, here, 0), {here}, space)]
            scores = np.nan_to_num(true_means(outcomes, near), nan=-np.inf)
            if not near or scores.max() <= score:
                break
            here, score = near[int(scores.argmax())], float(scores.max())
        best = max(best, score)
    return best, False


def _spec(kind: Family, name: str, rng: np.random.Generator) -> PipelineSpec:
    n_stages = int(rng.integers(kind.stages[0], kind.stages[1] + 1))
    n_models = int(rng.integers(kind.models[0], kind.models[1] + 1))
    sizes = 1e9 * np.cumprod([1.0, *rng.uniform(*kind.ratio, n_models - 1)])
    models = [f"m{i}" for i in range(n_models)]
    most = int(rng.choice(kind.samples))
    stages: list[dict[str, object]] = []
    largest = smallest = 0.0
    for k in range(n_stages):
        prompt_tokens, generated_tokens = int(rng.integers(64, 1025)), int(rng.integers(16, 257))
        largest += stage_flops(float(sizes[-1]), prompt_tokens, generated_tokens * most // 2)
        smallest += stage_flops(float(sizes[0]), prompt_tokens, generated_tokens)
        stages.append(
            {
                "name": f"s{k}",
                "prompt": "{{ question }}",
                "models": models,
                "max_samples": most,
                "prompt_tokens": prompt_tokens,
                "generated_tokens": generated_tokens,
            }
        )
    budget_flops = max(largest * float(rng.uniform(*kind.tightness)), 1.1 * smallest)
    unit = 2e9 * 64.0
    data = {
        "name": name,
        "stages": stages,
        "models": {
            m: {"base_url": "http://127.0.0.1:9/v1", "active_params": float(size)}
            for m, size in zip(models, sizes, strict=True)
        },
        "dataset": {"search": "search.jsonl", "test": "test.jsonl"},
        "metric": {"kind": "exact_match", "label": "answer"},
        "budget": {
            "units": max(1.0, round(budget_flops / unit, 1)),
            "reference": {"active_params": 1e9, "prompt_tokens": 1, "generated_tokens": 64},
        },
    }
    return PipelineSpec.model_validate(data)


class _Stages:
    """Draws all stages for `count` examples; called with a range of them, returns its outcomes."""

    def __init__(self, kind: Family, spec: PipelineSpec, count: int, rng: np.random.Generator) -> None:
        self.spec = spec
        self.values: list[npt.NDArray[np.int8]] = []  # by stage: [example, input value, model, n]
        hardness = rng.normal(0, 1, count)
        for k, stage in enumerate(spec.stages):
            chances = _chances(kind, len(stage.models), hardness, rng)
            taste = rng.normal(0, 1, (count, _VALUES)) * rng.uniform(*kind.error)
            verified = rng.random() < kind.verified
            leak = rng.uniform(*kind.leak)
            by_input = [
                _outputs(
                    _misled(chances, 1.0 if value == 0 else leak),
                    stage.max_samples,
                    taste if verified else None,
                    kind.verifier_noise,
                    rng,
                )
                for value in range(1 if k == 0 else _VALUES)
            ]
            self.values.append(np.stack(by_input, axis=1))

    def __call__(self, first: int, end: int) -> Outcomes:
        stages = []
        for stage, values in zip(self.spec.stages, self.values, strict=True):
            part = values[first:end]
            count, inputs = part.shape[:2]
            start = np.arange(count, dtype=np.int32)[:, None, None, None] * _VALUES
            sizes = [self.spec.models[m].active_params or np.nan for m in stage.models]
            tokens = stage.prompt_tokens + stage.generated_tokens * np.arange(1, stage.max_samples + 1)
            flops = 2.0 * np.array(sizes)[:, None] * tokens
            nodes = (count * inputs, len(sizes), stage.max_samples)
            stages.append(
                StageOutcomes(
                    name=stage.name,
                    options=stage.options,
                    leads_to=(start + part).reshape(nodes),
                    flops=np.broadcast_to(flops.astype(np.float32), nodes),
                )
            )
        right = (self.values[-1][first:end] == 0).astype(np.float32).reshape(stages[-1].leads_to.shape)
        stages[-1] = replace(stages[-1], leads_to=np.zeros_like(stages[-1].leads_to))
        ids = tuple(f"e{i:04}" for i in range(first, end))
        return Outcomes(example_ids=ids, stages=tuple(stages), scores=right)


def _chances(kind: Family, n_models: int, hardness: _Floats, rng: np.random.Generator) -> _Floats:
    """Return the probability of each value, of shape [model, example, value].

    Models share much of what is difficult and of which wrong value attracts samples.
    """
    count = len(hardness)
    gains = rng.uniform(*kind.gain, n_models - 1) * (0.1 if rng.random() < kind.flat else 1.0)
    skill = rng.uniform(*kind.skill) - 0.5 * gains.sum() + np.cumsum([0.0, *gains])
    if kind.specialist:
        skill[rng.integers(n_models)] += kind.specialist
    shared = rng.uniform(*kind.difficulty_std) * (0.6 * hardness + 0.8 * rng.normal(0, 1, count))
    by_model = rng.normal(0, 0.7, (n_models, count))
    right = 1 / (1 + np.exp(-(skill[:, None] + by_model - shared)))
    weight = rng.uniform(*kind.pull)
    common = rng.dirichlet(np.full(_VALUES - 1, weight), count)
    pull = 0.5 * common + 0.5 * rng.dirichlet(np.full(_VALUES - 1, weight), (n_models, count))
    chances: _Floats = np.concatenate([right[..., None], (1 - right)[..., None] * pull], axis=-1)
    return chances


def _misled(chances: _Floats, keep: float) -> _Floats:
    right = chances[..., :1] * keep
    wrong = chances[..., 1:] / chances[..., 1:].sum(axis=-1, keepdims=True)
    return np.concatenate([right, (1 - right) * wrong], axis=-1)


def _outputs(
    chances: _Floats, most: int, taste: _Floats | None, noise: float, rng: np.random.Generator
) -> npt.NDArray[np.int8]:
    """Return the output after 1 to `most` samples, of shape [example, model, n].

    It is the vote of the samples or, where a verifier has a `taste`, the verifier's pick.
    """
    outputs = np.empty((chances.shape[1], chances.shape[0], most), dtype=np.int8)
    for m, chance in enumerate(chances):
        samples = (rng.random((len(chance), most, 1)) > np.cumsum(chance, axis=-1)[:, None, :-1]).sum(axis=-1)
        if taste is None:
            votes = samples[..., None] == np.arange(_VALUES)
            ranked = np.cumsum(votes, axis=1) * (most + 1) - votes.argmax(axis=1)[:, None, :]
            outputs[:, m] = ranked.argmax(axis=-1)
        else:
            liked = np.take_along_axis(taste, samples, axis=1) + 1.5 * (samples == 0)
            liked = liked + rng.normal(0, noise, liked.shape)
            best = np.maximum.accumulate(liked, axis=1)
            first = np.maximum.accumulate(np.where(liked >= best, np.arange(most), 0), axis=1)
            outputs[:, m] = np.take_along_axis(samples, first, axis=1)
    return outputs
