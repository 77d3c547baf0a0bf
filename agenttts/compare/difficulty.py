"""Simulated samples of queries that differ in difficulty, to compare policies on.

A landscape of `agenttts.compare.landscapes` has outcomes only; votes that weigh, stops and confidences read
samples. Here a pipeline of one to three stages has three models. At every stage a query has an ease, a model
an ability, and a sample is right with the probability of item response, σ(ability + ease), and less often
where the stage before was wrong. Otherwise it is one of four wrong texts. The samples of a prompt are drawn
by seed when they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from datastore import Payment, Prompt, Sample
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.runtime import Runtime
from pipelines.spec.pipeline import PipelineSpec
from pipelines.stages import prompts

N_MODELS, N_SAMPLES = 3, 16
_SIZES = (1e9, 4e9, 16e9)
_TOKENS = 32  # of every prompt and of every sample
_ALIKE = (0.4, 0.3, 0.2, 0.1)  # how often each wrong text is drawn where all queries are alike
_SURE = 0.7  # the probability that is wrongly reported of one wrong text
_LONG = 60.0  # the negative log-probability of the form of a text that never repeats
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """A class of landscapes.

    Attributes:
        spread: The standard deviation of the queries' ease, in logits; at 0 all queries are alike, in what
            is wrong too.
        pull: The Dirichlet weight of the wrong texts; small where one of them attracts most samples.
        blind: Every prompt has two texts, both right or both wrong, and how probable each is has nothing
            to do with that: queries differ, but nothing says which are hard.
        misled: The share of the queries for which the server reports that a wrong text is almost certain.
        has_logprobs: Whether the server reports log-probabilities.
        repeats: Whether texts ever repeat.
    """

    spread: float = 2.5
    pull: float = 0.5
    blind: bool = False
    misled: float = 0.0
    has_logprobs: bool = True
    repeats: bool = True


DIFFICULTIES: Mapping[str, Difficulty] = MappingProxyType(
    {
        "mixed": Difficulty(),
        "silent": Difficulty(has_logprobs=False),
        "misled": Difficulty(pull=0.05, misled=0.5),
        "alike": Difficulty(spread=0.0),
        "blind": Difficulty(blind=True),
        "free": Difficulty(repeats=False),
    }
)
"""The classes.

