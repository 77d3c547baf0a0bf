"""What a verifier is worth on the zoo, by stage, model and number of samples: first, vote, best of n, oracle.

    python benchmarks/verifier_zoo.py RUN.duckdb RETRIEVE_VERIFIER ANSWER_VERIFIER [--tune-share 0.5]

The verifiers are those of `agenttts tune verifier` on the run in the database; scored are the search
examples that they did not see, on recorded samples, by the stage's metric. *answer* reads what retrieve
small×27 gives. What was found is in docs/log.md.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from agenttts import paired_difference
from agenttts.p2c.backbone import tokenized
from agenttts.replay.judged import drawn_ids
from datastore import Store
from pipelines import Candidate, StageChoice, load_examples, load_spec
from pipelines.runtime.runtime import Runtime
from pipelines.stages import aggregators, metrics, prompts
from pipelines.stages.parsers import Parsed, parse
from pipelines.zoo import SPEC

COUNTS = (1, 2, 4, 8, 16, 32)


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
            print("| model, n | first | vote | verifier | oracle | verifier minus vote, paired |")
            print("| --- | ---: | ---: | ---: | ---: | --- |")
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
                    ids = [str(i) for i in range(len(drawn))]
                    change = paired_difference(
                        dict(zip(ids, rows["verifier"], strict=True)),
                        dict(zip(ids, rows["vote"], strict=True)),
                        np.random.default_rng(0),
                    )
                    means = " | ".join(f"{np.mean(found):.3f}" for found in rows.values())
                    told = f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
                    print(f"| {model}×{n} | {means} | {told} |", flush=True)


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
