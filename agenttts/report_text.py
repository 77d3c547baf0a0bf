"""The sentences of a report: what was found, how sure it is, what it cost. Terminal and HTML say the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agenttts.report import Finalist, ReportData, TrialRow
    from agenttts.stats import Interval


def score_text(score: float | None) -> str:
    return "–" if score is None else f"{score:.3f}"


def interval_text(interval: Interval | tuple[float, float] | None, *, signed: bool = False) -> str:
    """`0.712 [0.650, 0.770]`, or only the brackets for two bounds; – for None."""
    if interval is None:
        return "–"
    sign = "+" if signed else ""
    if isinstance(interval, tuple):
        return f"[{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"
    return f"{interval.mean:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def count_text(number: float) -> str:
    """A count with thousands marked; large floats such as FLOPs as 1.23e12."""
    if abs(number) >= 1e9:
        return f"{number:.3g}".replace("e+", "e")
    return f"{number:,.0f}"


def units_text(units: float) -> str:
    """Three significant digits, whole numbers above a hundred."""
    return f"{units:.0f}" if abs(units) >= 100 else f"{units:.3g}"


def time_text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def minutes_text(minutes: float) -> str:
    return (
        f"{minutes * 60:.0f} s"
        if minutes < 2
        else f"{minutes:.0f} min"
        if minutes < 120
        else f"{minutes / 60:.1f} h"
    )


def finalist_score(finalist: Finalist) -> str:
    """The test score with its interval where there is one, else the search score, said so."""
    if finalist.test_score is not None:
        return f"{score_text(finalist.test_score)} {interval_text(finalist.test_interval)} on the test split"
    interval = f" {interval_text(finalist.search_interval)}" if finalist.search_interval else ""
    return f"{score_text(finalist.search_score)}{interval} on the search split"


def status_text(data: ReportData) -> str:
    """`complete`, or `run in progress, as of …` for a run that is still going on."""
    if data.as_of is not None:
        return f"run in progress, as of {time_text(data.as_of)}"
    if data.status == "running":
        return "not finished: still running elsewhere or interrupted (`agenttts search … --resume` goes on)"
    reason = f": {data.stopped_because}" if data.stopped_because else ""
    return f"{data.status}{reason}"


def headline(data: ReportData) -> str:
    """One sentence: the winner, its score, its budget."""
    if data.best is None:
        return f"No trial of {data.pipeline} has a score yet."
    budget = units_text(data.best.budget_units)
    of = f" of {units_text(data.budget_units)}" if data.budget_units is not None else ""
    lead = (
        "The best allocation found"
        if data.confirmed
        else "The best allocation so far (not confirmed on the test split)"
    )
    return (
        f"{lead} is {data.best.allocation}: {finalist_score(data.best)} ({data.metric}), "
        f"for {budget}{of} units per query."
    )


def verdict(data: ReportData) -> str | None:
    """One sentence against the baseline; None while there is nothing to compare."""
    if data.baseline is None or data.best is None:
        return None
    base = f"the best single-model default, {data.baseline.allocation} ({finalist_score(data.baseline)})"
    if data.baseline.allocation == data.best.allocation:
        return f"It is {base} itself: the search found nothing better."
    if data.difference is None:
        return f"Compare {base}; the difference is not measured on the test split yet."
    change = interval_text(data.difference, signed=True)
    if data.difference.low > 0:
        return f"It beats {base}, by {change} on the same test examples."
    if data.difference.high < 0:
        return f"It is worse than {base}, by {change} on the same test examples."
    return f"It cannot be told apart from {base}: {change} on the same test examples."


def equivalents_text(data: ReportData) -> str | None:
    """How many allocations are as good as far as the data tell, and the cheapest; None before the end."""
    if data.best is None or not data.confirmed:
        return None
    others = [found for found in data.equivalent if found.allocation != data.best.allocation]
    if not others:
        return "No other trial is indistinguishable from it on the search split."
    cheapest = min(others, key=lambda found: found.budget_units)
    several = f"{len(others)} other allocations" if len(others) > 1 else "One other allocation"
    if cheapest.budget_units < data.best.budget_units:
        end = f"the cheapest is {cheapest.allocation}, for {units_text(cheapest.budget_units)} units"
    else:
        end = "none of them is cheaper"
    return f"{several} cannot be told apart from it on the search split; {end}."


def certificate_lines(data: ReportData) -> list[str]:
    """What is claimed and on what evidence: the search's own words where it left some, else from the data."""
    if data.certificate:
        return [data.certificate]
    return [line for line in (verdict(data), equivalents_text(data)) if line]


