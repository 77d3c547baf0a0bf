"""The sentences of a report beside its certificate: how the run stands, what it cost, what went wrong.

The terminal and the HTML page use the same sentences.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agenttts.report.standing import STOPPED_SILENTLY
from agenttts.results.certificate import policy_lead
from agenttts.results.health import percent
from agenttts.results.negotiated import clauses
from agenttts.space.measure import MeasureName, amount_text, label_of, number_text

if TYPE_CHECKING:
    from agenttts.report.data import ReportData
    from agenttts.results.health import SampleHealth
    from agenttts.results.outcome import Finalist, Outcome, Requirement
    from agenttts.results.trials import TrialResult
    from agenttts.stats import Interval
    from datastore.records import Insight


def score_text(score: float | None) -> str:
    """Format a score with three decimals; – for None.

    Args:
        score: The score.
    """
    return "–" if score is None else f"{score:.3f}"


def interval_text(interval: Interval | tuple[float, float] | None, *, signed: bool = False) -> str:
    """Format an interval as `0.712 [0.650, 0.770]`, two bounds as the brackets alone.

    Args:
        interval: The interval, or its two bounds; None gives –.
        signed: Whether positive numbers have a plus sign.
    """
    if interval is None:
        return "–"
    sign = "+" if signed else ""
    if isinstance(interval, tuple):
        return f"[{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"
    return f"{interval.mean:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def count_text(number: float) -> str:
    """Format a count with thousands separators, a large number such as FLOPs as `1.23e12`.

    Args:
        number: The number.
    """
    if abs(number) >= 1e9:
        return f"{number:.3g}".replace("e+", "e")
    return f"{number:,.0f}"


def units_text(units: float, measure: MeasureName) -> str:
    """Format a planned cost with three significant digits, from a hundred on as a whole number.

    Args:
        units: The amount, without its label.
        measure: What it is measured in.
    """
    return f"{units:.0f}" if abs(units) >= 100 else number_text(units, measure, 3)


def usd_text(usd: float) -> str:
    """Format US dollars: cents, and below ten cents three significant digits.

    Args:
        usd: The amount.
    """
    return f"${usd:,.2f}" if usd >= 0.1 or usd == 0 else f"${number_text(usd, 'usd', 3)}"


def time_text(at: float) -> str:
    """Format a time as date and time in UTC.

    Args:
        at: Unix time in seconds.
    """
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def minutes_text(minutes: float) -> str:
    """Format a duration in seconds, minutes or hours.

    Args:
        minutes: The duration in minutes.
    """
    return (
        f"{minutes * 60:.0f} s"
        if minutes < 2
        else f"{minutes:.0f} min"
        if minutes < 120
        else f"{minutes / 60:.1f} h"
    )


def finalist_score(finalist: Finalist) -> str:
    """Format the test score with its interval where there is one, else the search score, with the split's
    name.

    Args:
        finalist: The winner or the best default.
    """
    if finalist.test_score is not None:
        return f"{score_text(finalist.test_score)} {interval_text(finalist.test_ci)} on the test split"
    interval = f" {interval_text(finalist.search_ci)}" if finalist.search_ci else ""
    return f"{score_text(finalist.search_score)}{interval} on the search split"


def status_text(data: ReportData) -> str:
    """Describe how a run stands: `complete`, or `run in progress, as of …`.

    Args:
        data: The report.
    """
    if data.as_of is not None:
        return f"run in progress, as of {time_text(data.as_of)}"
    if data.abandoned:
        return f"{STOPPED_SILENTLY}: no process is at work on it (`agenttts search … --resume` goes on)"
    if data.status == "running":
        return "not finished: still running elsewhere or interrupted (`agenttts search … --resume` goes on)"
    reason = data.outcome.stopped_because if data.status == "complete" else None
    return f"{data.status}: {reason}" if reason else data.status


def headline(data: ReportData) -> str:
    """Write about the winner, its score and its budget: first whether what was required is met, where a score
    was, and last what is recommended beside it.

    Args:
        data: The report.
    """
    best = data.outcome.best
    if best is None:
        return f"No trial of {data.pipeline} has a score yet."
    outcome, measure = data.outcome, data.outcome.measure
    budget = units_text(best.budget_units, measure)
    of = f" of {units_text(data.budget_units, measure)}" if data.budget_units is not None else ""
    standing = "found" if data.confirmed else "so far (not confirmed on the test split)"
    lead = f"The best allocation {standing} is"
    requirement = outcome.requirement
    if requirement is not None:
        superlative = "fastest" if outcome.objective == "latency" else "cheapest"
        kind = superlative if requirement.shown else "most promising"
        lead = f"{_requirement_text(requirement)} The {kind} allocation {standing} is"
    scored = (
        f"{lead} {best.allocation}: {finalist_score(best)} ({data.metric}), "
        f"for {budget}{of} {label_of(measure)} per query."
    )
    return f"{scored}{_recommended_text(outcome)}"


def _requirement_text(requirement: Requirement) -> str:
    """Say whether the required score is met on the test split; before that, whether the search shows it."""
    least = f"{requirement.min_quality:g}"
    if requirement.met is None:
        verdict = "shown" if requirement.shown else "not shown"
        return f"A score of {least} is {verdict} on the search split."
    shown = "" if requirement.shown else ", and was not shown before"
    return f"A score of {least} is {'met' if requirement.met else 'NOT met'} on the test split{shown}."


def _recommended_text(outcome: Outcome) -> str:
    recommended = outcome.recommended
    if recommended is None:
        return ""
    cost = f"{units_text(recommended.budget_units, outcome.measure)} {label_of(outcome.measure)}"
    score = ""
    if recommended.test_score is not None:
        score = (
            f", {score_text(recommended.test_score)} {interval_text(recommended.test_ci)} on the test split"
        )
    return (
        f" Recommended: {recommended.allocation} for {cost}{score}; "
        f"it is worse by no more than {recommended.margin:g}."
    )


def policy_headline(data: ReportData) -> str | None:
    """Write one sentence about the policy, its score and its cost; None where the run has none.

    Args:
        data: The report.
    """
    adaptive = data.outcome.adaptive
    if adaptive is None:
        return None
    tested = adaptive.tested
    score = f"{adaptive.choice.cross_fitted_score.mean:.3f} by cross-fit on the search split"
    if tested is not None:
        score = f"{score_text(tested.score)} {interval_text(tested.ci)} on the test split"
    cost = adaptive.choice.cost if tested is None or tested.cost is None else tested.cost
    amount = amount_text(cost.mean, data.outcome.measure, 3)
    return f"{policy_lead(adaptive)}: {score}, for {amount} per query on average."


def cost_lines(data: ReportData) -> Iterator[str]:
    """Describe what the search paid, and what the bank, shared prompts and trials on a part saved.

    Args:
        data: The report.

    Yields:
        The sentences.
    """
    cost = data.outcome.cost
    tokens = count_text(cost.prompt_tokens + cost.generated_tokens)
    agent = f", {count_text(cost.agent_tokens)} more of the agent's" if cost.agent_tokens else ""
    money = f" and {usd_text(cost.usd)}" if cost.usd is not None else ""
    flops = "FLOPs not known" if cost.flops is None else f"{count_text(cost.flops)} FLOPs"
    time = f" in {minutes_text(data.minutes)}" if data.minutes is not None else ""
    yield (
        f"The search drew {count_text(cost.samples_drawn)} samples in {count_text(cost.calls)} calls{time}: "
        f"{tokens} tokens{agent}, {flops}{money}."
    )
    if cost.samples_reused:
        of_used = f"{count_text(cost.samples_reused)} of the {count_text(cost.samples_used)} samples"
        yield f"The bank answered {of_used} that the trials used ({cost.reused_share:.0%})."
    if cost.flops_without_bank and cost.flops_spared_by_shared_prompts is not None:
        yield (
            f"Without the bank the same trials would take {count_text(cost.flops_without_bank)} FLOPs, "
            f"and {count_text(cost.flops_spared_by_shared_prompts)} more if each sample read its own prompt."
        )
    if cost.flops_spared_by_stops:
        stops = count_text(cost.flops_spared_by_stops)
        yield f"Trials on a part of the examples spared {stops} FLOPs."


def next_unit_text(data: ReportData) -> str:
    """Describe which dearer choice gains most per unit of the budget's measure, and how sure that is.

    Args:
        data: The report.
    """
    if not data.marginals:
        return "No two trials differ in one stage alone: what a dearer choice would buy is not known."
    first = data.marginals[0]
    step = f"{first.before} → {first.after} at {first.stage}"
    measure = data.outcome.measure
    of_compute, unit = (" of compute", "unit") if measure == "units" else ("", "dollar")
    extra = f"{units_text(first.extra_units, measure)} more {label_of(measure)}"
    gain = f"{interval_text(first.gain, signed=True)} for {extra}"
    if first.gain.low > 0:
        return f"The next {unit}{of_compute} would buy most with {step}: {gain}."
    if first.gain.mean > 0:
        return (
            f"The next {unit} would buy most with {step} ({gain}), if it buys anything: the interval holds 0."
        )
    return f"No dearer choice at one stage has scored better; the least bad is {step} ({gain})."


def headroom_lines(data: ReportData) -> Iterator[str]:
    """Describe how often a stage's single sample, the vote of its samples, and any of its samples is right.

    Args:
        data: The report.

    Yields:
        A sentence for each stage.
    """
    for spare in data.headroom:
        vote = f", their vote {interval_text(spare.maj_at_n)}" if spare.maj_at_n is not None else ""
        yield (
            f"At {spare.stage}, one sample of {spare.model} is right for "
            f"{interval_text(spare.pass_at_1)}{vote}, "
            f"at least one of {spare.n_samples} for {interval_text(spare.pass_at_n)}."
        )


def fault_lines(data: ReportData) -> Iterator[str]:
    """Describe how many evaluations are missing, how many prompts were cut, and which trials failed.

    Args:
        data: The report.

    Yields:
        The sentences.
    """
    missing = sum(trial.n_missing for trial in data.trials)
    failed = [str(trial.number) for trial in data.trials if trial.status == "failed"]
    if not missing and not failed:
        yield "No example is missing from any trial."
    if missing:
        scored = sum(trial.n_scored for trial in data.trials)
        yield f"{count_text(missing)} of {count_text(missing + scored)} evaluations are missing, in no mean."
    for cut in data.truncated:
        share = f"{count_text(cut.n_cut)} of {count_text(cut.n_results)}"
        yield f"At {cut.stage}, {share} results rest on prompts that were cut as planned."
    if failed:
        yield f"Failed, not scored, for too many missing examples: {', '.join(failed)}."


HEALTH_COLUMNS = ("samples", "empty", "cut", "unparsed", "prompts", "all one text")
"""The columns of a table of the samples' health, behind stage and model."""


