"""`agenttts improve`: tune the stage that holds a pipeline back, and search again."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agenttts.cli.options import DEFAULT_DB, Db, Json, Seed, Spec, out, print_json, say, talk

if TYPE_CHECKING:
    from agenttts.stats import Difference
    from agenttts.tasktune.improve import ImproveEvent
    from agenttts.tasktune.improvement import Comparison, Improvement, Scored


def improve(
    spec: Spec,
    run: Annotated[
        str | None, typer.Option("--run", help="The search to start from; the newest of --db if not given.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="The stage to tune; the report's bottleneck if not given.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A model to tune; all of the stage's but the largest if not given. May be repeated.",
        ),
    ] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option("--budget", help="Budget per query to compare at, as the run's. Repeatable."),
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Directory of the results.")] = None,
    tune_share: Annotated[
        float, typer.Option("--tune-share", help="Share of the search examples to tune on.")
    ] = 0.5,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Allocations of each new search.")] = 20,
    epochs: Annotated[float, typer.Option("--epochs", min=0.01, help="How often each row is seen.")] = 3.0,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", min=1e-8, help="The largest learning rate.")
    ] = 2e-4,
    rank: Annotated[int, typer.Option("--rank", min=1, max=512, help="Rank of the adapters.")] = 16,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows of one step.")] = 16,
    db: Db = DEFAULT_DB,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Tune a stage's smaller models on a search's own samples, and see what the pipeline gains by them.

    Example: `agenttts improve pipeline.yaml --run latest --db run.duckdb --budget 50 --budget 150`
    """
    from agenttts.search.progress import SearchProgress
    from agenttts.tasktune.improve import improve as run_improve
    from agenttts.tasktune.improvement import ImprovePhase
    from agenttts.training.events import TuneScore, TuneStep
    from pipelines.spec.files import load_spec

    console = talk()
    with SearchProgress(console) as progress:

        def on_event(event: ImproveEvent) -> None:
            if isinstance(event, ImprovePhase):
                console.print(event.text, style="dim", markup=False)
            elif not isinstance(event, TuneStep | TuneScore):
                progress(event)

        improvement = run_improve(
            load_spec(spec),
            db=db,
            run_id=run,
            stage=stage,
            models=model or (),
            budgets=budget or (),
            out=out_dir,
            tune_share=tune_share,
            trials=trials,
            seed=seed,
            fit_settings={
                "epochs": epochs,
                "learning_rate": learning_rate,
                "batch_size": batch_size,
                "lora": {"rank": rank},
            },
            on_event=on_event,
        )
    if json:
        print_json(improvement.to_json_dict())
        return
    show(improvement)
    say(f"{improvement.path}: dataset, adapters, pipeline.yaml with the tuned models, improve.json", "dim")


def show(improvement: Improvement) -> None:
    """Print the tables of an improvement.

    Args:
        improvement: The improvement.
    """
    from rich.markup import escape
    from rich.table import Table

    console = out()
    console.print(f"stage {improvement.stage}: {improvement.why}", markup=False)
    tuned = Table("tuned model", "parameters", "rows", "before", "after", "seconds")
    for name, model in improvement.models.items():
        scores = (model.score_before, model.score_after)
        tuned.add_row(
            escape(name),
            "–" if model.active_params is None else f"{model.active_params:,.0f}",
            str(model.rows),
            *("–" if score is None else f"{score:.3f}" for score in scores),
            f"{model.seconds:.0f}",
        )
    console.print(tuned)
    table = Table("budget", "", "allocation", "cost", "test", "minus before, 95 %")
    for comparison in improvement.comparisons:
        for row in _rows(comparison):
            table.add_row(*map(escape, row))
    console.print(table)
    if (cost := improvement.data_cost) is not None:
        console.print(
            f"training rows: made of {cost.text}; the searches with tuned models chose among allocations on "
            f"the other {cost.examples_left}, those before on all",
            markup=False,
        )
    console.print(jsonlib.dumps(improvement.bought.to_json_dict()), style="dim", markup=False)


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    def row(budget: str, name: str, scored: Scored | None, difference: Difference | None) -> tuple[str, ...]:
        if scored is None:
            return (budget, name, "none reaches it", "", "", "")
        interval = ""
        if difference is not None:
            interval = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        return (
            budget,
            name,
            str(scored.allocation),
            f"{scored.units:.1f}" if scored.units >= 1 else f"{scored.units:.3g}",
            f"{scored.score:.3f}",
            interval,
        )

    return [
        row(f"{comparison.budget_units:g}", "before", comparison.before, None),
        row("", "after", comparison.after, comparison.difference),
        row("", "same quality", comparison.same, comparison.same_difference),
    ]
