"""The LLM baselines of AgentTTS's comparison, on the agent's endpoint, written from their papers.

Zero-shot: allocations from the description alone, without feedback. AgentHPO (arXiv 2402.01881): a Creator
that proposes, one at a time, from an Executor's log of all trials. MLCopilot (arXiv 2304.14979): experiences
are discretised, knowledge is elicited from them, then one allocation is recommended. None of them sees the
solver.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agenttts.llm import AgentChat, EndpointFailed
from agenttts.proposers import agent_view
from agenttts.proposers.agent import ask_for_turn
from agenttts.proposers.agent_answer import json_object
from agenttts.proposers.agent_form import knowledge_schema
from agenttts.proposers.base import History, SearchView, Turn
from agenttts.proposers.texts import as_data, prompt_text
from agenttts.results.trials import TrialResult

_EXPERIENCES = 12
_LEVELS = ("very low", "low", "medium", "high", "very high")


class PromptedProposer:
    """Proposes with an LLM, by a system prompt of its own and as much of the history as it may see.

    Args:
        chat: The client of the endpoint.
        name: The name of the proposer.
        system: The name of the system prompt's file in `prompts/`.
        history: What the LLM sees of the trials.
        batch: How many suggestions it prefers to make in one turn.
    """

    def __init__(
        self, chat: AgentChat, *, name: str, system: str, history: History = "true", batch: int = 1
    ) -> None:
        self.name = name
        self.batch = batch
        self._chat = chat
        self._system = system
        self._history: History = history

    @property
    def n_tokens(self) -> int:
        """The tokens of all questions to the LLM and its answers so far."""
        return self._chat.n_tokens

    async def propose(self, view: SearchView, count: int) -> Turn:
        """Suggest allocations.

        Args:
            view: What the proposer may know.
            count: The largest number of suggestions.

        Returns:
            The turn. When the endpoint fails it has a note and no suggestions.
        """
        try:
            more = await self._more(view)
        except EndpointFailed as error:
            return Turn(notes=(f"{error}; the rules propose instead",))
        messages = agent_view.first_messages(
            view, count, system=self._system, history=self._history, more=more
        )
        return await ask_for_turn(self._chat, view, count, messages)

    async def aclose(self) -> None:
        """Close the connections to the endpoint."""
        await self._chat.aclose()

    async def _more(self, view: SearchView) -> dict[str, object]:
        """Return what is shown beside the history, as JSON-able data."""
        return {}


def zero_shot(chat: AgentChat) -> PromptedProposer:
    """Build the zero-shot baseline: many proposals from one request, without the trials' scores.

    Args:
        chat: The client of the endpoint.

    Returns:
        The proposer. In further turns it sees only which allocations not to repeat.
    """
    return PromptedProposer(
        chat, name="llm-zero-shot", system="zero_shot_system.md", history="blank", batch=10
    )


def agent_hpo(chat: AgentChat) -> PromptedProposer:
    """Build the AgentHPO baseline: one proposal a turn, from the log of all trials."""
    return PromptedProposer(chat, name="agenthpo", system="agenthpo_system.md")


class MlCopilotProposer(PromptedProposer):
    """Proposes as MLCopilot with two requests a turn: knowledge from the experiences, then a recommendation.

    Args:
        chat: The client of the endpoint.
    """

    def __init__(self, chat: AgentChat) -> None:
        super().__init__(chat, name="mlcopilot", system="mlcopilot_system.md", history="blank")

    async def _more(self, view: SearchView) -> dict[str, object]:
        experiences = _experiences(view)
        knowledge = await self._knowledge(experiences) if experiences else []
        return {"experiences": experiences, "knowledge": knowledge}

    async def _knowledge(self, experiences: list[dict[str, object]]) -> list[str]:
        data = as_data({"experiences": experiences})
        messages = [
            {"role": "system", "content": prompt_text("mlcopilot_knowledge.md")},
            {"role": "user", "content": f"```json\n{data}\n```"},
        ]
        answer = json_object(await self._chat.ask(messages, knowledge_schema())) or {}
        statements = answer.get("knowledge")
        return [str(s)[:300] for s in statements[:8]] if isinstance(statements, list) else []


def _experiences(view: SearchView) -> list[dict[str, object]]:
    """Return the best trials, with counts and scores as levels."""
    scored = sorted(view.scored, key=lambda t: (-(t.score or 0.0), t.number))
    scores = np.array([t.score for t in scored], dtype=np.float64)
    return [_experience(view, trial, scores) for trial in scored[:_EXPERIENCES]]


def _experience(view: SearchView, trial: TrialResult, scores: npt.NDArray[np.float64]) -> dict[str, object]:
    settings = {}
    for stage in view.space.stages:
        choice = trial.allocation[stage.name]
        share = np.log2(choice.n_samples) / max(np.log2(stage.max_samples), 1.0)
        settings[stage.name] = {"model": str(choice.option), "samples": _level(float(share))}
    score_range = float(np.ptp(scores))
    share = 1.0 if score_range == 0 else float(((trial.score or 0.0) - scores.min()) / score_range)
    return {"configuration": settings, "score": _level(share)}


def _level(share: float) -> str:
    return _LEVELS[min(int(share * len(_LEVELS)), len(_LEVELS) - 1)]
