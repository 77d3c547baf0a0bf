"""An LLM behind an OpenAI-compatible endpoint as proposer, beside the solver: insights, then proposals.

What it answers is only ever read as insights and proposals, and checked: those outside the space, over budget
or tried before are sent back once with the reasons; what is still wrong then is handed on as rejected, and
the rules' suggestions stand in. An endpoint that fails makes a note, not an error. What it is shown is in
`agent_view`, talking to the endpoint in `agenttts.llm`, the prompt text in `prompts/`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agenttts.llm import AGENT_SHARE, AgentChat, EndpointFailed
from agenttts.proposers import agent_view
from agenttts.proposers.base import History, Lesson, Rejected, SearchView, Suggestion, Turn
from agenttts.proposers.solver import SolverProposer
from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation

_LONGEST_TEXT = 600  # characters of an insight or a reason


class AgentProposer:
    """A hybrid: of each turn the LLM proposes its share (one at least), the solver the rest.

    The LLM sees the history, what the solver expects and what it would try next. The endpoint is asked at
    most twice for each turn.

    Args:
        chat: The endpoint.
        share: Share of the trials that the LLM proposes, above 0 to 1.
        history: What it sees of the trials: "true", or as a control "shuffled" (their scores dealt anew, by
            the seed) or "blank".
    """

    def __init__(self, chat: AgentChat, *, share: float = AGENT_SHARE, history: History = "true") -> None:
        self.name = "agent" if history == "true" else f"agent-{history}"
        self.batch = round(1 / max(share, 0.1))
        self._chat = chat
        self._share = share
        self._history: History = history
        self._solver = SolverProposer()

    async def propose(self, view: SearchView, count: int) -> Turn:
        """Its turn; without suggestions, but with a note, when the endpoint fails."""
        n_by_llm = max(1, round(count * self._share))
        shown: dict[str, object] = {}
        if self._history == "true":
            shown["solver"] = agent_view.shown_outlook(self._solver.outlook(view), view.space)
        messages = agent_view.first_messages(view, n_by_llm, history=self._history, more=shown)
        turn = await ask_for_turn(self._chat, view, n_by_llm, messages)
        if turn.notes or not (turn.suggestions or turn.rejected):
            return turn
        taken = [s.allocation for s in turn.suggestions]
        by_solver = [
            replace(s, proposer=self._solver.name)
            for s in self._solver.decide(view, count - n_by_llm, taken).suggestions
        ]
        return replace(turn, suggestions=(*turn.suggestions, *by_solver[: max(0, count - n_by_llm)]))

    def finalists(self, view: SearchView) -> Sequence[Allocation]:
        """The solver's."""
        return self._solver.finalists(view)

    async def aclose(self) -> None:
        """Close the connections to the endpoint."""
        await self._chat.aclose()


async def ask_for_turn(
    chat: AgentChat, view: SearchView, count: int, messages: Sequence[agent_view.Message]
) -> Turn:
    """Ask for `count` proposals; once more for those that can't be used. A note when the endpoint fails."""
    schema = agent_view.answer_schema(view.space, count)
    try:
        text = await chat.ask(messages, schema)
        answer = read_answer(text, view, count)
        if answer.problems:
            accepted = [suggestion.allocation for suggestion in answer.suggestions]
            missing = max(1, count - len(accepted))
            repair = agent_view.repair_message(answer.problems, missing, accepted)
            again = await chat.ask([*messages, {"role": "assistant", "content": text}, repair], schema)
            answer = _joined(answer, read_answer(again, view, missing, accepted))
    except EndpointFailed as error:
        return Turn(notes=(f"{error}; the rules propose instead",))
    rejected = tuple(answer.rejected[: max(0, count - len(answer.suggestions))])
    finished = None if answer.suggestions or rejected else answer.finished
    return Turn(tuple(answer.suggestions), tuple(answer.insights), finished, rejected)


@dataclass
class Answer:
    """What could be read from one answer.

    Attributes:
        insights: Those in order.
        suggestions: Those in order.
        rejected: Proposals that can't be used.
        problems: What is wrong, in words for the model; what `rejected` says among it.
        finished: Why the model proposes nothing more; None while it does.
    """

    insights: list[Lesson] = field(default_factory=list)
    suggestions: list[Suggestion] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    finished: str | None = None


def read_answer(text: str, view: SearchView, count: int, taken: Collection[Allocation] = ()) -> Answer:
    """An answer's text as insights and proposals, with all that is wrong with it. Never raises."""
    data = json_object(text)
    proposals = None if data is None else data.get("proposals")
    if data is None or not isinstance(proposals, list):
        unreadable = 'it is not one JSON object with "insights", "proposals" and "finished"'
        rejected = Rejected(json.dumps(_clipped(text)), "no reason given", unreadable)
        return Answer(rejected=[rejected], problems=[unreadable])
    answer = Answer(insights=_insights(data.get("insights"), {t.number for t in view.trials}))
    finished = data.get("finished")
    answer.finished = _clipped(finished) if isinstance(finished, str) and finished.strip() else None
    excluded = view.tried.union(taken)
    for position, proposal in enumerate(proposals[:count]):
        given = proposal if isinstance(proposal, Mapping) else {}
        reason = _clipped(given.get("reason") or "no reason given")
        allocation = _read_allocation(given.get("allocation"), view.space, excluded)
        if isinstance(allocation, Allocation):
            answer.suggestions.append(Suggestion(allocation, reason))
            excluded = excluded.union({allocation})
        else:
            shown = json.dumps(given.get("allocation", proposal))[:_LONGEST_TEXT]
            shown = shown if len(shown) < _LONGEST_TEXT else json.dumps(shown)
            answer.rejected.append(Rejected(shown, reason, allocation))
            answer.problems.append(f"proposal {position + 1}: {allocation}")
    if not proposals and answer.finished is None:
        answer.problems.append("there are no proposals, and finished is null")
    return answer


def _joined(first: Answer, again: Answer) -> Answer:
    """Both rounds as one: what was in order in the first, and what the second made of the rest."""
    repaired = len(again.suggestions) + len(again.rejected)
    return Answer(
        insights=first.insights or again.insights,
        suggestions=first.suggestions + again.suggestions,
        rejected=again.rejected + first.rejected[repaired:],
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


def _insights(data: object, known: Collection[int]) -> list[Lesson]:
    """Those that have a text and cite trials that exist."""
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
    """The outermost JSON object of a text, with or without a fence or words around it."""
    start, end = text.find("{"), text.rfind("}")
    try:
        data = json.loads(text[start : end + 1]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _clipped(text: object) -> str:
    """One line, not too long, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[: _LONGEST_TEXT - 1]}…"
