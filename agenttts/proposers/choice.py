"""From a name to a proposer, and what the agent's endpoint is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agenttts.errors import UserError

if TYPE_CHECKING:
    from agenttts.proposers.base import History, Proposer
    from agenttts.proposers.moves import Rule
    from datastore.store import Store
    from pipelines.sampler import SpendGate

OWN = ("solve", "insights", "greedy", "halving")
CLASSICAL = ("random", "tpe", "gp", "nsga2", "brute")
LLM = ("agent", "llm-zero-shot", "agenthpo", "mlcopilot")
NAMES = (*OWN, *CLASSICAL, *LLM)
"""What a user chooses from."""

AGENT_SHARE = 1 / 3
SEEK_FRONTIER = ("solve", "agent")
DEFAULT = "solve"  # where no endpoint is configured
SEEDS = "+seeds"
_HISTORIES: Mapping[str, History] = {"agent": "true", "agent-shuffled": "shuffled", "agent-blank": "blank"}
_WITHOUT: Mapping[str, tuple[Rule, ...]] = {
    "insights-no-models": ("model",),
    "insights-no-samples": ("climb", "step back"),
    "insights-no-shifts": ("shift",),
}
"""The rules with one of the three insights left out."""

ABLATIONS = ("solve-no-bank", "solve-no-finalists", *_WITHOUT)
CONTROLS = (*ABLATIONS, "agent-shuffled", "agent-blank")
"""Proposers to measure others by, not to search with: they work wherever a name does, but only the help of
`compare` lists them. The last two ask an LLM."""


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """An OpenAI-compatible endpoint and its model.

    Attributes:
        base_url: The endpoint's, usually ending in /v1.
        model: The model's name there.
        api_key: Neither stored nor printed. None: the endpoint needs none.
        timeout_s: Seconds for one answer.
        max_tokens: Most tokens of one answer.
        share: Of the trials that the LLM proposes itself, above 0 to 1; the solver proposes the others.

    Raises:
        UserError: The share is outside its range.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0
    max_tokens: int = 4096
    share: float = AGENT_SHARE

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(f"the agent's share of the trials is above 0 and at most 1, got {self.share}")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> AgentSettings | None:
        """From AGENTTTS_AGENT_BASE_URL, _MODEL and _API_KEY; None when there is no address.

        UserError when there is an address without a model.
        """
        base_url = environ.get("AGENTTTS_AGENT_BASE_URL")
        if not base_url:
            return None
        model = environ.get("AGENTTTS_AGENT_MODEL")
        if not model:
            raise UserError(
                "AGENTTTS_AGENT_BASE_URL needs AGENTTTS_AGENT_MODEL beside it; export the model's name"
            )
        return cls(base_url=base_url, model=model, api_key=environ.get("AGENTTTS_AGENT_API_KEY") or None)


@dataclass(frozen=True, kw_only=True)
class ProposerContext:
    """What a proposer with costs of its own works with.

    Attributes:
        store: Where answers of its endpoint are banked.
        run_id: The run that pays.
        gate: Asked before every question.
        agent: The endpoint. None: none is configured.
        replay: Whether only the bank answers.
    """

    store: Store
    run_id: str
    gate: SpendGate
    agent: AgentSettings | None
    replay: bool


def is_seeded(name: str) -> bool:
    """Whether a simulated search of that name starts from the default allocations; `search` always does."""
    return name == "default" or name.endswith(SEEDS)


def base_name(name: str) -> str:
    """The name without `+seeds`, and what `default` stands for."""
    name = name.removesuffix(SEEDS)
    return DEFAULT if name == "default" else name


def require_proposer(proposer: str | Proposer, agent: AgentSettings | None) -> None:
    """UserError for an unknown name, a sampler that lacks a library, or an LLM without endpoint."""
    if not isinstance(proposer, str):
        return
    name = base_name(proposer)
    if _asks_an_llm(name):
        if agent is None:
            raise UserError(
                f"the proposer {name} needs an endpoint: export AGENTTTS_AGENT_BASE_URL and "
                f"AGENTTTS_AGENT_MODEL, or use --proposer {DEFAULT}"
            )
    elif name not in (*NAMES, *ABLATIONS) and not name[:1].isupper():
        raise UserError(
            f"a proposer is one of {', '.join(NAMES)}, or a sampler's class in optuna.samplers; "
            f"got {proposer!r}"
        )
    else:
        classical_proposer(name)


def classical_proposer(name: str) -> Proposer:
    """The proposer of a name that needs no LLM. UserError for one that does, or that there is not."""
    name = base_name(name)
    if _asks_an_llm(name):
        raise UserError(f"the proposer {name} asks an LLM, and a comparison makes no calls; leave it out")
    if name.startswith("solve"):
        from agenttts.proposers.solver import SolverProposer

        return SolverProposer(bank=name != "solve-no-bank", finalists=name != "solve-no-finalists")
    if name in ("insights", *_WITHOUT):
        from agenttts.proposers.insights import InsightsProposer

        return InsightsProposer(without=_WITHOUT.get(name, ()))
    if name == "greedy":
        from agenttts.proposers.greedy import GreedyProposer

        return GreedyProposer()
    if name == "halving":
        from agenttts.proposers.halving import HalvingProposer

        return HalvingProposer()
    from agenttts.proposers.classical import ClassicalProposer  # optuna takes a while to import

    return ClassicalProposer(name)


def make_proposer(proposer: str | Proposer, context: ProposerContext) -> Proposer:
    """The proposer of that name, or the object itself; raises as `require_proposer`."""
    require_proposer(proposer, context.agent)
    if not isinstance(proposer, str):
        return proposer
    name = base_name(proposer)
    if not _asks_an_llm(name):
        return classical_proposer(name)
    from agenttts.llm import AgentChat
    from agenttts.proposers import llm_baselines  # openai takes a while to import
    from agenttts.proposers.agent import AgentProposer

    assert context.agent is not None
    chat = AgentChat(
        context.agent,
        store=context.store,
        run_id=context.run_id,
        gate=context.gate,
        replay=context.replay,
    )
    if name == "llm-zero-shot":
        return llm_baselines.zero_shot(chat)
    if name == "agenthpo":
        return llm_baselines.agent_hpo(chat)
    if name == "mlcopilot":
        return llm_baselines.MlCopilotProposer(chat)
    return AgentProposer(chat, share=context.agent.share, history=_HISTORIES[name])


def _asks_an_llm(name: str) -> bool:
    return name in LLM or name in _HISTORIES
