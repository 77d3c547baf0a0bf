"""The allocations within a budget: membership, size, enumeration, projection, defaults."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttts.errors import SpaceError
from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation, StageChoice
from pipelines.spec.pipeline import PipelineSpec
from tests.agenttts.small_specs import small_spec


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    sizes = draw(st.lists(st.floats(1e5, 2e7), min_size=1, max_size=3, unique=True))
    n_stages = draw(st.integers(1, 3))
    stages = [
        {
            "max_samples": draw(st.integers(1, 6)),
            "prompt_tokens": draw(st.integers(1, 64)),
            "generated_tokens": draw(st.integers(1, 16)),
        }
        for _ in range(n_stages)
    ]
    spec = small_spec(params={f"m{i}": size for i, size in enumerate(sizes)}, stages=stages)
    budget = draw(st.floats(1e-3, 400))
    try:
        return SearchSpace(spec, budget)
    except SpaceError:
        return SearchSpace(spec, 1e5)


def every_allocation(spec: PipelineSpec) -> list[Allocation]:
    choices = [
        [StageChoice(model, n) for model in stage.models for n in range(1, stage.max_samples + 1)]
        for stage in spec.stages
    ]
    names = [stage.name for stage in spec.stages]
    return [Allocation(dict(zip(names, chosen, strict=True))) for chosen in itertools.product(*choices)]


@st.composite
def spaces_and_allocations(draw: st.DrawFn) -> tuple[SearchSpace, Allocation]:
    space = draw(spaces())
    choices = {
        stage.name: StageChoice(
            draw(st.sampled_from(stage.models)), draw(st.integers(1, stage.max_samples + 3))
        )
        for stage in space.stages
    }
    return space, Allocation(choices)


@settings(max_examples=60, deadline=None)
@given(spaces())
def test_enumeration_membership_and_size_agree(space: SearchSpace) -> None:
    """What is enumerated is what is in the space, once each, and as many as `size` counts."""
    listed = list(space.enumerate())
    assert len(listed) == len(set(listed)) == space.size
    assert set(listed) == {a for a in every_allocation(space.spec) if a in space}
    assert space.cheapest in space


@settings(max_examples=60, deadline=None)
@given(spaces())
def test_the_budget_decides(space: SearchSpace) -> None:
    """An allocation with counts in range is in the space when its units are within the budget."""
    for allocation in every_allocation(space.spec):
        total = space.units(allocation)
        if abs(total - space.budget_units) > 1e-6 * space.budget_units:
            assert (allocation in space) == (total < space.budget_units)


@settings(max_examples=100, deadline=None)
@given(spaces_and_allocations())
def test_projection(drawn: tuple[SearchSpace, Allocation]) -> None:
    """A projection is in the space, with no more samples than wanted; what is in the space stays as it is."""
    space, allocation = drawn
    projected = space.project(allocation)
    assert projected in space
    assert all(projected[stage].n_samples <= allocation[stage].n_samples for stage in allocation)
    assert space.project(projected) == projected
    if allocation in space:
        assert projected == allocation


def test_projection_shrinks_counts_alike() -> None:
    """An allocation at twice the budget keeps the ratio of its sample counts, and its models."""
    space = SearchSpace(small_spec(stages=[{"max_samples": 64}, {"max_samples": 64}]), 45.0)
    wanted = Allocation({"retrieve": StageChoice("small", 60), "answer": StageChoice("small", 30)})
    projected = space.project(wanted)
    assert projected == Allocation({"retrieve": StageChoice("small", 30), "answer": StageChoice("small", 15)})


def test_projection_gives_up_a_model_only_when_one_sample_is_too_dear() -> None:
    """The stage with the dearest sample takes a cheaper model when single samples are over the budget."""
    space = SearchSpace(
        small_spec(stages=[{"max_samples": 4}, {"prompt_tokens": 32, "max_samples": 4}]), 14.0
    )
    wanted = Allocation({"retrieve": StageChoice("large", 4), "answer": StageChoice("large", 2)})
    projected = space.project(wanted)
    assert projected["retrieve"] == StageChoice("large", 1)
    assert projected["answer"] == StageChoice("small", 2)


@settings(max_examples=60, deadline=None)
@given(spaces(), st.floats(-5, 100))
def test_max_samples_is_the_largest_that_fits(space: SearchSpace, units_left: float) -> None:
    """`max_samples` samples fit the units left, one more does not, unless the stage allows no more."""
    for stage in space.stages:
        for option in stage.options:
            most = space.max_samples(stage.name, option, units_left)
            slack = 1e-6 * space.budget_units
            if most:
                assert space.stage_units(stage.name, option.with_samples(most)) <= units_left + slack
            if most < stage.max_samples:
                assert space.stage_units(stage.name, option.with_samples(most + 1)) > units_left - slack


@settings(max_examples=60, deadline=None)
@given(spaces())
def test_defaults_are_in_the_space(space: SearchSpace) -> None:
    """There is a default, and each is in the space with no stage that could draw one sample more."""
    defaults = space.defaults()
    assert defaults and len(set(defaults)) == len(defaults)
    for default in defaults:
        assert default in space
        for name, choice in default.items():
            assert default.replace(name, StageChoice(choice.model, choice.n_samples + 1)) not in space


def test_defaults_share_the_budget_equally() -> None:
    """Each model that all stages offer gives one default, with the same compute at each stage."""
    assert [d.to_dict() for d in SearchSpace(small_spec(), 12.0).defaults()] == [
        {"retrieve": {"model": "small", "n_samples": 6}, "answer": {"model": "small", "n_samples": 6}}
    ]
    spec = small_spec(stages=[{"max_samples": 2}, {"max_samples": 64}])
    small, large = SearchSpace(spec, 40.0).defaults()
    assert small == Allocation({"retrieve": StageChoice("small", 2), "answer": StageChoice("small", 38)})
    assert large == Allocation({"retrieve": StageChoice("large", 2), "answer": StageChoice("large", 5)})


def test_defaults_without_a_common_model() -> None:
    """Where no model serves every stage, models of the same rank in size go together."""
    params = {"a": 1e6, "b": 2e6, "c": 4e6}
    spec = small_spec(params=params, stages=[{"models": ["a", "b"]}, {"models": ["c"]}])
    models = [[choice.model for choice in d.values()] for d in SearchSpace(spec, 60.0).defaults()]
    assert models == [["a", "c"], ["b", "c"]]


def test_a_budget_under_the_cheapest_allocation() -> None:
    """The error names the cheapest allocation and its units."""
    with pytest.raises(SpaceError, match=r"retrieve small×1 · answer small×1, which takes 2 units; got 1.5"):
        SearchSpace(small_spec(), 1.5)
    with pytest.raises(SpaceError, match="> 0 units, got 0"):
        SearchSpace(small_spec(), 0)


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ({"retrieve": ("small", 1)}, "names each stage once (retrieve, answer); missing answer"),
        (
            {"retrieve": ("small", 1), "answer": ("small", 1), "extra": ("small", 1)},
            "names each stage once (retrieve, answer); unknown extra",
        ),
        (
            {"retrieve": ("huge", 1), "answer": ("small", 1)},
            "stage 'retrieve' may use small, large; got 'huge'",
        ),
        ({"retrieve": ("small", 9), "answer": ("small", 1)}, "stage 'retrieve' takes 1 to 8 samples, got 9"),
        (
            {"retrieve": ("large", 2), "answer": ("small", 1)},
            "over budget by 3 units: it takes 15 (retrieve 14, answer 1), and 12 are allowed",
        ),
        ({"retrieve": ("large", 1), "answer": ("small", 2)}, None),
    ],
)
def test_problems_in_words(choices: dict[str, tuple[str, int]], problem: str | None) -> None:
    """A problem says what is wrong and what would be right."""
    space = SearchSpace(small_spec(), 12.0)
    found = space.problem(Allocation({stage: StageChoice(*choice) for stage, choice in choices.items()}))
    assert found is None if problem is None else found is not None and problem in found


def test_projection_refuses_what_it_cannot_place() -> None:
    """An unknown model has no nearest allocation."""
    space = SearchSpace(small_spec(), 12.0)
    with pytest.raises(SpaceError, match="got 'huge'"):
        space.project(Allocation({"retrieve": StageChoice("huge", 1), "answer": StageChoice("small", 1)}))


def test_large_spaces_are_counted_not_listed() -> None:
    """Six stages of 192 choices are counted exactly, and listing them is refused."""
    params = {"small": 1e6, "medium": 3e6, "large": 9e6}
    spec = small_spec(params=params, stages=[{"max_samples": 64}] * 6)
    roomy = SearchSpace(spec, 1e9)
    assert roomy.size == 192**6
    assert 0 < SearchSpace(spec, 500.0).size < 192**6
    with pytest.raises(SpaceError, match=f"got {192**6}"):
        roomy.enumerate()