In `mixed` and `silent` adaptation can help; in `blind` and `free` it can't; in `alike` only as far as votes
differ by chance. In `misled` wrong answers are sure, by votes and by reported probability.
"""


class SimulatedQueries:
    """A pipeline, its queries, and a bank of their samples.

    Args:
        kind: The class.
        seed: The seed of the pipeline, of the queries and of the samples, at least 3: the generators of lower
            ones are those of the orders in which samples are read. The pipeline has 1 + seed % 3 stages.
        n_examples: The number of examples to choose on.
        n_fresh: The number of queries that no choice sees.

    Attributes:
        spec: The pipeline.
        examples: The examples to choose on.
        fresh: The queries that no choice sees.
    """

    def __init__(self, kind: Difficulty, seed: int, *, n_examples: int, n_fresh: int) -> None:
        rng = np.random.default_rng(seed)
        self._kind, self._seed, n_stages = kind, seed, 1 + seed % 3
        self.spec = _spec(n_stages)
        self._n_right = 2 if kind.blind else 1
        answers: JSON = [str(value) for value in range(self._n_right)]
        count = n_examples + n_fresh
        queries = [Example(f"q{i}", {"question": f"q{i}", "answer": answers}) for i in range(count)]
        self.examples, self.fresh = queries[:n_examples], queries[n_examples:]
        shared = rng.normal(size=count)
        self._chances = [_chances(kind, shared, rng) for _ in range(n_stages)]
        self._misled = rng.random((n_stages, count)) < kind.misled
        self._sampler = Runtime(self.spec, self, None, run_id=None, replay=True).sampler
        self._drawable: dict[str, _Drawable] = {}
        self._enrolled = set[tuple[int, int, int]]()
        for number, query in enumerate(queries):
            self._enrol(query, number, 0, {}, 0)

    def _enrol(
        self, query: Example, number: int, position: int, outputs: Mapping[str, JSON], value: int
    ) -> None:
        """Make the prompts of a stage known, so that their samples can be asked for by key."""
        if (number, position, value) in self._enrolled:
            return
        self._enrolled.add((number, position, value))
        stage = self.spec.stages[position]
        content = prompts.render(stage, query, outputs)
        for model, name in enumerate(stage.models):
            prompt = replace(self._sampler.prompt(name, content, stage.sampling), prompt_tokens=_TOKENS)
            misguided = value >= self._n_right
            self._drawable[prompt.key] = _Drawable(prompt, query, number, position, model, misguided)

    async def get_samples(self, prompt_keys: Sequence[str]) -> dict[str, list[Sample]]:
        """Draw samples, the same each time, and make the prompts known that they lead to."""
        return {key: self._samples(self._drawable[key]) for key in prompt_keys}

    async def get_prompt(self, key: str) -> Prompt | None:
        """Look up a prompt."""
        return self._drawable[key].prompt

    async def put_samples(
        self, prompt: Prompt, samples: Sequence[Sample], payment: Payment | None = None
    ) -> None:
        """Nothing is drawn by others."""
        raise NotImplementedError

    async def put_payment(self, payment: Payment) -> None:
        """Nothing is paid."""
        raise NotImplementedError

    def _samples(self, of: _Drawable) -> list[Sample]:
        chances = self._chances[of.position][int(of.misguided), of.model, of.number]
        reported = chances
        if self._misled[of.position, of.number]:
            reported = (1 - _SURE) * chances
            reported[1 + chances[1:].argmax()] += _SURE
        rng = np.random.default_rng([self._seed, int(of.prompt.key[:16], 16)])
        values = np.searchsorted(np.cumsum(chances)[:-1], rng.random(N_SAMPLES), side="right").tolist()
        texts = [_text(self._kind, value, of.model, j) for j, value in enumerate(values)]
        if of.position + 1 < len(self.spec.stages):
            name = self.spec.stages[of.position].name
            for text, value in zip(texts, values, strict=True):
                self._enrol(of.query, of.number, of.position + 1, {name: text}, value)
        form = 0.0 if self._kind.repeats else _LONG
        return [
            Sample(
                prompt_key=of.prompt.key,
                index=j,
                text=text,
                generated_tokens=_TOKENS,
                mean_logprob=(math.log(reported[value]) - form) / _TOKENS
                if self._kind.has_logprobs
                else None,
                finish_reason="stop",
                run_id=None,
                request_id=None,
            )
            for j, (text, value) in enumerate(zip(texts, values, strict=True))
        ]


@dataclass(frozen=True)
class _Drawable:
    """A prompt whose samples can be drawn; `misguided` where the output before was wrong."""

    prompt: Prompt
    query: Example
    number: int
    position: int
    model: int
    misguided: bool


def _text(kind: Difficulty, value: int, model: int, index: int) -> str:
    """A number; where texts never repeat, written with other numbers of zeros, which are other votes."""
    return f"{value}.0" + ("" if kind.repeats else "0" * (1 + model * N_SAMPLES + index))


def _chances(kind: Difficulty, shared: _Floats, rng: np.random.Generator) -> _Floats:
    """Return the probability of each value at one stage, right ones first.

    The shape is [0: the stage before was right, 1: it was wrong; model, query, value].
    """
    count = len(shared)
    ability = rng.uniform(-0.8, 0.4) + np.cumsum([0.0, *rng.uniform(0.6, 1.4, N_MODELS - 1)])
    ease = kind.spread * (0.7 * shared + 0.7 * rng.normal(size=count))
    own = 0.3 * kind.spread * rng.normal(size=(N_MODELS, count))
    keep = np.array([1.0, rng.uniform(0.1, 0.5)])[:, None, None]
    right = keep / (1 + np.exp(-(ability[:, None] + ease + own)))
    if kind.blind:
        first, unable = rng.uniform(0.1, 0.9, right.shape), rng.random(right.shape[1:]) > right
        two = np.stack([first, 1 - first], axis=-1)
        none = np.zeros_like(two)
        pairs = np.where(unable[..., None, None], np.stack([none, two], -2), np.stack([two, none], -2))
        return pairs.reshape(*right.shape, 4)
    wrong: _Floats = np.broadcast_to(_ALIKE, (N_MODELS, count, len(_ALIKE)))
    if kind.spread:
        weights = np.full(len(_ALIKE), kind.pull)
        own_wrong = rng.dirichlet(weights, (N_MODELS, count))
        wrong = 0.7 * rng.dirichlet(weights, count) + 0.3 * own_wrong
    return np.concatenate([right[..., None], (1 - right)[..., None] * wrong], axis=-1)


def _spec(n_stages: int) -> PipelineSpec:
    models = [f"m{i}" for i in range(N_MODELS)]
    stages = [
        {
            "name": f"s{k}",
            "inputs": [f"s{k - 1}"] if k else [],
            "prompt": f"{{{{ question }}}}, {k}" + (f": {{{{ s{k - 1}.split('.')[0] }}}}" if k else ""),
            "models": models,
            "max_samples": N_SAMPLES,
            "prompt_tokens": _TOKENS,
            "generated_tokens": _TOKENS,
        }
        for k in range(n_stages)
    ]
    data = {
        "name": f"simulated-{n_stages}",
        "stages": stages,
        "models": {
            name: {"base_url": "http://127.0.0.1:9/v1", "active_params": size}
            for name, size in zip(models, _SIZES, strict=True)
        },
        "dataset": {"search": "search.jsonl", "test": "test.jsonl"},
        "metric": {"kind": "number", "label": "answer"},
        "budget": {
            "units": 100,
            "reference": {
                "active_params": _SIZES[0], "prompt_tokens": _TOKENS, "generated_tokens": _TOKENS
            },
        },
    }  # fmt: skip
    return PipelineSpec.model_validate(data)
