"""Trials: what is scored, what is missing, what stops a run, and what the store keeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agenttts.errors import UserError
from agenttts.results.meter import SampleMeter, load_health
from agenttts.results.trials import TrialResult, load_trial
from agenttts.search.evaluate import evaluate
from agenttts.search.events import TrialProgress
from agenttts.search.limits import Ledger
from agenttts.search.planned import PlannedTrial
from agenttts.settings import SearchLimits
from agenttts.space.space import SearchSpace
from datastore import ExampleScore, Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.errors import ConfigurationError, ReplayMiss, SpendRefused
from pipelines.examples import Example
from pipelines.policy import Confidence, Policy
from pipelines.runtime.runtime import Runtime
from pipelines.servers.clients import ModelClients
from pipelines.servers.patience import Patience
from pipelines.spec.pipeline import PipelineSpec
from pipelines.stages.plans import feature_names
from tests.agenttts.small_specs import small_spec
from tests.datastore import made
from tests.servers import Request, ScriptedServer

EXAMPLES = [Example(f"e{i}", {"question": f"number {i}", "gold": "red"}) for i in range(10)]
METRIC = {"kind": "exact_match", "label": "gold"}


def allocation(n_retrieve: int, n_answer: int, model: str = "small") -> Allocation:
    return Allocation({"retrieve": StageChoice(model, n_retrieve), "answer": StageChoice("small", n_answer)})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run.duckdb") as opened:
        opened.start_run(made.run("r1", started_at=0.0))
        yield opened


class Bench:
    """Evaluates allocations of the small pipeline against a scripted server."""

    def __init__(self, spec: PipelineSpec, store: Store, runtime: Runtime) -> None:
        self.spec, self.store, self.runtime = spec, store, runtime
        self.progress: list[TrialProgress] = []
        self._times = iter(range(1_000_000))

    async def trial(self, chosen: Allocation, number: int = 0, **options: Any) -> TrialResult:
        planned = PlannedTrial(
            allocation=chosen,
            examples=options.pop("examples", EXAMPLES),
            purpose=options.pop("purpose", "search"),
            proposer="test",
            reason="to see",
            policy=options.pop("policy", None),
            n_examples=options.pop("n_examples", None),
            grows=options.pop("grows", None),
        )
        return await evaluate(
            planned,
            runtime=self.runtime,
            store=self.store,
            run_id="r1",
            number=number,
            space=SearchSpace(self.spec, 1e6),
            clock=lambda: float(next(self._times)),
            on_progress=self.progress.append,
            **options,
        )


@asynccontextmanager
async def bench(
    server: ScriptedServer, store: Store, limits: SearchLimits | None = None, **spec: Any
) -> AsyncIterator[Bench]:
    made = small_spec(base_url=server.base_url, **spec)
    gate = Ledger(limits, made.models, clock=lambda: 0.0) if limits else None
    patience = Patience(retry_s=0.2, timeout_s=60)
    clients = ModelClients(made, rng=random.Random(0), patience=patience, backoff_s=0.01)
    try:
        yield Bench(made, store, Runtime(made, store, clients, run_id="r1", gate=gate))
    finally:
        await clients.aclose()


async def test_a_trial(server: ScriptedServer, store: Store) -> None:
    """The score is the mean over examples, with realised tokens and FLOPs, and the store gives it back."""
    server.answer = lambda request, index: "red" if "number 3" not in request.prompt else "blue"
    async with bench(server, store, stages=[{"metric": METRIC}, {}]) as b:
        result = await b.trial(allocation(2, 3))
    assert result.status == "complete"
    assert result.score == pytest.approx(0.9)
    assert result.scores == {f"e{i}": float(i != 3) for i in range(10)}
    assert (result.n_scored, result.n_missing, result.split) == (10, 0, "search")
    assert result.stage_scores == {"retrieve": pytest.approx(0.9), "answer": None}
    assert result.budget_units == 5
    assert (result.samples_drawn, result.samples_reused, result.calls) == (50, 0, 20)
    generated = 10 * (2 + 3) * 2  # a word and an end of text each
    assert result.generated_tokens == generated
    assert result.prompt_tokens == 10 * (3 + 4)
    assert result.flops_per_query == pytest.approx(2 * 1e6 * (generated + result.prompt_tokens) / 10)
    assert result.cost_usd is None
    (stored,) = store.trials("r1")
    assert load_trial(store, stored) == result
    assert len(store.stage_results(stored.trial_id)) == 20
    last = b.progress[-1]
    assert (last.n_done, last.n_examples, last.samples_drawn, last.calls) == (10, 10, 50, 20)


async def test_a_trial_that_grows(server: ScriptedServer, store: Store) -> None:
    """In two parts it comes to what it does in one, requests and running time included."""
    server.answer = lambda request, index: "red" if "number 3" not in request.prompt else "blue"
    async with bench(server, store, stages=[{"metric": METRIC}, {}]) as b:
        first = await b.trial(allocation(2, 3), n_examples=4)
        (row,) = store.trials("r1")
        for example in ("e0", "e7"):  # as a growth that was interrupted has stored them
            score = ExampleScore(
                trial_id=row.trial_id, example_id=example, score=1.0, status="ok", reason=None
            )
            await store.put_scores([score])
        assert load_trial(store, row) == first
        grown = await b.trial(allocation(2, 3), grows=first)
    assert (first.status, first.score, first.n_run, first.calls) == ("partial", 0.75, 4, 8)
    assert b.progress[-1].n_done == b.progress[-1].n_examples == 10
    (stored,) = store.trials("r1")
    assert load_trial(store, stored) == grown and grown.status == "complete"
    assert grown.scores == {f"e{i}": float(i != 3) for i in range(10)}
    assert grown.stage_scores == {"retrieve": pytest.approx(0.9), "answer": None}
    assert (grown.samples_drawn, grown.samples_reused, grown.calls) == (50, 0, 20)
    assert (grown.prompt_tokens, grown.generated_tokens) == (70, 100)
    assert grown.flops_per_query == pytest.approx(2 * 1e6 * 170 / 10)
    assert row.finished_at is not None and stored.finished_at is not None
    assert (row.started_at, row.finished_at) == (0.0, 1.0)
    assert stored.finished_at - stored.started_at == 2.0, (
        "one second for each part, by the clock of the bench"
    )


async def test_samples_are_reused(server: ScriptedServer, store: Store) -> None:
    """After 2 samples, asking for 5 draws 3, and trials that share a stage share its samples."""
    server.answer = lambda request, index: "red"
    async with bench(server, store) as b:
        await b.trial(allocation(2, 1))
        more = await b.trial(allocation(5, 1), 1)
        again = await b.trial(allocation(5, 1), 2)
    assert (more.samples_drawn, more.samples_reused) == (30, 30)
    assert (again.samples_drawn, again.samples_reused, again.calls) == (0, 60, 0)
    assert again.prompt_tokens == more.prompt_tokens


async def test_money(server: ScriptedServer, store: Store) -> None:
    """Where models have prices, a trial's cost is what its samples cost, banked or not."""
    price = {"prompt_usd_per_million": 1.0, "generated_usd_per_million": 10.0}
    async with bench(server, store, model={"price": price}) as b:
        first = await b.trial(allocation(1, 1))
        again = await b.trial(allocation(1, 1), 1)
    assert first.cost_usd == pytest.approx((first.prompt_tokens + 10 * first.generated_tokens) / 1e6)
    assert again.cost_usd == first.cost_usd


