"""The ratings by which the agent was answered by hand, and the program that answers by them.

    python benchmarks/agent_relay.py /tmp/relay --port 8765 --program benchmarks/agent_ratings.py

Every model was rated at every stage by its name, its size and what `about` says, with one sample and with the
largest number, before any figure was seen. The program proposes the allocations that the ratings favour; in
later turns it weighs the solver's expectations with them, or, without these, goes on near the best trial.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

RATINGS: dict[str, dict[str, dict[str, tuple[float, float]]]] = {
    "coding": {
        "extract": {
            "gemma-3-4b-it": (0.6, 0.65),
            "llama-3.1-8b-instruct": (0.6, 0.68),
            "meditron-7b": (0.3, 0.35),
            "eurollm-9b-instruct": (0.65, 0.72),
            "qwen2.5-32b-instruct": (0.8, 0.85),
        },
        "translate": {
            "gemma-3-4b-it": (0.65, 0.68),
            "llama-3.1-8b-instruct": (0.7, 0.74),
            "meditron-7b": (0.4, 0.42),
            "eurollm-9b-instruct": (0.85, 0.88),
            "qwen2.5-32b-instruct": (0.85, 0.88),
        },
        "code": {
            "gemma-3-4b-it": (0.3, 0.35),
            "llama-3.1-8b-instruct": (0.4, 0.46),
            "meditron-7b": (0.5, 0.56),
            "eurollm-9b-instruct": (0.3, 0.35),
            "qwen2.5-32b-instruct": (0.6, 0.68),
        },
    },
    "sql": {
        "link": {
            "phi-3.5-mini-instruct": (0.45, 0.5),
            "qwen2.5-14b-instruct": (0.7, 0.76),
            "qwen2.5-coder-7b-instruct": (0.58, 0.66),
            "llama-3.3-70b-instruct": (0.82, 0.86),
            "sqlcoder-7b-2": (0.3, 0.34),
        },
        "write": {
            "phi-3.5-mini-instruct": (0.38, 0.45),
            "qwen2.5-14b-instruct": (0.6, 0.68),
            "qwen2.5-coder-7b-instruct": (0.66, 0.74),
            "llama-3.3-70b-instruct": (0.74, 0.8),
            "sqlcoder-7b-2": (0.62, 0.68),
        },
    },
    "contest": {
        "plan": {
            "qwen2.5-math-7b-instruct": (0.72, 0.78),
            "deepseek-r1-distill-qwen-7b": (0.7, 0.76),
            "mistral-7b-instruct-v0.3": (0.45, 0.5),
            "llama-3.2-3b-instruct": (0.45, 0.5),
            "gemma-2-27b-it": (0.7, 0.75),
        },
        "solve": {
            "qwen2.5-math-7b-instruct": (0.55, 0.66),
            "deepseek-r1-distill-qwen-7b": (0.65, 0.75),
            "mistral-7b-instruct-v0.3": (0.12, 0.18),
            "llama-3.2-3b-instruct": (0.25, 0.33),
            "gemma-2-27b-it": (0.35, 0.45),
        },
        "verify": {
            "qwen2.5-math-7b-instruct": (0.7, 0.76),
            "deepseek-r1-distill-qwen-7b": (0.75, 0.82),
            "mistral-7b-instruct-v0.3": (0.45, 0.5),
            "llama-3.2-3b-instruct": (0.45, 0.5),
            "gemma-2-27b-it": (0.65, 0.72),
        },
    },
    "support": {
        "classify": {
            "smollm2-1.7b-instruct": (0.5, 0.55),
            "granite-3.1-8b-instruct": (0.8, 0.83),
            "command-r-35b": (0.8, 0.84),
            "ministral-8b-instruct": (0.74, 0.78),
        },
        "answer": {
            "smollm2-1.7b-instruct": (0.2, 0.22),
            "granite-3.1-8b-instruct": (0.6, 0.66),
            "command-r-35b": (0.7, 0.76),
            "ministral-8b-instruct": (0.55, 0.62),
        },
        "check": {
            "smollm2-1.7b-instruct": (0.35, 0.38),
            "granite-3.1-8b-instruct": (0.68, 0.72),
            "command-r-35b": (0.74, 0.78),
            "ministral-8b-instruct": (0.65, 0.7),
        },
    },
    "hotpotqa": {
        "planner": {
            "Claude Opus 4.6": (0.8, 0.8),
            "Claude Haiku 4.5": (0.74, 0.74),
            "Kimi K2.5": (0.75, 0.75),
            "Qwen3 Next 80B A3B": (0.68, 0.68),
            "gpt-oss-120b": (0.7, 0.7),
            "Qwen3 32B": (0.64, 0.64),
            "gpt-oss-20b": (0.6, 0.6),
            "Ministral 3 8B": (0.55, 0.55),
            "Claude 3 Haiku": (0.55, 0.55),
        },
        "solver": {
            "Claude Opus 4.6": (0.85, 0.85),
            "Claude Haiku 4.5": (0.75, 0.75),
            "Kimi K2.5": (0.78, 0.78),
            "gpt-oss-120b": (0.72, 0.72),
            "Qwen3 Next 80B A3B": (0.7, 0.7),
            "Qwen3 32B": (0.66, 0.66),
            "gpt-oss-20b": (0.6, 0.6),
            "Ministral 3 8B": (0.55, 0.55),
            "Claude 3 Haiku": (0.55, 0.55),
        },
    },
    "zoo": {
        "retrieve": {"small": (0.45, 0.6), "medium": (0.65, 0.75), "large": (0.75, 0.82)},
        "answer": {"small": (0.6, 0.65), "medium": (0.75, 0.8), "large": (0.85, 0.88)},
    },
}
"""By pipeline, stage and model: the share of good outputs with one sample and with the most."""
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_LOOKED_AT = 4000
_NEAR = 0.08  # what each stage's model in common with the best trial is worth


def answer(messages: Sequence[Mapping[str, str]]) -> str:
    """Answer a question of the agent as JSON text."""
    question = messages[1]["content"]
    shown = json.loads(question.split("```json")[1].split("```")[0])
    ratings = RATINGS[shown["pipeline"]]
    asked = re.search(r"Propose up to (\d+)", question)
    count = int(asked[1]) if asked else 1
    reply: dict[str, Any] = {"insights": [], "finished": None}
    if "Nothing was tried yet" in question and "rate every choice" in question:
        reply["ratings"] = {
            stage: {model: {"one": one, "most": most} for model, (one, most) in rated.items()}
            for stage, rated in ratings.items()
        }
        first: dict[tuple[Any, ...], Any] = {}
        for _, allocation in _by_rating(shown, ratings):
            first.setdefault(_models(allocation), allocation)
        proposals = list(first.values())[:count]
    elif expected := (shown.get("solver") or {}).get("expected_of_untried"):
        proposals = _weighed(shown, ratings, expected)[:count]
    else:
        proposals = _near_the_best(shown, ratings, count)
    reason = "my judgement of the models at these stages"
    reply["proposals"] = [{"allocation": allocation, "reason": reason} for allocation in proposals]
    return json.dumps(reply)


def _by_rating(shown: Any, ratings: Any) -> list[tuple[float, Any]]:
    """The allocations within the budget with what they are rated, best first, of equals the cheaper."""
    choices = [list(_choices(stage, ratings[stage["stage"]])) for stage in shown["stages"]]
    rated = []
    for combination in itertools.product(*choices):
        units = sum(choice[3] for choice in combination)
        if units <= shown["budget_units"] * (1 - 1e-9):
            allocation = {
                stage["stage"]: {"model": model, "n_samples": n}
                for stage, (model, n, _, _) in zip(shown["stages"], combination, strict=True)
            }
            rated.append((math.prod(choice[2] for choice in combination), units, allocation))
    rated.sort(key=lambda each: (-each[0], each[1]))
    return [(rating, allocation) for rating, _, allocation in rated]


def _choices(stage: Any, rated: Any) -> Iterator[tuple[str, int, float, float]]:
    most = stage["largest_n_samples"]
    for option in stage["choices"]:
        for n in (n for n in _COUNTS if n <= most):
            units = option["units_of_first_sample"] + (n - 1) * option["units_of_each_further_sample"]
            yield option["model"], n, _rating(rated[option["model"]], n, most), units


def _rating(ends: tuple[float, float], n: int, most: int) -> float:
    return ends[0] + (ends[1] - ends[0]) * (math.log2(n) / math.log2(most) if most > 1 else 0)


def _weighed(shown: Any, ratings: Any, expected: Any) -> list[Any]:
    """The solver's candidates by its figures, with the ratings on top while there are few trials."""
    trust = 2 / (2 + len(shown["trials"]))
    done = _done(shown)
    stages = {stage["stage"]: stage for stage in shown["stages"]}

    def merit(candidate: Any) -> float:
        rating = math.prod(
            _rating(ratings[name][c["model"]], c["n_samples"], stages[name]["largest_n_samples"])
            for name, c in candidate["allocation"].items()
        )
        return float(candidate["score"] + 0.5 * candidate["standard_deviation"] + trust * rating)

    open_ = [c for c in expected if _key(c["allocation"]) not in done]
    return [c["allocation"] for c in sorted(open_, key=merit, reverse=True)]


