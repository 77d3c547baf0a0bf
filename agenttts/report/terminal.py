"""A report on a terminal, with rich tables. Data come from `agenttts.report.data`, sentences from
`sentences`.
"""

from __future__ import annotations

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agenttts.report import sentences as words
from agenttts.report.data import ReportData
from agenttts.space.measure import label_of

_WIDE = 140  # columns that leave room for reasons


def print_report(data: ReportData, console: Console) -> None:
    """Print the whole report: trials, winner, curves, the best next step, insights, samples, cost, faults.

    Args:
        data: The report.
        console: The console to print on.
    """
    console.print(Text(f"{data.pipeline} · run {data.run_id} · {words.status_text(data)}", style="dim"))
    console.print(trial_table(data, reasons=console.width >= _WIDE))
    print_winner(data, console)
    if data.curves:
        console.print(_curve_table(data))
        console.print(Text(words.next_unit_text(data)))
    for line in words.headroom_lines(data):
        console.print(Text(line))
    for tuned in data.tuned:
        change = f"{words.score_text(tuned.before)} → {words.score_text(tuned.after)}"
        console.print(
            Text(f"{tuned.model}, tuned for {', '.join(tuned.tasks)}: {change} on its evaluation split")
        )
    for line in data.changes:
        console.print(Text(line))
    if data.insights:
        console.print(_insight_table(data))
    if data.outcome.health:
        console.print(_health_table(data))
    for line in words.doubt_lines(data):
        console.print(Text(line, style="yellow"))
    for line in (*words.cost_lines(data), *words.fault_lines(data)):
        console.print(Text(line))
    for fault in data.faults[:5]:
        console.print(
            Text(f"  {fault.n_examples}× in {words.cited(fault.trials)}: {fault.reason}", style="dim")
        )


def print_winner(data: ReportData, console: Console) -> None:
    """Print the winner and its certificate.

    Args:
        data: The report.
        console: The console to print on.
    """
    headlines = filter(None, (words.headline(data), words.policy_headline(data)))
    lines = [*(Text(line, style="bold") for line in headlines), Text(data.outcome.certificate.text)]
    console.print(Panel(Group(*lines), title="winner" if data.confirmed else "so far", border_style="green"))


def trial_table(data: ReportData, *, reasons: bool = True) -> Table:
    """Build a table with a row for each trial; ● marks the Pareto front.

    Args:
        data: The report.
        reasons: Whether the table is wide and shows why each allocation was proposed.
    """
    table = Table(header_style="bold", box=None, pad_edge=False, expand=reasons)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("allocation", min_width=20)
    table.add_column(label_of(data.outcome.measure), justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("drawn", justify="right", no_wrap=True)
    table.add_column("reused", justify="right", no_wrap=True)
    if reasons:
        table.add_column("why", overflow="ellipsis", no_wrap=True, ratio=1)
    else:
        table.add_column("proposer", no_wrap=True)
    for trial in data.shown:
        missing = f" (−{trial.n_missing})" if trial.n_missing else ""
        kind = {"search": trial.proposer, "baseline": "default"}.get(trial.purpose, trial.purpose)
        kind = "fresh" if trial.split == "fresh" else kind
        style = {"failed": "red", "running": "dim", "partial": "dim"}.get(
            trial.status, "cyan" if trial.split == "test" else ""
        )
        table.add_row(
            str(trial.number),
            "●" if trial.number in data.frontier else "",
            escape(str(trial.policy or trial.allocation)),
            words.units_text(trial.budget_units, data.outcome.measure),
            words.trial_score_text(trial, data.n_examples),
            f"{trial.n_scored}{missing}",
            words.count_text(trial.samples_drawn),
            words.count_text(trial.samples_reused),
            escape(f"{kind}: {trial.reason}" if reasons and trial.reason else kind),
            style=style,
        )
    return table


def _curve_table(data: ReportData) -> Table:
    counts = sorted({point.n_samples for curve in data.curves for point in curve.points})
    counts = [n for n in counts if n & (n - 1) == 0] or counts
    table = Table(
        header_style="bold", box=None, pad_edge=False, title="score against samples", title_justify="left"
    )
    table.add_column("stage")
    table.add_column("model")
    for n in counts:
        table.add_column(f"n={n}", justify="right")
    table.add_column("other stages", overflow="fold")
    for curve in data.curves:
        by_n = {point.n_samples: point for point in curve.points}
        cells = [
            _half_width(by_n[n].score.mean, by_n[n].score.low, by_n[n].score.high) if n in by_n else ""
            for n in counts
        ]
        others = " · ".join(f"{stage} {choice}" for stage, choice in curve.others.items())
        table.add_row(escape(curve.stage), escape(str(curve.option)), *cells, escape(others))
    return table


def _health_table(data: ReportData) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, title="samples", title_justify="left")
    table.add_column("stage")
    table.add_column("model")
    for name in words.HEALTH_COLUMNS:
        table.add_column(name, justify="right")
    for health in data.outcome.health:
        style = "yellow" if health.problems else ""
        table.add_row(escape(health.stage), escape(health.model), *words.health_cells(health), style=style)
    return table


def _half_width(mean: float, low: float, high: float) -> str:
    return f"{mean:.2f}±{(high - low) / 2:.2f}"


def _insight_table(data: ReportData) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, title="insights", title_justify="left")
    table.add_column("step", justify="right")
    table.add_column("insight", overflow="fold")
    table.add_column("by", overflow="fold")
    table.add_column("rests on", overflow="fold")
    table.add_column("tested")
    for insight in data.insights:
        by, rests_on = escape(insight.proposer), words.cited(insight.trials)
        table.add_row(str(insight.step), escape(insight.text), by, rests_on, words.verdict_text(insight))
    return table
