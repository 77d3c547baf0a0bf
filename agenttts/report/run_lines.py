"""The runs of a database in words: a table of them, and two side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from agenttts.report.runs import RunComparison, RunSummary
from agenttts.report.sentences import (
    count_text,
    finalist_score,
    interval_text,
    score_text,
    time_text,
    units_text,
    usd_text,
)
from agenttts.space.measure import label_of


def run_table(runs: Sequence[RunSummary]) -> Table:
    """Build a table with a row for each run.

    Args:
        runs: The runs.
    """
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("run", "pipeline", "status", "started"):
        table.add_column(name, no_wrap=name == "run")
    for name in ("trials", "budget"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("best", "score", "paid"):
        table.add_column(name)
    for run in runs:
        status = "stopped" if run.abandoned else run.status
        style = {"failed": "red", "running": "cyan", "stopped": "yellow"}.get(status, "")
        table.add_row(
            run.run_id,
            escape(run.pipeline),
            run.standing,
            time_text(run.started_at),
            str(run.n_trials),
            run_budget(run),
            escape("–" if run.best is None else str(run.best.allocation)),
            run_score(run),
            run_cost(run),
            style=style,
        )
    return table


def print_comparison(comparison: RunComparison, console: Console) -> None:
    """Print two runs side by side, and below them what can be paired.

    Args:
        comparison: The comparison.
        console: The console to print on.
    """
    runs = (comparison.first, comparison.second)
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("", *(run.run_id for run in runs)):
        table.add_column(name)
    for name, cells in side_by_side(comparison):
        table.add_row(name, *map(escape, cells))
    console.print(table)
    for line in paired_lines(comparison):
        console.print(Text(line, style="bold"))


def run_budget(run: RunSummary) -> str:
    """Format the budget of a run with its measure; – where the run does not tell.

    Args:
        run: The run.
    """
    if run.budget_units is None:
        return "–"
    return f"{units_text(run.budget_units, run.measure)} {label_of(run.measure)}"


def run_score(run: RunSummary) -> str:
    """Format the score of a run's winner with its interval and its split; – without one.

    Args:
        run: The run.
    """
    return "–" if run.best is None else finalist_score(run.best)


def run_cost(run: RunSummary) -> str:
    """Format what a run paid: samples, and dollars where prices are known; – where that is not known.

    Args:
        run: The run.
    """
    if run.cost is None:
        return "–"
    money = "" if run.cost.usd is None else f", {usd_text(run.cost.usd)}"
    return f"{count_text(run.cost.samples_drawn)} samples{money}"


def side_by_side(comparison: RunComparison) -> Iterator[tuple[str, tuple[str, str]]]:
    """Describe two runs in rows of a name and a cell for each.

    Args:
        comparison: The comparison.

    Yields:
        The rows.
    """
    runs = comparison.first, comparison.second

    def row(name: str, cell: Callable[[RunSummary], str]) -> tuple[str, tuple[str, str]]:
        return name, (cell(runs[0]), cell(runs[1]))

    yield row("pipeline", lambda run: run.pipeline)
    yield row("status", lambda run: run.standing)
    yield row("started", lambda run: time_text(run.started_at))
    yield row("budget", run_budget)
    yield row("proposer, seed", lambda run: f"{run.proposer or '–'}, {'–' if run.seed is None else run.seed}")
    yield row("trials", lambda run: str(run.n_trials))
    yield row("paid", run_cost)
    yield row("best", lambda run: "–" if run.best is None else str(run.best.allocation))
    yield row("score", run_score)
    yield row("policy", lambda run: run.policy or "–")


def paired_lines(comparison: RunComparison) -> Iterator[str]:
    """Describe by how much what two runs chose differs, paired by example.

    Args:
        comparison: The comparison.

    Yields:
        A sentence for each choice, or why there is none.
    """
    for pair in comparison.paired:
        scores = f"{score_text(pair.first)} against {score_text(pair.second)} on the {pair.split} split"
        difference = interval_text(pair.difference, signed=True)
        verdict = "includes" if pair.difference.holds(0.0) else "excludes"
        yield (
            f"{pair.what}: {scores}, difference {difference}, paired on {pair.difference.n} examples: "
            f"the interval {verdict} 0."
        )
        if pair.split == "search":
            yield "These are plain means of the examples that each run chose on: both are too high by luck."
    if comparison.problem is not None:
        yield comparison.problem
