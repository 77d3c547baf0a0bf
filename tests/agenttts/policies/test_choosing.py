"""Choosing a policy: within the budget, honestly estimated, and only where it pays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path as File

import numpy as np
import pytest

from agenttts.errors import UserError
from agenttts.policies.cascades import Sketch
from agenttts.policies.choices import Choices, replay_policy
from agenttts.policies.choose import best_choice, read_choices
from agenttts.policies.family import THRESHOLDS, Family, family, votes
from agenttts.policies.fits import Limits
from agenttts.policies.nodes import UNKNOWN
from agenttts.policies.paths import Path, StagePath
from agenttts.policies.rates import Rates
from agenttts.results.adaptive import CHOICE, PolicyChoice
from datastore import Prompt, Sample, Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.costs import stage_cost_usd
from pipelines.dataset.splits import load_examples
from pipelines.examples import Example
from pipelines.policy import Policy, Rung, StagePlan
from pipelines.runtime import PolicyRunner, Runtime
from pipelines.runtime.payments import SampleBank
from pipelines.spec.fields import BudgetSpec
from pipelines.spec.files import load_spec
from pipelines.spec.models import Price
from pipelines.spec.pipeline import PipelineSpec
from pipelines.stages.plans import policy_problem
from pipelines.zoo import SPEC

RATES = Rates(measure="usd", prompt={}, generated={}, per_query=0.0, per_flop=None)
COUNTS = (1, 2, 4, 8, 16)


def rung(n: int) -> Rung:
    """A rung of one stage with n samples."""
    return Rung({"solve": StagePlan(choice=StageChoice("m", n))})


def path(n: int, right: np.ndarray, answers: np.ndarray, feature: np.ndarray) -> Path:
    """A rung whose cost is its number of samples."""
    shape = right.shape
    stage = StagePath(
        option=StageChoice("m", n).option, node=np.zeros(shape, np.int64), cost=np.full(shape, float(n))
    )
    return Path(
        rung=rung(n),
        stages=(stage,),
        answer=answers,
        score=right,
        features=feature[..., None],
        names=("solve.x",),
    )


def simulated(n_examples: int, rng: np.random.Generator, *, telling: bool) -> tuple[Family, dict[Rung, Path]]:
    """Rungs that get questions right with a chance that falls with their difficulty.

    Few samples solve easy questions; `telling`: a rung's feature says how hard the question is.
    """
    hard = rng.random(n_examples) < 0.4
    paths = {}
    for n in COUNTS:
        chance = np.where(hard, 0.1 + 0.04 * n, 0.95) if telling else np.full(n_examples, 0.6)
        right = (rng.random((3, n_examples)) < chance).astype(float)
        answers = np.where(right > 0, 0, 1 + COUNTS.index(n)).astype(np.int64)
        feature = np.where(hard, -1.0, 1.0) if telling else rng.normal(size=n_examples)
        noise = rng.normal(scale=0.3, size=(3, n_examples))
        paths[rung(n)] = path(n, right, answers, feature + noise)
    fixed = [Sketch(rungs=(rung(n),)) for n in COUNTS]
    cascades = [
        Sketch(rungs=(rung(a), rung(b)), thresholds=(t,))
        for a in COUNTS
        for b in COUNTS
        if b > a
        for t in THRESHOLDS
    ]
    return Family({"fixed": fixed, "cascade": cascades}), paths


def test_where_difficulty_can_be_told_a_cascade_is_chosen_and_better() -> None:
    """At the same budget it beats the best fixed number of samples, by about what its estimate says."""
    rng = np.random.default_rng(3)
    of, paths = simulated(2000, rng, telling=True)
    choice = Choices(of, paths, RATES, on=np.arange(60)).best(Limits(mean=6.0))
    fresh = np.arange(60, 2000)
    replayed = replay_policy(choice.policy, [paths[one] for one in choice.policy.rungs])
    fixed = max(paths[rung(n)].score[:, fresh].mean() for n in COUNTS if n <= 6)
    assert choice.kind == "cascade"
    assert choice.cost.mean <= 6.0
    assert replayed.scores[:, fresh].mean() > fixed + 0.05
    hardest, *_, easiest = choice.reliability
    assert easiest.confidence - hardest.confidence > 0.4 and easiest.score - hardest.score > 0.4
    assert choice.cross_fitted_score.mean == pytest.approx(replayed.scores[:, fresh].mean(), abs=0.08)


def test_where_adaptation_cannot_help_it_costs_nothing() -> None:
    """Where every rung is as good and nothing tells questions apart, choices score as the best fixed one."""
    losses, kinds = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        of, paths = simulated(1050, rng, telling=False)
        choice = Choices(of, paths, RATES, on=np.arange(50), seed=seed).best(Limits(mean=6.0))
        replayed = replay_policy(choice.policy, [paths[one] for one in choice.policy.rungs])
        losses.append(0.6 - replayed.scores[:, 50:].mean())
        kinds.append(choice.kind)
    assert np.mean(losses) < 0.01
    assert kinds.count("fixed") >= 10


def test_the_dearest_query_can_be_limited_and_no_budget_is_exceeded() -> None:
    """With a limit on each query no example costs more; where nothing fits, it is said."""
    of, paths = simulated(200, np.random.default_rng(5), telling=True)
    choices = Choices(of, paths, RATES)
    assert choices.best(Limits(mean=6.0)).cost.max > 4.0
    assert choices.best(Limits(mean=6.0, dearest=4.0)).cost.max <= 4.0
    with pytest.raises(UserError, match="raise the budget"):
        choices.best(Limits(mean=0.5))


def test_what_escalation_was_never_drawn_is_guessed_at_its_cost_and_wanted() -> None:
    """A rung that is known on easy queries alone does not look cheap; a final choice rests on known ones."""
    of, paths = simulated(200, np.random.default_rng(6), telling=True)
    whole = Choices(of, paths, RATES).best(Limits(mean=6.0))
    hard = paths[rung(1)].features[0, :, 0] < 0
    for n in (8, 16):
        paths[rung(n)].score[:, hard], paths[rung(n)].answer[:, hard] = np.nan, UNKNOWN
        paths[rung(n)].stages[0].cost[:, hard] = 0.0
    choices = Choices(of, paths, RATES)
    final = choices.best(Limits(mean=6.0, least_known=0.95))
    wanted = choices.wanted(Limits(mean=6.0, least_known=0.95))
    assert final.known >= 0.95
    assert {str(one) for one in final.policy.rungs} <= {str(rung(n)) for n in (1, 2, 4)}
    assert wanted is not None and {rung(8), rung(16)} & set(wanted.rungs)
    guessed = choices.best(Limits(mean=6.0), kind="cascade")
    assert guessed.cost.mean == pytest.approx(whole.cost.mean, abs=2.0)
    assert (
        Choices(*simulated(200, np.random.default_rng(6), telling=True), RATES).wanted(
            Limits(mean=6.0, least_known=0.95)
        )
        is None
    )


def test_dollars_are_as_servers_bill_them() -> None:
    """Rates in US dollars give a prompt and its samples the price that the runtime counts."""
    spec = load_spec(SPEC)
    price = Price(prompt_usd_per_million=2.0, generated_usd_per_million=7.0)
    models = {name: model.model_copy(update={"price": price}) for name, model in spec.models.items()}
    rates = Rates.of(spec.model_copy(update={"models": models}), "usd")
    cost = rates.prompt["small"] * 50 + rates.generated["small"] * 300
    assert cost == pytest.approx(stage_cost_usd(models["small"], 50, 300))
    assert rates.per_query == 0.0


async def _chosen(
    spec: PipelineSpec,
    bank: SampleBank,
    examples: Sequence[Example],
    best_fixed: Allocation | None = None,
    orders: Sequence[int] = (0, 1, 2),
) -> PolicyChoice | None:
    """The policy that is chosen at 85 units."""
    choices = await read_choices(spec, bank, examples, seed=0, best_fixed=best_fixed, orders=orders)
    return None if choices is None else best_choice(choices, Limits(mean=85.0))


async def test_the_zoo_has_a_policy_that_beats_its_best_fixed_vote(tmp_path: File) -> None:
    """On 80 questions at 85 units; the choice travels as JSON, runs as chosen and costs what it says."""
    spec = load_spec(SPEC)
    with Store.open(tmp_path / "zoo.duckdb") as store:
        store.attach_bank(spec.root / str(spec.bank))
        examples = load_examples(spec, "search")[:80]
        given = Allocation({"retrieve": StageChoice("small", 5), "answer": StageChoice("small", 5)})
        choice = await _chosen(spec, store, examples, given, orders=(0,))
        assert choice is not None and choice.kind == "cascade" and choice.known == 1.0
        assert choice.fixed_difference is not None and choice.fixed_difference.low > 0
        assert choice.cost.mean <= 85 and choice.cost.median < choice.cost.mean < choice.cost.p95
        assert sum(choice.ended_at) == pytest.approx(1)
        assert CHOICE.validate_json(CHOICE.dump_json(choice)) == choice
        runner = PolicyRunner(Runtime(spec, store, None, run_id=None, replay=True), choice.policy)
        scores = [(await runner.run_example(example)).outcome.score for example in examples]
        assert np.mean([score or 0.0 for score in scores]) == pytest.approx(choice.search_score)


class SomePrompts:
    """A bank that has some of a store's prompts: those of `keys`, or all, which it notes in `asked`."""

    def __init__(self, store: Store, keys: Collection[str] | None = None) -> None:
        self.store, self.keys, self.asked = store, keys, set[str]()

    async def get_samples(self, prompt_keys: Sequence[str]) -> dict[str, list[Sample]]:
        """Look up samples."""
        self.asked |= set(prompt_keys)
        there = await self.store.get_samples(prompt_keys)
        return {key: drawn if self.keys is None or key in self.keys else [] for key, drawn in there.items()}

    async def get_prompt(self, key: str) -> Prompt | None:
        """Look up a prompt."""
        return await self.store.get_prompt(key)

    async def put_samples(self, prompt: Prompt, samples: Sequence[Sample]) -> None:
        """Nothing is drawn here."""
        raise NotImplementedError


