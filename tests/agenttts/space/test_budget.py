"""Law 1: the budget of an allocation in units of the reference model's samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.errors import SpaceError, UserError
from agenttts.space.measure import Measure, amount_text, chosen_budget
from agenttts.space.space import SearchSpace
from agenttts.space.units import flops, planned_stage_flops, units
from pipelines.allocation import Allocation, StageChoice
from pipelines.spec.fields import ReferenceSpec
from tests.agenttts.small_specs import small_spec


@pytest.mark.parametrize(
    ("active_params", "prompt_tokens", "generated_tokens", "published"),
    [
        (72e9, 2048, 128, 814),
        (70e9, 256, 64, 115),
        (70e9, 1024, 64, 395),
        (70e9, 1024, 256, 465),
        (70e9, 1024, 2048, 1118),
        (70e9, 1024, 1024, 745),
        (70e9, 1024, 512, 558),
    ],
)
def test_published_values(
    active_params: float, prompt_tokens: int, generated_tokens: int, published: int
) -> None:
    """One sample of each of the paper's settings takes the published number of units."""
    assert round(units(active_params, prompt_tokens, generated_tokens, 1)) == published


def test_units_are_not_rounded() -> None:
    """The result is exact: 344/3 units for 70e9 parameters, 256 and 64 tokens."""
    assert units(70e9, 256, 64, 1) == pytest.approx(344 / 3, rel=1e-12)


def test_the_reference_is_one_unit() -> None:
    """One sample of the reference at its lengths takes one unit, and each further sample one more."""
    assert [units(3e9, 128, 64, n) for n in (1, 2, 7)] == [1, 2, 7]


@given(
    active_params=st.floats(1e3, 1e12),
    prompt_tokens=st.integers(1, 10_000),
    generated_tokens=st.integers(1, 10_000),
    n_samples=st.integers(1, 512),
)
def test_the_prompt_is_paid_once(
    active_params: float, prompt_tokens: int, generated_tokens: int, n_samples: int
) -> None:
    """A further sample adds the FLOPs of its generated tokens and nothing else."""
    more = flops(active_params, prompt_tokens, generated_tokens, n_samples + 1)
    less = flops(active_params, prompt_tokens, generated_tokens, n_samples)
    assert more - less == pytest.approx(2 * active_params * generated_tokens, rel=1e-6)


def test_another_reference() -> None:
    """The unit follows the reference of the spec."""
    reference = ReferenceSpec(active_params=1e6, prompt_tokens=16, generated_tokens=8)
    assert units(2e6, 16, 8, 3, reference) == (2 * (16 + 24) - 16) / 8


def test_an_allocation_takes_the_sum_of_its_stages() -> None:
    """Planned units add up over stages, at each stage's expected lengths."""
    spec = small_spec()
    allocation = Allocation({"retrieve": StageChoice("small", 3), "answer": StageChoice("large", 2)})
    assert Measure.of(spec).planned(allocation) == 3 + (4 * (16 + 16) - 16) / 8


def test_a_stage_far_below_the_reference_is_negative() -> None:
    """The published formula is kept where it goes below zero."""
    spec = small_spec(params={"tiny": 1e3}, stages=[{}])
    assert Measure.of(spec).planned(Allocation({"retrieve": StageChoice("tiny", 1)})) == pytest.approx(-1.997)


def test_a_fuser_is_paid_for() -> None:
    """LLM fusion adds a fuser that reads its prompt and the samples and generates one."""
    fusion = {"kind": "fusion", "model": "large", "prompt": "fuse {{ samples }}", "prompt_tokens": 5}
    spec = small_spec(stages=[{"aggregator": fusion}])
    drawn = 2 * 1e6 * (16 + 3 * 8)
    fused = 2 * 4e6 * (5 + 3 * 8 + 8)
    assert planned_stage_flops(spec, spec.stages[0], StageChoice("small", 3)) == drawn + fused


