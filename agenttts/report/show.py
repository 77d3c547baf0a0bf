"""A result in a few lines: its `repr`, and its display in a notebook."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Protocol

from agenttts.report.sentences import count_text, interval_text, score_text, units_text, usd_text
from agenttts.results.outcome import Finalist, Outcome
from agenttts.space.measure import MeasureName, label_of


class Run(Protocol):
    """The attributes of a run that are shown.

    Attributes:
        run_id: The run.
        db: The DuckDB file that holds it.
        status: How the run stands: running, complete, stopped or failed.
        outcome: The outcome, so far or in the end.
    """

    @property
    def run_id(self) -> str: ...

    @property
    def db(self) -> Path: ...

    @property
    def status(self) -> str: ...

    @property
    def outcome(self) -> Outcome: ...


def text(run: Run) -> str:
    """Format a run as text, one fact a line: the run, its winner and baseline, its trials, its cost.

    Args:
        run: The run.
    """
    lines = [f"{name:<9} {fact}" for name, fact in _facts(run)]
    return f"{type(run).__name__}\n" + "\n".join(f"  {line}" for line in lines)


def html(run: Run) -> str:
    """Format the facts of `text` as an HTML table, one row each, with the certificate and the Pareto front.

    Args:
        run: The run.
    """
    rows = "".join(
        f'<tr><th style="text-align:left">{name}</th><td style="text-align:left">{escape(fact)}</td></tr>'
        for name, fact in _facts(run)
    )
    facts = f"<table><caption>{type(run).__name__}</caption><tbody>{rows}</tbody></table>"
    certificate = f'<p style="max-width:60em">{escape(run.outcome.certificate.text)}</p>'
    return facts + certificate + _front(run.outcome)


def _front(outcome: Outcome) -> str:
    """The trials that nothing cheaper is as good as, in a table that is folded."""
    if not outcome.frontier:
        return ""
    label = label_of(outcome.measure)
    rows = "".join(
        f'<tr><td>{trial.number}</td><td style="text-align:left">{escape(str(trial.allocation))}</td>'
        f"<td>{units_text(trial.budget_units, outcome.measure)}</td><td>{score_text(trial.score)}</td></tr>"
        for trial in outcome.frontier
    )
    head = f"<tr><th>trial</th><th>allocation</th><th>{label}</th><th>search score</th></tr>"
    summary = f"<summary>Pareto front, {len(outcome.frontier)} allocations</summary>"
    return f"<details>{summary}<table><thead>{head}</thead><tbody>{rows}</tbody></table></details>"


def _facts(run: Run) -> list[tuple[str, str]]:
    scored = sum(trial.score is not None for trial in run.outcome.trials)
    partial = sum(trial.status == "partial" for trial in run.outcome.trials)
    on_a_part = f", {partial} of them on a part of the examples" if partial else ""
    cost = run.outcome.cost
    tokens = count_text(cost.prompt_tokens + cost.generated_tokens)
    samples = count_text(cost.samples_drawn)
    money = "" if cost.usd is None else f", {usd_text(cost.usd)}"
    flops = "FLOPs not known" if cost.flops is None else f"{count_text(cost.flops)} FLOPs"
    return [
        ("run", f"{run.run_id}, {run.status}, in {run.db}"),
        ("best", _finalist(run.outcome.best, run.outcome.measure)),
        ("baseline", _finalist(run.outcome.baseline, run.outcome.measure)),
        ("trials", f"{len(run.outcome.trials)}, {scored} with a score{on_a_part}"),
        (
            "cost",
            f"{count_text(cost.calls)} calls, {samples} samples, {tokens} tokens, {flops}{money}",
        ),
        *_policy(run.outcome),
    ]


def _policy(outcome: Outcome) -> list[tuple[str, str]]:
    if outcome.adaptive is None or outcome.adaptive.tested is None:
        return []
    tested = outcome.adaptive.tested
    score = f"{score_text(tested.score)} {interval_text(tested.ci)} on the test split"
    mean = None if tested.cost is None else units_text(tested.cost.mean, outcome.measure)
    cost = "" if mean is None else f", {mean} {label_of(outcome.measure)} per query on average"
    return [("policy", f"{outcome.adaptive.policy}: {score}{cost}")]


def _finalist(finalist: Finalist | None, measure: MeasureName) -> str:
    if finalist is None:
        return "no trial has a score"
    split = "search" if finalist.test_score is None else "test"
    score, interval = (
        (finalist.search_score, finalist.search_ci)
        if split == "search"
        else (finalist.test_score, finalist.test_ci)
    )
    bounds = f" {interval_text(interval)}" if interval else ""
    planned = f"{units_text(finalist.budget_units, measure)} {label_of(measure)} per query"
    return f"{finalist.allocation}: {score_text(score)}{bounds} on the {split} split, {planned}"
