"""The LLM agent: a model behind an OpenAI-compatible endpoint that proposes allocations beside the solver.

It is asked before any trial: its first proposals run before the defaults, and its ratings of the stages'
options are a prior that the solver weighs (`prior`). In later turns it proposes a share of the trials. Every
proposal is checked: those outside the space, over budget or tried before are sent back once with the reasons,
and those that are still invalid are returned as rejected. Where the endpoint fails, is slow or answers
nothing usable, the solver decides alone. What the model is shown is built in `agent_view`, its answers are
read in `agent_answer`; the client of the endpoint is in `agenttts.llm`, the prompts in `prompts/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest

from agenttts.llm import AGENT_SHARE, AgentChat, EndpointFailed
from agenttts.proposers import agent_view
from agenttts.proposers.agent_answer import Answer, joined, read_answer
from agenttts.proposers.agent_form import answer_schema, repair_message
from agenttts.proposers.agent_names import ShuffledNames
from agenttts.proposers.base import History, SearchView, Suggestion, Turn
from agenttts.proposers.prior import Prior
from agenttts.proposers.solver import SolverProposer
from agenttts.proposers.texts import Message
from pipelines.allocation import Allocation

_FIRST_TRIALS = 9  # the agent's share of so many trials runs before the defaults
_MOST_FAILURES = 2  # after so many in a row the endpoint is not asked again


class AgentProposer:
    """Proposes with an LLM for a share of the trials, and with the solver for the rest.

    The LLM sees the task, the history, the scores that the solver expects and the allocations that it would
    try next. At most two requests are sent to the endpoint in each turn.

    Args:
        chat: The client of the endpoint.
        share: The share of the suggestions that the LLM proposes, above 0 and at most 1.
        history: What the LLM sees of the trials: "true", or as a control "shuffled" (the scores permuted
            among the trials, by the seed), "blank" (no trials) or "renamed" (each model under the name of
            another).
    """

    def __init__(self, chat: AgentChat, *, share: float = AGENT_SHARE, history: History = "true") -> None:
        self.name = "agent" if history == "true" else f"agent-{history}"
        self.batch = round(1 / max(share, 0.1))
        self._chat = chat
        self._share = share
        self._history: History = history
        self._solver = SolverProposer()
        self._prior = Prior()
        self._first: tuple[Suggestion, ...] = ()
        self._n_failures = 0  # in a row

    @property
    def n_tokens(self) -> int:
        """The tokens of all questions to the LLM and its answers so far."""
        return self._chat.n_tokens

    async def opening(self, view: SearchView) -> Turn:
        """Ask the LLM for its first proposals and its ratings, before any trial.

        Args:
            view: What the proposer may know.

        Returns:
            Notes of what failed. The proposals come with `seeds`.
        """
        trials = _FIRST_TRIALS if view.trials_left is None else min(_FIRST_TRIALS, view.trials_left)
        count = max(1, round(trials * self._share))
        try:
            answer = await self._asked(view, count, opening=True)
        except EndpointFailed as error:
            return self._failed(error)
        self._prior = answer.ratings
        self._first = tuple(answer.suggestions[:count])
        unusable = tuple(f"the agent's proposal can't be used: {r.problem}" for r in answer.rejected)
        return Turn(notes=() if self._first else unusable)

    def seeds(self, view: SearchView) -> Sequence[Suggestion]:
        """Return the LLM's first proposal, then in turn the solver's first suggestions and its further ones.

        The LLM's are tried on the same part of the examples as the solver's.

        Args:
            view: What the proposer may know, before any trial.
        """
        others = [replace(s, proposer=s.proposer or self._solver.name) for s in self._solver.seeds(view)]
        part = others[0].n_examples if others else None
        own = [replace(s, proposer=self.name, n_examples=part) for s in self._first]
        mixed = (s for pair in zip_longest(own, others) for s in pair if s is not None)
        by_allocation: dict[Allocation, Suggestion] = {}
        for suggestion in mixed:
            by_allocation.setdefault(suggestion.allocation, suggestion)
        return list(by_allocation.values())

    async def propose(self, view: SearchView, count: int) -> Turn:
        """Suggest allocations, the LLM first and then the solver.

        Args:
            view: What the proposer may know.
            count: The largest number of suggestions.

        Returns:
            The turn. When the endpoint fails it has a note, and the solver's suggestions. It ends the search
            only where the solver does.
        """
        view = replace(view, beliefs=self._prior.beliefs(view))
        n_by_llm = max(1, round(count * self._share))
        if view.cells_left is not None:  # its trials are on all examples, and leave what the end needs
            n_free = (view.cells_left - self._solver.cells_owed(view)) // view.n_examples
            n_by_llm = min(n_by_llm, max(0, n_free))
        if n_by_llm == 0 or self._n_failures >= _MOST_FAILURES:
            return self._by_solver(view, count)
        try:
            answer = await self._asked(view, n_by_llm)
        except EndpointFailed as error:
            return replace(self._by_solver(view, count), notes=self._failed(error).notes)
        turn = _turn(answer, n_by_llm)
        n_left = count - len(turn.suggestions) - len(turn.rejected)
        others = self._by_solver(view, n_left, [s.allocation for s in turn.suggestions])
        return replace(
            turn,
            suggestions=(*turn.suggestions, *others.suggestions),
            finished=None if turn.suggestions or turn.rejected else others.finished,
        )

    def leader(self, view: SearchView) -> Allocation | None:
        """Return what the solver holds for the best, with the ratings as its prior."""
        return self._solver.leader(replace(view, beliefs=self._prior.beliefs(view)))

    def finalists(self, view: SearchView) -> Sequence[Allocation]:
        """Return the solver's finalists."""
        return self._solver.finalists(view)

    async def aclose(self) -> None:
        """Close the connections to the endpoint."""
        await self._chat.aclose()

    def _failed(self, error: EndpointFailed) -> Turn:
        self._n_failures += 1
        further = " from now on" if self._n_failures >= _MOST_FAILURES else ""
        return Turn(notes=(f"{error}; the solver proposes instead{further}",))

    def _by_solver(self, view: SearchView, count: int, taken: Sequence[Allocation] = ()) -> Turn:
        name = self._solver.name
        turn = self._solver.decide(view, max(0, count), taken)
        return replace(
            turn,
            suggestions=tuple(replace(s, proposer=name) for s in turn.suggestions[: max(0, count)]),
            insights=tuple(replace(lesson, proposer=name) for lesson in turn.insights),
        )

    async def _asked(self, view: SearchView, count: int, *, opening: bool = False) -> Answer:
        """Show the LLM the view under this proposer's history, and read its answer."""
        seen = agent_view.with_history(view, self._history)
        data = agent_view.shown(seen)
        if not opening and self._history in ("true", "renamed"):
            answered = self._solver.finalists(view)
            data["solver"] = agent_view.shown_outlook(self._solver.outlook(view), answered, seen)
        names = ShuffledNames(view.space, view.seed) if self._history == "renamed" else None
        messages = agent_view.turn_messages(
            view, count, data if names is None else names.shown(data), opening=opening
        )
        true = None if names is None else names.true
        answer = await ask(self._chat, view, count, messages, opening=opening, true_names=true)
        self._n_failures = 0
        return answer


