"""What is claimed of the winner, in words, and on what evidence:

the figures of an outcome put into sentences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipelines.allocation import Allocation


def certificate(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """`text` for a person, and the figures it rests on. `tie`: the test split does not show a difference from
    the best default; None when that was not tested."""
    best, baseline = outcome["best"], outcome["baseline"]
    interval = outcome["difference_ci"]
    tie = None if interval is None else interval[0] <= 0 <= interval[1]
    same = best is not None and baseline is not None and best["allocation"] == baseline["allocation"]
    return {
        "text": " ".join(_sentences(outcome, tie, same)),
        "tie": tie,
        "winner_is_default": same,
        "n_search": outcome["n_search"],
        "n_test": outcome["n_test"],
        "n_trials": len(outcome["trials"]),
        "n_equivalent": len(outcome["equivalent"]),
    }


def _sentences(outcome: Mapping[str, Any], tie: bool | None, same: bool) -> list[str]:
    best, baseline = outcome["best"], outcome["baseline"]
    if best is None:
        return ["No trial has a score, so nothing is claimed."]
    confirmed = [trial for trial in outcome["confirmation"] if trial["purpose"] == "confirm"]
    tried = {json.dumps(trial["allocation"]) for trial in [*outcome["trials"], *confirmed]}
    least = outcome.get("min_quality")
    claim = "the best"
    if least is not None:
        reached = best["search_score"] >= least
        most = "fastest" if outcome["objective"] == "latency" else "cheapest"
        claim = f"the {most} that reaches {least:g}" if reached else f"the best, though short of {least:g},"
    planned = outcome.get("planned_seconds")
    seconds = "" if planned is None else f", {planned:.3g} s as planned"
    found = [
        f"{_name(best)} ({best['budget_units']:.4g} units{seconds}) is {claim} of {len(tried)} "
        f"allocations tried, with {best['search_score']:.3f} on {outcome['n_search']} search examples."
    ]
    found += _retested(outcome.get("retest"), best)
    if best["test_score"] is None:
        found.append("It was not scored on the test split, so this is no more than the search's own view.")
    else:
        low, high = best["test_ci"]
        found.append(
            f"Scored once on the sealed test split ({outcome['n_test']} examples): {best['test_score']:.3f} "
            f"[{low:.3f}, {high:.3f}]."
        )
    found += _further(best.get("test_metrics"))
    found += _against_default(outcome, baseline, tie, same)
    found += _equivalents(outcome, best)
    missing = sum(trial["n_missing"] for trial in outcome["trials"])
    if missing:
        found.append(
            f"{missing} results are missing after errors; comparisons rest on the examples that both have."
        )
    return [*found, "Intervals are 95 %, by bootstrap over examples; the search's own choice is not in them."]


def _further(found: Mapping[str, Any] | None) -> list[str]:
    told = [
        f"{name} {m['mean']:.3f} [{m['ci'][0]:.3f}, {m['ci'][1]:.3f}]" for name, m in (found or {}).items()
    ]
    return [f"Further metrics there: {', '.join(told)}."] if told else []


def _against_default(
    outcome: Mapping[str, Any], baseline: Mapping[str, Any] | None, tie: bool | None, same: bool
) -> list[str]:
    if baseline is None:
        return ["No single-model default has a score to compare with."]
    if same:
        return ["It is the best single-model default itself: the search found nothing better."]
    if tie is None:
        return [
            f"The best single-model default is {_name(baseline)}, {baseline['search_score']:.3f} in search."
        ]
    low, high = outcome["difference_ci"]
    figures = f"{outcome['difference']:+.3f} [{low:+.3f}, {high:+.3f}], paired"
    against = f"the best single-model default, {_name(baseline)} ({baseline['test_score']:.3f})"
    if tie:
        return [f"The difference from {against}, is {figures}: the interval includes 0, so this is a tie."]
    verdict = "better" if low > 0 else "worse"
    return [f"It is {verdict} than {against}: {figures}."]


def _retested(retest: Mapping[str, Any] | None, best: Mapping[str, Any]) -> list[str]:
    if retest is None:
        return []
    own = next(r for r in retest["rivals"] if r["allocation"] == best["allocation"])
    count = len(retest["rivals"])
    among = "alone was" if count == 1 else f"and {count - 1} not told apart from it were"
    return [
        f"The search's best {among} scored again on {retest['n']} examples held back; over both parts it is "
        f"the best of them, with {own['retest_score']:.3f} on those examples."
    ]


def _equivalents(outcome: Mapping[str, Any], best: Mapping[str, Any]) -> list[str]:
    others = [e for e in outcome["equivalent"] if e["allocation"] != best["allocation"]]
    if not others:
        return ["No other allocation tried is as good within noise."]
    cheapest = outcome["equivalent"][0]
    count = f"{len(others)} other allocation{'s' * (len(others) > 1)}"
    told = f"{count} can't be told apart from it on the search examples"
    if cheapest["allocation"] == best["allocation"]:
        return [f"{told}; none is cheaper."]
    return [f"{told}; the cheapest is {_name(cheapest)}, {cheapest['budget_units']:.4g} units."]


def _name(finalist: Mapping[str, Any]) -> str:
    return str(Allocation.from_dict(finalist["allocation"]))
