"""Policies over stages that run a function: the family, the choice by replay, and the same answers live."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from agenttts import load_run, search
from agenttts.policies.choices import replay_policy
from agenttts.policies.confidence import fit_confidence
from agenttts.policies.family import family, fixed_rungs
from agenttts.policies.paths import Tables
from agenttts.policies.rates import Rates
from datastore import Store
from pipelines import load_spec
from pipelines.allocation import StageChoice
from pipelines.dataset import load_examples
from pipelines.policy import Policy, Rung, StagePlan, Stop, Vote
from pipelines.runtime import PolicyRunner, Runtime
from pipelines.servers.clients import ModelClients
from pipelines.stages.plans import policy_problem
from tests.agenttts.choosing import calls_of, choosing_server, write_choosing
from tests.agenttts.commands import agenttts


def test_the_family_has_every_option_of_a_function(tmp_path: Path) -> None:
    """Each option is in each role, also in second rungs; no plan of a function votes or stops early."""
    spec = load_spec(write_choosing(tmp_path))
    built = family(spec, {"answer"})
    options = set(spec.stages[0].options)
    assert {rung["find"].choice.option for rung in fixed_rungs(spec)} == options
    for sketch in built.sketches:
        for rung in sketch.rungs:
            plan = rung["find"]
            assert (plan.vote, plan.stop, plan.choice.n_samples) == (Vote(), Stop(), 1)
    cascades = [sketch.rungs for sketch in built.sketches if len(sketch.rungs) == 2]
    seconds = {rungs[1]["find"].choice.option for rungs in cascades}
    assert seconds == options


def test_an_adaptive_policy_is_chosen_over_a_function(tmp_path: Path) -> None:
    """At work the chosen policy gives live what it gave in its trial, with calls from the bank."""
    with choosing_server() as server:
        spec = write_choosing(tmp_path, server.base_url, n_examples=60)
        db = tmp_path / "run.duckdb"
        result = search(spec, trials=8, db=db)
        adaptive = result.adaptive
        assert adaptive is not None and policy_problem(result.spec, adaptive.policy) is None
        examples = load_examples(result.spec, "test")
        inputs = "".join(json.dumps(dict(example.fields)) + "\n" for example in examples)
        command = ["run", spec, "--run", "latest", "--db", db, "--mean-units", "1e6"]
        live = agenttts(*command, stdin=inputs)
        n_calls = len(calls_of(spec))
        replayed = agenttts(*command, "--replay", stdin=inputs)
    assert live.code == 0, live.err
    assert replayed.code == 0, replayed.err
    outputs = [[json.loads(line)["output"] for line in done.out.splitlines()] for done in (live, replayed)]
    assert outputs[0] == outputs[1] and len(outputs[0]) == len(examples)
    assert len(calls_of(spec)) == n_calls == len(set(calls_of(spec)))
    assert load_run(db).adaptive is not None


async def test_a_replayed_cascade_over_a_function_is_the_one_that_runs(tmp_path: Path) -> None:
    """Scores, rungs and costs, those of calls included, are what `PolicyRunner` gives live."""
    with choosing_server() as server:
        spec = load_spec(write_choosing(tmp_path, server.base_url))
        first = Rung({"find": plan("alphabet", 1), "answer": plan("q/fast", 2)})
        second = Rung({"find": plan("overlap-1", 1), "answer": plan("q/think", 4, "steps")})
        examples = load_examples(spec, "search")
        clients = ModelClients(spec, rng=random.Random(0))
        with Store.open(tmp_path / "run.duckdb") as store:
            runtime = Runtime(spec, store, clients, run_id=None)
            for one in (first, second):
                for example in examples:
                    await runtime.run_example(one.allocation, example)
            tables = Tables(spec, store, examples, rates=Rates.units(spec), orders=(0,))
            await tables.add((first, second))
            paths = [tables.path(one) for one in (first, second)]
            fits = tuple(fit_confidence(path.names, path.features, path.score) for path in paths)
            policy = Policy(rungs=(first, second), thresholds=(0.9,), confidences=fits)
            replayed = replay_policy(policy, paths)
            runner = PolicyRunner(runtime, policy)
            per_unit = 2 * spec.budget.reference.active_params * spec.budget.reference.generated_tokens
            for i, example in enumerate(examples):
                ran = await runner.run_example(example)
                assert replayed.scores[0, i] == ran.outcome.score
                assert replayed.last_rung[0, i] == ran.n_rungs - 1
                assert replayed.costs[0, i] == pytest.approx((ran.flops or 0.0) / per_unit)
        await clients.aclose()


def plan(model: str, n: int, prompt: str | None = None) -> StagePlan:
    return StagePlan(choice=StageChoice(model, n, prompt=prompt))
