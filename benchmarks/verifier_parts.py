"""A composite verifier with capped parts on the zoo, against a learnt vote and each part alone.

    python -m benchmarks.verifier_parts [--verifiers RUN.duckdb RETRIEVE ANSWER] [--seeds 10] [--counts 8 32]

Each item that the samples of an example name has parts: its share of the samples, the share of probability of
its distinct texts, its best mean log-probability of a token, the mean of these, its shortest sample; with
--verifiers also the mean logit of a verifier of `agenttts tune verifier`, on the examples it did not see.
The composite is a sum of parts, each standardised and counted only up to a cap (after Moskovitz et al. 2023,
arXiv 2310.04373: each part of a reward counts up to the point beyond which it stops helping). Weights are not
negative; caps, one part after the other, and weights have the best log loss on the examples to learn from.
`uncapped` is the same without caps, `learnt vote` the logistic model of `verifier_zoo`. A seed deals the
examples into five folds; every example is scored by what was learnt without its fold. Differences are paired
by example over the means of the seeds. What came of it, that nothing ships, is in docs/log.md.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]

from agenttts import paired_difference
from agenttts.policies.confidence import confidences, fit_confidence
from agenttts.replay.judged import drawn_ids
from benchmarks.verifier_zoo import CUTS, logit, probabilities, probability
from datastore import Store
from datastore.records import Sample
from pipelines import StageChoice, load_examples, load_spec
from pipelines.jsonvalues import JSON
from pipelines.runtime.runtime import Runtime
from pipelines.stages import metrics, prompts
from pipelines.stages.parsers import Parsed, parse
from pipelines.zoo import SPEC

Floats: TypeAlias = NDArray[np.float64]
Judge: TypeAlias = Callable[[Floats], Floats]
"""How likely items are right, by their features, shape (items, features)."""

FOLDS = 5
PARTS = ("share", "mass", "best log-probability", "mean log-probability", "shortest", "verifier")
CAPS = (0.0, 0.5, 1.0, 1.5)  # standard deviations above the mean; the last choice is none
PENALTY = 3.0  # as of the confidences of policies


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The items that the samples of one example name, with their parts, shape (items, parts), and which of
    them are right."""

    items: Sequence[JSON]
    parts: Floats
    right: Floats
    as_list: bool
    score: Callable[[JSON], float]

    def scored(self, sure: Floats, cut: float) -> float:
        """The score of the likeliest item; of a list of those above a cut, or of the likeliest."""
        if not self.items:
            return self.score(None)
        best = self.items[int(sure.argmax())]
        if not self.as_list:
            return self.score(best)
        return self.score([item for item, p in zip(self.items, sure, strict=True) if p >= cut] or [best])


@dataclass(frozen=True, kw_only=True)
class Composite:
    """A sum of capped parts through a logistic function; caps of infinity are none."""

    means: Floats
    scales: Floats
    caps: Floats
    weights: Floats  # the constant first

    def __call__(self, parts: Floats) -> Floats:
        z = np.minimum((parts - self.means) / self.scales, self.caps)
        return np.asarray(1 / (1 + np.exp(-np.clip(self.weights[0] + z @ self.weights[1:], -500, 500))))


def fitted(parts: Floats, right: Floats, caps: Sequence[float]) -> Composite:
    """Learn weights that are not negative, and a cap of each part, one part after the other, twice over."""
    means, scales = parts.mean(axis=0), parts.std(axis=0) + 1e-6
    z = (parts - means) / scales

    def learnt(limits: Floats) -> tuple[float, Floats]:
        x = np.concatenate([np.ones((len(z), 1)), np.minimum(z, limits)], axis=1)

        def loss(weights: Floats) -> tuple[float, Floats]:
            logits = x @ weights
            penalised = np.append(0.0, weights[1:])
            value = np.logaddexp(0, logits).sum() - right @ logits + PENALTY / 2 * penalised @ penalised
            return float(value), x.T @ (1 / (1 + np.exp(-logits)) - right) + PENALTY * penalised

        bounds = [(None, None), *[(0.0, None)] * parts.shape[1]]
        found = minimize(loss, np.zeros(x.shape[1]), jac=True, bounds=bounds, method="L-BFGS-B")
        return float(found.fun), np.asarray(found.x)

    limits = np.full(parts.shape[1], np.inf)
    best, weights = learnt(limits)
    for part in [*range(parts.shape[1])] * (2 if caps else 0):
        for cap in (*caps, np.inf):
            changed = limits.copy()
            changed[part] = cap
            value, own = learnt(changed)
            if value < best - 1e-6:
                best, weights, limits = value, own, changed
    return Composite(means=means, scales=scales, caps=limits, weights=weights)


