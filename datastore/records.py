"""The rows of the store, as frozen values: what was asked, drawn, scored, proposed and learnt.

These classes know neither pipelines nor searches: allocations, specs and outputs arrive as JSON text.
Tokens are counts, money is US dollars, times are Unix seconds (UTC).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TrialStatus = Literal["running", "complete", "failed", "pruned"]
TrialPurpose = Literal["search", "baseline", "confirm", "test"]
ResultStatus = Literal["ok", "error"]
ProposalStatus = Literal["accepted", "edited", "refused", "invalid"]
Verdict = Literal["supported", "refuted", "open"]
RunStatus = Literal["running", "complete", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """What a server answers as. `key` is `name` or `name@revision`; it is part of every Sample's identity."""

    key: str
    name: str
    revision: str | None
    active_params: float
    context_length: int | None
    parent: str | None
    usd_per_million_prompt_tokens: float | None
    usd_per_million_generated_tokens: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """An exact prompt for one model and sampling parameters: a Sample's identity but for its index."""

    key: str
    model_key: str
    content: str  # canonical JSON: {"messages": [...]} or {"prompt": "..."}
    sampling: str  # canonical JSON of the sampling parameters, without n
    prompt_tokens: int | None  # as the server counted them; None until the first draw


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The index-th draw for a prompt. `run_id` is the run that paid for it; None when it was imported."""

    prompt_key: str
    index: int
    text: str
    generated_tokens: int
    mean_logprob: float | None  # natural log, mean over the generated tokens
    finish_reason: str
    run_id: str | None
    request_id: str | None  # one request draws several samples


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    run_id: str
    spec: str  # JSON of the whole PipelineSpec
    spec_digest: str
    settings: str  # JSON: budget_units, seed, proposer, limits, ...
    status: RunStatus
    started_at: float
    finished_at: float | None
    outcome: str | None  # JSON: the result as `search --json` prints it, certificate included


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """An allocation run on a set of examples. `score` is NULL while nothing was scored, and nothing is spent
    while nothing is said of it."""

    trial_id: str
    run_id: str
    number: int  # 0-based, in order of decision within the run
    purpose: TrialPurpose
    split: str
    allocation: str  # JSON: {stage: {"model": ..., "n_samples": ...}}
    proposer: str
    reason: str
    status: TrialStatus
    score: float | None = None  # mean over the scored examples
    n_scored: int = 0
    n_missing: int = 0
    budget_units: float  # planned
    flops_per_query: float | None = None  # realised, mean over the scored examples
    prompt_tokens: int = 0  # realised: what the allocation uses, banked or not
    generated_tokens: int = 0
    cost_usd: float | None = None
    samples_drawn: int = 0  # paid for by this trial
    samples_reused: int = 0  # found in the bank
    calls: int = 0
    error: str | None = None
    started_at: float
    finished_at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleScore:
    trial_id: str
    example_id: str
    score: float | None  # None: missing, see status and reason
    status: ResultStatus
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    trial_id: str
    example_id: str
    stage: str
    model_key: str
    n_samples: int
    prompt_key: str | None
    output: str | None  # JSON of the aggregated value
    score: float | None  # stage metric, where the stage has one
    status: ResultStatus
    reason: str | None
    prompt_tokens: int
    generated_tokens: int
    flops: float
    cost_usd: float | None
    samples_drawn: int
    samples_reused: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What a proposer wanted at one step, why, and what became of it."""

    run_id: str
    step: int
    position: int  # 0-based within the step
    allocation: str
    proposer: str
    reason: str
    status: ProposalStatus
    problem: str | None  # why it was refused or invalid


@dataclass(frozen=True, kw_only=True, slots=True)
class Insight:
    run_id: str
    step: int
    position: int
    proposer: str
    text: str
    trials: tuple[int, ...]  # numbers of the trials cited
    verdict: Verdict  # of a paired test of what it claims


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    run_id: str
    at: float
    kind: str
    detail: str  # JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """How a tuned model came about. `model_key` is its ModelRecord's."""

    model_key: str
    base: str
    path: str
    dataset_digest: str
    tasks: str  # JSON list of names
    settings: str  # JSON
    curve: str  # JSON: [{step, epoch, loss, eval_loss, score}]
    metrics: str  # JSON: score by sub-task on the evaluation split
    seconds: float
    peak_bytes: int
    created_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Which of two texts of one label is more of it: 1.0 the first, 0.0 the second, 0.5 neither."""

    key: str
    collection: str
    first: str
    second: str
    label: str
    preferred: float
    source: str  # votes, llm or people
    judge: str  # the annotator or model
    prompt: str | None  # what an LLM was asked in the first order
    created_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCost:
    """What a run paid for; see `Store.run_cost` for how each is counted."""

    calls: int
    samples_drawn: int
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BankRow:
    """How much of one model a store or an attached bank holds."""

    source: str  # "store", or the attached bank's path
    model_key: str
    prompts: int
    samples: int
    prompt_tokens: int  # sum over the prompts, each once
    generated_tokens: int
