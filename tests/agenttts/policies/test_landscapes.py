"""Policies on simulated queries whose difficulty is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agenttts.compare.difficulty import DIFFICULTIES, N_SAMPLES, SimulatedQueries
from agenttts.policies.family import fixed_rungs
from agenttts.policies.paths import Tables
from agenttts.policies.rates import Rates
from benchmarks.adaptive_landscapes import Result, measure
from datastore import Sample
from pipelines.runtime import Runtime
from pipelines.stages import prompts


async def first_samples(queries: SimulatedQueries) -> list[list[Sample]]:
    """The samples of the smallest model at the first stage."""
    stage, model = queries.spec.stages[0], queries.spec.stages[0].models[0]
    sampler = Runtime(queries.spec, queries, None, run_id=None, replay=True).sampler
    keys = [
        sampler.prompt(model, prompts.render(stage, query, {}), stage.sampling).key
        for query in queries.examples
    ]
    return list((await queries.get_samples(keys)).values())


async def test_samples_are_as_their_class_says() -> None:
    """Log-probabilities are those of the draw, or absent, or of texts that never repeat."""
    drawn = {
        name: await first_samples(SimulatedQueries(kind, 3, n_examples=100, n_fresh=0))
        for name, kind in DIFFICULTIES.items()
    }
    expected, seen, masses = [], [], []
    for samples in drawn["mixed"]:
        mass = {s.text: math.exp((s.mean_logprob or 0.0) * s.generated_tokens) for s in samples}
        first = samples[0].text
        expected.append(mass[first] * (N_SAMPLES - 1))
        seen.append(sum(s.text == first for s in samples[1:]))
        masses.append(sum(mass.values()))
    assert max(masses) <= 1 + 1e-9
    assert np.mean(seen) == pytest.approx(np.mean(expected), rel=0.05)
    assert all(s.mean_logprob is None for samples in drawn["silent"] for s in samples)
    assert all(len({s.text for s in samples}) == N_SAMPLES for samples in drawn["free"])
    again = await first_samples(SimulatedQueries(DIFFICULTIES["mixed"], 3, n_examples=100, n_fresh=0))
    assert again == drawn["mixed"]


async def test_every_output_leads_to_samples_of_the_next_stage() -> None:
    """In three stages every allocation is known on every query, and larger models score better."""
    queries = SimulatedQueries(DIFFICULTIES["mixed"], 5, n_examples=30, n_fresh=0)
    tables = Tables(queries.spec, queries, queries.examples, rates=Rates.units(queries.spec))
    rungs = [
        rung for rung in fixed_rungs(queries.spec) if len({plan.choice.model for plan in rung.values()}) == 1
    ]
    await tables.add(rungs)
    assert all(tables.path(rung).known.all() for rung in rungs)
    small, *_, large = (float(tables.path(rung).score.mean()) for rung in rungs)
    assert large > small + 0.2


async def results(name: str, seeds: range, examples: int) -> list[Result]:
    """The choices on landscapes of one stage."""
    kind = DIFFICULTIES[name]
    return [row for seed in seeds for row in await measure(kind, 3 * seed, n_examples=examples, n_fresh=250)]


@pytest.mark.parametrize("name", ["blind", "free"])
async def test_where_adaptation_cannot_help_it_does_not_cost(name: str) -> None:
    """Over landscapes where nothing tells queries apart, choices score as the best fixed allocation."""
    rows = await results(name, range(1, 4), 50)
    assert np.mean([row.score - row.fixed for row in rows]) > -0.01
    assert np.mean([row.cost / row.budget for row in rows]) < 1.05


async def test_where_difficulty_differs_adaptation_helps() -> None:
    """At the smaller budget the policy is better; its cross-fitted score is right but for noise."""
    rows = [row for row in await results("mixed", range(1, 4), 60) if row.samples == 2]
    assert np.mean([row.score - row.fixed for row in rows]) > 0.02
    noise = 0.5 / math.sqrt(sum(row.examples for row in rows))
    assert abs(np.mean([row.cross_fitted - row.score for row in rows])) < 3 * noise
    assert np.mean([row.cost / row.budget for row in rows]) < 1.05
