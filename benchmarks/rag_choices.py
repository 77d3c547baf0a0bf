"""What a search chooses of retrieval, reranking and answers on real rows, by a scripted reader's answers.

    python benchmarks/rag_choices.py OUT --data 2wikimultihopqa_100.json [--encoder DIR]

Rows, corpus and retrieval are real; the reader is a script, so its scores say nothing about any LLM.
For reranking it names each supporting passage that it is shown with the probability `finds`, and each other
one with 0.03. It answers right only if all supporting passages are in its prompt, with the probability
`reads` times exp(−others / 40), so that a long list distracts it; else it gives some row's answer. Searched
are the shipped pipeline and the same without `rerank`, at each budget, then each search again by replay.
Figures are in docs/log.md.

OUT is a new directory: it gets the pipelines, the corpus and a database for each search. A word is a token.
Set OMP_NUM_THREADS=1 where other work shares the processors: the encoder waits for its threads otherwise.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agenttts import SearchResult, search
from agenttts.cli.starter import family_files, write_files
from pipelines import Example, StageSpec, load_examples, load_spec
from pipelines.rag.corpus import pooled, write_passages
from pipelines.rag.scoring import evidence_recall
from tests.servers import Request, ScriptedServer

_WITHOUT = re.compile(r"  - name: rerank\n.*?(?=  - name: answer)", re.DOTALL)
_LISTED = re.compile(r"^(?:\d+\.|-) (.*)$", re.MULTILINE)
_DISTRACTED = 40.0
_FALSE_ALARM = 0.03


@dataclass(frozen=True, kw_only=True)
class Skill:
    """How well a scripted model names supporting passages, and answers from them."""

    finds: float
    reads: float


SKILLS = {
    "Qwen/Qwen2.5-7B-Instruct": Skill(finds=0.75, reads=0.65),
    "Qwen/Qwen2.5-32B-Instruct": Skill(finds=0.88, reads=0.82),
    "Qwen/Qwen2.5-72B-Instruct": Skill(finds=0.94, reads=0.9),
}


class Reader:
    """Answers requests for the given examples as the module's docstring says."""

    def __init__(self, examples: list[Example], seed: int) -> None:
        self._by_question: Mapping[str, Example] = {example["question"]: example for example in examples}
        self._answers = [example["answers"][0] for example in examples]
        self._seed = seed

    def __call__(self, request: Request, index: int) -> str:
        """Return the index-th sample of a request."""
        draw = random.Random(f"{self._seed}|{request.model}|{request.prompt}|{index}")
        skill = SKILLS[request.model]
        question = re.findall(r"^Question: (.*)$", request.prompt, re.MULTILINE)[-1]
        example = self._by_question[question]
        supporting = {example["candidates"][number - 1] for number in example["evidence"]}
        shown = _LISTED.findall(request.prompt)
        if "Name the numbers" in request.prompt:
            chances = [skill.finds if text in supporting else _FALSE_ALARM for text in shown]
            named = [str(place) for place, chance in enumerate(chances, 1) if draw.random() < chance]
            return ", ".join(named) or "none"
        others = sum(text not in supporting for text in shown)
        chance = skill.reads * math.exp(-others / _DISTRACTED) if supporting <= set(shown) else 0.0
        return str(example["answers"][0]) if draw.random() < chance else draw.choice(self._answers)


def prepared(out: Path, data: Path, encoder: str | None, server_url: str) -> dict[str, Path]:
    """Write both pipelines and their corpus.

    Returns:
        The file of the pipeline with reranking, and of the one without.
    """
    texts = family_files("2wiki-rag")
    text = texts.pop("pipeline.yaml")
    text = re.sub(r"http://127\.0\.0\.1:800\d/v1", server_url, text)
    text = re.sub(
        r"hub: .*\n  pool: .*\n  search: .*\n  test: .*\n", f"pool: {data}\n  search: 40\n  test: 60\n", text
    )
    if encoder is not None:
        text = text.replace("{corpus: corpus.jsonl}", f"{{corpus: corpus.jsonl, encoder: {encoder}}}")
    direct = _WITHOUT.sub("", text).replace("inputs: [retrieve, rerank]", "inputs: [retrieve]")
    direct = direct.replace("prompt_tokens: 256", "prompt_tokens: 768")
    write_files({**texts, "rerank.yaml": text, "direct.yaml": direct}, out, force=True)
    return {name: out / f"{name}.yaml" for name in ("rerank", "direct")}


def described(label: str, result: SearchResult, calls: int, seconds: float) -> str:
    """One line about a search."""
    best = result.best
    if best is None:
        return f"{label}: no winner"
    tested = [t for t in result.confirmation if t.split == "test" and t.allocation == best.allocation]
    realised = f"{tested[0].flops_per_query:.3g}" if tested else "unknown"
    return (
        f"{label}: {best.allocation}; search {best.search_score:.3f}, test {best.test_score:.3f} "
        f"{best.test_ci}, planned {best.budget_units:.1f} units, realised {realised} FLOPs a query; "
        f"{len(result.trials)} trials, {calls:,} requests, {seconds:.0f} s"
    )


def main() -> None:
    """Run all searches and print what they chose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", help="a directory; the pipeline's own where absent")
    parser.add_argument("--budgets", default="40,150")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    reader = Reader([], options.seed)
    with ScriptedServer({name: 32768 for name in SKILLS}, answer=lambda r, i: reader(r, i)) as server:
        files = prepared(options.out, options.data.resolve(), options.encoder, server.base_url)
        spec = load_spec(files["rerank"])
        examples = [*load_examples(spec, "search"), *load_examples(spec, "test")]
        write_passages(pooled(examples), options.out / "corpus.jsonl")
        reader = Reader(examples, options.seed)
        print_recall(examples, spec.stage("retrieve"))
        for budget in map(float, options.budgets.split(",")):
            for name, file in files.items():
                label, db = f"{budget:g} units, {name}", options.out / f"{name}-{budget:g}.duckdb"
                results = []
                for replay in (False, True):
                    before, started = server.n_answered, time.perf_counter()
                    results.append(
                        search(
                            file,
                            budget=budget,
                            trials=options.trials,
                            seed=options.seed,
                            policy="fixed",
                            db=db.with_suffix(".replay.duckdb") if replay else db,
                            replay=replay,
                            banks=[db] if replay else None,
                        )
                    )
                    calls, seconds = server.n_answered - before, time.perf_counter() - started
                    print(described(label + ", replay" * replay, results[-1], calls, seconds), flush=True)
                same = [(t.allocation, t.score) for t in results[0].trials] == [
                    (t.allocation, t.score) for t in results[1].trials
                ]
                print(f"  the replay's trials and scores are the same: {same}", flush=True)
                for trial in results[0].trials:
                    print(
                        f"  {trial.number:3} {trial.score} {trial.budget_units:7.1f}  {trial.allocation}",
                        flush=True,
                    )


def print_recall(examples: list[Example], stage: StageSpec) -> None:
    """Print what share of the supporting passages each option brings, and its FLOPs a question."""
    assert stage.python is not None
    paths = {name: str(path) for name, path in stage.paths.items()}
    for option, arguments in stage.arguments.items():
        recalls, whole, flops = [], 0, 0.0
        for example in examples:
            brought = stage.python(question=example["question"], **arguments, **paths)
            recalls.append(evidence_recall(brought.value, example))
            whole += recalls[-1] == 1.0
            flops += brought.flops
        n = len(examples)
        print(f"{option}: recall {sum(recalls) / n:.3f}, all of it {whole / n:.2f}, {flops / n:.2g} FLOPs")


if __name__ == "__main__":
    main()
