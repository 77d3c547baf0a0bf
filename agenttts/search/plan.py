"""A forecast of a search before it is begun: calls, tokens, FLOPs, money, hours and statistical power.

It assumes the spec's expected lengths and that no sample is used twice; the sample bank makes the real search
cheaper. Servers and data are checked in `check`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from agenttts.errors import UserError
from agenttts.search.throughput import Throughput
from agenttts.serving.machine import Gpu, machine_text
from agenttts.space.measure import MeasureName, chosen_budget
from agenttts.space.space import SearchSpace
from agenttts.space.units import planned_aggregation, planned_aggregation_flops, planned_prompts
from agenttts.stats import smallest_resolvable_difference
from pipelines.allocation import Allocation, StageChoice
from pipelines.costs import model_flops, stage_cost_usd
from pipelines.dataset.splits import load_splits
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec

HOPELESS_DIFFERENCE = 0.15
_USEFUL_DIFFERENCE = 0.1
_N_TYPICAL = 200


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The forecast of a search.

    Counts are for all trials and for the confirmation on the test split, without reuse of samples.

    Attributes:
        measure: The measure of the budget: "units" or "usd".
        budget_units: The budget per query, in its measure.
        allocations: The number of allocations within the budget.
        trials: The largest number of trials.
        n_search: The number of search examples.
        n_test: The number of test examples.
        calls: Requests to servers.
        samples: Samples drawn.
        prompt_tokens: Prompt tokens, a prompt once for each request.
        generated_tokens: Generated tokens.
        flops: FLOPs; None when active parameters of a model are not known.
        cost_usd: US dollars; None when a model has no price.
        hours: The duration; None where the speed of the servers is not known.
        samples_per_second: The speed of all servers together for these samples; None where it is not known.
        speed_source: Where the speed is from, for people; None where it is not known.
        machine: The GPUs that the servers run on, such as 4x80; None where they are not known.
        gpu_cost_usd: US dollars of these GPUs for so long; None without hours, GPUs or their price.
        resolvable_difference: The smallest difference of two allocations' scores on the search split that is
            detected with a power of 80 % (`agenttts.stats`).
        warnings: Why the search may not be worth its cost, one line each.
    """

    measure: MeasureName
    budget_units: float
    allocations: int
    trials: int
    n_search: int
    n_test: int
    calls: int
    samples: int
    prompt_tokens: int
    generated_tokens: int
    flops: float | None
    cost_usd: float | None
    hours: float | None
    samples_per_second: float | None
    speed_source: str | None
    machine: str | None
    gpu_cost_usd: float | None
    resolvable_difference: float
    warnings: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Prompt and generated tokens."""
        return self.prompt_tokens + self.generated_tokens

    def to_dict(self) -> dict[str, object]:
        """Return the plan as JSON-able data, with the total of tokens."""
        return {**asdict(self), "tokens": self.tokens, "warnings": list(self.warnings)}


@dataclass(frozen=True, kw_only=True)
class _Query:
    """The mean cost of one query."""

    calls: float = 0.0
    samples: float = 0.0
    prompt_tokens: float = 0.0
    generated_tokens: float = 0.0
    flops: float = 0.0
    cost_usd: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: _Query) -> _Query:
        return _Query(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __mul__(self, times: float) -> _Query:
        return _Query(**{name: value * times for name, value in vars(self).items()})


def plan(
    spec: PipelineSpec,
    budget: float | None = None,
    trials: int = 20,
    *,
    budget_usd: float | None = None,
    n_search: int | None = None,
    n_test: int | None = None,
    throughput: Throughput | None = None,
    gpus: Sequence[Gpu] = (),
    usd_per_gpu_hour: float | None = None,
    seed: int = 0,
) -> Plan:
    """Forecast the cost of a search and of its confirmation.

    Args:
        spec: The pipeline.
        budget: The budget of an allocation per query, in the measure of the spec's own; None: the spec's.
        trials: The largest number of allocations to evaluate.
        budget_usd: The budget in US dollars per query instead; None: not in dollars.
        n_search: The number of search examples; None: as many as the dataset has.
        n_test: The number of test examples; None: as many as the dataset has.
        throughput: The speed of the servers; None: not known, and neither are the hours.
        gpus: The GPUs that are paid for.
        usd_per_gpu_hour: What one of them costs; None: not known.
        seed: The seed of the draw of typical allocations.

    Returns:
        The forecast.

    Raises:
        UserError: `trials` is below 1, or a GPU's price is given without GPUs.
        SpaceError: The budget is below the cheapest allocation, or a model lacks what its measure needs.
        PipelineError: The dataset can't be read, see `load_splits`.
    """
    if trials < 1:
        raise UserError(f"trials is >= 1, got {trials}")
    if usd_per_gpu_hour is not None and not gpus:
        raise UserError(
            "the price of a GPU needs GPUs, and none can be read here; state them, as in --gpus 4x80"
        )
    measure, amount = chosen_budget(spec, budget, budget_usd)
    space = SearchSpace(spec, amount, measure)
    if n_search is None or n_test is None:
        splits = load_splits(spec)
        n_search = len(splits.search) if n_search is None else n_search
        n_test = len(splits.test) if n_test is None else n_test
    trials = min(trials, space.size)
    typical = _typical_query(space, throughput, seed)
    confirmed = 2  # the winner and the best default
    total = typical * (trials * n_search + confirmed * n_test)
    resolvable = smallest_resolvable_difference(n_search)
    hours = None if throughput is None else total.seconds / 3600
    used = [spec.models[name] for name in spec.used_models]
    return Plan(
        measure=measure.name,
        budget_units=space.budget_units,
        allocations=space.size,
        trials=trials,
        n_search=n_search,
        n_test=n_test,
        calls=round(total.calls),
        samples=round(total.samples),
        prompt_tokens=round(total.prompt_tokens),
        generated_tokens=round(total.generated_tokens),
        flops=total.flops if all(model.active_params is not None for model in used) else None,
        cost_usd=total.cost_usd if all(model.price is not None for model in used) else None,
        hours=hours,
        samples_per_second=total.samples / total.seconds if hours else None,
        speed_source=None if throughput is None else throughput.source,
        machine=machine_text(gpus) or None,
        gpu_cost_usd=None
        if hours is None or usd_per_gpu_hour is None
        else hours * len(gpus) * usd_per_gpu_hour,
        resolvable_difference=resolvable,
        warnings=tuple(_warnings(space, n_search, resolvable)),
    )


def _typical_query(space: SearchSpace, throughput: Throughput | None, seed: int) -> _Query:
    """Return the mean over random allocations projected into the budget: a search stays near its limit."""
    rng = np.random.default_rng(seed)
    total = _Query()
    for _ in range(_N_TYPICAL):
        drawn = {
            s.name: s.options[rng.integers(len(s.options))].with_samples(
                int(rng.integers(1, s.max_samples + 1))
            )
            for s in space.stages
        }
        allocation = space.project(Allocation(drawn))
        query = _query(space.spec, allocation)
        if throughput is not None:
            query += _Query(seconds=throughput.seconds(space.spec, allocation, query.samples))
        total += query
    return total * (1 / _N_TYPICAL)


def _query(spec: PipelineSpec, allocation: Allocation) -> _Query:
    total = _Query()
    for stage in spec.stages:
        choice = allocation[stage.name]
        if stage.python is not None:
            cost = stage.cost_of(choice.option)
            total += _Query(flops=cost.flops, cost_usd=cost.usd)
            continue
        model, (read_once, written_once) = spec.models[choice.model], stage.lengths_of(choice.option)
        generated = choice.n_samples * written_once
        calls = planned_prompts(spec, stage, choice)
        read = calls * read_once
        total += _Query(
            calls=calls,
            samples=choice.n_samples,
            prompt_tokens=read,
            generated_tokens=generated,
            flops=model_flops(model, read, generated) or 0.0,
            cost_usd=stage_cost_usd(model, read, generated) or 0.0,
        )
        total += _aggregation(spec, stage, choice)
    return total


def _aggregation(spec: PipelineSpec, stage: StageSpec, choice: StageChoice) -> _Query:
    calls = planned_aggregation(stage, choice)
    if calls is None:
        return _Query()
    read, generated = calls.n_calls * calls.prompt_tokens, calls.n_calls * calls.generated_tokens
    return _Query(
        calls=calls.n_calls,
        samples=calls.n_calls,
        prompt_tokens=read,
        generated_tokens=generated,
        flops=planned_aggregation_flops(spec, stage, choice) or 0.0,
        cost_usd=stage_cost_usd(spec.models[calls.model], read, generated) or 0.0,
    )


def _warnings(space: SearchSpace, n_search: int, resolvable: float) -> Iterable[str]:
    if resolvable > HOPELESS_DIFFERENCE:
        enough = n_search
        while smallest_resolvable_difference(enough) > _USEFUL_DIFFERENCE:
            enough += 1
        yield (
            f"{n_search} search examples show differences of {resolvable:.2f} or more only, so that most "
            f"allocations can't be distinguished; {enough} examples would show {_USEFUL_DIFFERENCE:g}"
        )
    if space.size == 1:
        yield f"only {space.cheapest} is within the budget, so there is nothing to search; raise the budget"
    if (advice := space.below_reference()) is not None:
        yield advice
