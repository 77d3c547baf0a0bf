"""Policies replayed from arrays come to what running them comes to."""

from __future__ import annotations

from pathlib import Path as File

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.policies.cascades import Steps
from agenttts.policies.choices import replay_policy
from agenttts.policies.confidence import confidences, fit_confidence
from agenttts.policies.nodes import NOTHING
from agenttts.policies.paths import Path, Tables
from agenttts.policies.rates import Rates
from datastore import Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.dataset.splits import load_examples
from pipelines.policy import Policy, Rung, StagePlan, Stop, Vote, standing
from pipelines.runtime import PolicyRunner, Runtime
from pipelines.spec.files import load_spec
from pipelines.spec.models import Price
from pipelines.zoo import SPEC

WEIGHTED, SETS = Vote(kind="weighted"), Vote(kind="weighted", threshold=0.2)
BY_MASS = Stop(kind="confidence", level=1.0, first=1)
MARGIN = Stop(kind="confidence", level=0.25)
LIKELY = Stop(kind="confidence", level=0.9)


def rung(retrieve: StagePlan, answer: StagePlan) -> Rung:
    """A rung of the zoo."""
    return Rung({"retrieve": retrieve, "answer": answer})


def plan(model: str, n: int, vote: Vote | None = None, stop: Stop | None = None) -> StagePlan:
    """A plan of a stage."""
    return StagePlan(choice=StageChoice(model, n), vote=vote or Vote(), stop=stop or Stop())


CASCADES = {
    "more of the same": (
        rung(plan("small", 8, SETS), plan("medium", 8, WEIGHTED, BY_MASS)),
        rung(plan("small", 32, SETS), plan("medium", 16, WEIGHTED, BY_MASS)),
    ),
    "larger models": (
        rung(plan("small", 16, SETS, MARGIN), plan("small", 4)),
        rung(plan("medium", 16, SETS), plan("large", 16, WEIGHTED, BY_MASS)),
    ),
    "plain votes, three rungs": (
        rung(plan("small", 8, None, LIKELY), plan("small", 8, None, LIKELY)),
        rung(plan("small", 16), plan("medium", 12, None, Stop(kind="decided"))),
        rung(plan("large", 16), plan("medium", 16)),
    ),
}


@pytest.mark.parametrize("name", list(CASCADES))
async def test_a_replayed_cascade_is_the_one_that_runs(name: str, tmp_path: File) -> None:
    """Scores, realised units and the last rung are those of `PolicyRunner`, question by question."""
    spec = load_spec(SPEC)
    with Store.open(tmp_path / "zoo.duckdb") as store:
        store.attach_bank(spec.root / str(spec.bank))
        examples = load_examples(spec, "search")[:40]
        tables = Tables(spec, store, examples, rates=Rates.units(spec), orders=(0,))
        rungs = CASCADES[name]
        await tables.add(rungs)
        paths = [tables.path(one) for one in rungs]
        fits = tuple(fit_confidence(path.names, path.features, path.score) for path in paths)
        policy = Policy(rungs=rungs, thresholds=(0.8, 0.9)[: len(rungs) - 1], confidences=fits)
        replayed = replay_policy(policy, paths)
        runner = PolicyRunner(Runtime(spec, store, None, run_id=None, replay=True), policy)
        flops_per_unit = 2 * spec.budget.reference.active_params * spec.budget.reference.generated_tokens
        for i, example in enumerate(examples):
            ran = await runner.run_example(example)
            assert replayed.scores[0, i] == ran.outcome.score
            assert replayed.last_rung[0, i] == ran.n_rungs - 1
            assert replayed.costs[0, i] == pytest.approx((ran.flops or 0.0) / flops_per_unit)
        assert len(set(replayed.last_rung[0])) > 1  # some questions escalate and some do not


