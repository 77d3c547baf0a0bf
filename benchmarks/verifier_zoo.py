"""What a verifier is worth on the zoo, by stage, model and number of samples.

    python benchmarks/verifier_zoo.py RUN.duckdb RETRIEVE_VERIFIER ANSWER_VERIFIER [--tune-share 0.5]

First sample, vote, best of n by the verifier, the best there is, and a learnt vote without and with the
verifier's score: a logistic model of every item that a sample names (a value, or a member of a list), fitted
on four fifths of the examples and scored on the fifth. The verifiers are those of `agenttts tune verifier` on
the run in the database; scored are the search examples that they did not see, on recorded samples, by the
stage's metric. *answer* reads what retrieve small×27 gives. What came of it is in docs/log.md.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agenttts import paired_difference
from agenttts.p2c.backbone import tokenized
from agenttts.policies.confidence import confidences, fit_confidence
from agenttts.replay.judged import drawn_ids
from datastore import Store
from datastore.records import Sample
from pipelines import Candidate, StageChoice, load_examples, load_spec
from pipelines.jsonvalues import JSON
from pipelines.policy import Confidence
from pipelines.runtime.runtime import Runtime
from pipelines.stages import aggregators, metrics, prompts
from pipelines.stages.parsers import Parsed, parse
from pipelines.zoo import SPEC

COUNTS = (1, 2, 4, 8, 16, 32)
FOLDS = 5
Scored: TypeAlias = Callable[[int, JSON], float]
CUTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Ballot:
    """One sample: its value, the probability of its text, and the verifier's logit of `right`."""

    value: JSON
    text: str
    probability: float
    liked: float


@dataclass(frozen=True)
class Votes:
    """The items that the samples of one example name, and their features, shape (items, features)."""

    items: Sequence[JSON]
    features: NDArray[np.float64]
    as_list: bool

    @classmethod
    def of(cls, ballots: Sequence[Ballot], *, with_verifier: bool) -> Votes:
        """Count the items: shares of samples and of the probability of distinct texts, and the verifier's
        score of the samples that name each, against that of all."""
        as_list = any(isinstance(one.value, list) for one in ballots)
        named: dict[str, list[Ballot]] = {}
        items: dict[str, JSON] = {}
        for one in ballots:
            for item in one.value if isinstance(one.value, list) else [one.value]:
                if item is not None:
                    named.setdefault(str(item), []).append(one)
                    items[str(item)] = item
        seen = sum({one.text: one.probability for one in ballots}.values())
        mean = float(np.mean([one.liked for one in ballots]))
        rows = []
        for own in named.values():
            share = len(own) / len(ballots)
            mass = sum({one.text: one.probability for one in own}.values()) / max(seen, 1e-30)
            row = [share, mass, np.log(share), np.log(max(mass, 1e-9)), seen]
            if with_verifier:
                liked = [one.liked for one in own]
                row += [float(np.mean(liked)) - mean, max(liked) - mean, float(np.mean(liked))]
            rows.append(row)
        return cls(list(items.values()), np.array(rows), as_list)

    def output(self, confidence: Confidence, cut: float) -> JSON:
        """The likeliest value; of a list the items above a cut, or the likeliest one."""
        if not self.items:
            return None
        sure = confidences(confidence, self.features)
        best = self.items[int(sure.argmax())]
        if not self.as_list:
            return best
        return [item for item, p in zip(self.items, sure, strict=True) if p >= cut] or [best]


def learnt(votes: Sequence[Votes], rights: Sequence[Sequence[float]], scored: Scored) -> list[float]:
    """The score of each example by a model that was fitted on the folds without it."""
    scores = [0.0] * len(votes)
    for fold in range(FOLDS):
        inside = [i for i in range(len(votes)) if i % FOLDS != fold and votes[i].items]
        features = np.concatenate([votes[i].features for i in inside])
        gold = np.concatenate([rights[i] for i in inside])
        model = fit_confidence(
            [str(k) for k in range(features.shape[1])], features[None], gold[None].astype(float)
        )
        cuts = CUTS if any(votes[i].as_list for i in inside) else (0.5,)
        cut = max(cuts, key=lambda c: sum(scored(i, votes[i].output(model, c)) for i in inside))
        for i in range(fold, len(votes), FOLDS):
            scores[i] = scored(i, votes[i].output(model, cut))
    return scores


