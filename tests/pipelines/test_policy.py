"""The types of a policy: texts, files, and which outcome of a cascade stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Allocation, Confidence, Policy, Rung, SpecError, StageChoice, StagePlan, Stop, Vote
from pipelines import load_policy as load
from pipelines.policy import standing
from pipelines.spec.policyfile import policy_from_json, read_policy
from pipelines.spec.yaml_file import yaml_text

VOTES = st.one_of(
    st.builds(Vote, kind=st.sampled_from(["plain", "weighted"]), threshold=st.none() | st.floats(0.01, 1)),
    st.builds(Vote, kind=st.just("length_weighted"), t0=st.floats(1, 1e6)),
)
STOPS = st.one_of(
    st.builds(Stop, kind=st.sampled_from(["fixed", "decided"]), first=st.integers(1, 9)),
    st.builds(Stop, kind=st.just("confidence"), level=st.floats(0.01, 1), growth=st.floats(1.1, 4)),
)
CHOICES = st.builds(
    StageChoice, st.sampled_from(["small", "a@b"]), st.integers(1, 99), st.none() | st.just("judge")
)
RUNGS = st.fixed_dictionaries(
    {name: st.builds(StagePlan, choice=CHOICES, vote=VOTES, stop=STOPS) for name in ("retrieve", "answer")}
).map(Rung)
CONFIDENCES = st.integers(0, 3).flatmap(
    lambda n: st.builds(
        Confidence,
        features=st.tuples(*(st.text(max_size=9),) * n),
        means=st.tuples(*(st.floats(-9, 9),) * n),
        scales=st.tuples(*(st.floats(0.1, 9),) * n),
        weights=st.tuples(*(st.floats(-9, 9),) * n),
        intercept=st.floats(-9, 9),
    )
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    n = draw(st.integers(1, 3))
    return Policy(
        rungs=tuple(draw(RUNGS) for _ in range(n)),
        thresholds=tuple(draw(st.floats(0, 1)) for _ in range(n - 1)),
        confidences=tuple(draw(CONFIDENCES) for _ in range(n)),
    )


EXAMPLE = Policy(
    rungs=(
        Rung(
            {
                "retrieve": StagePlan(
                    choice=StageChoice("small", 32), vote=Vote(kind="weighted", threshold=0.2)
                ),
                "answer": StagePlan(
                    choice=StageChoice("medium", 8), vote=Vote(kind="weighted"), stop=Stop(kind="decided")
                ),
            }
        ),
        Rung(
            {
                "retrieve": StagePlan(choice=StageChoice("large", 32)),
                "answer": StagePlan(choice=StageChoice("large", 16), stop=Stop(kind="confidence", level=0.9)),
            }
        ),
    ),
    thresholds=(0.8,),
    confidences=(Confidence(features=(), means=(), scales=(), weights=(), intercept=0.0),) * 2,
)


def test_a_policy_prints_as_one_line() -> None:
    """Rungs as allocations do, with vote and stop where they differ from the stage's own and from fixed."""
    assert str(EXAMPLE) == (
        "retrieve small×32 weighted 0.2 · answer medium×8 weighted, stop decided"
        " → (<0.8) retrieve large×32 · answer large×16, stop confidence 0.9"
    )


def test_an_allocation_is_a_policy_of_one_rung() -> None:
    """Its text is the allocation's, and it is fixed."""
    allocation = Allocation({"retrieve": StageChoice("small", 3), "answer": StageChoice("large", 2)})
    fixed = Policy.fixed(allocation)
    assert str(fixed) == str(allocation) and fixed.is_fixed and fixed.rungs[0].allocation == allocation
    assert not EXAMPLE.is_fixed


