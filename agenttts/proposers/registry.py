"""The names of the proposers, and the functions that build a proposer from its name."""

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
    from pipelines.runtime.payments import SpendGate

OWN = ("solve", "insights", "greedy", "halving", "elimination")
CLASSICAL = ("random", "tpe", "gp", "nsga2", "brute")
LLM = ("agent", "llm-zero-shot", "agenthpo", "mlcopilot")
NAMES = (*OWN, *CLASSICAL, *LLM)
"""The names of the proposers that a user can choose."""
SEEK_FRONTIER = ("solve", "agent")
DEFAULT = "solve"  # where no endpoint is configured
SEEDS = "+seeds"
_HISTORIES: Mapping[str, History] = {
    "agent": "true",
    "agent-shuffled": "shuffled",
    "agent-blank": "blank",
    "agent-renamed": "renamed",
}
"""The history that each variant of the agent sees; all but the first are controls, as are the names below."""

_WITHOUT: Mapping[str, tuple[Rule, ...]] = {
    "insights-no-models": ("model",),
    "insights-no-samples": ("climb", "step back"),
    "insights-no-shifts": ("shift",),
}
"""The rules with one of the three insights left out."""

LLM_CONTROLS = tuple(name for name, history in _HISTORIES.items() if history != "true")
"""Controls of the agent: a blank or shuffled history, or shuffled names."""

ABLATIONS = ("solve-no-bank", "solve-no-finalists", *_WITHOUT)
"""Proposers for comparisons, not for searching: they are accepted by name, but only `compare` lists them."""


@dataclass(frozen=True, kw_only=True)
class ProposerContext:
    """The resources of a proposer that has costs of its own.

    Attributes:
        store: The store that keeps the answers of its endpoint.
        run_id: The run that its costs are counted for; None where there is none.
        gate: Admits or refuses each request before it is sent; None admits all.
        agent: The settings of the endpoint; None when none is configured.
        replay: Whether requests are answered from the bank alone.
    """

    store: Store
    run_id: str | None
    gate: SpendGate | None
    agent: AgentSettings | None
    replay: bool


def is_seeded(name: str) -> bool:
    """Return whether a simulated search of that name starts from the proposer's seeds, or the defaults where
    it names none; `search` always does.
    """
    return name == "default" or name.endswith(SEEDS) or name in _HISTORIES


def base_name(name: str) -> str:
    """Return the name without `+seeds`, with `default` replaced by the default proposer's name."""
    name = name.removesuffix(SEEDS)
    return DEFAULT if name == "default" else name


def require_proposer(proposer: str | Proposer, agent: AgentSettings | None) -> None:
    """Check that a proposer can be built.

    Args:
        proposer: A name, or a proposer, which is always accepted.
        agent: The settings of the endpoint; None when none is configured.

    Raises:
        UserError: The name is unknown, its sampler needs a library that is not installed, or it needs an
            endpoint and there is none.
    """
    if not isinstance(proposer, str):
        return
    name = base_name(proposer)
    if asks_an_llm(name):
        if agent is None:
            raise UserError(
                f"the proposer {name} needs an endpoint: export AGENTTTS_AGENT_BASE_URL and "
                f"AGENTTTS_AGENT_MODEL, or use --proposer {DEFAULT}"
            )
    elif name not in (*NAMES, *ABLATIONS) and not name[:1].isupper():
        raise UserError(
            f"a proposer is one of {', '.join(('default', *NAMES))}, or a sampler's class in "
            f"optuna.samplers; got {proposer!r}"
        )
    else:
        classical_proposer(name)


def classical_proposer(name: str) -> Proposer:
    """Build a proposer that needs no LLM.

    Args:
        name: A name of NAMES or ABLATIONS, or a sampler's class in optuna.samplers.

    Returns:
        The proposer.

    Raises:
        UserError: The name is unknown, or the proposer needs an LLM.
    """
    name = base_name(name)
    if asks_an_llm(name):
        raise UserError(f"the proposer {name} asks an LLM; name one that does not")
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
    if name == "elimination":
        from agenttts.proposers.controls.elimination import EliminationProposer

        return EliminationProposer()
    from agenttts.proposers.controls.optuna_samplers import (
        ClassicalProposer,  # optuna takes a while to import
    )

    return ClassicalProposer(name)


def make_proposer(proposer: str | Proposer, context: ProposerContext) -> Proposer:
    """Build the proposer of a name.

    Args:
        proposer: A name, or a proposer, which is returned as it is.
        context: The resources of proposers that have costs of their own.

    Returns:
        The proposer.

    Raises:
        UserError: As `require_proposer`.
    """
    require_proposer(proposer, context.agent)
    if not isinstance(proposer, str):
        return proposer
    name = base_name(proposer)
    if not asks_an_llm(name):
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


def asks_an_llm(name: str) -> bool:
    """Return whether a proposer of that name, with `+seeds` or without, needs an endpoint."""
    name = base_name(name)
    return name in LLM or name in _HISTORIES