def _near_the_best(shown: Any, ratings: Any, count: int) -> list[Any]:
    """The best-rated untried allocations, those that share models with the best trial before others."""
    done = _done(shown)
    best = max((t for t in shown["trials"] if "score" in t), key=lambda t: t["score"], default=None)

    def merit(each: tuple[float, Any]) -> float:
        rating, allocation = each
        shared = 0
        if best is not None:
            shared = sum(best["allocation"][s]["model"] == c["model"] for s, c in allocation.items())
        return rating + _NEAR * shared

    rated = _by_rating(shown, ratings)[:_LOOKED_AT]
    open_ = [each for each in rated if _key(each[1]) not in done]
    open_.sort(key=merit, reverse=True)
    tried = {_models(json.loads(key)) for key in done}
    other = [allocation for _, allocation in open_ if _models(allocation) not in tried]
    return other[:count] or [allocation for _, allocation in open_[:count]]


def _done(shown: Any) -> set[str]:
    tried = [trial["allocation"] for trial in shown["trials"]]
    return {_key(allocation) for allocation in (*tried, *shown["refused_or_not_to_be_repeated"])}


def _key(allocation: Any) -> str:
    return json.dumps(allocation, sort_keys=True)


def _models(allocation: Any) -> tuple[Any, ...]:
    return tuple((stage, choice["model"]) for stage, choice in allocation.items())