def health_cells(health: SampleHealth) -> list[str]:
    """Format the cells of `HEALTH_COLUMNS`.

    Args:
        health: The shares of a stage and model.
    """
    shares = [percent(share) for share in (health.empty, health.cut, health.unparsed)]
    identical = "–" if health.identical is None else percent(health.identical)
    return [count_text(health.n_samples), *shares, count_text(health.n_prompts), identical]


def doubt_lines(data: ReportData) -> Iterator[str]:
    """Describe what is wrong with samples and what to do, then what was found out about the servers.

    Args:
        data: The report.

    Yields:
        The sentences.
    """
    for health in data.outcome.health:
        if health.warning is not None:
            yield f"{health.warning}."
    for clause in clauses(data.outcome.negotiated):
        yield f"{clause}."


def trial_score_text(trial: TrialResult, n_examples: int) -> str:
    """Format a trial's plain mean score, one on a part of the examples with their number.

    Args:
        trial: The trial; of one without a score the status is returned.
        n_examples: The number of examples of a complete trial.
    """
    if trial.score is None:
        return trial.status
    on_a_part = f" on {trial.n_run} of {n_examples}" if trial.status == "partial" else ""
    return score_text(trial.score) + on_a_part


def verdict_text(insight: Insight) -> str:
    """Format what the trials say of an insight, as a sentence without its full stop.

    Args:
        insight: The insight.
    """
    if insight.verdict != "open":
        return f"a paired test {'supports' if insight.verdict == 'supported' else 'refutes'} it"
    return "the trials do not decide it" if insight.trials else "not tested in this run yet"


def cited(trials: Iterable[int]) -> str:
    """Format the numbers of trials as `trials 3, 7`.

    Args:
        trials: The numbers.
    """
    numbers = [str(number) for number in trials]
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(numbers)}" if numbers else "no trial"