def cost_lines(data: ReportData) -> Iterator[str]:
    cost = data.cost
    tokens = count_text(cost.prompt_tokens + cost.generated_tokens)
    agent = f", {count_text(cost.agent_tokens)} of them the agent's" if cost.agent_tokens else ""
    money = f" and ${cost.usd:.2f}" if cost.usd is not None else ""
    time = f" in {minutes_text(cost.minutes)}" if cost.minutes is not None else ""
    yield (
        f"The search drew {count_text(cost.samples_drawn)} samples in {count_text(cost.calls)} calls{time}: "
        f"{tokens} tokens{agent}, {count_text(cost.flops)} FLOPs{money}."
    )
    if cost.samples_reused:
        used = cost.samples_drawn + cost.samples_reused
        yield (
            f"The bank answered {count_text(cost.samples_reused)} of the {count_text(used)} samples that the "
            f"trials used ({cost.reused_share:.0%})."
        )
    if cost.flops_without_bank:
        yield (
            f"Without the bank the same trials would take {count_text(cost.flops_without_bank)} FLOPs, "
            f"and {count_text(cost.flops_spared_by_shared_prompts)} more if each sample read its own prompt."
        )
    if cost.flops_spared_by_stops:
        stops = count_text(cost.flops_spared_by_stops)
        yield f"Trials pruned by a race spared {stops} FLOPs."


def next_unit_text(data: ReportData) -> str:
    """Where a further unit of compute would buy most, and how sure that is."""
    if not data.marginals:
        return "No two trials differ in one stage alone: what a further unit would buy is not known."
    first = data.marginals[0]
    step = f"{first.before} → {first.after} at {first.stage}"
    gain = f"{interval_text(first.gain, signed=True)} for {units_text(first.extra_units)} more units"
    if first.gain.low > 0:
        return f"The next unit of compute would buy most with {step}: {gain}."
    if first.gain.mean > 0:
        return (
            f"The next unit would buy most with {step} ({gain}), if it buys anything: the interval holds 0."
        )
    return f"No dearer choice at one stage has scored better; the least bad is {step} ({gain})."


def headroom_lines(data: ReportData) -> Iterator[str]:
    """What each stage's samples hold beyond what is made of them."""
    for spare in data.headroom:
        vote = f", their vote {interval_text(spare.maj_at_n)}" if spare.maj_at_n is not None else ""
        yield (
            f"At {spare.stage}, one sample of {spare.model} is right for "
            f"{interval_text(spare.pass_at_1)}{vote}, "
            f"at least one of {spare.n_samples} for {interval_text(spare.pass_at_n)}."
        )


def fault_lines(data: ReportData) -> Iterator[str]:
    missing = sum(row.n_missing for row in data.trials)
    failed = [str(row.number) for row in data.trials if row.status == "failed"]
    if not missing and not failed:
        yield "No example is missing from any trial."
    if missing:
        scored = sum(row.n_scored for row in data.trials)
        yield f"{count_text(missing)} of {count_text(missing + scored)} evaluations are missing, in no mean."
    for cut in data.truncated:
        share = f"{count_text(cut.n_cut)} of {count_text(cut.n_results)}"
        yield f"At {cut.stage}, {share} results rest on prompts that were cut as planned."
    if failed:
        yield f"Failed, not scored, for too many missing examples: {', '.join(failed)}."


def trial_score_text(row: TrialRow) -> str:
    return interval_text(row.score) if row.score is not None else row.status


def cited(trials: Iterable[int]) -> str:
    numbers = [str(number) for number in trials]
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(numbers)}" if numbers else "no trial"
