"""The policy at the end of a search: chosen by replay, bought, tested, certified, put to work."""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from agenttts import UserError, load_run, search
from agenttts.answering import MeanCost, answers
from agenttts.results.adaptive import AdaptivePolicy
from agenttts.search.events import TrialStarted
from datastore import Store
from pipelines.dataset import load_examples
from pipelines.dataset.inputs import read_inputs
from pipelines.policy import Policy
from pipelines.spec.models import Price
from pipelines.zoo import SPEC
from tests.agenttts.commands import agenttts
from tests.agenttts.small_specs import write_pipeline
from tests.servers import Request, ScriptedServer


@pytest.fixture(scope="module")
def zoo_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of the zoo for 40 units by replay, for as many cells as four trials have."""
    db = tmp_path_factory.mktemp("zoo") / "run.duckdb"
    search(SPEC, budget=40, trials=4, db=db, replay=True, fresh=0.0)
    return db


def adaptive_of(db: Path) -> AdaptivePolicy:
    adaptive = load_run(db).adaptive
    assert adaptive is not None
    return adaptive


def test_the_policy_beats_the_fixed_allocations_at_its_cost(zoo_db: Path) -> None:
    """On the zoo's test split it is clearly better than each at about its budget; the certificate says so."""
    result, adaptive = load_run(zoo_db), adaptive_of(zoo_db)
    tested = adaptive.tested
    assert tested is not None and tested.cost is not None and result.best is not None
    assert tested.score > 0.78 and adaptive.choice.cost.mean <= 40 and tested.cost.mean < 40 * 1.1
    assert tested.cost.median < tested.cost.mean < tested.cost.p95 <= tested.cost.max
    assert sum(tested.ended_at) == pytest.approx(1.0) and len(tested.ended_at) == len(adaptive.policy.rungs)
    roles = [rival.role for rival in tested.rivals]
    assert any(role.endswith("best fixed allocation that is no dearer on search examples") for role in roles)
    for rival in tested.rivals:
        assert rival.difference_ci[0] > 0 and f"{rival.difference:+.3f}" in result.certificate
    assert adaptive.choice.search_score > adaptive.choice.cross_fitted_score.mean
    assert str(adaptive.policy) in result.certificate
    data = json.loads(json.dumps(result.to_json_dict()))
    assert data["adaptive"]["tested"]["score"] == tested.score


def test_at_work_the_policy_gives_the_answers_of_its_trial(zoo_db: Path, tmp_path: Path) -> None:
    """`agenttts run --run latest` executes the run's policy, `--fixed` its best allocation."""
    result = load_run(zoo_db)
    examples = load_examples(result.spec, "test")[:30]
    inputs = "".join(json.dumps(dict(example.fields)) + "\n" for example in examples)
    command = ["run", str(SPEC), "--run", "latest", "--db", str(zoo_db), "--replay"]
    free = agenttts(*command, "--mean-units", "1e6", stdin=inputs)
    outputs = [json.loads(line) for line in free.out.splitlines()]
    with Store.read(zoo_db) as store:
        trial = next(t for t in store.trials(result.run_id) if t.policy is not None and t.split == "test")
        ran = {r.example_id: r for r in store.policy_results(trial.trial_id)}
        answers = {r.example_id: r.output for r in store.stage_results(trial.trial_id) if r.stage == "answer"}
    for example, output in zip(examples, outputs, strict=True):
        assert json.loads(answers[example.id] or "null") == output["output"]
        assert ran[example.id].n_rungs == output["n_rungs"]
        assert ran[example.id].confidence == pytest.approx(output["confidence"])
    fixed = agenttts(*command, "--fixed", stdin=inputs)
    assert "confidence" not in json.loads(fixed.out.splitlines()[0])


def test_the_certificates_own_inputs_are_not_called_harder(zoo_db: Path) -> None:
    """On the test split nothing differs, whatever mean is wanted; a mean that is missed is told."""
    inputs = "".join(json.dumps(dict(e.fields)) + "\n" for e in load_examples(load_run(zoo_db).spec, "test"))
    command = ["run", str(SPEC), "--run", "latest", "--db", str(zoo_db), "--replay"]
    for more, told in (((), ""), (("--mean-units", "5"), "the mean was not held: the first rung")):
        ran = agenttts(*command, *more, stdin=inputs)
        assert ran.code == 0 and told in ran.err
        assert "harder" not in ran.err and "less sure" not in ran.err, ran.err


def test_a_mean_is_a_number_above_0_and_for_a_policy(zoo_db: Path) -> None:
    """From Python too, each other mean is refused in a line that names it."""
    run = load_run(zoo_db)
    assert run.best is not None
    for wrong in ("3", -5, 0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"is a finite number above 0, got"):
            run.run([], mean_units=wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="an allocation has none"):
        run.run([], allocation=run.best.allocation, mean_units=3)


