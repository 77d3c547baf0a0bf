"""Policies whose confidence grows with the share of the votes for the answer."""

from __future__ import annotations

from pipelines import PipelineSpec
from pipelines.allocation import StageChoice
from pipelines.policy import Confidence, Policy, Rung, StagePlan
from pipelines.stages.plans import feature_names


def _sureness(spec: PipelineSpec, one: Rung, intercept: float) -> Confidence:
    """A confidence that grows with the share of the votes for the answer."""
    names = feature_names(spec, one)
    weights = tuple(float(name == "answer.share_logit") for name in names)
    zeros, ones = (0.0,) * len(names), (1.0,) * len(names)
    return Confidence(features=names, means=zeros, scales=ones, weights=weights, intercept=intercept)


def cascade(spec: PipelineSpec, threshold: float, *rungs: Rung, intercept: float = 0.0) -> Policy:
    """A policy of these rungs, with one threshold for all."""
    confidences = tuple(_sureness(spec, one, intercept) for one in rungs)
    return Policy(rungs=rungs, thresholds=(threshold,) * (len(rungs) - 1), confidences=confidences)


def small_then_large(spec: PipelineSpec, threshold: float, n_samples: int) -> Policy:
    """Small models, then a large one for the answer where the small ones' answers differ."""
    rungs = (
        Rung(
            {
                "retrieve": StagePlan(choice=StageChoice("small", n_samples)),
                "answer": StagePlan(choice=StageChoice(model, n_samples)),
            }
        )
        for model in ("small", "large")
    )
    return cascade(spec, threshold, *rungs)
