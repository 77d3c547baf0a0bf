"""What a search paid, and what the sample bank, trials on a part of the examples and shared prompts saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agenttts.results.trials import TrialResult
from agenttts.space.units import rounds
from datastore.store import Store
from pipelines.costs import known_sum, model_flops, stage_cost_usd
from pipelines.runtime.calls import cost_in
from pipelines.spec.models import ModelSpec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage_parts import CallCost


@dataclass(frozen=True, kw_only=True)
class SearchCost:
    """What one run was billed, by its ledger. The agent's tokens and calls are not among the pipeline's.

    Attributes:
        calls: Requests that the servers of the pipeline's models answered.
        samples_drawn: Samples that the run paid for; the result of a stage's function is one.
        samples_reused: Samples that trials took from the bank, counted each time they were taken.
        prompt_tokens: Tokens that the pipeline's models read, a prompt once for each request.
        generated_tokens: Tokens that the pipeline's models wrote.
        flops: FLOPs of these tokens. All FLOPs are None where active parameters of a model are not known.
        agent_tokens: Tokens that the agent read and wrote.
        agent_calls: Requests to the agent.
        flops_without_bank: FLOPs of the same trials if each had drawn its own samples.
        flops_spared_by_stops: FLOPs of the examples that trials on a part of them did not run.
        flops_spared_by_shared_prompts: FLOPs that reading the prompt anew for each sample would have added.
        usd: US dollars; None when one of the models has no price.
    """

    calls: int = 0
    samples_drawn: int = 0
    samples_reused: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    flops: float | None = 0.0
    agent_tokens: int = 0
    agent_calls: int = 0
    flops_without_bank: float | None = 0.0
    flops_spared_by_stops: float | None = 0.0
    flops_spared_by_shared_prompts: float | None = 0.0
    usd: float | None = None

    @property
    def samples_used(self) -> int:
        """Samples that the trials rest on, drawn or reused."""
        return self.samples_drawn + self.samples_reused

    @property
    def reused_share(self) -> float:
        """The share of the samples used that came from the bank; 0 without samples."""
        return self.samples_reused / self.samples_used if self.samples_used else 0.0


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What the requests to one model were billed in one run.

    Attributes:
        model: The key of the model in the pipeline; of variants on one served model, the last.
        model_key: The key of the model in the store.
        calls: Requests that were answered.
        samples_drawn: Samples that they brought.
        prompt_tokens: Tokens read, a prompt once for each request.
        generated_tokens: Tokens written.
        flops: FLOPs of these tokens; None where the active parameters are not known.
        usd: US dollars; None without a price.
    """

    model: str
    model_key: str
    calls: int
    samples_drawn: int
    prompt_tokens: int
    generated_tokens: int
    flops: float | None
    usd: float | None


def costs_by_model(store: Store, run_id: str, spec: PipelineSpec) -> tuple[ModelCost, ...]:
    """Return what a run was billed by each of its pipeline's models.

    Args:
        store: The database, open for reading.
        run_id: The run.
        spec: The run's pipeline.
    """
    names = {spec.model_key(name): name for name in spec.models}
    costs = []
    for key, name in names.items():
        model, paid = spec.models[name], store.run_cost(run_id, models=[key])
        costs.append(
            ModelCost(
                model=name,
                model_key=key,
                calls=paid.calls,
                samples_drawn=paid.samples_drawn,
                prompt_tokens=paid.prompt_tokens,
                generated_tokens=paid.generated_tokens,
                flops=model_flops(model, paid.prompt_tokens, paid.generated_tokens),
                usd=stage_cost_usd(model, paid.prompt_tokens, paid.generated_tokens),
            )
        )
    return tuple(costs)


