"""Running policies: chunks while a stage is undecided, rungs while the outcome is not sure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from agenttts.space.measure import Measure
from agenttts.space.units import query_units
from datastore import Store
from pipelines import load_examples, load_spec, zoo
from pipelines.allocation import Allocation, StageChoice
from pipelines.costs import known_sum
from pipelines.errors import SpecError
from pipelines.examples import Example
from pipelines.policy import Policy, Rung, StagePlan, Stop, Vote
from pipelines.runtime import PolicyOutcome, PolicyRunner, Runtime
from pipelines.spec.pipeline import PipelineSpec
from pipelines.stages.ballots import SET_FEATURES, VALUE_FEATURES
from pipelines.stages.plans import feature_names
from tests.agenttts.small_specs import small_spec
from tests.pipelines.runtime.cascades import cascade
from tests.servers import ScriptedServer

EXAMPLE = Example(id="e", fields={"question": "why", "gold": "red"})
DECIDED = Stop(kind="decided")
ONE = {"retrieve": StagePlan(choice=StageChoice("small", 1))}


def rung(answer: StagePlan, **others: StagePlan) -> Rung:
    return Rung({**ONE, **others, "answer": answer})


@pytest.fixture
def run(
    server: ScriptedServer, runtime_of: Callable[[PipelineSpec, bool], Runtime]
) -> Callable[..., Awaitable[Any]]:
    """`await run(policy)` on the small spec; each call is a runtime of its own on one store."""

    async def start(policy: Policy, spec: PipelineSpec | None = None, replay: bool = False) -> PolicyOutcome:
        runtime = runtime_of(spec or small_spec(base_url=server.base_url), replay)
        return await PolicyRunner(runtime, policy).run_example(EXAMPLE)

    return start


def answering(server: ScriptedServer, small: list[str], large: list[str]) -> None:
    """The texts of the answer stage by model, sample by sample; retrieve says "clue"."""
    texts = {"small": small, "large": large}
    server.answer = lambda r, i: texts[r.model][i % 8] if "clue" in r.prompt else "clue"


async def test_a_fixed_policy_is_its_allocation(
    server: ScriptedServer, store: Store, run: Callable[..., Any]
) -> None:
    """One rung that never stops gives outcome, tokens and FLOPs of the allocation."""
    spec = small_spec(base_url=server.base_url)
    allocation = Allocation({"retrieve": StageChoice("small", 3), "answer": StageChoice("large", 5)})
    await run(Policy.fixed(allocation), spec)
    by_policy = await run(Policy.fixed(allocation), spec, replay=True)
    outcome = await Runtime(spec, store, None, run_id=None).run_example(allocation, EXAMPLE)
    assert by_policy.outcome == outcome
    assert by_policy.n_samples == 8 and by_policy.confidence is None
    assert by_policy.flops == known_sum(stage.flops for stage in outcome.stages)


async def test_a_stage_stops_when_it_is_decided(server: ScriptedServer, run: Callable[..., Any]) -> None:
    """Of 8 samples the first 4 alike decide, as a tie would go to them; a split vote draws on in chunks."""
    answering(server, ["red"] * 8, [])
    policy = Policy(rungs=(rung(StagePlan(choice=StageChoice("small", 8), stop=DECIDED)),))
    outcome = await run(policy)
    assert outcome.outcome.output == "red" and outcome.outcome.stages[1].n_samples == 4
    assert (outcome.n_samples, outcome.samples_drawn) == (5, 5)
    assert [request.n for request in server.arrived] == [1, 4]


async def test_a_split_vote_draws_on_and_ends_as_all_samples_do(
    server: ScriptedServer, run: Callable[..., Any]
) -> None:
    """Chunks of 4, 2 and 1, and the output of the vote of all 8; prompt and samples are paid once."""
    answering(server, ["red", "blue"] * 4, [])
    plan = StagePlan(choice=StageChoice("small", 8), stop=DECIDED)
    split = await run(Policy(rungs=(rung(plan),)))
    assert [request.n for request in server.arrived] == [1, 4, 2, 1]
    whole = await run(Policy(rungs=(rung(replace(plan, stop=Stop())),)))
    assert split.outcome.output == whole.outcome.output == "red"
    (retrieve, answer), (_, all_answers) = split.outcome.stages, whole.outcome.stages
    assert (answer.samples_drawn, answer.samples_reused, answer.calls) == (7, 0, 3)
    assert answer.prompt_tokens == all_answers.prompt_tokens
    assert 8 * answer.generated_tokens == 7 * all_answers.generated_tokens
    assert split.flops == retrieve.flops + answer.flops < whole.flops


@pytest.mark.parametrize("max_n", [None, 3])
async def test_each_chunk_is_billed_as_the_server_bills_it(
    server: ScriptedServer, run: Callable[..., Any], max_n: int | None
) -> None:
    """Each request reads its prompt: in chunks, by a rung that goes on, and where it takes few samples."""
    answering(server, ["red", "blue"] * 4, ["red"] * 8)
    price = {"prompt_usd_per_million": 3.0, "generated_usd_per_million": 5.0}
    spec = small_spec(base_url=server.base_url, model={"price": price, "max_n": max_n})
    split = rung(StagePlan(choice=StageChoice("small", 6), stop=DECIDED))
    more = rung(StagePlan(choice=StageChoice("small", 8)))
    outcome = await run(cascade(spec, 0.999, split, more), spec)
    assert outcome.n_rungs == 2
    billed = 3e-6 * server.prompt_tokens + 5e-6 * server.generated_tokens
    assert outcome.cost_usd == pytest.approx(billed)


async def test_an_unsure_outcome_escalates_and_the_surer_stands(
    server: ScriptedServer, run: Callable[..., Any]
) -> None:
    """A split vote of the small model goes on to the large one, whose clear answer stands."""
    answering(server, ["blue", "red", "blue", "green"], ["red"] * 8)
    spec = small_spec(base_url=server.base_url)
    first, second = (rung(StagePlan(choice=StageChoice(model, 4))) for model in ("small", "large"))
    outcome = await run(cascade(spec, 0.8, first, second), spec)
    assert (outcome.n_rungs, outcome.rung, outcome.outcome.output) == (2, 1, "red")
    assert outcome.confidence == pytest.approx(0.9)  # 4.5 : 0.5 votes
    assert outcome.n_samples == 1 + 4 + 4
    assert outcome.outcome.score == 1.0


async def test_a_sure_outcome_does_not_escalate(server: ScriptedServer, run: Callable[..., Any]) -> None:
    """The large model is not asked where the small one is sure."""
    answering(server, ["red"] * 8, ["blue"] * 8)
    spec = small_spec(base_url=server.base_url)
    first, second = (rung(StagePlan(choice=StageChoice(model, 4))) for model in ("small", "large"))
    outcome = await run(cascade(spec, 0.8, first, second), spec)
    assert (outcome.n_rungs, outcome.rung, outcome.outcome.output) == (1, 0, "red")
    assert {request.model for request in server.arrived} == {"small"}


async def test_a_rung_of_the_same_model_draws_only_further_samples(
    server: ScriptedServer, run: Callable[..., Any]
) -> None:
    """From 2 to 6 samples of one prompt are 4 more, and its tokens are counted once."""
    answering(server, ["blue", "red", "red", "red", "red", "red"], [])
    spec = small_spec(base_url=server.base_url)
    first, second = (rung(StagePlan(choice=StageChoice("small", n))) for n in (2, 6))
    outcome = await run(cascade(spec, 0.8, first, second), spec)
    assert [request.n for request in server.arrived] == [1, 2, 4]
    assert outcome.outcome.output == "red" and outcome.n_samples == outcome.samples_drawn == 7
    alone = await run(Policy(rungs=(second,)), spec, replay=True)
    assert outcome.flops == alone.flops


async def test_outcomes_that_agree_make_each_other_surer(
    server: ScriptedServer, run: Callable[..., Any]
) -> None:
    """The first rung's outcome stands with 1 - (1 - a)(1 - b)."""
    answering(server, ["red", "blue"] * 4, ["red", "green"] * 4)
    spec = small_spec(base_url=server.base_url)
    first, second = (rung(StagePlan(choice=StageChoice(model, 2))) for model in ("small", "large"))
    outcome = await run(cascade(spec, 0.8, first, second), spec)
    assert (outcome.n_rungs, outcome.rung) == (2, 0)
    assert outcome.confidence == pytest.approx(0.75)