def _learnt_vote(parts: Floats, right: Floats) -> Judge:
    """The logistic model of `verifier_zoo`: weights of either sign, with logarithms of the shares too."""

    def features(some: Floats) -> Floats:
        return np.concatenate([some, np.log(np.maximum(some[:, :2], 1e-9))], axis=1)

    x = features(parts)
    model = fit_confidence([str(k) for k in range(x.shape[1])], x[None], right[None])
    return lambda some: confidences(model, features(some))


def judges(n_parts: int) -> Mapping[str, Callable[[Floats, Floats], Judge]]:
    """The ways to judge items by name: each learns from parts and what was right."""

    def alone(part: int) -> Callable[[Floats, Floats], Judge]:
        def learn(parts: Floats, right: Floats) -> Judge:
            composite = fitted(parts[:, [part]], right, ())
            return lambda some: composite(some[:, [part]])

        return learn

    return {
        "capped": lambda parts, right: fitted(parts, right, CAPS),
        "uncapped": lambda parts, right: fitted(parts, right, ()),
        "learnt vote": _learnt_vote,
        **{PARTS[part]: alone(part) for part in range(n_parts)},
    }


def out_of_fold(asked: Sequence[Asked], learn: Callable[[Floats, Floats], Judge], seed: int) -> Floats:
    """The score of each example by what was learnt without its fold."""
    order = np.random.default_rng(seed).permutation(len(asked))
    scores = np.zeros(len(asked))
    for fold in range(FOLDS):
        outside = order[fold::FOLDS]
        inside = [asked[i] for i in sorted(set(order) - set(outside)) if asked[i].items]
        judge = learn(
            np.concatenate([one.parts for one in inside]), np.concatenate([one.right for one in inside])
        )
        sure = [judge(one.parts) for one in inside]
        cuts = CUTS if any(one.as_list for one in inside) else CUTS[:1]
        cut = max(cuts, key=lambda c: sum(one.scored(s, c) for one, s in zip(inside, sure, strict=True)))
        for i in outside:
            one = asked[i]
            scores[i] = one.scored(judge(one.parts) if one.items else np.zeros(0), cut)
    return scores


def parts_of(
    values: Sequence[JSON], samples: Sequence[Sample], liked: Sequence[float] | None
) -> tuple[list[JSON], Floats]:
    """The items that samples name, in order, and their parts."""
    named: dict[str, list[int]] = {}
    items: dict[str, JSON] = {}
    for position, value in enumerate(values):
        for item in value if isinstance(value, list) else [value]:
            if item is not None and position not in named.setdefault(str(item), []):
                named[str(item)].append(position)
                items[str(item)] = item
    probs = {sample.text: probability(sample) for sample in samples}
    rows = []
    for own in named.values():
        logprobs = [samples[i].mean_logprob or -10.0 for i in own]
        mass = sum(probs[text] for text in {samples[i].text for i in own}) / max(sum(probs.values()), 1e-30)
        shortest = -min(samples[i].generated_tokens for i in own)
        row = [len(own) / len(samples), mass, max(logprobs), float(np.mean(logprobs)), float(shortest)]
        rows.append(row if liked is None else [*row, float(np.mean([liked[i] for i in own]))])
    return list(items.values()), np.array(rows, dtype=float)


