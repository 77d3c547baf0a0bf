"""The rows of the store as frozen dataclasses: prompts and samples, runs and trials, proposals and insights.

The classes know neither pipelines nor searches: allocations, specs and outputs are JSON text. Tokens are
counts, money is US dollars, times are Unix seconds (UTC).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TrialStatus = Literal["running", "complete", "partial", "failed", "pruned"]
TrialPurpose = Literal["search", "baseline", "confirm", "policy", "test"]
ResultStatus = Literal["ok", "error"]
ProposalStatus = Literal["accepted", "edited", "refused", "invalid"]
Verdict = Literal["supported", "refuted", "open"]
RunStatus = Literal["running", "complete", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """A model as a server answers with it.

    Attributes:
        key: `name` or `name@revision`; it is part of every sample's identity.
        name: What the server calls the model.
        revision: The revision of its weights or the digest of its adapter; None when it is not stated.
        active_params: Parameters used for one token, a count; None when it is not stated.
        context_length: Tokens of prompt and answer together; None when it is not stated.
        parent: The model that an adapter belongs to; None for a whole model.
        usd_per_million_prompt_tokens: None without a price.
        usd_per_million_generated_tokens: None without a price.
    """

    key: str
    name: str
    revision: str | None
    active_params: float | None
    context_length: int | None
    parent: str | None
    usd_per_million_prompt_tokens: float | None
    usd_per_million_generated_tokens: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """An exact prompt for one model with its sampling parameters: a sample's identity but for its index.

    Attributes:
        key: As `prompt_key` computes it from the next three.
        model_key: The model.
        content: Canonical JSON of `{"messages": [...]}` or `{"prompt": "..."}`.
        sampling: Canonical JSON of the sampling parameters, without the number of samples.
        prompt_tokens: As the server counted them; None until the first draw.
    """

    key: str
    model_key: str
    content: str
    sampling: str
    prompt_tokens: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One draw for a prompt.

    Attributes:
        prompt_key: The prompt.
        index: The number of the draw, from 0.
        text: The answer.
        generated_tokens: Its length as the server counted it.
        mean_logprob: Natural logarithm, mean over the generated tokens; None when the server gives none.
        finish_reason: As the server says it, such as `stop` or `length`.
        run_id: The run that paid for the sample; None when it was imported.
        request_id: The request that drew it, which may have drawn several; None when it is not known.
    """

    prompt_key: str
    index: int
    text: str
    generated_tokens: int
    mean_logprob: float | None
    finish_reason: str
    run_id: str | None
    request_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Payment:
    """What the answered requests of one draw were billed: an entry of a run's ledger.

    Attributes:
        run_id: The run that paid.
        model_key: The model.
        prompt_key: The prompt; None for a request of a check.
        calls: Requests that the server answered, those that brought no text included.
        samples_drawn: Samples that they brought.
        prompt_tokens: As billed, so that every request reads its prompt; a bound where nobody counted.
        generated_tokens: As billed, answers without a text included; a bound where nobody counted.
    """

    run_id: str
    model_key: str
    prompt_key: str | None
    calls: int
    samples_drawn: int
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A search.

    Attributes:
        run_id: Unique in the database.
        spec: JSON of the whole PipelineSpec.
        spec_digest: Its digest, which a resumed run must agree with.
        settings: JSON of the search's settings: budget, seed, proposer, limits, ...
        status: `stopped` by a person or a limit, and resumable.
        started_at: Unix seconds.
        finished_at: Unix seconds; None while the run goes on.
        outcome: JSON of the result as `search --json` prints it, certificate included; None while it goes on.
    """

    run_id: str
    spec: str
    spec_digest: str
    settings: str
    status: RunStatus
    started_at: float
    finished_at: float | None
    outcome: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """An allocation run on a set of examples.

    Attributes:
        trial_id: Unique in the database.
        run_id: The run.
        number: From 0, in the order of decision within the run.
        purpose: Why it was run.
        split: `search` or `test`.
        allocation: JSON, `{stage: {"model": ..., "n_samples": ...}}`; of a policy its first rung.
        policy: JSON of the policy that was run; None when the allocation was.
        proposer: Who proposed it.
        reason: Why, in the proposer's words.
        status: Whether it has ended, and how.
        score: Mean over the scored examples; None while there is none.
        n_scored: Examples with a score.
        n_missing: Examples without one, for errors.
        budget_units: Planned cost per query in the measure of the run's budget, units or US dollars.
        flops_per_query: Realised, mean over the scored examples; None while there is none, or where a model's
            active parameters are not known.
        prompt_tokens: Of all samples that the trial uses, whether drawn or taken from the bank.
        generated_tokens: Of the same samples.
        cost_usd: Of the same samples; None when a model has no price.
        samples_drawn: Samples that this trial paid for.
        samples_reused: Samples taken from the bank.
        calls: Requests that this trial paid for.
        error: Why it failed; None otherwise.
        started_at: Unix seconds.
        finished_at: Unix seconds; None while it goes on.
    """

    trial_id: str
    run_id: str
    number: int
    purpose: TrialPurpose
    split: str
    allocation: str
    policy: str | None = None
    proposer: str
    reason: str
    status: TrialStatus
    score: float | None = None
    n_scored: int = 0
    n_missing: int = 0
    budget_units: float
    flops_per_query: float | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cost_usd: float | None = None
    samples_drawn: int = 0
    samples_reused: int = 0
    calls: int = 0
    error: str | None = None
    started_at: float
    finished_at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleScore:
    """The score of one example in a trial.

    Attributes:
        trial_id: The trial.
        example_id: The example.
        score: None when it is missing.
        status: `error` when the score is missing.
        reason: Why it is missing; None otherwise.
    """

    trial_id: str
    example_id: str
    score: float | None
    status: ResultStatus
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """What one stage made of one example in a trial.

    Attributes:
        trial_id: The trial.
        example_id: The example.
        stage: The stage's name.
        model_key: The model that drew the samples.
        n_samples: How many samples the allocation gives the stage.
        prompt_key: The prompt; None when an error came before it could be made.
        output: JSON of the aggregated value; None for an error.
        score: By the stage's own metric; None where the stage has none.
        status: Whether there is an output.
        reason: Why there is none; None otherwise.
        prompt_tokens: Of the samples used.
        generated_tokens: Of the samples used.
        flops: Of the samples used; None where the model's active parameters are not known.
        cost_usd: Of the samples used; None when the model has no price.
        samples_drawn: Samples that were paid for.
        samples_reused: Samples taken from the bank.
    """

    trial_id: str
    example_id: str
    stage: str
    model_key: str
    n_samples: int
    prompt_key: str | None
    output: str | None
    score: float | None
    status: ResultStatus
    reason: str | None
    prompt_tokens: int
    generated_tokens: int
    flops: float | None
    cost_usd: float | None
    samples_drawn: int
    samples_reused: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyResult:
    """How far one example went in a trial of a policy.

    Attributes:
        trial_id: The trial.
        example_id: The example.
        n_rungs: How many rungs were run.
        rung: The rung whose outcome stands, from 0.
        confidence: How sure the outcome is, from 0 to 1; None where none was computed, and on an error.
        n_samples: Samples of all rungs, each once, banked or not.
        flops: FLOPs of these samples and their prompts; None where parameters are not known.
        cost_usd: US dollars of the same; None when a model has no price.
        seconds: From the first request to the outcome.
    """

    trial_id: str
    example_id: str
    n_rungs: int
    rung: int
    confidence: float | None
    n_samples: int
    flops: float | None
    cost_usd: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What a proposer suggested at one step, and what became of it.

    Attributes:
        run_id: The run.
        step: The step of the search.
        position: From 0, within the step.
        allocation: JSON, as in a Trial.
        proposer: Who proposed it.
        reason: Why, in the proposer's words.
        status: What became of it.
        problem: Why it was refused or invalid; None otherwise.
    """

    run_id: str
    step: int
    position: int
    allocation: str
    proposer: str
    reason: str
    status: ProposalStatus
    problem: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Insight:
    """What a proposer concluded from the trials, in words.

    Attributes:
        run_id: The run.
        step: The step of the search.
        position: From 0, within the step.
        proposer: Who wrote it.
        text: The conclusion.
        trials: The numbers of the trials that it cites.
        verdict: The result of a paired test of what it claims.
    """

    run_id: str
    step: int
    position: int
    proposer: str
    text: str
    trials: tuple[int, ...]
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened in a run.

    Attributes:
        run_id: The run.
        at: Unix seconds.
        kind: What happened.
        detail: JSON.
    """

    run_id: str
    at: float
    kind: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """How a tuned model was made.

    Attributes:
        model_key: The key of its ModelRecord.
        base: The model that it was tuned from.
        path: The directory of its weights.
        dataset_digest: The digest of what it was tuned on.
        tasks: JSON list of the sub-tasks' names.
        settings: JSON.
        curve: JSON list of `{step, epoch, loss, eval_loss, score}`.
        metrics: JSON, the score by sub-task on the evaluation split.
        seconds: The time that tuning took.
        peak_bytes: The most memory that it used.
        created_at: Unix seconds.
    """

    model_key: str
    base: str
    path: str
    dataset_digest: str
    tasks: str
    settings: str
    curve: str
    metrics: str
    seconds: float
    peak_bytes: int
    created_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Which of two texts of one label is the stronger example of it.

    Attributes:
        key: Unique in the database.
        collection: The name under which preferences are collected.
        first: The first text.
        second: The second text.
        label: Their label.
        preferred: 1.0 for the first, 0.0 for the second, 0.5 for neither.
        source: `votes`, `llm` or `people`.
        judge: The annotator or the model.
        prompt: The prompt with the texts in the first order; None when no LLM judged.
        created_at: Unix seconds.
    """

    key: str
    collection: str
    first: str
    second: str
    label: str
    preferred: float
    source: str
    judge: str
    prompt: str | None
    created_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCost:
    """What a run paid for; `Store.run_cost` documents how each is counted."""

    calls: int
    samples_drawn: int
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BankRow:
    """How much of one model a store or an attached bank holds.

    Attributes:
        source: `store`, or the attached bank's path.
        model_key: The model.
        prompts: Prompts with samples.
        samples: All samples of these prompts.
        prompt_tokens: Sum over the prompts, each counted once.
        generated_tokens: Sum over the samples.
    """

    source: str
    model_key: str
    prompts: int
    samples: int
    prompt_tokens: int
    generated_tokens: int