def probabilities(path: Path, texts: list[str]) -> dict[str, float]:
    """The verifier's probability of `right` for each text."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    found: dict[str, float] = {}
    order = sorted(set(texts), key=len)
    for start in range(0, len(order), 128):
        some = order[start : start + 128]
        with torch.no_grad():
            probs = model(**tokenized(tokenizer, some, 512)).logits.softmax(-1)[:, -1]
        found |= dict(zip(some, probs.tolist(), strict=True))
    return found


async def measured(db: Path, verifiers: dict[str, Path], share: float) -> None:
    spec = load_spec(SPEC)
    examples = load_examples(spec, "search")
    lent = drawn_ids(examples, share, 0)
    unseen = [example for example in examples if example.id not in lent]
    with Store.open(db) as store:
        store.attach_bank(spec.root / str(spec.bank))
        runtime = Runtime(spec, store, None, run_id=None, replay=True)
        for stage in spec.stages:
            print(f"\n{stage.name}, {len(unseen)} unseen examples\n")
            print(
                "| model, n | first | vote | verifier | oracle | learnt | learnt with verifier "
                "| verifier minus vote, paired | learnt vote with minus without, paired |"
            )
            print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |")
            for model in stage.models:
                drawn: list[tuple[Any, Any, dict[str, Any], list[Any]]] = []
                for example in unseen:
                    outputs: dict[str, Any] = {}
                    if stage.name == "answer":
                        before = StageChoice("small", 27)
                        outcome = await runtime.stage_outcome("retrieve", before, example, {})
                        outputs["retrieve"] = outcome.value
                    content = prompts.render(stage, example, outputs)
                    found = await runtime.sampler.samples(
                        stage.name, model, content, stage.sampling, max(COUNTS)
                    )
                    drawn.append((example, content, outputs, list(found.samples)))
                texts = [prompts.verified_text(c, s.text) for _, c, _, samples in drawn for s in samples]
                right = probabilities(verifiers[stage.name], texts)
                for n in COUNTS:
                    rows: dict[str, list[float]] = {
                        name: [] for name in ("first", "vote", "verifier", "oracle")
                    }
                    ballots: list[list[Ballot]] = []
                    for example, content, outputs, samples in drawn:
                        candidates = []
                        for s in samples[:n]:
                            parsed = parse(stage.parser, s.text, example)
                            value = parsed.value if isinstance(parsed, Parsed) else None
                            candidates.append(Candidate(s.index, s.text, value))

                        def liked(c: Candidate, *_: Any, content: Any = content, right: Any = right) -> float:
                            return right[prompts.verified_text(content, c.text)]

                        def scored(value: Any, example: Any = example, metric: Any = stage.metric) -> float:
                            return float(metrics.score(metric, value, example) or 0.0)

                        rows["first"].append(scored(candidates[0].value))
                        rows["vote"].append(
                            scored(aggregators.aggregate(stage, candidates, example, outputs))
                        )
                        best = aggregators.best_of_n(candidates, liked, example, outputs)
                        rows["verifier"].append(scored(best))
                        rows["oracle"].append(max(scored(c.value) for c in candidates))
                        ballots.append(
                            [
                                Ballot(c.value, s.text, probability(s), logit(liked(c)))
                                for c, s in zip(candidates, samples, strict=False)
                            ]
                        )

                    def score_of(
                        i: int, value: JSON, drawn: Any = drawn, metric: Any = stage.metric
                    ) -> float:
                        return float(metrics.score(metric, value, drawn[i][0]) or 0.0)

                    for name, with_verifier in (("learnt", False), ("learnt with", True)):
                        votes = [Votes.of(own, with_verifier=with_verifier) for own in ballots]
                        rights = [
                            [score_of(i, [item] if vote.as_list else item) > 0 for item in vote.items]
                            for i, vote in enumerate(votes)
                        ]
                        rows[name] = learnt(votes, rights, score_of)
                    ids = [str(i) for i in range(len(drawn))]
                    changes = []
                    for name, other in (("verifier", "vote"), ("learnt with", "learnt")):
                        change = paired_difference(
                            dict(zip(ids, rows[name], strict=True)),
                            dict(zip(ids, rows[other], strict=True)),
                            np.random.default_rng(0),
                        )
                        changes.append(f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]")
                    cells = [*(f"{np.mean(scores):.3f}" for scores in rows.values()), *changes]
                    print(f"| {model}×{n} | {' | '.join(cells)} |", flush=True)


def probability(sample: Sample) -> float:
    """The probability of a sample's text; of one without log-probabilities 0."""
    if sample.mean_logprob is None:
        return 0.0
    return float(np.exp(sample.mean_logprob * (sample.generated_tokens or 1)))


def logit(p: float) -> float:
    p = min(max(p, 1e-6), 1 - 1e-6)
    return float(np.log(p / (1 - p)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("db", type=Path)
    parser.add_argument("retrieve", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--tune-share", type=float, default=0.5)
    arguments = parser.parse_args()
    verifiers = {"retrieve": arguments.retrieve, "answer": arguments.answer}
    asyncio.run(measured(arguments.db, verifiers, arguments.tune_share))


if __name__ == "__main__":
    main()