async def measured(
    verifiers: tuple[Path, Mapping[str, Path]] | None, n_seeds: int, counts: Sequence[int]
) -> None:
    """Print a table for each stage, and differences over all of its cells."""
    spec = load_spec(SPEC)
    examples = load_examples(spec, "search")
    if verifiers is not None:
        lent = drawn_ids(examples, 0.5, 0)
        examples = [example for example in examples if example.id not in lent]
    with (
        TemporaryDirectory() as scratch,
        Store.open(verifiers[0] if verifiers else Path(scratch, "db")) as store,
    ):
        store.attach_bank(spec.root / str(spec.bank))
        runtime = Runtime(spec, store, None, run_id=None, replay=True)
        for stage in spec.stages:
            every: dict[str, list[Floats]] = {}
            for model in stage.models:
                drawn = []
                for example in examples:
                    outputs: dict[str, JSON] = {}
                    if stage.name == "answer":
                        before = await runtime.stage_outcome(
                            "retrieve", StageChoice("small", 27), example, {}
                        )
                        outputs["retrieve"] = before.value
                    content = prompts.render(stage, example, outputs)
                    some = await runtime.sampler.samples(
                        stage.name, model, content, stage.sampling, max(counts)
                    )
                    drawn.append((example, content, list(some.samples)))
                right = None
                if verifiers is not None:
                    texts = [prompts.verified_text(c, s.text) for _, c, samples in drawn for s in samples]
                    right = probabilities(verifiers[1][stage.name], texts)
                for n in counts:
                    asked = []
                    for example, content, samples in drawn:
                        parsed = [parse(stage.parser, s.text, example) for s in samples[:n]]
                        values = [p.value if isinstance(p, Parsed) else None for p in parsed]
                        liked = None
                        if right is not None:
                            liked = [
                                logit(right[prompts.verified_text(content, s.text)]) for s in samples[:n]
                            ]
                        items, parts = parts_of(values, samples[:n], liked)
                        as_list = any(isinstance(value, list) for value in values)

                        def score(value: JSON, example=example, metric=stage.metric) -> float:  # type: ignore[no-untyped-def]
                            return float(metrics.score(metric, value, example) or 0.0)

                        gold = np.array([float(score([i] if as_list else i) > 0) for i in items])
                        asked.append(
                            Asked(items=items, parts=parts, right=gold, as_list=as_list, score=score)
                        )
                    ways = judges(len(PARTS) if verifiers else len(PARTS) - 1)
                    means = {
                        name: np.mean([out_of_fold(asked, learn, seed) for seed in range(n_seeds)], axis=0)
                        for name, learn in ways.items()
                    }
                    if not every:
                        print(f"\n{stage.name}, {len(examples)} examples, {n_seeds} seeds\n")
                        print(
                            f"| model, n | {' | '.join(means)} |\n| --- |{' ---: |' * len(means)}", flush=True
                        )
                    print(
                        f"| {model}×{n} | {' | '.join(f'{s.mean():.3f}' for s in means.values())} |",
                        flush=True,
                    )
                    for name, scores in means.items():
                        every.setdefault(name, []).append(scores)
            pooled = {name: np.mean(cells, axis=0) for name, cells in every.items()}
            print(f"| all | {' | '.join(f'{s.mean():.3f}' for s in pooled.values())} |\n")
            for name in list(pooled)[1:]:
                change = paired_difference(
                    {str(i): float(s) for i, s in enumerate(pooled["capped"])},
                    {str(i): float(s) for i, s in enumerate(pooled[name])},
                    np.random.default_rng(0),
                )
                print(
                    f"capped minus {name}: {change.mean:+.4f} [{change.low:+.4f}, {change.high:+.4f}]",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--verifiers", nargs=3, type=Path, metavar=("RUN.duckdb", "RETRIEVE", "ANSWER"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--counts", nargs="+", type=int, default=(8, 32))
    arguments = parser.parse_args()
    verifiers = None
    if arguments.verifiers is not None:
        db, retrieve, answer = arguments.verifiers
        verifiers = db, {"retrieve": retrieve, "answer": answer}
    asyncio.run(measured(verifiers, arguments.seeds, arguments.counts))


if __name__ == "__main__":
    main()