def test_the_mean_is_held_in_dollars(zoo_db: Path, tmp_path: Path) -> None:
    """A policy held to US dollars lowers its thresholds by what its queries are billed."""
    run = load_run(zoo_db)
    price = Price(prompt_usd_per_million=1.0, generated_usd_per_million=1.0)
    priced = {name: model.model_copy(update={"price": price}) for name, model in run.spec.models.items()}
    spec = run.spec.model_copy(update={"models": priced})
    inputs = [dict(example.fields) for example in load_examples(spec, "test")]

    def costs(mean: MeanCost | None) -> list[float]:
        with Store.open(tmp_path / "usd.duckdb") as store:
            policy = adaptive_of(zoo_db).policy

            async def ran() -> list[float]:
                coming = answers(spec, policy, read_inputs(spec, inputs), store, mean=mean, replay=True)
                return [output["cost_usd"] async for output in coming]

            return asyncio.run(ran())

    free = statistics.fmean(costs(None))
    assert statistics.fmean(costs(MeanCost(0.8 * free, "usd"))) < 0.95 * free


def test_without_a_policy_the_search_is_the_same(zoo_db: Path, tmp_path: Path) -> None:
    """`policy="fixed"` has the same trials and winner, and no policy; other names are refused."""
    fixed = search(
        SPEC, budget=40, trials=4, db=tmp_path / "fixed.duckdb", replay=True, policy="fixed", fresh=0.0
    )
    both = load_run(zoo_db)
    assert fixed.adaptive is None and "policy" not in fixed.certificate
    assert [(t.allocation, t.score) for t in fixed.trials] == [(t.allocation, t.score) for t in both.trials]
    assert fixed.best is not None and both.best is not None
    assert fixed.best.allocation == both.best.allocation and fixed.best.test_score == both.best.test_score
    with pytest.raises(UserError, match="adaptive or fixed, got 'both'"):
        search(SPEC, db=tmp_path / "no.duckdb", replay=True, policy="both")  # type: ignore[arg-type]


def test_the_dearest_query_is_limited(tmp_path: Path) -> None:
    """No search example costs the policy more than the limit."""
    limit = 60.0
    result = search(
        SPEC, budget=40, trials=4, db=tmp_path / "run.duckdb", replay=True, max_units_per_query=limit
    )
    assert result.adaptive is None or result.adaptive.choice.cost.max <= limit + 1e-6


def noisy(request: Request, index: int) -> str:
    """Clues that differ by model; then the right word, of hard questions mostly by the large model.

    Every draw of a prompt is the same, so that what was in flight at an interruption changes no decision.
    """
    stage, question = request.prompt.split()[:2]
    draw = int(hashlib.sha256(f"{request.prompt}|{request.model}".encode()).hexdigest(), 16) % 100
    if stage == "find":
        return f"clue{(draw > 45) + (draw > 80)}"
    hard = int(hashlib.sha256(question.encode()).hexdigest(), 16) % 2
    right = 92 if not hard else 80 if request.model == "large" else 30
    return "red" if draw < right else ("green", "blue")[draw % 2]


def written(folder: Path, server: ScriptedServer) -> Path:
    """The pipeline of `write_pipeline` with 40 search and 20 test questions, all of the same answer."""
    spec = write_pipeline(folder, server.base_url)
    for split, count in (("search", 40), ("test", 20)):
        rows = [{"question": f"{split}-{i}", "answer": "red"} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return spec


def decided(db: Path) -> Any:
    with Store.read(db) as store:
        run = store.run()
        trials = [(t.number, t.purpose, t.allocation, t.policy, t.score) for t in store.trials(run.run_id)]
        return trials, json.loads(run.outcome or "{}").get("adaptive")


def test_a_policy_that_was_bought_survives_an_interruption(tmp_path: Path) -> None:
    """What the policy needs is drawn on the search split; stopped there, the run goes on to the same."""

    def stop_at_purchase(event: object) -> None:
        if isinstance(event, TrialStarted) and event.purpose == "policy":
            raise KeyboardInterrupt

    whole, halves = tmp_path / "whole", tmp_path / "halves"
    options: dict[str, Any] = {"budget": 25, "trials": 4, "seed": 1, "proposer": "insights"}
    with ScriptedServer(answer=noisy) as server:
        search(written(whole, server), db=whole / "run.duckdb", **options)
    with ScriptedServer(answer=noisy) as server:
        spec = written(halves, server)
        with pytest.raises(KeyboardInterrupt):
            search(spec, db=halves / "run.duckdb", on_event=stop_at_purchase, **options)
        search(spec, db=halves / "run.duckdb", resume=True, **options)
    trials, adaptive = decided(whole / "run.duckdb")
    assert decided(halves / "run.duckdb") == (trials, adaptive)
    policies = [(purpose, policy) for _, purpose, _, policy, _ in trials if policy is not None]
    assert policies and all(purpose == "policy" for purpose, _ in policies)
    assert adaptive is None or isinstance(load_run(halves / "run.duckdb").adaptive.policy, Policy)  # type: ignore[union-attr]
