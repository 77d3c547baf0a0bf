"""The planned cost of an allocation per query: FLOPs, units of the reference model's samples, and US dollars.

Units are the definition of AgentTTS (arXiv 2508.00890): the prefill of a prompt is counted once for all of
its samples, as with prefix caching. Dollars are as servers bill them. `measure` chooses between them.
Realised tokens and FLOPs are recorded by the runtime; `limits` caps what the search itself may spend.
"""

from __future__ import annotations

from collections.abc import Mapping

from agenttts.errors import SpaceError
from pipelines.allocation import StageChoice
from pipelines.costs import known_sum, model_flops, n_requests, stage_cost_usd, stage_flops
from pipelines.spec.fields import ReferenceSpec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.variants import PlannedCalls

REFERENCE = ReferenceSpec()


def flops(active_params: float, prompt_tokens: float, generated_tokens: float, n_samples: int) -> float:
    """Compute the FLOPs of n samples of one prompt: 2·P·(Np + n·Nd).

    Args:
        active_params: The model's active parameters, P.
        prompt_tokens: Tokens of the prompt, Np.
        generated_tokens: Tokens generated per sample, Nd.
        n_samples: The number of samples, n.
    """
    return stage_flops(active_params, prompt_tokens, n_samples * generated_tokens)


def units(
    active_params: float,
    prompt_tokens: float,
    generated_tokens: float,
    n_samples: int,
    reference: ReferenceSpec = REFERENCE,
) -> float:
    """Compute the budget units of n samples of one prompt: (flops / (2·P_ref) - Np_ref) / Nd_ref, not
    rounded.

    One unit is one further sample of the reference model. Far below the reference the result is negative.

    Args:
        active_params: The model's active parameters.
        prompt_tokens: Tokens of the prompt.
        generated_tokens: Tokens generated per sample.
        n_samples: The number of samples.
        reference: The reference model's parameters and lengths.
    """
    return flops_to_units(flops(active_params, prompt_tokens, generated_tokens, n_samples), reference)


def flops_to_units(flops_of_stage: float, reference: ReferenceSpec = REFERENCE) -> float:
    """Convert the FLOPs of one stage to budget units; the reference prefill is subtracted once.

    Args:
        flops_of_stage: The FLOPs of the stage.
        reference: The reference model's parameters and lengths.
    """
    generated = flops_of_stage / (2.0 * reference.active_params) - reference.prompt_tokens
    return generated / reference.generated_tokens


def query_units(spec: PipelineSpec, flops_of_query: float) -> float:
    """Convert the realised FLOPs of a query to budget units.

    The reference prefill is subtracted once for each stage where models answer, as in planned units, however
    often a policy runs it.

    Args:
        spec: The pipeline.
        flops_of_query: The FLOPs of all stages together.
    """
    reference = spec.budget.reference
    further = (spec.n_answering - 1) * reference.prompt_tokens / reference.generated_tokens
    return flops_to_units(flops_of_query, reference) - further


def query_flops(spec: PipelineSpec, units_of_query: float) -> float:
    """Convert the budget units of a query to FLOPs; the inverse of `query_units`.

    Args:
        spec: The pipeline.
        units_of_query: The units of all stages together.
    """
    reference = spec.budget.reference
    tokens = units_of_query * reference.generated_tokens + spec.n_answering * reference.prompt_tokens
    return 2.0 * reference.active_params * tokens


def planned_stage_flops(spec: PipelineSpec, stage: StageSpec, choice: StageChoice) -> float | None:
    """Compute the planned FLOPs of one stage for one query, fusion and verifier included.

    Args:
        spec: The pipeline.
        stage: The stage, with its expected lengths.
        choice: The stage's choice.

    Returns:
        The FLOPs; None when the active parameters of a model are not known.
    """
    if stage.python is not None:
        return stage.cost_of(choice.option).flops
    model, (read, written) = spec.models[choice.model], stage.lengths_of(choice.option)
    prompt_tokens = rounds(stage, choice.n_samples) * read
    drawn = model_flops(model, prompt_tokens, choice.n_samples * written)
    return known_sum((drawn, planned_aggregation_flops(spec, stage, choice)))


def rounds(stage: StageSpec, n_samples: int) -> int:
    """Return how many prompts are read for n samples: one, and with refinement as many as there are samples.

    Args:
        stage: The stage.
        n_samples: The number of samples.
    """
    return stage.aggregator.rounds(n_samples)


def planned_aggregation(stage: StageSpec, choice: StageChoice) -> PlannedCalls | None:
    """Return the planned calls to the model that aggregates a choice's samples, at expected lengths.

    Args:
        stage: The stage.
        choice: The stage's choice.

    Returns:
        The calls; None where no model aggregates.
    """
    aggregator = stage.aggregator_for(choice.option)
    return aggregator.planned_calls(choice.n_samples, *stage.lengths_of(choice.option))


