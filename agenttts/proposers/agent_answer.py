"""An LLM's answer, read as insights, ratings and proposals only, and every proposal checked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from agenttts.proposers.base import Lesson, Rejected, SearchView, Suggestion
from agenttts.proposers.prior import Prior, Rating
from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation, StageOption
from pipelines.reading.readers import NoAnswer, json_value, strip_thinking

_LONGEST_TEXT = 600  # characters of an insight or a reason


@dataclass
class Answer:
    """The content of one answer of an LLM.

    Attributes:
        insights: The valid insights.
        suggestions: The valid proposals.
        rejected: The proposals that can't be used.
        ratings: How good the options of each stage are expected to be, where that was asked for.
        problems: Everything that is wrong with the answer, in words for the model; it includes the problems
            of `rejected`.
        finished: Why the model proposes nothing more; None while it does.
    """

    insights: list[Lesson] = field(default_factory=list)
    suggestions: list[Suggestion] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    ratings: Prior = field(default_factory=Prior)
    problems: list[str] = field(default_factory=list)
    finished: str | None = None


def read_answer(
    text: str,
    view: SearchView,
    count: int,
    taken: Collection[Allocation] = (),
    true_names: Callable[[object], object] | None = None,
) -> Answer:
    """Read an answer's insights, ratings and proposals. Never raises.

    Args:
        text: The text that the LLM answered.
        view: What the proposer may know; allocations that it has tried are rejected.
        count: The largest number of proposals to read.
        taken: Further allocations to reject, such as those accepted from an earlier answer.
        true_names: Turns an answer with shuffled names into one with true names; None: names are true.

    Returns:
        The answer, with all that is wrong with it.
    """
    data = json_object(text)
    if data is not None and true_names is not None:
        renamed = true_names(data)
        data = renamed if isinstance(renamed, dict) else None
    proposals = None if data is None else data.get("proposals")
    if data is None or not isinstance(proposals, list):
        unreadable = 'it is not one JSON object with "insights", "proposals" and "finished"'
        rejected = Rejected(json.dumps(_clipped(text)), "no reason given", unreadable)
        return Answer(rejected=[rejected], problems=[unreadable])
    answer = Answer(
        insights=_insights(data.get("insights"), {t.number for t in view.trials}),
        ratings=_ratings(data.get("ratings"), view.space),
    )
    finished = data.get("finished")
    answer.finished = _clipped(finished) if isinstance(finished, str) and finished.strip() else None
    excluded = view.tried.union(taken)
    for position, proposal in enumerate(proposals[:count]):
        fields = proposal if isinstance(proposal, Mapping) else {}
        reason = _clipped(fields.get("reason") or "no reason given")
        allocation = _read_allocation(fields.get("allocation"), view.space, excluded)
        if isinstance(allocation, Allocation):
            answer.suggestions.append(Suggestion(allocation, reason))
            excluded = excluded.union({allocation})
        else:
            shown = json.dumps(fields.get("allocation", proposal))[:_LONGEST_TEXT]
            shown = shown if len(shown) < _LONGEST_TEXT else json.dumps(shown)
            answer.rejected.append(Rejected(shown, reason, allocation))
            answer.problems.append(f"proposal {position + 1}: {allocation}")
    if not proposals and answer.finished is None:
        answer.problems.append("there are no proposals, and finished is null")
    return answer


def joined(first: Answer, again: Answer) -> Answer:
    """Merge two answers: the valid proposals of the first, and the second's replacements for the rest."""
    repaired = len(again.suggestions) + len(again.rejected)
    return Answer(
        insights=first.insights or again.insights,
        suggestions=first.suggestions + again.suggestions,
        rejected=again.rejected + first.rejected[repaired:],
        ratings=first.ratings or again.ratings,
        finished=again.finished,
    )


def _read_allocation(data: object, space: SearchSpace, excluded: Collection[Allocation]) -> Allocation | str:
    """The allocation that a proposal names, or what is wrong with it."""
    if not isinstance(data, Mapping):
        return "an allocation is an object: for each stage a model and n_samples"
    try:
        allocation = space.resolve(Allocation.from_dict(data))
    except (ValueError, TypeError) as error:
        return str(error)
    problem = space.problem(allocation)
    if problem is None and allocation in excluded:
        problem = f"{allocation} was tried, refused or proposed before"
    return problem or Allocation({stage: allocation[stage] for stage in space.options})


def _ratings(data: object, space: SearchSpace) -> Prior:
    """Return the ratings that name an option of their stage; shares out of range are moved into it."""
    ratings: dict[str, dict[StageOption, Rating]] = {}
    for stage, options in space.options.items():
        of_stage = data.get(stage) if isinstance(data, Mapping) else None
        for option in options:
            rating = of_stage.get(str(option)) if isinstance(of_stage, Mapping) else None
            shares = [rating.get(name) for name in ("one", "most")] if isinstance(rating, Mapping) else []
            # a float says whether it is a number; an integer may be larger than any float
            numbers = [s for s in shares if isinstance(s, int) or (isinstance(s, float) and math.isfinite(s))]
            if len(numbers) == 2:
                one, most = (float(min(1, max(0, number))) for number in numbers)
                ratings.setdefault(stage, {})[option] = Rating(one, most)
    return Prior(ratings)


def _insights(data: object, known: Collection[int]) -> list[Lesson]:
    """Return the insights that have a text and cite at least one trial that exists."""
    lessons = []
    for insight in data if isinstance(data, list) else []:
        if not isinstance(insight, Mapping) or not isinstance(insight.get("text"), str):
            continue
        cited = insight.get("trials")
        numbers = [n for n in cited if type(n) is int and n in known] if isinstance(cited, list) else []
        higher, lower = insight.get("higher"), insight.get("lower")
        claim = (higher, lower) if type(higher) is int and type(lower) is int else None
        if claim is not None and not (set(claim) <= set(known) and higher != lower):
            claim = None
        if insight["text"].strip() and numbers:
            lessons.append(Lesson(_clipped(insight["text"]), tuple(dict.fromkeys(numbers)), claim))
    return lessons[:5]


def json_object(text: str) -> dict[str, object] | None:
    """Parse the JSON object of a text, without thinking, a code fence or words around it.

    Args:
        text: The text to search.

    Returns:
        The object; None when the text has none that can be parsed as a whole.
    """
    answer = strip_thinking(text)
    data = answer if isinstance(answer, NoAnswer) else json_value(answer, {"type": "object"})
    return data if isinstance(data, dict) else None


def _clipped(text: object) -> str:
    """One line, not too long, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[: _LONGEST_TEXT - 1]}…"
