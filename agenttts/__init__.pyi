from agenttts.approval import Decision, Pending
from agenttts.errors import AgentTTSError, UserError
from agenttts.proposers.choice import AgentSettings
from agenttts.result import LoadedRun, SearchResult, load_run
from agenttts.search import async_search, search
from agenttts.settings import SearchLimits
from pipelines.allocation import Allocation, StageChoice

__all__ = [
    "AgentSettings",
    "AgentTTSError",
    "Allocation",
    "Decision",
    "LoadedRun",
    "Pending",
    "SearchLimits",
    "SearchResult",
    "StageChoice",
    "UserError",
    "async_search",
    "load_run",
    "search",
]
