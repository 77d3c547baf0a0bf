"""A pipeline of two stages that needs no server: examples with difficulties, votes over shared samples.

Each example has a right answer and four wrong ones. A model's sample is right with a probability that falls
with the example's difficulty; where it is wrong, one wrong answer may attract most of the votes, so that more
samples can hurt. The second stage does worse, and draws other samples, when the first was wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agenttts.proposers.base import Proposer, SearchView
from agenttts.space import SearchSpace
from agenttts.trial import TrialResult
from pipelines.allocation import Allocation
from pipelines.spec import PipelineSpec

MODELS = ("small", "medium", "large")
MOST = 32
_VALUES = 5  # 0 is right


def simulated_spec(budget_units: float, ratio: float = 4.0) -> PipelineSpec:
    """Two stages, three models with sizes in that ratio; a unit is about a sample of the small one."""
    stage = {
        "prompt": "{{ question }}",
        "models": MODELS,
        "max_samples": MOST,
        "prompt_tokens": 16,
        "generated_tokens": 64,
    }
    return PipelineSpec.model_validate(
        {
            "name": "simulated",
            "stages": [{"name": "retrieve", **stage}, {"name": "answer", **stage}],
            "models": {
                name: {"base_url": "http://127.0.0.1:9/v1", "active_params": 1e6 * ratio**i}
                for i, name in enumerate(MODELS)
            },
            "dataset": {"search": "search.jsonl", "test": "test.jsonl"},
            "metric": {"kind": "exact_match", "label": "answer"},
            "budget": {
                "units": budget_units,
                "reference": {"active_params": 1e6, "prompt_tokens": 16, "generated_tokens": 64},
            },
        }
    )


@dataclass(frozen=True)
class Landscape:
    """Scores of every allocation on every example; the first `n_search` examples are what a search sees."""

    spec: PipelineSpec
    space: SearchSpace
    right: npt.NDArray[np.bool_]  # [model 1, n 1, model 2, n 2, example]
    n_search: int

    @classmethod
    def draw(cls, seed: int, *, budget: float = 48.0, n_search: int = 200, n_all: int = 1200) -> Landscape:
        rng = np.random.default_rng(seed)
        spec = simulated_spec(budget, ratio=float(rng.choice([3.0, 4.0])))
        first = _votes(_chances(rng, n_all), rng)
        answer_chances = _chances(rng, n_all)
        leak = rng.uniform(0.05, 0.35)
        second = np.stack(
            [_votes(_mislead(answer_chances, leak if value else 1.0, rng), rng) for value in range(_VALUES)]
        )  # [upstream value, model, n, example]
        taken = np.take_along_axis(
            second[:, None, None] == 0, first[None, :, :, None, None, :].astype(int), axis=0
        )[0]
        return cls(spec, SearchSpace(spec, budget), taken, n_search)

    def scores(self, allocation: Allocation) -> npt.NDArray[np.bool_]:
        one, two = allocation["retrieve"], allocation["answer"]
        found: npt.NDArray[np.bool_] = self.right[
            MODELS.index(one.model), one.n_samples - 1, MODELS.index(two.model), two.n_samples - 1
        ]
        return found

    def seen_score(self, allocation: Allocation) -> float:
        return float(self.scores(allocation)[: self.n_search].mean())

    def true_score(self, allocation: Allocation) -> float:
        return float(self.scores(allocation).mean())

    def trial(self, number: int, allocation: Allocation, purpose: str = "search") -> TrialResult:
        right = self.scores(allocation)[: self.n_search]
        return trial_result(
            number,
            allocation,
            {f"e{i:03}": float(value) for i, value in enumerate(right)},
            budget_units=self.space.units(allocation),
            purpose=purpose,
        )


def trial_result(
    number: int,
    allocation: Allocation,
    scores: dict[str, float | None],
    *,
    budget_units: float = 1.0,
    purpose: str = "search",
) -> TrialResult:
    """A complete trial with these scores and nothing else of note."""
    known = [score for score in scores.values() if score is not None]
    return TrialResult(
        number=number,
        allocation=allocation,
        purpose=purpose,  # type: ignore[arg-type]
        split="search",
        proposer="test",
        reason="",
        status="complete" if known else "failed",
        score=float(np.mean(known)) if known else None,
        scores=scores,
        n_scored=len(known),
        n_missing=len(scores) - len(known),
        budget_units=budget_units,
        flops_per_query=None,
        prompt_tokens=0,
        generated_tokens=0,
        cost_usd=None,
        samples_drawn=0,
        samples_reused=0,
        calls=0,
        stage_scores={},
        error=None,
    )


async def simulate(landscape: Landscape, proposer: Proposer, trials: int, seed: int = 0) -> list[TrialResult]:
    """The search without store and graph: the defaults first, then what the proposer says."""
    done = [landscape.trial(i, a, "baseline") for i, a in enumerate(landscape.space.defaults())]
    step = 1
    while len(done) < trials:
        view = SearchView(
            space=landscape.space,
            trials=tuple(done),
            insights=(),
            seed=seed,
            trials_left=trials - len(done),
            n_examples=landscape.n_search,
            task="",
            step=step,
        )
        turn = await proposer.propose(view, min(proposer.batch, trials - len(done)))
        if turn.finished is not None:
            break
        assert turn.suggestions
        for suggestion in turn.suggestions:
            assert suggestion.allocation in landscape.space
            assert suggestion.allocation not in {t.allocation for t in done}
            done.append(landscape.trial(len(done), suggestion.allocation))
        step += 1
    return done


def _chances(rng: np.random.Generator, n_examples: int) -> npt.NDArray[np.float64]:
    """Chances of each answer per model and example: [model, example, value]."""
    difficulty = rng.normal(0, rng.uniform(1.0, 2.5), n_examples)
    skill = np.cumsum(np.concatenate([rng.normal(-0.3, 0.6, 1), rng.uniform(-0.1, 1.2, len(MODELS) - 1)]))
    own = rng.normal(0, 0.7, (len(MODELS), n_examples))
    right = 1 / (1 + np.exp(-(skill[:, None] + own - difficulty)))
    pull = rng.dirichlet(np.full(_VALUES - 1, rng.uniform(0.3, 2.0)), (len(MODELS), n_examples))
    return np.concatenate([right[..., None], (1 - right)[..., None] * pull], axis=-1)


def _mislead(
    chances: npt.NDArray[np.float64], keep: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    right = chances[..., :1] * keep
    wrong = chances[..., 1:] / chances[..., 1:].sum(axis=-1, keepdims=True)
    return np.concatenate([right, (1 - right) * wrong], axis=-1)


def _votes(chances: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.int8]:
    """The plurality after 1 to MOST samples, ties to the first drawn: [model, n, example]."""
    drawn = (rng.random((*chances.shape[:2], MOST, 1)) > np.cumsum(chances, axis=-1)[:, :, None, :]).sum(
        axis=-1
    )
    drawn = np.minimum(drawn, _VALUES - 1)
    counts = np.cumsum(drawn[..., None] == np.arange(_VALUES), axis=2)  # [model, example, n, value]
    appears = (drawn[..., None] == np.arange(_VALUES)).argmax(axis=2)  # first index of each value
    ranked = counts * (MOST + 1) - appears[:, :, None, :]
    winners: npt.NDArray[np.int8] = ranked.argmax(axis=-1).transpose(0, 2, 1).astype(np.int8)
    return winners
