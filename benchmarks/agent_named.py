"""What an LLM adds where names mean something: four pipelines of real models with simulated outcomes, and a
published grid.

    python benchmarks/agent_relay.py /tmp/relay --port 8765 &
    python benchmarks/agent_named.py --base-url http://127.0.0.1:8765/v1 --model by-hand --seeds 5

The true skill of a model at a stage is its size's, plus what is commonly known of it (each such piece holds
with a chance of 0.75), plus a surprise: a normal error, and one model and stage that are far off. With
AGENTTTS_DATA the 81 combinations of AgentOpt's HotpotQA grid (real models, 200 questions) are searched too.
The agent, its controls and the solver alone are compared as `agenttts compare` does. The figures are in
docs/log.md.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agenttts.compare.jobs import Job
from agenttts.compare.landscapes import Landscape, best_score
from agenttts.compare.moments import SearchMoment, searched
from agenttts.compare.regret import CHECKPOINTS, Comparison, summarise
from agenttts.llm import AgentSettings
from agenttts.proposers.base import aclose
from agenttts.proposers.registry import ProposerContext, asks_an_llm, classical_proposer, make_proposer
from agenttts.replay.arrays import Outcomes, StageOutcomes
from agenttts.space.space import SearchSpace
from datastore import Store
from pipelines import PipelineSpec

PROPOSERS = "agent,agent-blank,agent-shuffled,agent-renamed,default,insights+seeds,tpe+seeds,random+seeds"
N_SEARCH, N_TRUTH = 150, 2000
_VALUES = 5  # value 0 is right
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Named:
    """A pipeline of real models.

    Attributes:
        about: What it does.
        stages: What each stage does, with the logit of a 7 B model's chance and the worth of size there.
        models: Active parameters in billions and what the model is, by name.
        known: What is commonly known: by stage and model, logits above what the size says.
        units: The budget, in samples of an 8 B model.
    """

    about: str
    stages: Mapping[str, tuple[str, float, float]]
    models: Mapping[str, tuple[float, str]]
    known: Mapping[tuple[str, str], float] = field(default_factory=dict)
    units: float


NAMED = {
    "coding": Named(
        about="Assign ICD-10 codes to discharge letters from German hospitals.",
        stages={
            "extract": (
                "List the diagnoses that the letter states, in German, negated ones left out.",
                0.6,
                0.35,
            ),
            "translate": ("Translate each diagnosis into English medical terms.", 1.0, 0.3),
            "code": ("Name the ICD-10 code of each diagnosis.", -0.2, 0.5),
        },
        models={
            "gemma-3-4b-it": (4, "general, multilingual"),
            "llama-3.1-8b-instruct": (8, "general, mostly English"),
            "meditron-7b": (7, "continued on English medical texts, not tuned for chat"),
            "eurollm-9b-instruct": (9, "European languages, strong at translation"),
            "qwen2.5-32b-instruct": (32, "general, strong"),
        },
        known={
            ("extract", "meditron-7b"): -1.2,
            ("code", "meditron-7b"): 0.8,
            ("translate", "eurollm-9b-instruct"): 0.9,
            ("extract", "eurollm-9b-instruct"): 0.4,
            ("extract", "gemma-3-4b-it"): 0.5,
            ("translate", "meditron-7b"): -1.0,
        },
        units=30,
    ),
    "sql": Named(
        about="Answer questions over a company's database with SQL.",
        stages={
            "link": ("Choose the tables and columns of a schema of 300 that the question needs.", 0.4, 0.5),
            "write": ("Write one SQL query in SQLite's dialect.", 0.0, 0.4),
        },
        models={
            "sqlcoder-7b-2": (7, "fine-tuned to write SQL from a small schema, and for nothing else"),
            "qwen2.5-coder-7b-instruct": (7, "code"),
            "phi-3.5-mini-instruct": (3.8, "small, general, long context"),
            "qwen2.5-14b-instruct": (14, "general, long context"),
            "llama-3.3-70b-instruct": (70, "large, general"),
        },
        known={
            ("link", "sqlcoder-7b-2"): -1.3,
            ("write", "sqlcoder-7b-2"): 0.8,
            ("write", "qwen2.5-coder-7b-instruct"): 0.9,
            ("link", "qwen2.5-14b-instruct"): 0.4,
        },
        units=36,
    ),
    "contest": Named(
        about="Solve mathematics contest problems whose answer is an integer.",
        stages={
            "plan": ("Outline how to solve the problem, without calculating.", 0.8, 0.3),
            "solve": ("Follow the plan and give the final integer.", -0.6, 0.35),
            "verify": ("Check the solution and repeat or mend the final integer.", 1.2, 0.3),
        },
        models={
            "qwen2.5-math-7b-instruct": (7, "mathematics"),
            "deepseek-r1-distill-qwen-7b": (7, "long chains of thought"),
            "mistral-7b-instruct-v0.3": (7, "general, older"),
            "llama-3.2-3b-instruct": (3, "small, general"),
            "gemma-2-27b-it": (27, "general"),
        },
        known={
            ("solve", "qwen2.5-math-7b-instruct"): 1.3,
            ("solve", "deepseek-r1-distill-qwen-7b"): 1.7,
            ("verify", "deepseek-r1-distill-qwen-7b"): 0.8,
            ("plan", "qwen2.5-math-7b-instruct"): 0.5,
            ("solve", "mistral-7b-instruct-v0.3"): -0.8,
        },
        units=30,
    ),
    "support": Named(
        about="Answer customers' e-mails of a telephone company from its handbook.",
        stages={
            "classify": ("Name the one of 40 intents that the e-mail has.", 1.2, 0.2),
            "answer": (
                "Write the decision that the handbook's page prescribes, as one of its clauses.",
                0.2,
                0.5,
            ),
            "check": ("Say whether the clause applies, else name the right one.", 0.9, 0.3),
        },
        models={
            "smollm2-1.7b-instruct": (1.7, "very small, general"),
            "granite-3.1-8b-instruct": (8, "enterprise, grounded answers and classification"),
            "command-r-35b": (35, "retrieval and grounded answers"),
            "ministral-8b-instruct": (8, "general"),
        },
        known={
            ("answer", "command-r-35b"): 0.6,
            ("classify", "granite-3.1-8b-instruct"): 0.5,
            ("answer", "granite-3.1-8b-instruct"): 0.5,
            ("check", "smollm2-1.7b-instruct"): -0.8,
        },
        units=26,
    ),
}


def landscape(name: str, seed: int) -> Landscape:
    """Draw the true skills of a named pipeline and the outcomes of its samples."""
    kind = NAMED[name]
    rng = np.random.default_rng([sorted(NAMED).index(name), seed])
    spec = _spec(name, kind)
    sizes = np.array([size for size, _ in kind.models.values()])
    skills = {}
    odd = (rng.integers(len(kind.stages)), rng.integers(len(sizes)), rng.choice([-1.5, 1.2]))
    for k, (stage, (_, base, slope)) in enumerate(kind.stages.items()):
        known = np.array([kind.known.get((stage, model), 0.0) for model in kind.models])
        holds = rng.random(len(sizes)) < 0.75
        skills[stage] = base + slope * np.log2(sizes / 7) + known * holds + rng.normal(0, 0.35, len(sizes))
        if k == odd[0]:
            skills[stage][odd[1]] += odd[2]
    space = SearchSpace(spec, spec.budget.amount)
    every = _outcomes(spec, skills, N_SEARCH + N_TRUTH, rng)
    seen, truth = _part(spec, every, 0, N_SEARCH), _part(spec, every, N_SEARCH, N_SEARCH + N_TRUTH)
    best, exact = best_score(truth, space)
    return Landscape(name=name, space=space, outcomes=seen, truth=truth, best=best, exact=exact)


def _spec(name: str, kind: Named) -> PipelineSpec:
    stages = [
        {
            "name": stage,
            "about": about,
            "prompt": "{{ text }}",
            "models": list(kind.models),
            "max_samples": 6,
            "prompt_tokens": 600,
            "generated_tokens": 200,
        }
        for stage, (about, _, _) in kind.stages.items()
    ]
    models = {
        model: {"base_url": "http://127.0.0.1:9/v1", "active_params": 1e9 * size, "about": about}
        for model, (size, about) in kind.models.items()
    }
    reference = {"active_params": 8e9, "prompt_tokens": 600, "generated_tokens": 200}
    return PipelineSpec.model_validate(
        {
            "name": name,
            "about": kind.about,
            "stages": stages,
            "models": models,
            "dataset": {"search": "search.jsonl", "test": "test.jsonl"},
            "metric": {"kind": "exact_match", "label": "answer"},
            "budget": {"units": kind.units, "reference": reference},
        }
    )


def _outcomes(
    spec: PipelineSpec, skills: Mapping[str, _Floats], count: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int8]]:
    """Draw the vote of 1 to n samples by stage, of shape [example, input value, model, n]."""
    hardness = rng.normal(0, 1, count)
    votes = []
    for k, stage in enumerate(spec.stages):
        shared = 0.8 * hardness + 0.6 * rng.normal(0, 1, count)
        logits = skills[stage.name][:, None] + rng.normal(0, 0.6, (len(stage.models), count)) - shared
        right = 1 / (1 + np.exp(-logits))
        wrong = rng.dirichlet(np.full(_VALUES - 1, 0.6), count)
        leak = rng.uniform(0.1, 0.4)
        by_input = []
        for value in range(1 if k == 0 else _VALUES):
            chance = right * (1.0 if value == 0 else leak)
            bounds = np.cumsum(np.dstack([chance[..., None], (1 - chance)[..., None] * wrong]), axis=-1)
            drawn = rng.random((*chance.shape, stage.max_samples, 1))
            samples = (drawn > bounds[:, :, None, :-1]).sum(axis=-1)
            counts = np.cumsum(samples[..., None] == np.arange(_VALUES), axis=2)
            first = (samples[..., None] == np.arange(_VALUES)).argmax(axis=2)[:, :, None, :]
            ranked = counts * (stage.max_samples + 1) - first
            by_input.append(ranked.argmax(axis=-1).astype(np.int8).transpose(1, 0, 2))
        votes.append(np.stack(by_input, axis=1))
    return votes


def _part(spec: PipelineSpec, votes: list[npt.NDArray[np.int8]], first: int, end: int) -> Outcomes:
    stages = []
    for stage, values in zip(spec.stages, votes, strict=True):
        part = values[first:end]
        count, inputs = part.shape[:2]
        nodes = (count * inputs, *part.shape[2:])
        start = np.arange(count, dtype=np.int32)[:, None, None, None] * _VALUES
        sizes = np.array([spec.models[m].active_params for m in stage.models], dtype=np.float64)
        tokens = stage.prompt_tokens + stage.generated_tokens * np.arange(1, stage.max_samples + 1)
        flops = np.broadcast_to((2 * sizes[:, None] * tokens).astype(np.float32), nodes)
        leads_to = (start + part).astype(np.int32).reshape(nodes)
        stages.append(StageOutcomes(name=stage.name, options=stage.options, leads_to=leads_to, flops=flops))
    last = stages[-1]
    scores = (votes[-1][first:end] == 0).astype(np.float32).reshape(last.leads_to.shape)
    stages[-1] = StageOutcomes(
        name=last.name, options=last.options, leads_to=np.zeros_like(last.leads_to), flops=last.flops
    )
    return Outcomes(
        example_ids=tuple(f"e{i:04}" for i in range(first, end)), stages=tuple(stages), scores=scores
    )


def hotpotqa(data: Path) -> Landscape:
    """AgentOpt's grid: planner and solver of nine models, one sample each, costs in US dollars a query."""
    table = data / "real_llm" / "agentopt" / "hotpotqa_{}.csv"
    scores, costs = (_rows(Path(str(table).format(what))) for what in ("score", "cost"))
    models = list(dict.fromkeys(planner for planner, _ in scores))
    n = len(next(iter(scores.values())))
    spec = PipelineSpec.model_validate(
        {
            "name": "hotpotqa",
            "about": "Answer HotpotQA's two-hop questions: a planner leads, a solver does the work.",
            "stages": [
                {
                    "name": name,
                    "about": about,
                    "prompt": "{{ question }}",
                    "models": models,
                    "max_samples": 1,
                    "prompt_tokens": 1000,
                    "generated_tokens": 200,
                }
                for name, about in (
                    ("planner", "Breaks the question into steps and hands them to the solver."),
                    ("solver", "Does the steps, searches, and writes the final answer."),
                )
            ],
            "models": {
                model: {"base_url": "http://127.0.0.1:9/v1", "active_params": 1e9} for model in models
            },
            "dataset": {"search": "search.jsonl", "test": "test.jsonl"},
            "metric": {"kind": "token_f1", "label": "answer"},
            "budget": {"units": 1e6},
        }
    )
    ids = tuple(f"q{i:03}" for i in range(n))
    options = spec.stages[0].options
    k = len(models)
    nodes = np.arange(n, dtype=np.int32)[:, None, None] * k + np.arange(k, dtype=np.int32)[None, :, None]
    cost = np.array([[costs[a, b] for b in models] for a in models]).transpose(2, 0, 1)
    score = np.array([[scores[a, b] for b in models] for a in models]).transpose(2, 0, 1)
    first = StageOutcomes(
        name="planner", options=options, leads_to=nodes, flops=np.zeros((n, k, 1), np.float32)
    )
    last = StageOutcomes(
        name="solver",
        options=options,
        leads_to=np.zeros((n * k, k, 1), np.int32),
        flops=np.nan_to_num(cost).reshape(n * k, k, 1).astype(np.float32),
    )
    outcomes = Outcomes(example_ids=ids, stages=(first, last), scores=score.reshape(n * k, k, 1))
    space = SearchSpace(spec, spec.budget.amount)
    best, exact = best_score(outcomes, space)
    return Landscape(name="hotpotqa", space=space, outcomes=outcomes, truth=outcomes, best=best, exact=exact)


