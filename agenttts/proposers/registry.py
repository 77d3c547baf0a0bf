"""From a name to a proposer.

Further proposers are made here; what they decide is in their own modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agenttts.errors import UserError

if TYPE_CHECKING:
    from agenttts.llm import AgentSettings
    from agenttts.proposers.base import History, Proposer
    from agenttts.proposers.moves import Rule
    from datastore.store import Store
    from pipelines.runtime.sampler import SpendGate

OWN = ("solve", "insights", "greedy", "halving")
CLASSICAL = ("random", "tpe", "gp", "nsga2", "brute")
LLM = ("agent", "llm-zero-shot", "agenthpo", "mlcopilot")
NAMES = (*OWN, *CLASSICAL, *LLM)
"""What a user chooses from."""
SEEK_FRONTIER = ("solve", "agent")
DEFAULT = "solve"  # where no endpoint is configured
SEEDS = "+seeds"
_HISTORIES: Mapping[str, History] = {"agent": "true", "agent-shuffled": "shuffled", "agent-blank": "blank"}
"""What the agent sees of the trials; all but the first are controls, as are the names below."""

_WITHOUT: Mapping[str, tuple[Rule, ...]] = {
    "insights-no-models": ("model",),
    "insights-no-samples": ("climb", "step back"),
    "insights-no-shifts": ("shift",),
}
"""The rules with one of the three insights left out."""

ABLATIONS = ("solve-no-bank", "solve-no-finalists", *_WITHOUT)
"""To measure others by, not to search with: they work wherever a name does, but only `compare` lists them."""


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
        from agenttts.proposers.rules import InsightsProposer

        return InsightsProposer(without=_WITHOUT.get(name, ()))
    if name == "greedy":
        from agenttts.proposers.controls.greedy import GreedyProposer

        return GreedyProposer()
    if name == "halving":
        from agenttts.proposers.controls.halving import HalvingProposer

        return HalvingProposer()
    from agenttts.proposers.controls.optuna_samplers import (
        ClassicalProposer,  # optuna takes a while to import
    )

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
    from agenttts.proposers.agent import AgentProposer
    from agenttts.proposers.controls import llm_baselines

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