async def test_a_prompt_is_billed_to_each_request(tmp_path: File) -> None:
    """In US dollars a replayed cascade costs what the runner counts, where requests take few samples."""
    spec = load_spec(SPEC)
    price = Price(prompt_usd_per_million=2.0, generated_usd_per_million=7.0)
    models = {n: m.model_copy(update={"price": price, "max_n": 3}) for n, m in spec.models.items()}
    spec = spec.model_copy(update={"models": models})
    rungs = (rung(plan("small", 8), plan("small", 4)), rung(plan("small", 16), plan("medium", 8)))
    stopping = rung(plan("small", 16, None, Stop(kind="decided")), plan("medium", 12, None, LIKELY))
    with Store.open(tmp_path / "zoo.duckdb") as store:
        store.attach_bank(spec.root / str(spec.bank))
        examples = load_examples(spec, "search")[:12]
        tables = Tables(spec, store, examples, rates=Rates.usd(spec), orders=(0,))
        await tables.add((*rungs, stopping))
        paths = [tables.path(one) for one in rungs]
        fits = tuple(fit_confidence(path.names, path.features, path.score) for path in paths)
        policy = Policy(rungs=rungs, thresholds=(1.0,), confidences=fits)
        alone = Policy(rungs=(stopping,))
        in_chunks = replay_policy(alone, [tables.path(stopping)])
        replayed = replay_policy(policy, paths)
        runtime = Runtime(spec, store, None, run_id=None, replay=True)
        runner, stopper = PolicyRunner(runtime, policy), PolicyRunner(runtime, alone)
        for i, example in enumerate(examples):
            stopped = await stopper.run_example(example)
            assert in_chunks.costs[0, i] == pytest.approx(stopped.cost_usd)
            ran = await runner.run_example(example)
            assert ran.n_rungs == 2 and replayed.costs[0, i] == pytest.approx(ran.cost_usd)


async def test_a_fixed_policy_is_its_allocation(tmp_path: File) -> None:
    """A policy of one rung with plain votes scores as the allocation does, with the planned prefill off."""
    spec = load_spec(SPEC)
    allocation = Allocation({"retrieve": StageChoice("small", 12), "answer": StageChoice("large", 4)})
    with Store.open(tmp_path / "zoo.duckdb") as store:
        store.attach_bank(spec.root / str(spec.bank))
        examples = load_examples(spec, "search")[:40]
        tables = Tables(spec, store, examples, rates=Rates.units(spec), orders=(0,))
        (one,) = Policy.fixed(allocation).rungs
        await tables.add([one])
        path = tables.path(one)
        runtime = Runtime(spec, store, None, run_id=None, replay=True)
        for i, example in enumerate(examples):
            assert path.score[0, i] == (await runtime.run_example(allocation, example)).score


@given(st.data())
def test_what_stands_after_each_rung_is_what_the_rule_says(data: st.DataObject) -> None:
    """For any answers and confidences the arrays agree with `pipelines.policy.standing`."""
    n_rungs = data.draw(st.integers(1, 4))
    answers = data.draw(st.lists(st.sampled_from([NOTHING, 0, 1, 2]), min_size=n_rungs, max_size=n_rungs))
    sure = data.draw(st.lists(st.floats(0.01, 0.99), min_size=n_rungs, max_size=n_rungs))
    paths = [
        Path(
            rung=Rung({}),
            stages=(),
            answer=np.array([[answer]]),
            score=np.array([[float(k)]]),
            features=np.zeros((1, 1, 0)),
            names=(),
        )
        for k, answer in enumerate(answers)
    ]
    steps = Steps.of(paths, [np.array([[one]]) for one in sure])
    for k in range(n_rungs):
        keys = [None if answer == NOTHING else str(answer) for answer in answers[: k + 1]]
        stands = standing(keys, sure[: k + 1])
        assert steps.confidences[k][0, 0] == pytest.approx(stands.confidence)
        if stands.confidence > 0 and len({round(one, 6) for one in sure}) == n_rungs:
            assert steps.scores[k][0, 0] == stands.rung


def test_a_fitted_confidence_is_calibrated_and_the_same_in_arrays() -> None:
    """Fitted on many points of a logistic truth, it says the truth's probabilities, alone and in arrays."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(1, 20000, 2)) * (1.0, 5.0) + (0.0, 3.0)
    truth = 1 / (1 + np.exp(-(0.5 + 1.2 * features[..., 0] - 0.2 * (features[..., 1] - 3))))
    fit = fit_confidence(("a.x", "a.y"), features, (rng.random(truth.shape) < truth).astype(float))
    fitted = confidences(fit, features)
    assert np.abs(fitted - truth).max() < 0.05
    assert fit.of(features[0, 7].tolist()) == pytest.approx(fitted[0, 7])