@pytest.mark.parametrize("kind", ["500", "garbage", "empty", "close"])
async def test_a_fault_is_missing_and_never_zero(server: ScriptedServer, store: Store, kind: str) -> None:
    """An example whose requests keep failing is missing with its reason, and the mean rests on the others."""
    server.answer = lambda request, index: "red"
    server.fault = lambda request: kind if "number 3" in request.prompt else None
    async with bench(server, store) as b:
        result = await b.trial(allocation(1, 1))
    assert (result.status, result.score, result.n_scored, result.n_missing) == ("complete", 1.0, 9, 1)
    assert result.scores["e3"] is None
    score = store.scores("r1-0000")["e3"]
    assert score.status == "error"
    assert score.score is None
    assert score.reason is not None
    assert score.reason.startswith("retrieve: ")
    assert load_trial(store, store.trials("r1")[0]) == result


async def test_too_many_missing_is_a_failed_trial(server: ScriptedServer, store: Store) -> None:
    """Past the error rate a trial has failed: no score, the commonest reason, scored examples kept."""
    server.answer = lambda request, index: "red"
    server.fault = lambda request: "500" if "number 1" in request.prompt or "2" in request.prompt else None
    async with bench(server, store) as b:
        result = await b.trial(allocation(1, 1), max_error_rate=0.1)
        allowed = await b.trial(allocation(1, 1), 1, max_error_rate=0.2)
    assert (result.status, result.score, result.n_scored, result.n_missing) == ("failed", None, 8, 2)
    assert result.error is not None
    assert result.error.startswith("2 of 10 examples are missing, more than 10%")
    assert result.scores["e0"] == 1.0
    assert (allowed.status, allowed.score) == ("complete", 1.0)