async def ask_for_turn(chat: AgentChat, view: SearchView, count: int, messages: Sequence[Message]) -> Turn:
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
    try:
        return _turn(await ask(chat, view, count, messages), count)
    except EndpointFailed as error:
        return Turn(notes=(f"{error}; the rules propose instead",))


async def ask(
    chat: AgentChat,
    view: SearchView,
    count: int,
    messages: Sequence[Message],
    *,
    opening: bool = False,
    true_names: Callable[[object], object] | None = None,
) -> Answer:
    """Ask an LLM, and once more for what can't be used of its answer.

    Args:
        chat: The client of the endpoint.
        view: What the proposer may know.
        count: The number of proposals to ask for.
        messages: The chat to send.
        opening: Whether ratings are asked for too.
        true_names: Turns an answer with shuffled names into one with true names; None: names are true.

    Returns:
        Both answers as one.

    Raises:
        EndpointFailed: The endpoint gives no answer.
    """
    schema = answer_schema(view.space, count, opening=opening)
    text = await chat.ask(messages, schema)
    answer = read_answer(text, view, count, (), true_names)
    if not answer.problems:
        return answer
    accepted = [suggestion.allocation for suggestion in answer.suggestions]
    missing = max(1, count - len(accepted))
    repair = repair_message(answer.problems, missing, accepted)
    try:
        again = await chat.ask([*messages, {"role": "assistant", "content": text}, repair], schema)
    except EndpointFailed:
        if accepted:
            return answer
        raise
    return joined(answer, read_answer(again, view, missing, accepted, true_names))


def _turn(answer: Answer, count: int) -> Turn:
    rejected = tuple(answer.rejected[: max(0, count - len(answer.suggestions))])
    finished = None if answer.suggestions or rejected else answer.finished
    return Turn(tuple(answer.suggestions), tuple(answer.insights), finished, rejected)
