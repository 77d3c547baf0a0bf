"""What is claimed of the winner, in words, and on what evidence: the figures of an outcome in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from agenttts.results.adaptive import AdaptivePolicy, CostPerQuery
from agenttts.results.negotiated import clauses
from agenttts.results.outcome import Certificate, Finalist, Outcome
from agenttts.results.ranking import is_over, leader
from agenttts.space.measure import amount_text, number_text
from agenttts.stats import Interval

_MOST_DOUBTFUL = 3


def certificate(outcome: Outcome) -> Certificate:
    """Write the claim that the figures of an outcome support.

    Args:
        outcome: The outcome; the certificate that it may have is not read.
    """
    best, baseline, interval = outcome.best, outcome.baseline, outcome.difference_ci
    text = _without_winner(outcome) if best is None else " ".join(_sentences(outcome, best))
    return Certificate(
        text=text,
        tie=None if interval is None else interval[0] <= 0 <= interval[1],
        winner_is_default=best is not None
        and baseline is not None
        and best.allocation == baseline.allocation,
        n_search=outcome.n_search,
        n_test=outcome.n_test,
        n_trials=sum(trial.status != "failed" for trial in outcome.trials),
        n_equivalent=len(outcome.equivalent),
    )


def _without_winner(outcome: Outcome) -> str:
    """What can be said while no trial is complete."""
    ahead = leader(outcome.trials)
    if ahead is None or ahead.score is None:
        return Certificate().text
    return (
        f"No trial is complete, so nothing is claimed. {ahead.allocation} looks best, with "
        f"{ahead.score:.3f} on {ahead.n_run} examples."
    )


def _sentences(outcome: Outcome, best: Finalist) -> Iterator[str]:
    confirmed = [trial for trial in outcome.confirmation if trial.purpose == "confirm"]
    n_tried = len({t.allocation for t in [*outcome.trials, *confirmed] if t.status != "failed"})
    n_partial = sum(trial.status == "partial" for trial in outcome.trials)
    on_a_part = f", {n_partial} of them on a part of the examples only" if n_partial else ""
    seconds = outcome.planned_seconds
    planned = "" if seconds is None else f", {seconds:.3g} s as planned"
    yield (
        f"{best.allocation} ({amount_text(best.budget_units, outcome.measure)}{planned}) is "
        f"{_superlative(outcome)} of {n_tried} allocations tried{on_a_part}."
    )
    yield from _searched(outcome, best)
    yield from _costs(outcome, best)
    yield from _tested(outcome, best)
    if best.test_metrics:
        summaries = [
            f"{name} {m.mean:.3f} [{m.ci[0]:.3f}, {m.ci[1]:.3f}]" for name, m in best.test_metrics.items()
        ]
        yield f"Further metrics there: {', '.join(summaries)}."
    yield _against_default(outcome, best)
    yield from _default_over(outcome, best)
    yield from _recommendation(outcome)
    if outcome.adaptive is not None:
        yield from _policy_sentences(outcome, outcome.adaptive)
    else:
        yield from _policies_left(outcome)
    n_failed = sum(trial.status == "failed" for trial in outcome.trials)
    if n_failed:
        which = "1 further trial has failed, and counts"
        if n_failed > 1:
            which = f"{n_failed} further trials have failed, and count"
        yield f"{which} as no allocation tried."
    n_missing = sum(trial.n_missing for trial in outcome.trials if trial.status != "failed")
    if n_missing:
        yield (
            f"{n_missing} results are missing after errors; comparisons rest on the examples that both have."
        )
    yield from _doubtful(outcome, best)
    yield "Intervals are 95 %; those of search examples allow for the choice among trials."


def _costs(outcome: Outcome, best: Finalist) -> Iterator[str]:
    """What the winner took per query beside what it was planned to take."""
    realised = {"search": best.search_cost, "test": best.test_cost}
    shown = [f"{_cost(outcome, cost)} on {split} examples" for split, cost in realised.items() if cost]
    if not shown:
        return
    over = [split for split, cost in realised.items() if is_over(cost, outcome.budget_units)]
    verdict = f", which is over the budget of {_budget(outcome)} on {' and '.join(over)}" if over else ""
    planned = amount_text(best.budget_units, outcome.measure)
    yield f"Planned at {planned} per query, it took {' and '.join(shown)}{verdict}."


def _budget(outcome: Outcome) -> str:
    return "" if outcome.budget_units is None else number_text(outcome.budget_units, outcome.measure, 6)


def _cost(outcome: Outcome, cost: Interval) -> str:
    mean, low, high = (number_text(x, outcome.measure) for x in (cost.mean, cost.low, cost.high))
    return f"{mean} [{low}, {high}]"


def _doubtful(outcome: Outcome, best: Finalist) -> Iterator[str]:
    """What makes scores say less of the models than they seem to; the winner's own samples first."""
    notable = [health for health in outcome.health if health.problems]
    notable.sort(key=lambda health: best.allocation[health.stage].model != health.model)
    if notable:
        places = [f"{h.stage} × {h.model}: {', '.join(h.problems)}" for h in notable[:_MOST_DOUBTFUL]]
        rest = len(notable) - len(places)
        more = f"; and {rest} more" if rest else ""
        yield f"Some samples are doubtful ({'; '.join(places)}{more})."
    warnings = clauses(negotiated for negotiated in outcome.negotiated if negotiated.warning)
    if warnings:
        yield f"Not all went as the pipeline says ({'; '.join(warnings)})."