@settings(deadline=None, max_examples=40)
@given(policies())
def test_a_policy_survives_json_and_yaml(tmp_path_factory: Any, policy: Policy) -> None:
    """It is read as it was written, and equal policies have one hash."""
    file = tmp_path_factory.mktemp("policies") / "policy.yaml"
    file.write_text(yaml_text(policy.to_dict()))
    for again in (policy_from_json(policy.to_json()), read_policy(policy.to_dict()), load(file)):
        assert again == policy and hash(again) == hash(policy)
    json.loads(policy.to_json())


PLAN = "{model: a, n_samples: 1}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rungs: []", "1: rungs: must have at least 1 item, got []"),
        ("rungs:\n- r: {model: a, n_samples: 0}", "2: rungs[0].r.n_samples: must be > 0, got 0"),
        (
            "rungs:\n- r: {model: a, n_samples: 1, stop: {kind: never}}",
            "2: rungs[0].r.stop.kind: must be 'fixed', 'decided' or 'confidence', got 'never'",
        ),
        (
            "rungs:\n- r: {model: a, n_samples: 1, vote: {knd: plain}}",
            "2: rungs[0].r.vote.knd: unknown key; did you mean kind?",
        ),
        (
            "rungs:\n- r: {model: a, n_samples: 1, vote: weighted}",
            "2: rungs[0].r.vote: must be a mapping of keys, got 'weighted'",
        ),
        (
            "rungs:\n- r: {model: a, n_samples: 1, stop: {kind: decided, level: 1}}",
            "2: rungs[0].r.stop: level belongs to confidence and to no other stop, got 1.0",
        ),
        (f"rungs:\n- r: {PLAN}\n- r: {PLAN}", "got 2, 0 and 0"),
    ],
)
def test_a_file_that_is_no_policy_is_told_with_its_line(text: str, problem: str, tmp_path: Path) -> None:
    """Place, rule and value, in one line."""
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        load(file)
    assert problem in str(caught.value) and str(file) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_rungs_of_a_policy_name_the_same_stages() -> None:
    """Also the numbers of thresholds and confidences must fit."""
    plan = StagePlan(choice=StageChoice("a", 1))
    one, other = Rung({"r": plan}), Rung({"s": plan})
    confidences = EXAMPLE.confidences
    with pytest.raises(ValueError, match="must name the same stages"):
        Policy(rungs=(one, other), thresholds=(0.5,), confidences=confidences)
    with pytest.raises(ValueError, match="one threshold fewer"):
        Policy(rungs=(one,), thresholds=(0.5,))
    with pytest.raises(ValueError, match="scales are > 0"):
        Confidence(features=("f",), means=(0.0,), scales=(0.0,), weights=(1.0,), intercept=0.0)


def test_a_confidence_is_a_logistic_of_standardised_features() -> None:
    """0.5 at the means without an intercept, and finite however far from them."""
    model = Confidence(features=("x",), means=(2.0,), scales=(4.0,), weights=(1.0,), intercept=0.0)
    assert model.of((2.0,)) == 0.5
    assert model.of((6.0,)) == pytest.approx(0.7311, abs=1e-4)
    assert model.of((1e9,)) == 1.0 and model.of((-1e9,)) == 0.0
    with pytest.raises(ValueError):
        model.of((1.0, 2.0))


@pytest.mark.parametrize(
    ("answers", "confidences", "rung", "confidence"),
    [
        (["a"], [0.6], 0, 0.6),
        (["a", "b"], [0.6, 0.7], 1, 0.7),
        (["a", "b"], [0.6, 0.6], 0, 0.6),
        (["a", "b", "a"], [0.5, 0.7, 0.5], 0, 0.75),
        ([None, "b"], [0.9, 0.1], 1, 0.1),
        ([None, None], [0.9, 0.8], 0, 0.0),
    ],
)
def test_which_outcome_stands(
    answers: list[str | None], confidences: list[float], rung: int, confidence: float
) -> None:
    """The surest, of equals the earliest; outcomes that agree add up, and nothing is never sure."""
    stands = standing(answers, confidences)
    assert stands.rung == rung and stands.confidence == pytest.approx(confidence)
