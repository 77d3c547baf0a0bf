"""What is told of a policy at work."""

from __future__ import annotations

from typing import Any

import pytest

from agenttts.answering import MeanCost
from agenttts.cli.atwork import AtWork
from pipelines.allocation import StageChoice
from pipelines.policy import Confidence, Policy, Rung, StagePlan

CERTAIN = Confidence(features=(), means=(), scales=(), weights=(), intercept=0.0)
RUNGS = tuple(Rung({"answer": StagePlan(choice=StageChoice(model, 1))}) for model in ("small", "large"))
ONE = Policy(rungs=RUNGS[:1])
TWO = Policy(rungs=RUNGS, thresholds=(0.8,), confidences=(CERTAIN, CERTAIN))


def output(n_rungs: int = 1, confidence: float = 0.9, threshold: float | None = 0.8) -> dict[str, Any]:
    """A query that costs 10 units on the first rung and 100 with the second."""
    units = 10.0 if n_rungs == 1 else 100.0
    thresholds = [] if threshold is None else [threshold]
    return {
        "n_rungs": n_rungs,
        "confidence": confidence,
        "thresholds": thresholds,
        "units": units,
        "cost_usd": units / 1e3,
    }


def at_work(policy: Policy, outputs: list[dict[str, Any]], key: str = "units") -> AtWork:
    """What is known after these queries, and an input that was none."""
    tally = AtWork(policy, key)
    for one in ({"id": "bad", "status": "error"}, *outputs):
        tally.add(one)
    return tally


@pytest.mark.parametrize(
    ("policy", "outputs", "target", "why"),
    [
        (ONE, [output(threshold=None)], 5, "a policy of one rung has no thresholds to lower"),
        (TWO, [output(), output(2)] * 20, 5, "the first rung, which every query takes, costs 10 units alone"),
        (TWO, [output(2)] * 30, 50, "thresholds move from query 33 on, and there were 30"),
        (TWO, [output(2)] * 40, 50, "40 queries are too few for lower thresholds to make up for"),
    ],
)
def test_a_mean_that_was_missed_is_told_with_the_reason(
    policy: Policy, outputs: list[dict[str, Any]], target: float, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the thresholds did, a mean above the one wanted is said not to be held, and why."""
    at_work(policy, outputs).tell_pace(MeanCost(target), None)
    assert f"at most {target} units wanted: the mean was not held: {why}" in capsys.readouterr().err


def test_a_mean_that_was_held_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is told where no threshold moved and the mean is no higher than wanted."""
    at_work(TWO, [output(), output(2)]).tell_pace(MeanCost(55), 55.0)
    at_work(TWO, []).tell_pace(MeanCost(55), 55.0)
    assert capsys.readouterr().err == ""


def test_inputs_are_harder_by_their_cost_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Lower thresholds do not make inputs harder; what the queries cost, or had cost without them, does."""
    spared = output(confidence=0.6, threshold=0.5)
    at_work(TWO, [output(), output(2), spared, output()]).tell_pace(MeanCost(40), 53.0)
    told = capsys.readouterr().err
    assert "thresholds were lowered from 0.8 to 0.5" in told and "harder" not in told
    at_work(TWO, [output(), output(2), spared, spared]).tell_pace(MeanCost(40), 53.0)
    assert "harder than those of the test split, 53 units a query" in capsys.readouterr().err


def test_dollars_are_told_in_dollars(capsys: pytest.CaptureFixture[str]) -> None:
    """The mean of a policy with a budget in US dollars is compared by what its queries were billed."""
    at_work(TWO, [output(2)], "cost_usd").tell_pace(MeanCost(0.05, "usd"), None)
    assert "0.1 USD a query, at most 0.05 USD wanted" in capsys.readouterr().err


def test_outcomes_that_are_less_sure_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Outcomes by the policy's own thresholds are compared; a lowered one is noticed."""
    outputs = [output(confidence=0.6), output(confidence=0.7)] * 20
    tally = at_work(TWO, outputs)
    assert not tally.lowered and at_work(TWO, [*outputs, output(threshold=0.5)]).lowered
    tally.tell_drift(0.66)
    assert capsys.readouterr().err == ""
    tally.tell_drift(0.9)
    assert "mean confidence 0.65 after 0.90" in capsys.readouterr().err
