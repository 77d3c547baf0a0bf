"""Law 1: the budget of an allocation in units of the reference model's samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.errors import SpaceError
from agenttts.space.measure import Measure
from agenttts.space.units import flops, planned_stage_flops, units
from pipelines.allocation import Allocation, StageChoice
from pipelines.spec.pipeline import ReferenceSpec
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