@pytest.mark.parametrize("failing", ["small", "large"])
async def test_a_fault_on_any_rung_is_a_missing_value(
    failing: str, server: ScriptedServer, run: Callable[..., Any]
) -> None:
    """Also on the second: the first rung's outcome was not sure enough to stand."""
    answering(server, ["red", "blue"] * 4, ["red"] * 8)
    server.fault = lambda r: "500" if r.model == failing and "clue" in r.prompt else None
    spec = small_spec(base_url=server.base_url)
    first, second = (rung(StagePlan(choice=StageChoice(model, 2))) for model in ("small", "large"))
    outcome = await run(cascade(spec, 0.8, first, second), spec)
    number = 1 if failing == "small" else 2
    assert outcome.outcome.status == "error" and outcome.outcome.score is None
    assert outcome.outcome.reason.startswith(f"rung {number}, answer: ")
    assert outcome.n_rungs == number and outcome.confidence is None


async def test_a_replay_decides_alike_without_a_call(server: ScriptedServer, run: Callable[..., Any]) -> None:
    """Answer, rungs, confidence and FLOPs are those of the live run, and nothing is drawn."""
    spec = small_spec(base_url=server.base_url)
    plans = [StagePlan(choice=StageChoice(model, 8), stop=DECIDED) for model in ("small", "large")]
    policy = cascade(spec, 0.9, *(rung(plan, retrieve=plan) for plan in plans))
    live = await run(policy, spec)
    asked = len(server.arrived)
    again = await run(policy, spec, replay=True)
    assert len(server.arrived) == asked and again.samples_drawn == 0
    assert (again.outcome.output, again.n_rungs, again.rung) == (
        live.outcome.output,
        live.n_rungs,
        live.rung,
    )
    assert (again.confidence, again.flops, again.n_samples) == (live.confidence, live.flops, live.n_samples)


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (StagePlan(choice=StageChoice("huge", 1)), "may use small, large, got 'huge'"),
        (StagePlan(choice=StageChoice("small", 9)), "must be <= max_samples, 8, got 9"),
        (StagePlan(choice=StageChoice("small", 1), vote=Vote(threshold=0.2)), "takes no threshold"),
    ],
)
async def test_a_policy_that_does_not_fit_is_refused(
    plan: StagePlan, problem: str, run: Callable[..., Any]
) -> None:
    """The message names rung and stage, the rule and the value; nothing is drawn."""
    with pytest.raises(SpecError, match=rf"rung 1, stage 'answer': .*{problem}"):
        await run(Policy(rungs=(rung(plan),)))


