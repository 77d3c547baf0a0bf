"""Whether a policy fits a pipeline, and the names of what its confidences read."""

from __future__ import annotations

from pipelines.policy import Policy, Rung, StagePlan
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.stages.ballots import SET_FEATURES, VALUE_FEATURES
from pipelines.stages.counts import Count


def stage_feature_names(stage: StageSpec, plan: StagePlan) -> tuple[str, ...]:
    """Return the names of the features of a stage's output; none where it is not voted on.

    Args:
        stage: The stage.
        plan: A plan that fits it.
    """
    count = Count.of(stage.aggregator_for(plan.choice.option), plan.vote)
    if count is None:
        return ()
    names = VALUE_FEATURES if count.threshold is None else SET_FEATURES
    return tuple(f"{stage.name}.{name}" for name in names)


def feature_names(spec: PipelineSpec, rung: Rung) -> tuple[str, ...]:
    """Return the names of the features of a rung's outcome, `stage.feature`, stage by stage.

    Args:
        spec: The pipeline.
        rung: A rung that fits it.
    """
    return tuple(name for stage in spec.stages for name in stage_feature_names(stage, rung[stage.name]))


def policy_problem(spec: PipelineSpec, policy: Policy) -> str | None:
    """Return why a policy can't be run on a pipeline, in one line; None when it can.

    Args:
        spec: The pipeline.
        policy: The policy.
    """
    stages = {stage.name: stage for stage in spec.stages}
    for number, rung in enumerate(policy.rungs, 1):
        if set(rung) != set(stages):
            return f"rung {number} must name each stage once ({', '.join(stages)}), got {', '.join(rung)}"
        for name, plan in rung.items():
            problem = _plan_problem(stages[name], plan)
            if problem is not None:
                return f"rung {number}, stage {name!r}: {problem}"
    for number, (rung, confidence) in enumerate(zip(policy.rungs, policy.confidences, strict=False), 1):
        names = feature_names(spec, rung)
        if confidence.features != names:
            return (
                f"the confidence of rung {number} must read {', '.join(names) or 'nothing'}, "
                f"got {', '.join(confidence.features) or 'nothing'}; fit it again"
            )
    return None


def _plan_problem(stage: StageSpec, plan: StagePlan) -> str | None:
    choice = plan.choice
    if choice.option not in stage.options:
        return f"may use {', '.join(map(str, stage.options))}, got {str(choice.option)!r}"
    if choice.n_samples > stage.max_samples:
        return f"n_samples must be <= max_samples, {stage.max_samples}, got {choice.n_samples}"
    try:
        count = Count.of(stage.aggregator_for(choice.option), plan.vote)
    except ValueError as error:
        return str(error)
    if count is None and plan.stop.kind != "fixed":
        return f"only a vote can stop early, got {plan.stop}"
    return None
