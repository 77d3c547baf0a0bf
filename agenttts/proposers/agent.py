"""The LLM agent: a model behind an OpenAI-compatible endpoint that proposes allocations beside the solver.

The model's answer is read as insights and proposals only, and every proposal is checked. Proposals outside
the space, over budget or tried before are sent back once with the reasons. Those that are still invalid are
returned as rejected, and the rules' suggestions take their place. An endpoint that fails gives a note instead
of an error. What the model is shown is built in `agent_view`; the client of the endpoint is in
`agenttts.llm`, the texts of the prompts in `prompts/`.
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
from pipelines.reading.readers import NoAnswer, json_value, strip_thinking

_LONGEST_TEXT = 600  # characters of an insight or a reason


class AgentProposer:
    """Proposes with an LLM for a share of each turn, at least one suggestion, and with the solver for the
    rest.

    The LLM sees the history, the scores that the solver expects and the allocations that it would try next.
    At most two requests are sent to the endpoint in each turn.

    Args:
        chat: The client of the endpoint.
        share: The share of the suggestions that the LLM proposes, above 0 and at most 1.
        history: What the LLM sees of the trials: "true", or as a control "shuffled" (the scores permuted
            among the trials, by the seed) or "blank" (no trials).
    """

    def __init__(self, chat: AgentChat, *, share: float = AGENT_SHARE, history: History = "true") -> None:
        self.name = "agent" if history == "true" else f"agent-{history}"
        self.batch = round(1 / max(share, 0.1))
        self._chat = chat
        self._share = share
        self._history: History = history
        self._solver = SolverProposer()

    async def propose(self, view: SearchView, count: int) -> Turn:
        """Suggest allocations, the LLM first and then the solver.

        Args:
            view: What the proposer may know.
            count: The largest number of suggestions.

        Returns:
            The turn. When the endpoint fails it has a note and no suggestions.
        """
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
        """Return the solver's finalists."""
        return self._solver.finalists(view)

    async def aclose(self) -> None:
        """Close the connections to the endpoint."""
        await self._chat.aclose()


async def ask_for_turn(
    chat: AgentChat, view: SearchView, count: int, messages: Sequence[agent_view.Message]
) -> Turn:
    """Ask an LLM for proposals, and once more for those that can't be used.

    Args:
        chat: The client of the endpoint.
        view: What the proposer may know.
        count: The number of proposals to ask for.
        messages: The chat to send.

    Returns:
        The suggestions, insights and rejected proposals of both answers. When the endpoint fails, a turn with
        a note alone.
    """
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
    """The content of one answer of an LLM.

    Attributes:
        insights: The valid insights.
        suggestions: The valid proposals.
        rejected: The proposals that can't be used.
        problems: Everything that is wrong with the answer, in words for the model; it includes the problems
            of `rejected`.
        finished: Why the model proposes nothing more; None while it does.
    """

    insights: list[Lesson] = field(default_factory=list)
    suggestions: list[Suggestion] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    finished: str | None = None


def read_answer(text: str, view: SearchView, count: int, taken: Collection[Allocation] = ()) -> Answer:
    """Parse the text of an answer into insights and proposals. Never raises.

    Args:
        text: The text that the LLM answered.
        view: What the proposer may know; allocations that it has tried are rejected.
        count: The largest number of proposals to read.
        taken: Further allocations to reject, such as those accepted from an earlier answer.

    Returns:
        The answer, with all that is wrong with it.
    """
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
    """Merge both rounds: the valid proposals of the first, and the second's replacements for the rest."""
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