def cost_of(store: Store, run_id: str, spec: PipelineSpec, trials: Sequence[TrialResult]) -> SearchCost:
    """Compute what a run has paid so far, from the samples in the store that it paid for.

    Args:
        store: The database, open for reading.
        run_id: The run.
        spec: The run's pipeline.
        trials: The run's trials.
    """
    keys = {spec.model_key(name): model for name, model in spec.models.items()}
    used = {spec.model_key(name) for name in spec.used_models}
    by_model = costs_by_model(store, run_id, spec)
    calls, drawn = sum(paid.calls for paid in by_model), sum(paid.samples_drawn for paid in by_model)
    prompt_tokens = sum(paid.prompt_tokens for paid in by_model)
    generated_tokens = sum(paid.generated_tokens for paid in by_model)
    flops = sum(paid.flops or 0.0 for paid in by_model)
    costs_usd = [paid.usd for paid in by_model if paid.model_key in used]
    for call in call_costs(store, run_id) if any(stage.python is not None for stage in spec.stages) else ():
        drawn, flops = drawn + 1, flops + call.flops
        costs_usd.append(call.usd)
    total = store.run_cost(run_id)
    n_search = max((t.n_scored + t.n_missing for t in trials if t.split == "search"), default=0)
    unrun = [(t, n_search - t.n_scored - t.n_missing) for t in trials if t.status == "partial"]
    cost = SearchCost(
        calls=calls,
        samples_drawn=drawn,
        samples_reused=sum(t.samples_reused for t in trials),
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        agent_tokens=total.prompt_tokens + total.generated_tokens - prompt_tokens - generated_tokens,
        agent_calls=total.calls - calls,
        usd=known_sum(costs_usd),
    )
    if any(keys[key].active_params is None for key in used):
        return replace(
            cost,
            flops=None,
            flops_without_bank=None,
            flops_spared_by_stops=None,
            flops_spared_by_shared_prompts=None,
        )
    return replace(
        cost,
        flops=flops,
        flops_without_bank=sum((t.flops_per_query or 0.0) * t.n_scored for t in trials),
        flops_spared_by_stops=sum((t.flops_per_query or 0.0) * n_unrun for t, n_unrun in unrun),
        flops_spared_by_shared_prompts=_flops_of_shared_prompts(store, run_id, spec, keys),
    )


def call_costs(store: Store, run_id: str) -> list[CallCost]:
    """Return what each call of a stage's function cost that a run paid for.

    Args:
        store: The database, open for reading.
        run_id: The run.
    """
    rows = store.sql(
        "SELECT text FROM payments JOIN samples ON samples.prompt_key = payments.prompt_key "
        "WHERE payments.run_id = ? AND starts_with(payments.model_key, 'python:') AND samples.index = 0",
        [run_id],
    )
    return [cost_in(text) for text in rows["text"]]


def _flops_of_shared_prompts(
    store: Store, run_id: str, spec: PipelineSpec, models: Mapping[str, ModelSpec]
) -> float:
    """FLOPs of reading every prompt once more for each sample after the first; a refined one shares none.

    What a further model read (a fuser, a verifier) is in the tokens too: such results are left out.
    """
    sharing = [
        f"{stage.name} {option}"
        for stage in spec.stages
        if stage.python is None and rounds(stage, 2) == 1
        for option in stage.options
        if stage.aggregator_for(option).own_model is None
    ]
    rows = store.sql(
        "SELECT model_key, sum((n_samples - 1) * stage_results.prompt_tokens)::DOUBLE AS tokens "
        "FROM stage_results JOIN trials USING (trial_id) "
        "WHERE run_id = ? AND list_contains(?, concat(stage, ' ', "
        "json_extract_string(allocation, concat('$.', stage, '.model')), "
        "coalesce(':' || json_extract_string(allocation, concat('$.', stage, '.prompt')), ''), "
        "coalesce('@' || json_extract_string(allocation, concat('$.', stage, '.verifier')), ''))) "
        "GROUP BY model_key",
        [run_id, sharing],
    )
    tokens_by_key = zip(rows["model_key"], rows["tokens"], strict=True)
    return sum(model_flops(models[key], int(n), 0) or 0.0 for key, n in tokens_by_key if key in models)