def _policies_left(outcome: Outcome) -> Iterator[str]:
    """Say of a run without a policy that some were tried."""
    n_tried = len({trial.policy for trial in outcome.confirmation if trial.policy is not None})
    if n_tried:
        which = "A policy was" if n_tried == 1 else f"{n_tried} policies were"
        yield f"{which} tried on search examples, and none was chosen over the fixed allocations."


def _policy_sentences(outcome: Outcome, adaptive: AdaptivePolicy) -> Iterator[str]:
    expected = adaptive.choice.cross_fitted_score
    yield (
        f"{policy_lead(adaptive)}: {adaptive.policy}. On search examples that took no part in its choice it "
        f"scored {expected.mean:.3f} [{expected.low:.3f}, {expected.high:.3f}]."
    )
    tested = adaptive.tested
    if tested is None:
        yield "It was not scored on the test split, so that nothing is claimed of it."
        return
    cost = "" if tested.cost is None else f", for {cost_text(outcome, tested.cost)} per query"
    first, *others = (f"{share:.0%}" for share in tested.ended_at)
    ends = [f"{first} of the queries end at rung 1", *(f"{s} at rung {k}" for k, s in enumerate(others, 2))]
    ended = f"; {' and '.join(ends)}" if others else ""
    yield (
        f"Scored once on the test split: {tested.score:.3f} [{tested.ci[0]:.3f}, {tested.ci[1]:.3f}]"
        f"{cost}{ended}."
    )
    for rival in tested.rivals:
        low, high = rival.difference_ci
        rival_cost = "" if rival.cost is None else f", {amount_text(rival.cost, outcome.measure)} realised"
        verdict = "not told apart from" if low <= 0 <= high else "better than" if low > 0 else "worse than"
        yield (
            f"The policy is {verdict} the {rival.role}, {rival.allocation} ({rival.score:.3f}{rival_cost}): "
            f"{rival.difference:+.3f} [{low:+.3f}, {high:+.3f}], paired."
        )


def policy_lead(adaptive: AdaptivePolicy) -> str:
    """Say what kind of policy it is: how it differs from a fixed allocation with plain votes.

    Args:
        adaptive: The policy.
    """
    if adaptive.choice.kind == "weighted":
        return "A policy weighs the votes by their probability, with the same samples for every query"
    return "A policy spends the budget, on average, on the queries that need it"


def cost_text(outcome: Outcome, cost: CostPerQuery) -> str:
    """Describe the cost of queries: `73.4 units on average (median 52.1, 95 % at most 160, the dearest 221)`.

    Args:
        outcome: The outcome, whose measure the cost is in.
        cost: The distribution of the cost.
    """
    median, p95, most = (number_text(x, outcome.measure, 3) for x in (cost.median, cost.p95, cost.max))
    mean = amount_text(cost.mean, outcome.measure, 3)
    return f"{mean} on average (median {median}, 95 % at most {p95}, the dearest {most})"


def _superlative(outcome: Outcome) -> str:
    requirement = outcome.requirement
    if requirement is None:
        return "the best"
    least = f"{requirement.min_quality:g}"
    if not requirement.shown:
        return f"the most promising, though not shown to reach {least},"
    return f"the {'fastest' if outcome.objective == 'latency' else 'cheapest'} that is shown to reach {least}"


