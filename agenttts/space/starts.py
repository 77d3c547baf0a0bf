"""Combinations of options that are tried before anything is known of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from pipelines.allocation import StageOption
from pipelines.spec.stage import StageSpec

Magnitude = Callable[[str, StageOption], float]
"""What an option of a stage is ranked by."""


def default_options(stages: Sequence[StageSpec], magnitude: Magnitude) -> Iterator[dict[str, StageOption]]:
    """Yield one combination for each model that every stage offers, in the order of the first stage's models.

    Without a common model there is one for each rank of size: smallest with smallest, largest with largest.

    Args:
        stages: The stages.
        magnitude: The sizes.
    """
    plain = {stage.name: _plain_options(stage) for stage in stages}
    answering = [stage for stage in stages if stage.python is None]
    first = answering[0].models if answering else ()
    common = [model for model in first if all(model in stage.models for stage in answering)]
    for model in common:
        yield {
            stage.name: plain[stage.name][0 if stage.python is not None else stage.models.index(model)]
            for stage in stages
        }
    if common:
        return
    ranked = {stage: sorted(options, key=partial(magnitude, stage)) for stage, options in plain.items()}
    ranks = max(len(options) for options in ranked.values())
    for rank in range(ranks):
        share = rank / (ranks - 1) if ranks > 1 else 0.0
        yield {stage: options[round(share * (len(options) - 1))] for stage, options in ranked.items()}


def mixed_options(
    options: Mapping[str, Sequence[StageOption]], magnitude: Magnitude
) -> Iterator[dict[str, StageOption]]:
    """Yield combinations in which each option stands at least once, as in a Latin square.

    Args:
        options: The options of each stage.
        magnitude: The sizes.
    """
    ranked = [sorted(of_stage, key=partial(magnitude, stage)) for stage, of_stage in options.items()]
    count = max(len(of_stage) for of_stage in ranked)
    for i in range(count):
        places = [(i + k * (count // len(ranked) or 1)) % count for k in range(len(ranked))]
        yield {
            stage: of_stage[place * len(of_stage) // count]
            for stage, of_stage, place in zip(options, ranked, places, strict=True)
        }


def _plain_options(stage: StageSpec) -> list[StageOption]:
    """A stage's options with its first prompt and without a verifier; of a function, its first option."""
    if stage.python is not None:
        return [stage.options[0]]
    return [StageOption(model, None, stage.prompt_names[0]) for model in stage.models]