async def test_a_failing_function_is_missing(server: ScriptedServer, store: Store) -> None:
    """A metric that raises makes the example missing."""

    def metric(output: Any, fields: dict[str, Any]) -> float:
        if fields["question"] == "number 4":
            raise RuntimeError("no such thing")
        return 1.0

    async with bench(server, store, metric=metric) as b:
        result = await b.trial(allocation(1, 1))
    assert (result.score, result.n_missing) == (1.0, 1)
    assert "no such thing" in (store.scores("r1-0000")["e4"].reason or "")


async def test_a_bug_is_missing_too(
    server: ScriptedServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unforeseen exception in one example is sorted as a missing value, with its class in the reason."""
    async with bench(server, store) as b:
        run_example: Callable[..., Any] = b.runtime.run_example

        async def broken(chosen: Allocation, example: Example) -> Any:
            if example.id == "e7":
                raise ZeroDivisionError("oops")
            return await run_example(chosen, example)

        monkeypatch.setattr(b.runtime, "run_example", broken)
        result = await b.trial(allocation(1, 1))
    assert result.n_missing == 1
    assert store.scores("r1-0000")["e7"].reason == "ZeroDivisionError: oops"


async def test_a_configuration_error_stops_the_run(server: ScriptedServer, store: Store) -> None:
    """A model that is not served stops the run at once; what was done is kept, the trial stays unfinished."""
    server.fault = lambda request: "no_model" if "number 5" in request.prompt else None
    async with bench(server, store) as b:
        with pytest.raises(ConfigurationError):
            await b.trial(allocation(1, 1))
    (stored,) = store.trials("r1")
    assert stored.status == "running"
    assert load_trial(store, stored).score is None


async def test_a_refusal_to_spend_keeps_what_was_paid_for(server: ScriptedServer, store: Store) -> None:
    """At the cap the trial stops unfinished, within the cap, with every paid sample in the bank."""
    async with bench(server, store, SearchLimits(tokens=250)) as b:
        with pytest.raises(SpendRefused, match="limit on tokens"):
            await b.trial(allocation(2, 2))
    cost = store.run_cost("r1")
    assert 0 < cost.samples_drawn == sum(server.samples.values())
    assert cost.prompt_tokens + cost.generated_tokens <= 250
    assert store.trials("r1")[0].status == "running"


async def test_an_interrupted_trial_is_run_again_from_the_bank(server: ScriptedServer, store: Store) -> None:
    """A cancelled trial keeps its samples; run again, it draws only what is missing."""
    server.answer = lambda request, index: "red"
    server.latency_s = 0.05
    async with bench(server, store) as b:
        server.fault = lambda request: "hang" if "number 9" in request.prompt else None
        running = asyncio.create_task(b.trial(allocation(1, 1)))
        while len(store.scores("r1-0000")) < 9:
            await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert store.trials("r1")[0].status == "running"
    server.fault = None
    async with bench(server, store) as b:
        result = await b.trial(allocation(1, 1))
    assert (result.score, result.samples_drawn, result.samples_reused) == (1.0, 2, 18)
    assert set(server.completed.values()) == {1}
    assert [t.status for t in store.trials("r1")] == ["complete"]


async def test_a_replay_miss_stops(server: ScriptedServer, store: Store) -> None:
    """In replay, what the bank can't answer stops the run; what it can gives the same scores."""
    async with bench(server, store) as b:
        first = await b.trial(allocation(2, 2))
        b.runtime = Runtime(b.spec, store, None, run_id="r1", replay=True)
        again = await b.trial(allocation(2, 2), 1)
        assert again.scores == first.scores
        with pytest.raises(ReplayMiss):
            await b.trial(allocation(3, 2), 2)


async def test_the_test_split_is_named(server: ScriptedServer, store: Store) -> None:
    """A trial for the purpose "test" is stored under the test split."""
    async with bench(server, store) as b:
        result = await b.trial(allocation(1, 1), purpose="test")
    assert result.split == store.trials("r1")[0].split == "test"


async def test_no_examples(server: ScriptedServer, store: Store) -> None:
    """A trial on nothing is an error, and leaves no row."""
    async with bench(server, store) as b:
        with pytest.raises(UserError, match="at least one example"):
            await b.trial(allocation(1, 1), examples=[])
    assert store.trials("r1") == []


async def test_a_policys_samples_are_in_the_shares(server: ScriptedServer, store: Store) -> None:
    """A model that only a policy's further rung uses has shares, and the store gives the same."""

    def message(request: Request, text: str) -> Mapping[str, Any]:
        return {"finish_reason": "length"} if request.model == "large" else {}

    server.message = message
    server.answer = lambda request, index: "large" if "large" in request.prompt else request.model
    first, second = allocation(2, 2), allocation(2, 2, model="large")
    rungs = tuple(Policy.fixed(chosen).rungs[0] for chosen in (first, second))
    async with bench(server, store) as runs:
        names = feature_names(runs.spec, rungs[0])
        zeros, ones = (0.0,) * len(names), (1.0,) * len(names)
        unsure, sure = (
            Confidence(features=names, means=zeros, scales=ones, weights=zeros, intercept=intercept)
            for intercept in (-3.0, 3.0)
        )
        policy = Policy(rungs=rungs, thresholds=(0.7,), confidences=(unsure, sure))
        meter = SampleMeter(runs.spec, store, EXAMPLES)
        await runs.trial(first, purpose="policy", policy=policy, meter=meter)
        shares = {(one.stage, one.model): (one.n_samples, one.cut) for one in meter.health()}
        assert load_health(store, "r1", runs.spec, EXAMPLES) == meter.health()
    assert shares["retrieve", "large"] == (2 * len(EXAMPLES), 1.0)
    assert {(one.stage, one.model) for one in runs.progress[-1].health} == set(shares)


async def test_a_policys_trial(server: ScriptedServer, store: Store) -> None:
    """Each sample of all rungs counts once; how far each example went is stored, and the policy read back."""
    server.answer = lambda request, index: "blue" if index % 2 else "red"
    first, second = allocation(2, 2), allocation(2, 6)
    rungs = tuple(Policy.fixed(chosen).rungs[0] for chosen in (first, second))
    async with bench(server, store) as runs:
        names = feature_names(runs.spec, rungs[0])
        zeros, ones = (0.0,) * len(names), (1.0,) * len(names)
        sure = Confidence(features=names, means=zeros, scales=ones, weights=zeros, intercept=0.0)
        policy = Policy(rungs=rungs, thresholds=(0.7,), confidences=(sure, sure))
        trial = await runs.trial(first, purpose="policy", policy=policy)
        alone = await runs.trial(second, number=1)
    assert trial.policy == policy and trial.score == 1.0
    assert trial.samples_drawn == len(EXAMPLES) * 8 and alone.samples_drawn == 0
    assert trial.flops_per_query == alone.flops_per_query and trial.prompt_tokens == alone.prompt_tokens
    results = store.policy_results("r1-0000")
    assert {r.example_id for r in results} == {example.id for example in EXAMPLES}
    assert {(r.n_rungs, r.rung, r.n_samples) for r in results} == {(2, 0, 8)}
    assert all(r.flops == trial.flops_per_query and r.confidence == 0.75 for r in results)
    stored = {row.number: load_trial(store, row) for row in store.trials("r1")}
    assert stored[0] == trial and stored[1].policy is None


async def test_a_trial_holds_no_more_examples_than_it_runs_at_once(
    server: ScriptedServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many examples a trial has, some are under way, and each that ends makes room for another."""
    monkeypatch.setattr(Runtime, "n_at_once", 3)
    server.latency_s = 0.01
    async with bench(server, store) as b:
        result = await b.trial(allocation(2, 3))
    assert (result.status, result.n_scored) == ("complete", 10)
    assert server.most_in_flight == 3