def planned_aggregation_flops(spec: PipelineSpec, stage: StageSpec, choice: StageChoice) -> float | None:
    """Compute the planned FLOPs per query of the model that aggregates.

    Args:
        spec: The pipeline.
        stage: The stage.
        choice: The stage's choice.

    Returns:
        The FLOPs; 0 where no model aggregates, None when its active parameters are not known.
    """
    calls = planned_aggregation(stage, choice)
    if calls is None:
        return 0.0
    once = model_flops(spec.models[calls.model], calls.prompt_tokens, calls.generated_tokens)
    return None if once is None else calls.n_calls * once


def planned_stage_units(spec: PipelineSpec, stage: StageSpec, choice: StageChoice) -> float:
    """Compute the planned budget units of one stage.

    Args:
        spec: The pipeline.
        stage: The stage.
        choice: The stage's choice.

    Returns:
        The units; negative for a stage far below the reference.

    Raises:
        SpaceError: The active parameters of a model are not known.
    """
    planned, reference = planned_stage_flops(spec, stage, choice), spec.budget.reference
    if planned is None:
        raise SpaceError(f"stages[{stage.name}]: units need the active_params of every model; add them")
    if stage.python is not None:
        return planned / (2.0 * reference.active_params * reference.generated_tokens)
    return flops_to_units(planned, reference)


def planned_prompts(spec: PipelineSpec, stage: StageSpec, choice: StageChoice) -> int:
    """Return how often the prompt of a stage is billed per query: once for each request.

    Args:
        spec: The pipeline.
        stage: The stage.
        choice: The stage's choice.
    """
    if stage.python is not None:
        return 0
    requests = n_requests(spec.models[choice.model], choice.n_samples)
    return max(rounds(stage, choice.n_samples), requests)


def planned_stage_usd(spec: PipelineSpec, stage: StageSpec, choice: StageChoice) -> float:
    """Compute the planned US dollars of one stage for one query, fusion and verifier included.

    The prompt is billed once for each request, of which `max_n` says how many there are.

    Args:
        spec: The pipeline.
        stage: The stage, with its expected lengths.
        choice: The stage's choice.

    Raises:
        SpaceError: A model has no price.
    """
    if stage.python is not None:
        return stage.cost_of(choice.option).usd
    read_once, written_once = stage.lengths_of(choice.option)
    prompt_tokens = planned_prompts(spec, stage, choice) * read_once
    generated_tokens = choice.n_samples * written_once
    costs = [stage_cost_usd(spec.models[choice.model], prompt_tokens, generated_tokens)]
    calls = planned_aggregation(stage, choice)
    if calls is not None:
        read, written = calls.n_calls * calls.prompt_tokens, calls.n_calls * calls.generated_tokens
        costs.append(stage_cost_usd(spec.models[calls.model], read, written))
    cost = known_sum(costs)
    if cost is None:
        raise SpaceError(f"stages[{stage.name}]: US dollars need the price of every model; add price")
    return cost


def planned_seconds(spec: PipelineSpec, allocation: Mapping[str, StageChoice]) -> float:
    """Compute the planned seconds of one query.

    Stages run one after the other; a stage's samples run in parallel, then their fusion.

    Args:
        spec: The pipeline.
        allocation: The allocation.

    Raises:
        SpaceError: A model has no speed.
    """
    return sum(planned_stage_seconds(spec, stage, allocation[stage.name]) for stage in spec.stages)


def planned_stage_seconds(spec: PipelineSpec, stage: StageSpec, choice: StageChoice) -> float:
    """Compute the planned seconds of one stage for one query.

    Args:
        spec: The pipeline.
        stage: The stage.
        choice: The stage's choice.

    Raises:
        SpaceError: A model has no speed.
    """
    if stage.python is not None:
        return stage.cost_of(choice.option).seconds
    once = _seconds(spec, choice.model, *stage.lengths_of(choice.option))
    seconds = rounds(stage, choice.n_samples) * once
    calls = planned_aggregation(stage, choice)
    if calls is not None:
        seconds += _seconds(spec, calls.model, calls.prompt_tokens, calls.generated_tokens)
    return seconds


def _seconds(spec: PipelineSpec, model: str, prompt_tokens: float, generated_tokens: float) -> float:
    speed = spec.models[model].speed
    if speed is None:
        raise SpaceError(
            f"models.{model}.speed: latency needs the speed of every model that the stages use; add "
            "prompt_tokens_per_second and generated_tokens_per_second"
        )
    read = prompt_tokens / speed.prompt_tokens_per_second
    return read + generated_tokens / speed.generated_tokens_per_second