async def test_a_bank_of_one_order_answers_for_the_others_where_it_can(tmp_path: File) -> None:
    """As after a live run: what only other orders lead to was never drawn; the draw's own order counts."""
    spec = load_spec(SPEC)
    with Store.open(tmp_path / "zoo.duckdb") as store:
        store.attach_bank(spec.root / str(spec.bank))
        examples = load_examples(spec, "search")[:40]
        every = SomePrompts(store)
        first = await _chosen(spec, every, examples, orders=(0,))
        drawn = SomePrompts(store, every.asked)
        choice = await _chosen(spec, drawn, examples)
        assert drawn.asked > every.asked
        assert first is not None and choice is not None
        assert first.known == choice.known == 1.0
        assert choice.cost.mean <= 85 and choice.cross_fitted_score.mean > 0.6


async def test_a_store_without_samples_gives_no_policy(tmp_path: File) -> None:
    """Nothing recorded: nothing is chosen, and nothing is drawn."""
    spec = load_spec(SPEC)
    with Store.open(tmp_path / "empty.duckdb") as store:
        examples = load_examples(spec, "search")[:12]
        assert await _chosen(spec, store, examples) is None


def test_the_family_is_small_and_steps_back_without_probabilities() -> None:
    """About 1,300 cascades on the zoo; without log-probabilities no weighted votes and no stop by mass."""
    spec = load_spec(SPEC)
    weighed = family(spec, {"retrieve", "answer"})
    assert 1000 <= sum(bool(sketch.thresholds) for sketch in weighed.sketches) <= 1500
    plain = family(spec, ())
    votes = {plan.vote.kind for one in plain.rungs for plan in one.values()}
    assert votes == {"plain"} and "weighted" not in plain.kinds


