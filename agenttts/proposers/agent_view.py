"""What the agent is shown: the pipeline, the budget rule and the history with intervals and costs, as JSON.

A function of the view alone, so that a resumed search asks the same questions. Neither rows of the dataset
nor what models answered are shown; error messages are, clipped and inside the JSON, and the prompt says that
they are data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files

import numpy as np
from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agenttts.proposers.base import History, SearchView
from agenttts.proposers.solver import Outlook
from agenttts.results.trials import TrialResult, merit
from agenttts.space.space import SearchSpace
from agenttts.stats import mean_interval, paired_difference
from pipelines.allocation import Allocation, StageOption
from pipelines.spec.pipeline import StageSpec
from pipelines.spec.variants import BuiltinMetric, PythonAggregator

Message = dict[str, str]
_LONGEST_ERROR = 200  # characters
_LONGEST_PROMPT = 1200


def first_messages(
    view: SearchView,
    count: int,
    *,
    system: str = "agent_system.md",
    history: History = "true",
    more: Mapping[str, object] | None = None,
) -> list[Message]:
    """The system's words and the search so far; `more`, JSON-able, is shown beside it."""
    data = json.dumps(shown(with_history(view, history)) | dict(more or {}), indent=1, ensure_ascii=False)
    return [
        {"role": "system", "content": prompt_text(system) + prompt_text("answer_form.md")},
        {"role": "user", "content": _template("agent_turn.j2").render(count=count, history=data)},
    ]


def with_history(view: SearchView, history: History) -> SearchView:
    """The view with its trials as they were, with their scores dealt anew, or without any."""
    if history == "true":
        return view
    if history == "blank":
        return replace(view, trials=(), insights=(), refused=tuple(view.tried))
    order = np.random.default_rng([view.seed, view.step]).permutation(len(view.trials))
    dealt = ("score", "scores", "status", "n_scored", "n_missing", "stage_scores")
    trials = [
        replace(trial, **{name: getattr(view.trials[i], name) for name in dealt})
        for trial, i in zip(view.trials, order, strict=True)
    ]
    return replace(view, trials=tuple(trials), insights=())


def repair_message(problems: Sequence[str], count: int, accepted: Sequence[Allocation]) -> Message:
    """What was wrong with an answer, what of it was accepted, and what is still wanted."""
    in_order = json.dumps([allocation.to_dict() for allocation in accepted]) if accepted else ""
    text = _template("agent_repair.j2").render(problems=problems, count=count, accepted=in_order)
    return {"role": "user", "content": text}


def answer_schema(space: SearchSpace, count: int) -> dict[str, object]:
    """JSON schema of an answer, for servers with structured output.

    Whether it is within budget is checked after.
    """
    stages = {stage.name: _choice_schema(stage) for stage in space.stages}
    number = {"type": ["integer", "null"]}
    insight = _object(
        text={"type": "string"},
        trials={"type": "array", "items": {"type": "integer"}},
        higher=number,
        lower=number,
    )
    proposal = _object(allocation=_object(**stages), reason={"type": "string"})
    return _object(
        insights={"type": "array", "items": insight},
        proposals={"type": "array", "items": proposal, "maxItems": count},
        finished={"type": ["string", "null"]},
    )


def _choice_schema(stage: StageSpec) -> dict[str, object]:
    verifiers = (
        {"verifier": {"type": ["string", "null"], "enum": [None, *stage.verifiers]}}
        if stage.verifiers
        else {}
    )
    return _object(
        model={"type": "string", "enum": list(stage.models)},
        **verifiers,
        n_samples={"type": "integer", "minimum": 1, "maximum": stage.max_samples},
    )


def knowledge_schema() -> dict[str, object]:
    """JSON schema of elicited knowledge."""
    return _object(knowledge={"type": "array", "items": {"type": "string"}, "maxItems": 8})


