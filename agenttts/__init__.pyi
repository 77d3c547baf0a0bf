# The public names and the modules that define them. Type checkers read this file, and so does
# `datastore.lazy`, which imports a name when it is first used.
from agenttts.errors import AgentTTSError, UserError
from agenttts.llm import AgentSettings
from agenttts.loaded_run import LoadedRun, load_run
from agenttts.replay.bank import BankOutcomes
from agenttts.report import figures as plots
from agenttts.report.data import ReportData, read_report
from agenttts.result import SearchResult
from agenttts.results.examples import TrialExample
from agenttts.results.outcome import Finalist, Outcome
from agenttts.results.spec_bank import attach_spec_bank
from agenttts.results.trials import TrialResult
from agenttts.search.approval import Decision, Pending
from agenttts.search.entry import async_search, search
from agenttts.settings import SearchLimits
from agenttts.space.space import SearchSpace
from agenttts.stats import paired_difference
from agenttts.tasktune.data.build import DataConfig, build
from agenttts.tasktune.evaluation import evaluate
from agenttts.tasktune.fit import FitConfig, fit
from agenttts.training.weights import TunedModel, read_tuned
from pipelines.allocation import Allocation, StageChoice
from pipelines.policy import Policy
from pipelines.servers.patience import Patience
from pipelines.spec.policyfile import load_policy

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
    "Patience",
    "Pending",
    "Policy",
    "ReportData",
    "SearchLimits",
    "SearchResult",
    "SearchSpace",
    "StageChoice",
    "TrialExample",
    "TrialResult",
    "TunedModel",
    "UserError",
    "async_search",
    "attach_spec_bank",
    "build",
    "evaluate",
    "fit",
    "load_policy",
    "load_run",
    "paired_difference",
    "plots",
    "read_report",
    "read_tuned",
    "search",
]