def test_models_of_unknown_size_are_ordered_by_their_price() -> None:
    """In US dollars a second rung goes on from the cheapest model, whether or not sizes are known."""
    spec = load_spec(SPEC)
    usd = {"small": 1.0, "medium": 9.0, "large": 3.0}
    models = {
        name: model.model_copy(
            update={
                "price": Price(prompt_usd_per_million=usd[name], generated_usd_per_million=usd[name]),
                "active_params": None if name == "medium" else model.active_params,
            }
        )
        for name, model in spec.models.items()
    }
    priced = spec.model_copy(update={"models": models, "budget": BudgetSpec(usd=0.01)})
    pairs = [sketch.rungs for sketch in family(priced, {"retrieve", "answer"}).sketches if sketch.thresholds]
    assert {second["answer"].choice.model for _, second in pairs} == {"large", "medium"}
    assert {first["retrieve"].choice.model for first, _ in pairs} == {"small", "medium", "large"}


SHIPPED = sorted(SPEC.parents[1].glob("*/*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_pipeline_has_a_family_that_fits_it(file: File) -> None:
    """At most a few thousand policies, whatever votes; where no stage votes there are fixed ones only."""
    spec = load_spec(file)
    for weighable in ((), tuple(stage.name for stage in spec.stages)):
        of = family(spec, weighable)
        assert 0 < len(of.sketches) < 6000
        assert votes(spec) or of.kinds == ("fixed",)
        for one in of.rungs[::97]:
            assert policy_problem(spec, Policy(rungs=(one,))) is None
