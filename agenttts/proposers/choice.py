"""From a name to a proposer, and what the agent's endpoint is.

Further proposers are made here; what they decide is in their own modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agenttts.errors import UserError
from agenttts.proposers.base import Proposer
from agenttts.proposers.insights import InsightsProposer
from datastore.store import Store
from pipelines.sampler import SpendGate

NAMES = ("insights", "agent")


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """An OpenAI-compatible endpoint and its model. The key is neither stored nor printed."""

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0
    max_tokens: int = 4096

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
    """What a proposer with costs of its own works with."""

    store: Store
    run_id: str
    gate: SpendGate
    agent: AgentSettings | None
    replay: bool


def require_proposer(proposer: str | Proposer, agent: AgentSettings | None) -> None:
    """UserError for an unknown name or an agent without endpoint."""
    if isinstance(proposer, str) and proposer not in NAMES:
        raise UserError(f"a proposer is one of {', '.join(NAMES)}, got {proposer!r}")
    if proposer == "agent" and agent is None:
        raise UserError(
            "the agent needs an endpoint: export AGENTTTS_AGENT_BASE_URL and AGENTTTS_AGENT_MODEL, "
            "or use --proposer insights"
        )


def make_proposer(proposer: str | Proposer, context: ProposerContext) -> Proposer:
    """The proposer of that name, or the object itself; raises as `require_proposer`."""
    require_proposer(proposer, context.agent)
    if not isinstance(proposer, str):
        return proposer
    if proposer == "insights":
        return InsightsProposer()
    from agenttts.proposers.agent import AgentProposer  # openai takes a while to import
    from agenttts.proposers.agent_chat import AgentChat

    assert context.agent is not None
    return AgentProposer(
        AgentChat(
            context.agent,
            store=context.store,
            run_id=context.run_id,
            gate=context.gate,
            replay=context.replay,
        )
    )
