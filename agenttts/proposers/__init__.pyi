from agenttts.llm import AgentSettings
from agenttts.proposers.base import Proposer, Rejected, SearchView, Suggestion, Turn
from agenttts.proposers.registry import (
    DEFAULT,
    NAMES,
    SEEK_FRONTIER,
    ProposerContext,
    make_proposer,
    require_proposer,
)
from agenttts.proposers.rules import InsightsProposer

__all__ = [
    "DEFAULT",
    "NAMES",
    "SEEK_FRONTIER",
    "AgentSettings",
    "InsightsProposer",
    "Proposer",
    "ProposerContext",
    "Rejected",
    "SearchView",
    "Suggestion",
    "Turn",
    "make_proposer",
    "require_proposer",
]