def shown(view: SearchView) -> dict[str, object]:
    """The whole view as JSON-able data."""
    best = max(view.scored, key=merit, default=None)
    metric = view.space.spec.metric
    return {
        "pipeline": view.task,
        "score": metric.kind if isinstance(metric, BuiltinMetric) else "a function, from 0 to 1",
        "search_examples": view.n_examples,
        "budget_units": view.space.budget_units,
        "stages": [_stage(view.space, stage) for stage in view.space.stages],
        "trials_left": view.trials_left,
        "trials": [_trial(view, trial, best) for trial in view.trials],
        "insights_so_far": [
            {"text": i.text, "trials": list(i.trials), "tested": i.verdict} for i in view.insights
        ],
        "refused_or_not_to_be_repeated": [allocation.to_dict() for allocation in view.refused],
    }


def shown_outlook(outlook: Outlook | None, space: SearchSpace) -> dict[str, object]:
    """What the solver expects, as JSON-able data; empty where it expects nothing yet."""
    if outlook is None:
        return {}
    return {
        "expected_of_untried": [
            {
                "allocation": expected.allocation.to_dict(),
                "score": round(expected.score, 4),
                "standard_deviation": round(expected.std, 4),
                "planned_units": round(space.units(expected.allocation), 4),
            }
            for expected in outlook.expected
        ],
        "tries_next": [allocation.to_dict() for allocation in outlook.next],
    }


def _stage(space: SearchSpace, stage: StageSpec) -> dict[str, object]:
    models = []
    for option in space.options[stage.name]:
        first = space.stage_units(stage.name, option.with_samples(1))
        each = space.stage_units(stage.name, option.with_samples(2)) - first
        models.append(
            {
                "model": option.model,
                **({} if option.verifier is None else {"verifier": option.verifier}),
                "active_params": space.active_params(option),
                "aggregator": _aggregator(stage, option),
                "units_of_first_sample": round(first, 6),
                "units_of_each_further_sample": round(each, 6),
            }
        )
    return {
        "stage": stage.name,
        "takes_outputs_of": list(stage.inputs or ()),
        "prompt": (stage.prompt or "")[:_LONGEST_PROMPT],
        "largest_n_samples": stage.max_samples,
        "models": models,
    }


def _aggregator(stage: StageSpec, option: StageOption) -> str:
    own = stage.aggregator_for(option)
    return "a function" if isinstance(own, PythonAggregator) else own.kind


def _trial(view: SearchView, trial: TrialResult, best: TrialResult | None) -> dict[str, object]:
    data: dict[str, object] = {
        "trial": trial.number,
        "allocation": trial.allocation.to_dict(),
        "planned_units": round(trial.budget_units, 4),
        "status": trial.status,
    }
    if trial.error:
        data["error"] = trial.error[:_LONGEST_ERROR]
    if trial.score is None:
        return data
    interval = mean_interval(trial.scores.values(), np.random.default_rng([view.seed, trial.number]))
    data |= {
        "score": round(trial.score, 4),
        "interval_95": None if interval is None else [round(interval.low, 4), round(interval.high, 4)],
        "examples_scored": trial.n_scored,
        "examples_missing": trial.n_missing,
        "tokens": trial.prompt_tokens + trial.generated_tokens,
        "stage_scores": {s: round(v, 4) for s, v in trial.stage_scores.items() if v is not None},
    }
    if best is not None and trial.number != best.number:
        rng = np.random.default_rng([view.seed, trial.number, best.number])
        against = paired_difference(trial.scores, best.scores, rng)
        data[f"paired_difference_to_trial_{best.number}"] = [
            round(value, 4) for value in (against.mean, against.low, against.high)
        ]
    return data


def _object(**properties: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@cache
def prompt_text(name: str) -> str:
    """The text of a file in `prompts/`."""
    return files("agenttts.proposers").joinpath("prompts", name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Template:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)
    return environment.from_string(prompt_text(name))