async def test_stages_without_a_vote_run_as_they_are(server: ScriptedServer, run: Callable[..., Any]) -> None:
    """Best of n takes part in a policy, with neither features nor an early stop."""
    server.answer = lambda request, index: ("red", "sevenxx")[index % 2]
    spec = small_spec(base_url=server.base_url, stages=({}, {"aggregator": {"kind": "best_of_n"}}))
    plan = StagePlan(choice=StageChoice("small", 4))
    assert (await run(Policy(rungs=(rung(plan),)), spec)).outcome.status == "ok"
    assert feature_names(spec, rung(plan)) == tuple(f"retrieve.{name}" for name in VALUE_FEATURES)
    with pytest.raises(SpecError, match="only a vote can stop early, got stop decided"):
        await run(Policy(rungs=(rung(replace(plan, stop=DECIDED)),)), spec)


def test_the_zoo_by_replay(store: Store) -> None:
    """On recorded samples a lossless stop changes no answer and saves samples; a fixed policy costs its plan.

    The reference prefill is taken off once a stage, so realised units are near the planned ones.
    """
    spec = load_spec(zoo.SPEC)
    store.attach_bank(spec.root / str(spec.bank))
    examples = load_examples(spec, "search")[:40]
    allocation = Allocation({"retrieve": StageChoice("small", 16), "answer": StageChoice("medium", 8)})
    runtime = Runtime(spec, store, None, run_id=None, replay=True)

    async def outcomes(policy: Policy) -> list[PolicyOutcome]:
        runner = PolicyRunner(runtime, policy)
        return list(await asyncio.gather(*(runner.run_example(example) for example in examples)))

    stopping = {name: StagePlan(choice=choice, stop=DECIDED) for name, choice in allocation.items()}
    whole = asyncio.run(outcomes(Policy.fixed(allocation)))
    early = asyncio.run(outcomes(Policy(rungs=(Rung(stopping),))))
    assert [one.outcome.output for one in early] == [one.outcome.output for one in whole]
    assert [one.outcome.score for one in early] == [one.outcome.score for one in whole]
    used = [sum(one.n_samples for one in run) for run in (early, whole)]
    assert used[0] < 0.9 * used[1]
    units = [query_units(spec, one.flops) for one in whole]
    assert sum(units) / len(units) == pytest.approx(Measure.of(spec).planned(allocation), rel=0.15)
    names = feature_names(spec, Rung(stopping))
    assert len(names) == len(SET_FEATURES) + len(VALUE_FEATURES)
