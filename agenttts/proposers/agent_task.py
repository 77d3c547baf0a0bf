"""The task as the agent is shown it: the goal in words, the pipeline, its models and its stages' choices."""

from __future__ import annotations

from agenttts.proposers.base import SearchView
from agenttts.space.space import SearchSpace
from agenttts.space.units import planned_stage_seconds
from pipelines.allocation import StageOption
from pipelines.jsonvalues import JSON
from pipelines.spec.models import ModelSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.variants import BuiltinMetric, PythonAggregator

LONGEST_PROMPT = 1200  # characters


def goal_text(view: SearchView) -> str:
    """Return what the search is for, in a sentence.

    Args:
        view: What the proposer may know.
    """
    what = "planned units" if view.space.measure.name == "units" else "planned US dollars"
    budget = f"{view.space.budget_text} {view.space.measure.label} per query"
    if view.frontier:
        return (
            f"the best score at every cost up to {budget}: allocations that are cheap and good count as much "
            "as the best one"
        )
    if view.goal.objective == "quality":
        return f"the highest score within {budget}; what is left of the budget is worth nothing"
    least = what if view.goal.objective == "cost" else "planned seconds"
    required = view.settings.goal.min_quality
    return (
        f"the fewest {least} per query with a score of at least {required:g}, within {budget}; "
        f"{view.goal.min_quality:.3g} on the search examples shows it, and a higher score is worth nothing"
    )


def task(view: SearchView) -> dict[str, object]:
    """Return the pipeline, its models and the choices of its stages as JSON-able data.

    Args:
        view: What the proposer may know.
    """
    spec, space = view.space.spec, view.space
    metric = spec.metric
    return {
        "pipeline": view.task,
        **_about(spec.about),
        "score": metric.kind if isinstance(metric, BuiltinMetric) else "a function, from 0 to 1",
        "search_examples": view.n_examples,
        "budget_units": space.budget_units,
        **({"a_unit_is": "a US dollar"} if space.measure.name == "usd" else {}),
        "models": {name: _model(name, spec.models[name]) for name in spec.used_models},
        "stages": [_stage(view, stage) for stage in space.stages],
    }


def _about(words: str) -> dict[str, str]:
    return {"about": words} if words else {}


def _model(name: str, model: ModelSpec) -> dict[str, object]:
    """What is known of a model: its names, its size, its price and how it is asked."""
    known: dict[str, object] = {
        "served_name": model.served_name or name,
        "about": model.about,
        "active_params": model.active_params,
        "context_length": model.context_length,
        "tuned_from": model.parent,
    }
    if model.price is not None:
        known["usd_per_million_tokens"] = {
            "prompt": model.price.prompt_usd_per_million,
            "generated": model.price.generated_usd_per_million,
        }
    if model.sampling is not None:
        known["sampling_in_place_of_the_stage's"] = model.sampling.model_dump(mode="json")
    if model.request:
        known["request_fields"] = model.request
    return {key: value for key, value in known.items() if value not in (None, "")}


def _stage(view: SearchView, stage: StageSpec) -> dict[str, object]:
    prompts = {name: (variant.text or "")[:LONGEST_PROMPT] for name, variant in stage.prompts.items()}
    request: dict[str, object] = {}
    if stage.python is None:
        text = stage.prompt or "\n".join(f"{m['role']}: {m['content']}" for m in stage.messages or ())
        request = {"prompt": text[:LONGEST_PROMPT], "sampling": stage.sampling.model_dump(mode="json")}
    return {
        "stage": stage.name,
        **_about(stage.about),
        "takes_outputs_of": list(stage.inputs or ()),
        **request,
        **({"prompts": prompts} if prompts else {}),
        "largest_n_samples": stage.max_samples,
        "choices": [_choice(view, stage, option) for option in view.space.options[stage.name]],
    }


def _choice(view: SearchView, stage: StageSpec, option: StageOption) -> dict[str, object]:
    space = view.space
    first = space.stage_units(stage.name, option.with_samples(1))
    seconds: dict[str, object] = {}
    if view.goal.objective == "latency":
        seconds = {"seconds": planned_stage_seconds(space.spec, stage, option.with_samples(1))}
    if stage.python is not None:
        arguments: JSON = dict(stage.arguments[option.model])
        return {"model": option.model, "arguments": arguments, "units": rounded(space, first, 6), **seconds}
    each = space.stage_units(stage.name, option.with_samples(2)) - first
    aggregator = stage.aggregator_for(option)
    prompt_tokens, generated_tokens = stage.lengths_of(option)
    return {
        "model": option.model,
        **({} if option.verifier is None else {"verifier": option.verifier}),
        **({} if option.prompt is None else {"prompt": option.prompt}),
        "aggregator": "a function" if isinstance(aggregator, PythonAggregator) else aggregator.kind,
        "prompt_tokens": prompt_tokens,
        "generated_tokens": generated_tokens,
        "units_of_first_sample": rounded(space, first, 6),
        "units_of_each_further_sample": rounded(space, each, 6),
        **seconds,
    }


def rounded(space: SearchSpace, amount: float, digits: int) -> float:
    """Round units to so many decimals; dollars, which are small, to as many significant digits.

    Args:
        space: The space whose measure the amount is in.
        amount: The amount.
        digits: The number of digits.
    """
    return round(amount, digits) if space.measure.name == "units" else float(f"{amount:.{digits}g}")