def _rows(file: Path) -> dict[tuple[str, str], _Floats]:
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))[1:]
    combinations = [row[0].split(" + solver=") for row in rows]
    return {
        (planner.removeprefix("planner="), solver): np.array([float(cell or "nan") for cell in row[1:]])
        for (planner, solver), row in zip(combinations, rows, strict=True)
    }


def _landscapes(names: list[str], seeds: range) -> Iterator[tuple[int, Landscape]]:
    for name in names:
        for seed in seeds:
            yield (
                seed,
                hotpotqa(Path(os.environ["AGENTTTS_DATA"])) if name == "hotpotqa" else landscape(name, seed),
            )


async def compared(names: list[str], proposers: list[str], options: argparse.Namespace) -> Comparison:
    """Search every landscape and seed with every proposer; several LLM searches at a time."""
    import pandas as pd

    agent = AgentSettings(base_url=options.base_url, model=options.model, timeout_s=36_000.0)
    rows: list[SearchMoment] = []
    with Store.open(options.answers) as store:
        context = ProposerContext(store=store, run_id=None, gate=None, agent=agent, replay=False)

        async def search(seed: int, place: Landscape, name: str) -> None:
            proposer = make_proposer(name, context) if asks_an_llm(name) else classical_proposer(name)
            job = Job(
                landscape=place.name, seed=seed, budget_units=None, trials=options.trials, proposers=(name,)
            )
            try:
                of_search = await searched(job, place, {name: proposer}, beyond=False)
            finally:
                await aclose(proposer)
            rows.extend(of_search)
            after = [of_search[min(k, len(of_search)) - 1].regret for k in CHECKPOINTS if k <= options.trials]
            print(place.name, seed, name, *(f"{regret:.4f}" for regret in after), flush=True)

        await asyncio.gather(
            *(
                search(seed, place, name)
                for seed, place in _landscapes(
                    names, range(options.first_seed, options.first_seed + options.seeds)
                )
                for name in proposers
            )
        )
    moments = pd.DataFrame([vars(row) for row in rows])
    moments.to_parquet(options.out, index=False)
    return summarise(moments, proposers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--landscapes", default=",".join(NAMED))
    parser.add_argument("--proposers", default=PROPOSERS)
    parser.add_argument("--answers", type=Path, default=Path("agent-answers.duckdb"))
    parser.add_argument("--out", type=Path, default=Path("agent-named.parquet"))
    given = parser.parse_args()
    comparison = asyncio.run(compared(given.landscapes.split(","), given.proposers.split(","), given))
    given.out.with_suffix(".json").write_text(json.dumps(comparison.to_json_dict(), indent=1))