def _searched(outcome: Outcome, best: Finalist) -> Iterator[str]:
    """What the winner scored in the search, corrected, and what fresh examples had a part in it."""
    if outcome.fresh is not None:
        count = outcome.fresh.n_trials
        which = "1 allocation was" if count == 1 else f"{count} allocations were"
        yield f"{which} scored on up to {outcome.fresh.n} fresh examples before the choice."
    if best.test_score is not None:
        return
    interval = "" if best.search_ci is None else f" [{best.search_ci[0]:.3f}, {best.search_ci[1]:.3f}]"
    yield (
        f"Corrected for the choice, it scores {best.search_score:.3f}{interval} on {best.n_search} search "
        "examples."
    )


def _tested(outcome: Outcome, best: Finalist) -> Iterator[str]:
    """The winner's score on the test split, and whether it meets what was required."""
    requirement = outcome.requirement
    if best.test_score is None or best.test_ci is None:
        yield "It was not scored on the test split, so this is no more than the search's own view."
        return
    low, high = best.test_ci
    scored = next(
        (t for t in outcome.confirmation if t.purpose == "test" and t.allocation == best.allocation), None
    )
    count = outcome.n_test if scored is None else scored.n_scored
    examples = f"{count} examples"
    if scored is not None and scored.status == "partial":
        examples = f"{count} of {outcome.n_test_split or 'the'} examples; a limit cut the rest"
    yield f"Scored once on the sealed test split ({examples}): {best.test_score:.3f} [{low:.3f}, {high:.3f}]."
    if requirement is not None:
        verdict = "is met" if requirement.met else "is not met"
        yield f"The required {requirement.min_quality:g} {verdict} there."


def _against_default(outcome: Outcome, best: Finalist) -> str:
    baseline, difference, interval = outcome.baseline, outcome.difference, outcome.difference_ci
    if baseline is None:
        return "No single-model default has a score to compare with."
    if baseline.allocation == best.allocation:
        return "It is the best single-model default itself: the search found nothing better."
    if difference is None or interval is None:
        return (
            f"The best single-model default is {baseline.allocation}, {baseline.search_score:.3f} in search"
            f"{_in_search(outcome)}."
        )
    low, high = interval
    figures = f"{difference:+.3f} [{low:+.3f}, {high:+.3f}], paired"
    against = f"the best single-model default, {baseline.allocation} ({baseline.test_score:.3f})"
    if low <= 0 <= high:
        return f"The difference from {against}, is {figures}: the interval includes 0, so this is a tie."
    return f"It is {'better' if low > 0 else 'worse'} than {against}: {figures}."


def _default_over(outcome: Outcome, best: Finalist) -> Iterator[str]:
    """That the default took more than the budget, where it did: the winner had to do with less."""
    baseline = outcome.baseline
    if baseline is None or baseline.allocation == best.allocation:
        return
    cost = baseline.search_cost
    if cost is not None and is_over(cost, outcome.budget_units):
        took = f"{_cost(outcome, cost)} per query on search examples, over the budget of {_budget(outcome)}"
        yield f"That default took {took}: no default tried is within it."


def _in_search(outcome: Outcome) -> str:
    """The difference from the default on search examples, corrected; empty where it is not known."""
    difference, interval = outcome.search_difference, outcome.search_difference_ci
    if difference is None or interval is None:
        return ""
    low, high = interval
    return f"; the difference is {difference:+.3f} [{low:+.3f}, {high:+.3f}], paired and corrected"


def _recommendation(outcome: Outcome) -> Iterator[str]:
    """The cheapest allocation that is shown to be about as good."""
    recommended = outcome.recommended
    if outcome.min_quality is not None:
        return
    if recommended is None:
        yield "No cheaper allocation tried is shown to be about as good."
        return
    cost = amount_text(recommended.budget_units, outcome.measure)
    score = ""
    if recommended.test_score is not None and recommended.test_ci is not None:
        low, high = recommended.test_ci
        score = f" It scores {recommended.test_score:.3f} [{low:.3f}, {high:.3f}] on the test split."
    yield (
        f"Recommended is {recommended.allocation}, {cost}: it is worse by no more than "
        f"{recommended.margin:g} (one-sided 95 %, paired on {recommended.n} examples of the search).{score}"
    )
