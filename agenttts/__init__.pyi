# The public names and the modules that define them. Type checkers read this file, and so does
# `datastore.lazy`, which imports a name when it is first used.
from agenttts import plots
from agenttts.approval import Decision, Pending
from agenttts.bank_outcomes import BankOutcomes
from agenttts.errors import AgentTTSError, UserError
from agenttts.llm import AgentSettings
from agenttts.outcome import Finalist, Outcome
from agenttts.report import ReportData, attach_spec_bank, read_report
from agenttts.result import LoadedRun, SearchResult, load_run
from agenttts.search import async_search, search
from agenttts.settings import SearchLimits
from agenttts.space import SearchSpace
from agenttts.stats import paired_difference
from agenttts.tasktune.data.build import DataConfig, build
from agenttts.tasktune.evaluation import evaluate
from agenttts.tasktune.fit import FitConfig, fit
from agenttts.training.weights import TunedModel, read_tuned
from agenttts.trial import TrialResult
from pipelines.allocation import Allocation, StageChoice

__all__ = [
    "AgentSettings",
    "AgentTTSError",
    "Allocation",
    "BankOutcomes",
    "DataConfig",
    "Decision",
    "Finalist",
    "FitConfig",
    "LoadedRun",
    "Outcome",
    "Pending",
    "ReportData",
    "SearchLimits",
    "SearchResult",
    "SearchSpace",
    "StageChoice",
    "TrialResult",
    "TunedModel",
    "UserError",
    "async_search",
    "attach_spec_bank",
    "build",
    "evaluate",
    "fit",
    "load_run",
    "paired_difference",
    "plots",
    "read_report",
    "read_tuned",
    "search",
]
