"""`agenttts improve`: tune the stage that holds a pipeline back, and search again."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import pipelines
from agenttts.commands.common import DEFAULT_DB, Db, Json, Seed, Spec, out, print_json, say, talk

if TYPE_CHECKING:
    from agenttts.tasktune.improve import Comparison, ImproveEvent, Improvement


def improve(
    spec: Spec,
    run: Annotated[
        str | None, typer.Option("--run", help="The search to start from; the newest of --db if not given.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="What to tune; else the stage that the report names.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="A model to tune; else all of the stage's but the largest. Repeat it."),
    ] = None,
    budget: Annotated[
        list[float] | None, typer.Option("--budget", help="Units per query to compare at. Repeat it.")
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Where all of it is kept.")] = None,
    tune_share: Annotated[
        float, typer.Option("--tune-share", help="Share of the search examples to tune on.")
    ] = 0.5,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Allocations of each new search.")] = 20,
    epochs: Annotated[float, typer.Option("--epochs", min=0.01)] = 3.0,
    learning_rate: Annotated[float, typer.Option("--learning-rate", min=1e-8)] = 2e-4,
    rank: Annotated[int, typer.Option("--rank", min=1, max=512, help="Of the adapters.")] = 16,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 16,
    db: Db = DEFAULT_DB,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Tune a stage's smaller models on a search's own samples, and see what the pipeline gains by them.

    Example: `agenttts improve pipeline.yaml --run latest --db run.duckdb --budget 50 --budget 150`
    """
    loaded = pipelines.load_spec(spec)
    from agenttts.progress import SearchProgress
    from agenttts.tasktune.improve import ImprovePhase
    from agenttts.tasktune.improve import improve as run_improve

    console = talk()
    with SearchProgress(console) as progress:

        def on_event(event: ImproveEvent) -> None:
            if isinstance(event, ImprovePhase):
                console.print(event.text, style="dim", markup=False)
            else:
                progress(event)

        made = run_improve(
            loaded,
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
        print_json(made.to_json_dict())
        return
    show(made)
    say(f"{made.path}: dataset, adapters, pipeline.yaml with the tuned models, improve.json", "dim")


def show(made: Improvement) -> None:
    """The tables of an improvement."""
    from rich.table import Table

    console = out()
    console.print(f"stage {made.stage}: {made.why}", markup=False)
    tuned = Table("tuned model", "parameters", "rows", "before", "after", "seconds")
    for name, told in made.models.items():
        scores = [told["score_before"], told["score_after"]]
        tuned.add_row(
            name,
            f"{told['active_params']:,.0f}",
            str(told["rows"]),
            *("–" if score is None else f"{score:.3f}" for score in scores),
            f"{told['seconds']:.0f}",
        )
    console.print(tuned)
    table = Table("budget", "", "allocation", "units", "test", "minus before, 95 %")
    for one in made.comparisons:
        for row in _rows(one):
            table.add_row(*row)
    console.print(table)
    console.print(jsonlib.dumps(dict(made.bought)), style="dim", markup=False)


def _rows(one: Comparison) -> list[tuple[str, ...]]:
    def interval(found: Any) -> str:
        return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"

    rows: list[tuple[str, ...]] = [
        (
            f"{one.budget_units:g}",
            "before",
            str(one.before),
            f"{one.before_units:.1f}",
            f"{one.before_score:.3f}",
            "",
        ),
        (
            "",
            "after",
            str(one.after),
            f"{one.after_units:.1f}",
            f"{one.after_score:.3f}",
            interval(one.difference),
        ),
    ]
    if one.same is not None and one.same_units is not None and one.same_score is not None:
        told = (f"{one.same_units:.1f}", f"{one.same_score:.3f}", interval(one.same_difference))
        rows.append(("", "same quality", str(one.same), *told))
    else:
        rows.append(("", "same quality", "none reaches it", "", "", ""))
    return rows
