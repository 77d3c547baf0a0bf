"""What the agent is shown: the pipeline, the budget and the history with intervals and costs, as JSON.

It is a function of the view alone, so that a resumed search sends the same requests. Rows of the dataset and
answers of models are not shown. Error messages are shown, clipped and inside the JSON, and the prompt says
that they are data.
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
from pipelines.jsonvalues import JSON
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
    """Build the chat that opens a turn: the system prompt, then the search so far.

    Args:
        view: What the proposer may know.
        count: The number of proposals to ask for.
        system: The name of the system prompt's file in `prompts/`.
        history: What is shown of the trials.
        more: Further JSON-able entries to show beside the view; None: none.

    Returns:
        The messages, each with "role" and "content".
    """
    data = json.dumps(shown(with_history(view, history)) | dict(more or {}), indent=1, ensure_ascii=False)
    return [
        {"role": "system", "content": prompt_text(system) + prompt_text("answer_form.md")},
        {"role": "user", "content": _template("agent_turn.j2").render(count=count, history=data)},
    ]


def with_history(view: SearchView, history: History) -> SearchView:
    """Return the view with its trials unchanged, with their scores permuted, or without any trial.

    Args:
        view: What the proposer may know.
        history: "true" for the view as it is, "shuffled" for permuted scores, "blank" for no trials. Only the
            first leaves insights in the view.

    Returns:
        The view to show.
    """
    if history == "true":
        return view
    if history == "blank":
        return replace(view, trials=(), insights=(), refused=tuple(view.tried))
    order = np.random.default_rng([view.seed, view.step]).permutation(len(view.trials))
    permuted = ("score", "scores", "status", "n_scored", "n_missing", "stage_scores")
    trials = [
        replace(trial, **{name: getattr(view.trials[i], name) for name in permuted})
        for trial, i in zip(view.trials, order, strict=True)
    ]
    return replace(view, trials=tuple(trials), insights=())


def repair_message(problems: Sequence[str], count: int, accepted: Sequence[Allocation]) -> Message:
    """Build the message that asks for replacements of invalid proposals.

    Args:
        problems: What was wrong with the answer, one problem an entry.
        count: The number of proposals that are still wanted.
        accepted: The allocations that were accepted from the answer.

    Returns:
        The message, with "role" and "content".
    """
    accepted_json = json.dumps([allocation.to_dict() for allocation in accepted]) if accepted else ""
    text = _template("agent_repair.j2").render(problems=problems, count=count, accepted=accepted_json)
    return {"role": "user", "content": text}


def answer_schema(space: SearchSpace, count: int) -> dict[str, JSON]:
    """Build the JSON schema of an answer, for servers with structured output.

    The schema does not express the budget, which is checked after the answer.

    Args:
        space: The allocations within the budget.
        count: The largest number of proposals.

    Returns:
        The schema.
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


def _choice_schema(stage: StageSpec) -> dict[str, JSON]:
    verifiers: dict[str, JSON] = (
        {"verifier": {"type": ["string", "null"], "enum": [None, *stage.verifiers]}}
        if stage.verifiers
        else {}
    )
    names = dict.fromkeys(option.model for option in stage.options)
    prompts: dict[str, JSON] = (
        {"prompt": {"type": ["string", "null"], "enum": list(stage.prompt_names)}} if stage.prompts else {}
    )
    return _object(
        model={"type": "string", "enum": list(names)},
        **verifiers,
        **prompts,
        n_samples={"type": "integer", "minimum": 1, "maximum": stage.max_samples},
    )


def knowledge_schema() -> dict[str, JSON]:
    """Build the JSON schema of the statements that the MLCopilot baseline asks for."""
    return _object(knowledge={"type": "array", "items": {"type": "string"}, "maxItems": 8})


def shown(view: SearchView) -> dict[str, object]:
    """Return the whole view as JSON-able data."""
    best = max(view.scored, key=merit, default=None)
    metric = view.space.spec.metric
    return {
        "pipeline": view.task,
        "score": metric.kind if isinstance(metric, BuiltinMetric) else "a function, from 0 to 1",
        "search_examples": view.n_examples,
        "budget_units": view.space.budget_units,
        **({"a_unit_is": "a US dollar"} if view.space.measure.name == "usd" else {}),
        "stages": [_stage(view.space, stage) for stage in view.space.stages],
        "trials_left": view.trials_left,
        "trials": [_trial(view, trial, best) for trial in view.trials],
        "insights_so_far": [
            {"text": i.text, "trials": list(i.trials), "tested": i.verdict} for i in view.insights
        ],
        "refused_or_not_to_be_repeated": [allocation.to_dict() for allocation in view.refused],
    }


def shown_outlook(outlook: Outlook | None, space: SearchSpace) -> dict[str, object]:
    """Return the solver's expectations as JSON-able data; empty when there are none yet."""
    if outlook is None:
        return {}
    return {
        "expected_of_untried": [
            {
                "allocation": expected.allocation.to_dict(),
                "score": round(expected.score, 4),
                "standard_deviation": round(expected.std, 4),
                "planned_units": _rounded(space, space.units(expected.allocation), 4),
            }
            for expected in outlook.expected
        ],
        "tries_next": [allocation.to_dict() for allocation in outlook.next],
    }


def _stage(space: SearchSpace, stage: StageSpec) -> dict[str, object]:
    models = []
    for option in space.options[stage.name]:
        params = space.active_params(option)
        first = space.stage_units(stage.name, option.with_samples(1))
        if stage.python is not None:
            arguments = dict(stage.arguments[option.model])
            models.append({"model": option.model, "arguments": arguments, "units": _rounded(space, first, 6)})
            continue
        each = space.stage_units(stage.name, option.with_samples(2)) - first
        models.append(
            {
                "model": option.model,
                **({} if option.verifier is None else {"verifier": option.verifier}),
                **({} if option.prompt is None else {"prompt": option.prompt}),
                **({} if params is None else {"active_params": params}),
                "aggregator": _aggregator(stage, option),
                "units_of_first_sample": _rounded(space, first, 6),
                "units_of_each_further_sample": _rounded(space, each, 6),
            }
        )
    return {
        "stage": stage.name,
        "takes_outputs_of": list(stage.inputs or ()),
        "prompt": (stage.prompt or "")[:_LONGEST_PROMPT],
        **({"prompts": _prompts(stage)} if stage.prompts else {}),
        "largest_n_samples": stage.max_samples,
        "models": models,
    }


def _prompts(stage: StageSpec) -> dict[str, str]:
    return {name: (variant.text or "")[:_LONGEST_PROMPT] for name, variant in stage.prompts.items()}


def _rounded(space: SearchSpace, amount: float, digits: int) -> float:
    """Units to so many decimals; dollars, which are small, to as many significant digits."""
    return round(amount, digits) if space.measure.name == "units" else float(f"{amount:.{digits}g}")


def _aggregator(stage: StageSpec, option: StageOption) -> str:
    aggregator = stage.aggregator_for(option)
    return "a function" if isinstance(aggregator, PythonAggregator) else aggregator.kind


def _trial(view: SearchView, trial: TrialResult, best: TrialResult | None) -> dict[str, object]:
    data: dict[str, object] = {
        "trial": trial.number,
        "allocation": trial.allocation.to_dict(),
        "planned_units": _rounded(view.space, trial.budget_units, 4),
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


def _object(**properties: JSON) -> dict[str, JSON]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@cache
def prompt_text(name: str) -> str:
    """Return the text of a file in `prompts/`."""
    return files("agenttts.proposers").joinpath("prompts", name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Template:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)
    return environment.from_string(prompt_text(name))