def test_a_verifier_is_paid_for() -> None:
    """It reads prompt and sample, for every sample, and generates nothing."""
    own = {"kind": "verifier", "model": "large", "prompt_tokens": 5}
    spec = small_spec(stages=[{"aggregator": own, "models": ["small"]}])
    drawn = 2 * 1e6 * (16 + 3 * 8)
    assert planned_stage_flops(spec, spec.stages[0], StageChoice("small", 3)) == drawn + 3 * 2 * 4e6 * (5 + 8)


def test_an_allocation_names_every_stage() -> None:
    """Units of something that is no allocation of the spec are refused."""
    with pytest.raises(SpaceError, match="every stage once"):
        Measure.of(small_spec()).planned(Allocation({"retrieve": StageChoice("small", 1)}))


PRICES = {"price": {"prompt_usd_per_million": 1.0, "generated_usd_per_million": 10.0}, "active_params": None}


def test_dollars_are_planned_as_they_are_billed() -> None:
    """The prompt is billed once for each request that max_n makes, for each round of refinement, and with the
    calls of a fuser.
    """
    choice = StageChoice("small", 5)
    for max_n, prompts in ((None, 1), (8, 1), (2, 3), (1, 5)):
        spec = small_spec(model={**PRICES, "max_n": max_n}, budget=None, usd=0.01)
        assert Measure.of(spec).planned_stage(spec.stages[0], choice) == (16 * prompts + 10 * 8 * 5) / 1e6
        assert planned_stage_flops(spec, spec.stages[0], choice) is None
    fusion = {"kind": "fusion", "model": "large", "prompt": "fuse {{ samples }}", "prompt_tokens": 5}
    spec = small_spec(stages=[{"aggregator": fusion}], model=PRICES, budget=None, usd=0.01)
    fused = 5 + 5 * 8 + 10 * 8
    assert Measure.of(spec).planned_stage(spec.stages[0], choice) == (16 + 10 * 8 * 5 + fused) / 1e6


def test_a_budget_is_chosen_once() -> None:
    """`--budget` is in the spec's own measure, --budget-usd in dollars, both are too many; a model without a
    price or without parameters is named.
    """
    units = small_spec()
    assert chosen_budget(units, None, None) == (Measure(units, "units"), 40.0)
    priced = small_spec(model={**PRICES, "active_params": 1e6})
    assert chosen_budget(priced, None, 0.002) == (Measure(priced, "usd"), 0.002)
    with pytest.raises(UserError, match=r"given once, got 5 and 0.002 USD"):
        chosen_budget(priced, 5, 0.002)
    with pytest.raises(SpaceError, match=r"models.small.price: a budget in US dollars needs the price"):
        chosen_budget(units, None, 0.002)
    dollars = small_spec(model=PRICES, budget=None, usd=0.01)
    assert chosen_budget(dollars, 0.02, None) == (Measure(dollars, "usd"), 0.02)
    with pytest.raises(SpaceError, match=r"models.small.active_params: a budget in units needs"):
        Measure(dollars, "units")


def test_a_space_in_dollars() -> None:
    """Membership, the cheapest, defaults and messages are in dollars, and options rank by cost."""
    spec = small_spec(model=PRICES, budget=None, usd=0.001)
    space = SearchSpace(spec, 0.001)
    assert space.cheapest == Allocation({s: StageChoice("small", 1) for s in ("retrieve", "answer")})
    assert space.units(space.cheapest) == pytest.approx(2 * 96e-6)
    assert all(space.units(allocation) <= 0.001 for allocation in space.enumerate())
    over = Allocation({s: StageChoice("large", 8) for s in ("retrieve", "answer")})
    assert space.problem(over) == (
        "over budget by 0.000312 USD: it takes 0.001312 (retrieve 0.000656, answer 0.000656), "
        "and 0.001 are allowed"
    )
    assert space.magnitude("answer", space.cheapest["answer"].option) == pytest.approx(96e-6)
    with pytest.raises(SpaceError, match=r"takes 0.000192 USD; got 0.0001: raise the budget"):
        SearchSpace(spec, 0.0001)
    assert amount_text(1.25e-5, "usd") == "0.0000125 USD" and amount_text(35.8199, "units") == "35.82 units"
    assert amount_text(1.0, "units") == "1 unit" and amount_text(1.0, "usd") == "1 USD"
