"""What verifiers as choices change in the zoo's best allocation at three budgets; live, against vLLM.

    python benchmarks/verifier_search.py WORK RETRIEVE_VERIFIER ANSWER_VERIFIER [--trials 20]

The verifiers are those of `agenttts tune verifier` on a search of the zoo with the same --tune-share. Both
searches of a budget, without and with `verifiers: [...]` at each stage, see the search examples that the
verifiers did not; the winners' test scores are compared by example. WORK keeps the store: a second call draws
nothing. What was found is in docs/log.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from agenttts import SearchResult, paired_difference, read_tuned, search
from agenttts.replay.judged import drawn_ids
from agenttts.tasktune.serving import served
from pipelines import ModelSpec, PipelineSpec, load_examples, load_spec
from pipelines.zoo import SPEC

BUDGETS = (50.0, 150.0, 400.0)


def prepared(work: Path, verifiers: dict[str, Path], share: float) -> tuple[PipelineSpec, PipelineSpec]:
    """The zoo on the examples that the verifiers did not see, without them and with them."""
    spec = load_spec(SPEC)
    examples = load_examples(spec, "search")
    lent = drawn_ids(examples, share, 0)
    unseen = [example for example in examples if example.id not in lent]
    lines = [json.dumps({**example.fields, "id": example.id}) + "\n" for example in unseen]
    (work / "unseen.jsonl").write_text("".join(lines))
    data = spec.dataset.model_copy(update={"search": str((work / "unseen.jsonl").resolve())})
    plain = spec.model_copy(update={"dataset": data})
    models = dict(spec.models)
    for number, (stage, path) in enumerate(verifiers.items()):
        models[f"v-{stage}"] = ModelSpec(
            base_url=f"http://127.0.0.1:{8111 + number}/v1",
            path=str(path.resolve()),
            revision=read_tuned(path).digest[:16],
            active_params=read_tuned(path).n_params,
            context_length=512,
        )
    stages = tuple(s.model_copy(update={"verifiers": (f"v-{s.name}",)}) for s in spec.stages)
    return plain, plain.model_copy(update={"models": models, "stages": stages})


def test_scores(result: SearchResult) -> Mapping[str, float | None]:
    """The winner's, by example."""
    for trial in result.confirmation:
        if trial.split == "test" and result.best is not None and trial.allocation == result.best.allocation:
            return trial.scores
    raise SystemExit("the winner has no test score")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("retrieve", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--tune-share", type=float, default=0.5)
    parser.add_argument("--trials", type=int, default=20)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    verifiers = {"retrieve": arguments.retrieve, "answer": arguments.answer}
    plain, judged = prepared(work, verifiers, arguments.tune_share)
    db = work / "run.duckdb"
    print("| units | without: test | with: test | with minus without | trials that a verifier was in, best |")
    print("| ---: | --- | --- | --- | --- |")
    with served(judged, list(judged.models), log_dir=work / "logs"):
        for budget in BUDGETS:
            found = [search(spec, budget=budget, trials=arguments.trials, db=db) for spec in (plain, judged)]
            base, own = (test_scores(one) for one in found)
            change = paired_difference(own, base, np.random.default_rng(0))
            tried = [t for t in found[1].trials if "@" in str(t.allocation)]
            top = max(tried, key=lambda t: t.score or 0.0, default=None)
            cells = " | ".join(
                f"{one.best.allocation} {one.best.test_score:.3f}" for one in found if one.best is not None
            )
            told = "" if top is None else f"{top.allocation} {top.score:.3f}"
            print(
                f"| {budget:g} | {cells} | {change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}] "
                f"| {len(tried)}, {told} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
