"""What the agent is shown: the task, the goal, the trials with intervals and costs, and what samples say, as
JSON.

It is a function of the view alone, so that a resumed search sends the same requests. Gold values are not
shown. Texts from the dataset, from models and from servers are clipped, and the JSON keeps them inside its
fenced block; the prompt says that they are data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from agenttts.proposers import agent_task
from agenttts.proposers.agent_task import rounded
from agenttts.proposers.base import History, SearchView
from agenttts.proposers.solver import Outlook
from agenttts.proposers.texts import Message, as_data, prompt_text, template
from agenttts.results.trials import TrialResult, merit
from agenttts.stats import mean_interval, paired_difference
from pipelines.allocation import Allocation

_LONGEST_TEXT = 200  # characters of an error message
_LONGEST_FIELD = 400  # characters of a field or an output of a failing example
_FAILING = 4


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
    return turn_messages(view, count, shown(with_history(view, history)) | dict(more or {}), system=system)


def turn_messages(
    view: SearchView,
    count: int,
    data: Mapping[str, object],
    *,
    system: str = "agent_system.md",
    opening: bool = False,
) -> list[Message]:
    """Build the chat that opens a turn, from what is to be shown.

    Args:
        view: What the proposer may know, for the goal.
        count: The number of proposals to ask for.
        data: What to show, JSON-able.
        system: The name of the system prompt's file in `prompts/`.
        opening: Whether no trial was run yet, and the options are to be rated.

    Returns:
        The messages, each with "role" and "content".
    """
    user = template("agent_turn.j2").render(
        count=count, goal=agent_task.goal_text(view), opening=opening, history=as_data(data)
    )
    return [
        {"role": "system", "content": prompt_text(system) + prompt_text("answer_form.md")},
        {"role": "user", "content": user},
    ]


def with_history(view: SearchView, history: History) -> SearchView:
    """Return the view with its trials unchanged, with their scores permuted, or without any trial.

    Args:
        view: What the proposer may know.
        history: "true" for the view as it is, "shuffled" for permuted scores, "blank" for no trials,
            "renamed" for true trials. Only the first leaves insights in the view, which name models.

    Returns:
        The view to show. Of the controls "shuffled" and "blank" the bank shows nothing either.
    """
    if history == "true":
        return view
    if history == "renamed":
        return replace(view, insights=(), failing=None)
    if history == "blank":
        tried = dict.fromkeys([*(trial.allocation for trial in view.trials), *view.refused])
        return replace(view, trials=(), insights=(), refused=tuple(tried), bank=None, failing=None)
    order = np.random.default_rng([view.seed, view.step]).permutation(len(view.trials))
    permuted = ("score", "scores", "status", "n_scored", "n_missing", "stage_scores")
    trials = [
        replace(trial, **{name: getattr(view.trials[i], name) for name in permuted})
        for trial, i in zip(view.trials, order, strict=True)
    ]
    return replace(view, trials=tuple(trials), insights=(), bank=None, failing=None)


def shown(view: SearchView) -> dict[str, object]:
    """Return the whole view as JSON-able data."""
    best = max(view.scored, key=merit, default=None)
    return {
        **agent_task.task(view),
        "trials_left": view.trials_left,
        "trials": [_trial(view, trial, best) for trial in view.trials],
        **({} if best is None else {"curves_around_the_best_trial": _curves(view, best)}),
        **({} if best is None else {"failing_examples_of_the_best_trial": _failing(view, best)}),
        "insights_so_far": [
            {"text": i.text, "by": i.proposer, "trials": list(i.trials), "tested": i.verdict}
            for i in view.insights
        ],
        "refused_or_not_to_be_repeated": [allocation.to_dict() for allocation in view.refused],
    }


def shown_outlook(
    outlook: Outlook | None, answered: Sequence[Allocation], view: SearchView
) -> dict[str, object]:
    """Return the solver's expectations as JSON-able data; empty when there are none yet.

    Args:
        outlook: What the solver expects; None where it expects nothing yet.
        answered: The best untried allocations that the samples paid for answer in full.
        view: What the proposer may know.
    """
    if outlook is None:
        return {}
    expected = [
        {
            "allocation": expected.allocation.to_dict(),
            "score": round(expected.score, 4),
            "standard_deviation": round(expected.std, 4),
            "planned_units": rounded(view.space, view.space.units(expected.allocation), 4),
        }
        for expected in outlook.expected
    ]
    return {
        "expected_of_untried": expected,
        "tries_next": [allocation.to_dict() for allocation in outlook.next],
        "answered_without_a_trial": [
            {"allocation": allocation.to_dict(), "score": score}
            for allocation, score in _answered(view, answered)
        ],
    }


def _answered(view: SearchView, allocations: Sequence[Allocation]) -> list[tuple[Allocation, float]]:
    """The allocations that the samples paid for answer on every example, with their scores."""
    if view.bank is None or not allocations:
        return []
    walk = view.bank.answer(allocations)
    scored = ~np.isnan(walk.scores)
    return [
        (allocation, round(float(scores[present].mean()), 4))
        for allocation, scores, present, known in zip(
            allocations, walk.scores, scored, walk.known, strict=True
        )
        if known.all() and present.any()
    ]


def _curves(view: SearchView, best: TrialResult) -> list[dict[str, object]]:
    """The score of the best trial with another option or count at one stage, from the samples paid for."""
    curves: list[dict[str, object]] = []
    for stage in view.space.stages:
        counts = [2**k for k in range(stage.max_samples.bit_length()) if 2**k <= stage.max_samples]
        for option in view.space.options[stage.name]:
            varied = [best.allocation.replace(stage.name, option.with_samples(n)) for n in counts]
            points = {
                allocation[stage.name].n_samples: score for allocation, score in _answered(view, varied)
            }
            if len(points) > 1:
                choice = {
                    name: value
                    for name, value in option.with_samples(1).to_dict().items()
                    if name != "n_samples"
                }
                curves.append({"stage": stage.name, **choice, "score_by_n_samples": points})
    return curves


def _failing(view: SearchView, best: TrialResult) -> list[dict[str, object]]:
    """Texts of examples that the best trial gets wrong, clipped."""
    examples = () if view.failing is None else view.failing(best, _FAILING)
    return [
        {
            "trial": example.trial,
            "score": round(example.score, 4),
            "fields": {name: _clipped(text) for name, text in example.inputs.items()},
            "outputs": {name: _clipped(text) for name, text in example.outputs.items()},
        }
        for example in examples
    ]


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST_FIELD else f"{text[: _LONGEST_FIELD - 1]}…"


def _trial(view: SearchView, trial: TrialResult, best: TrialResult | None) -> dict[str, object]:
    data: dict[str, object] = {
        "trial": trial.number,
        "by": "default" if trial.purpose == "baseline" else trial.proposer,
        "allocation": trial.allocation.to_dict(),
        "planned_units": rounded(view.space, trial.budget_units, 4),
        "status": trial.status,
    }
    if view.goal.objective == "latency":
        data["planned_seconds"] = float(f"{view.burden(trial.allocation):.4g}")
    if trial.error:
        data["error"] = trial.error[:_LONGEST_TEXT]
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
