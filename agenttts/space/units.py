"""The budget of an allocation: planned FLOPs per query, in units of the reference model's samples.

Definition of AgentTTS (arXiv 2508.00890). The prefill of a prompt is paid once, however many samples follow,
as with prefix caching. Realised tokens and FLOPs are recorded by the runtime; what the search itself may
spend is capped in `limits`.
"""

from __future__ import annotations

from collections.abc import Mapping

from agenttts.errors import SpaceError
from pipelines.allocation import StageChoice
from pipelines.costs import stage_flops
from pipelines.spec.pipeline import PipelineSpec, ReferenceSpec, StageSpec
from pipelines.spec.variants import PlannedCalls

REFERENCE = ReferenceSpec()


def flops(active_params: float, prompt_tokens: int, generated_tokens: int, n_samples: int) -> float:
    """FLOPs of n samples of one prompt: 2·P·(Np + n·Nd), with Nd tokens generated per sample."""
    return stage_flops(active_params, prompt_tokens, n_samples * generated_tokens)


def units(
    active_params: float,
    prompt_tokens: int,
    generated_tokens: int,
    n_samples: int,
    reference: ReferenceSpec = REFERENCE,
) -> float:
    """Budget units of n samples of one prompt: (flops / (2·P_ref) - Np_ref) / Nd_ref, not rounded.

    One unit is one further sample of the reference model. Far below the reference the result is negative.
    """
    return flops_to_units(flops(active_params, prompt_tokens, generated_tokens, n_samples), reference)


def flops_to_units(flops_of_stage: float, reference: ReferenceSpec = REFERENCE) -> float:
    """FLOPs of one stage in budget units; the reference prefill is taken off once."""
    generated = flops_of_stage / (2.0 * reference.active_params) - reference.prompt_tokens
    return generated / reference.generated_tokens


def planned_stage_flops(spec: PipelineSpec, stage: StageSpec, choice: StageChoice) -> float:
    """Planned FLOPs of one stage for one query, at its expected lengths; fusion and verifier included."""
    model = spec.models[choice.model]
    prompt_tokens = rounds(stage, choice.n_samples) * stage.prompt_tokens
    drawn = flops(model.active_params, prompt_tokens, stage.generated_tokens, choice.n_samples)
    return drawn + planned_aggregation_flops(spec, stage, choice)


def rounds(stage: StageSpec, n_samples: int) -> int:
    """Prompts read for n samples: one, and with refinement as many as there are samples."""
    return stage.aggregator.rounds(n_samples)


def planned_aggregation(stage: StageSpec, choice: StageChoice) -> PlannedCalls | None:
    """What a choice asks of the model that aggregates its samples, at expected lengths; None without one."""
    aggregator = stage.aggregator_for(choice.option)
    return aggregator.planned_calls(choice.n_samples, stage.prompt_tokens, stage.generated_tokens)


def planned_aggregation_flops(spec: PipelineSpec, stage: StageSpec, choice: StageChoice) -> float:
    """Planned FLOPs per query of the model that aggregates; 0 where none does."""
    calls = planned_aggregation(stage, choice)
    if calls is None:
        return 0.0
    params = spec.models[calls.model].active_params
    return calls.n_calls * flops(params, calls.prompt_tokens, calls.generated_tokens, 1)


def planned_stage_units(spec: PipelineSpec, stage: StageSpec, choice: StageChoice) -> float:
    """Planned budget units of one stage; negative for a stage far below the reference."""
    return flops_to_units(planned_stage_flops(spec, stage, choice), spec.budget.reference)


def planned_seconds(spec: PipelineSpec, allocation: Mapping[str, StageChoice]) -> float:
    """Planned seconds of one query: stage after stage, a stage's samples side by side, then their fusion.

    SpaceError when a model has no speed.
    """
    return sum(planned_stage_seconds(spec, stage, allocation[stage.name]) for stage in spec.stages)


def planned_stage_seconds(spec: PipelineSpec, stage: StageSpec, choice: StageChoice) -> float:
    """Planned seconds of one stage for one query. SpaceError when a model has no speed."""
    once = _seconds(spec, choice.model, stage.prompt_tokens, stage.generated_tokens)
    seconds = rounds(stage, choice.n_samples) * once
    calls = planned_aggregation(stage, choice)
    if calls is not None:
        seconds += _seconds(spec, calls.model, calls.prompt_tokens, calls.generated_tokens)
    return seconds


def _seconds(spec: PipelineSpec, model: str, prompt_tokens: int, generated_tokens: int) -> float:
    speed = spec.models[model].speed
    if speed is None:
        raise SpaceError(
            f"models.{model}.speed: latency needs the speed of every model that the stages use; add "
            "prompt_tokens_per_second and generated_tokens_per_second"
        )
    read = prompt_tokens / speed.prompt_tokens_per_second
    return read + generated_tokens / speed.generated_tokens_per_second


def planned_units(spec: PipelineSpec, allocation: Mapping[str, StageChoice]) -> float:
    """Planned budget units of an allocation: summed over the stages. SpaceError when a stage is not named."""
    if set(allocation) != {stage.name for stage in spec.stages}:
        raise SpaceError(f"an allocation names every stage once, got {sorted(allocation)}")
    return sum(planned_stage_units(spec, stage, allocation[stage.name]) for stage in spec.stages)
