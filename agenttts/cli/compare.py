"""`agenttts compare`: proposers side by side on a bank or on simulated landscapes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import pipelines
from agenttts.cli.options import (
    AgentBaseUrl,
    AgentModel,
    AgentTimeout,
    Banks,
    Json,
    in_a_directory,
    out,
    print_json,
    say,
    talk,
)
from agenttts.errors import UserError
from agenttts.proposers.registry import ABLATIONS, CLASSICAL, DEFAULT, LLM, LLM_CONTROLS, OWN

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from agenttts.compare.jobs import Job, KnownBank, KnownMatrix
    from agenttts.compare.matrix_summary import MatrixRow
    from agenttts.compare.regret import Comparison, RegretRow

LANDSCAPES = (
    *("bottleneck", "deep", "scarce", "turning", "verified", "voting"),
    *("difficulty", "mode", "noisy", "mediator", "specialists", "fourstage"),
)
DEFAULT_PROPOSERS = "default,insights+seeds,greedy+seeds,halving+seeds,tpe+seeds,random+seeds"


def compare(
    spec: Annotated[
        Path | None, typer.Argument(help="The pipeline file (YAML) whose bank answers.", show_default=False)
    ] = None,
    landscapes: Annotated[
        str | None,
        typer.Option(help=f"Instead of a bank: all, or classes of {', '.join(LANDSCAPES)}; commas between."),
    ] = None,
    matrix: Annotated[
        Path | None,
        typer.Option(
            "--matrix",
            help="Instead of a bank: a table of scores (CSV, Parquet), rows stage=option + stage=option.",
            show_default=False,
        ),
    ] = None,
    matrix_cost: Annotated[
        Path | None,
        typer.Option("--matrix-cost", help="The table's costs in US dollars, as wide.", show_default=False),
    ] = None,
    holdout: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Share of a table's examples kept for the true scores.")
    ] = 0.0,
    proposers: Annotated[
        str,
        typer.Option(
            help=f"Of {', '.join((*OWN, *CLASSICAL))}, with commas between, and as controls "
            f"{', '.join(ABLATIONS)}. NAME+seeds starts from the default allocations; default is "
            f"solve+seeds. {', '.join((*LLM, *LLM_CONTROLS))} ask the agent's endpoint."
        ),
    ] = DEFAULT_PROPOSERS,
    seeds: Annotated[int, typer.Option(min=1, help="Searches of each proposer on each landscape.")] = 10,
    trials: Annotated[int, typer.Option(min=1, help="Allocations that each search evaluates.")] = 20,
    budget: Annotated[
        list[float] | None, typer.Option("--budget", help="Budget per query, as in the file; repeatable.")
    ] = None,
    bank: Banks = None,
    write: Annotated[
        Path, typer.Option("--out", help="Parquet file with every trial of every search.")
    ] = Path("compare.parquet"),
    html: Annotated[
        Path | None, typer.Option("--html", callback=in_a_directory, help="Write plots of regret too.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; as many as cores where not given.")
    ] = None,
    agent_base_url: AgentBaseUrl = None,
    agent_model: AgentModel = None,
    agent_timeout: AgentTimeout = None,
    json: Json = False,
) -> None:
    """Search the same landscapes with several proposers, without a call to the models, and show how far off
    each ends.

    Example: `agenttts compare pipelines/zoo/pipeline.yaml --budget 50 --budget 150 --seeds 10 --trials 20`

    Where an LLM proposes, the solver alone is searched too, and what the LLM adds to it is shown with its
    tokens; its controls are agent-blank and agent-shuffled (what it sees of the trials), agent-renamed
    (models under each other's names) and insights+seeds (rules without an LLM).

    An interrupted comparison goes on where it stopped when the same command is given again.
    """
    loaded = None if spec is None else pipelines.load_spec(spec)
    from agenttts.cli.search import agent_settings
    from agenttts.compare.jobs import KnownMatrix, family_jobs, matrix_jobs
    from agenttts.compare.matrix import read_matrix
    from agenttts.compare.matrix_summary import summarise_matrix
    from agenttts.compare.side_by_side import compare as compare_proposers
    from agenttts.proposers.registry import asks_an_llm, base_name, require_proposer

    agent = agent_settings(agent_base_url, agent_model, timeout=agent_timeout)
    names = list(dict.fromkeys(name.strip() for name in proposers.split(",") if name.strip()))
    if not names:
        raise UserError("--proposers names at least one proposer, got none")
    for name in names:
        require_proposer(name, agent)
    if any(map(asks_an_llm, names)) and DEFAULT not in map(base_name, names):
        names.append("default")
    if (loaded is not None) + (landscapes is not None) + (matrix is not None) != 1:
        raise UserError(
            "a comparison is on a pipeline file's bank, on --landscapes or a --matrix: give one of the three"
        )
    if matrix is None and (matrix_cost is not None or holdout):
        raise UserError("--matrix-cost and --holdout belong to a --matrix: give one, or leave them out")
    known: KnownBank | KnownMatrix | None = None
    if matrix is not None:
        if budget or bank:
            raise UserError("a table has every option within its budget: leave --budget and --bank out")
        known = KnownMatrix(matrix=read_matrix(matrix, matrix_cost), holdout=holdout)
        jobs = matrix_jobs(known, seeds, trials, names)
    elif landscapes is not None:
        if budget or bank:
            raise UserError("landscapes have budgets of their own: leave --budget and --bank out")
        families = [name.strip() for name in landscapes.split(",") if name.strip()]
        jobs = family_jobs(families, seeds, trials, names)
    else:
        assert spec is not None and loaded is not None
        known, jobs = _on_bank(spec, loaded, bank, budget, seeds, trials, names)
    with _bar() as progress:
        task = progress.add_task("searches", total=len(jobs))
        comparison = compare_proposers(
            jobs,
            bank=known,
            out=write,
            workers=workers,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            agent=agent,
        )
    if html is not None:
        from agenttts.report import figures as plots
        from agenttts.report.html import save_figures

        figures = [plots.regret_against(comparison.moments, against) for against in ("trials", "flops")]
        save_figures(figures, "Proposers compared", html)
        say(f"plots are in {html}", "dim")
    rows = (
        summarise_matrix(comparison.moments, names, known.matrix, known.holdout)
        if isinstance(known, KnownMatrix)
        else ()
    )
    if json:
        extra = {"matrix": [row.to_json_dict() for row in rows]} if rows else {}
        print_json(comparison.to_json_dict() | extra)
        return
    console = out()
    if rows:
        console.print(_matrix_table(rows))
    for table in _tables(comparison, loaded):
        console.print(table)
    say(f"every trial is in {write}", "dim")


def _on_bank(
    path: Path,
    spec: pipelines.PipelineSpec,
    banks: list[Path] | None,
    budgets: list[float] | None,
    seeds: int,
    trials: int,
    names: list[str],
) -> tuple[KnownBank, list[Job]]:
    from agenttts.compare.jobs import bank_jobs, known_bank
    from agenttts.replay.bank import BankOutcomes
    from datastore import Store
    from pipelines import load_examples

    files = banks or ([] if spec.bank_path is None else [spec.bank_path])
    if not files:
        raise UserError(
            f"{path}: a comparison needs recorded samples; name a bank in the file or with --bank"
        )
    jobs = bank_jobs(spec, budgets or [spec.budget.amount], seeds, trials, names)
    say("reading the bank", "dim")
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "bank.duckdb") as store:
        for file in files:
            store.attach_bank(file)
        outcomes = BankOutcomes(spec, store, load_examples(spec, "search"))
        asyncio.run(outcomes.add_all())
    for stage, option in outcomes.unknown_options():
        raise UserError(
            f"{path}: stages[{stage}]: the bank has nothing of {option}; record it, or compare a copy of the "
            "pipeline without it"
        )
    return known_bank(spec, outcomes.outcomes), jobs


def _bar() -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=talk(),
        transient=True,
    )


def _tables(comparison: Comparison, spec: pipelines.PipelineSpec | None) -> list[Table]:
    """The tables; spec: of the bank, None for landscapes, whose budgets are in units."""
    from agenttts.space.measure import Measure, amount_text

    measure = "units" if spec is None else Measure.of(spec).name
    in_flops = spec is None or all(spec.models[m].active_params is not None for m in spec.used_models)
    overall = [row for row in comparison.table if row.landscapes == "all"]
    tables = []
    for budget in dict.fromkeys(row.budget_units for row in overall):
        where = "landscapes" if budget is None else amount_text(budget, measure, 6)
        rows = [row for row in overall if row.budget_units == budget]
        tables.append(_regret_table(where, rows, "FLOPs" if in_flops else "USD"))
    if comparison.differences:
        tables.append(_difference_table(comparison))
    if comparison.added:
        tables.append(_added_table(comparison))
    return tables


def _matrix_table(rows: Sequence[MatrixRow]) -> Table:
    from rich.table import Table

    table = Table(title="Searches on the table, at their end", title_justify="left")
    table.add_column("proposer")
    for name in ("searches", "within ½ point", "best found", "cells until ½ point", "cells", "USD", "saved"):
        table.add_column(name, justify="right")
    for row in rows:
        until = "–" if row.cells_until_near is None else f"{row.cells_until_near:,}"
        usd = "–" if row.usd is None else f"{row.usd:.2f}"
        shares = f"{row.near:.0%}", f"{row.best:.0%}"
        table.add_row(
            row.proposer, f"{row.searches}", *shares, until, f"{row.cells:,.0f}", usd, f"{row.saved:.0%}"
        )
    return table


def _regret_table(where: str, rows: list[RegretRow], spent: str) -> Table:
    from rich.table import Table

    table = Table(title=f"Mean regret [95 % interval], {where}", title_justify="left")
    reached = [
        i for i in range(len(rows[0].by_trials)) if any(row.by_trials[i].mean is not None for row in rows)
    ]
    table.add_column("proposer")
    for i in reached:
        table.add_column(f"{rows[0].by_trials[i].after} trials", justify="right")
    for i in reached[-1:]:
        table.add_column(f"{spent} of {rows[0].by_flops[i].after}", justify="right")
    table.add_column(spent, justify="right")
    table.add_column("s / proposal", justify="right")
    has_llm = any(row.mean_agent_tokens for row in rows)
    if has_llm:
        table.add_column("LLM tokens", justify="right")
    for row in rows:
        checkpoints = [*(row.by_trials[i] for i in reached), *(row.by_flops[i] for i in reached[-1:])]
        cells = [_with_interval(checkpoint.mean, checkpoint.interval) for checkpoint in checkpoints]
        cells += [f"{row.mean_flops:.3g}", f"{row.seconds_per_proposal:.3f}"]
        table.add_row(row.proposer, *cells, *([f"{row.mean_agent_tokens:,.0f}"] if has_llm else []))
    return table


def _difference_table(comparison: Comparison) -> Table:
    from rich.table import Table

    title = f"Regret of {comparison.against} minus the regret of another proposer, paired"
    table = Table(title=title, title_justify="left")
    for name in ("other", "budget", "equal", "difference", "p (Holm)"):
        table.add_column(name, justify="right" if name in ("difference", "p (Holm)") else "left")
    for row in comparison.differences:
        table.add_row(
            row.second,
            "own" if row.budget_units is None else f"{row.budget_units:g}",
            f"{row.equal} of {row.after}",
            _with_interval(row.difference, row.difference_ci, sign=True),
            f"{row.p_holm:.4f}",
        )
    return table


def _added_table(comparison: Comparison) -> Table:
    from rich.table import Table

    title = (
        f"What an LLM adds: its regret minus that of {comparison.added[0].second}, paired; below 0 it helps"
    )
    table = Table(title=title, title_justify="left")
    for name in ("LLM", "budget", "trials", "difference", "p (Holm)"):
        table.add_column(name, justify="left" if name in ("LLM", "budget") else "right")
    for row in comparison.added:
        table.add_row(
            row.first,
            "own" if row.budget_units is None else f"{row.budget_units:g}",
            str(row.after),
            _with_interval(row.difference, row.difference_ci, sign=True),
            f"{row.p_holm:.4f}",
        )
    return table


def _with_interval(mean: float | None, interval: tuple[float, float] | None, sign: bool = False) -> str:
    if mean is None or interval is None:
        return "–"
    form = "+.4f" if sign else ".4f"
    return f"{mean:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"
