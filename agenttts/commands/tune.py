"""`agenttts tune`: sub-tasks, their datasets, tuned models, and what they are worth."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from agenttts.commands.common import DEFAULT_DB, Db, Json, out, print_json, say, talk
from agenttts.commands.search import agent_settings
from agenttts.errors import UserError
from agenttts.tasktune.adapters import TunedModel, model_record, read_tuned, tuning_record
from agenttts.tasktune.build import DataConfig, TaskData, build, card_text, load_dataset
from agenttts.tasktune.configfile import load_config
from agenttts.tasktune.evaluation import Evaluation, context_length, evaluate, figure
from agenttts.tasktune.fit import FitConfig, fit
from datastore.store import Store

app = typer.Typer(
    no_args_is_help=True,
    help="Sub-tasks, their datasets, and small models tuned on them (AnyTaskTune).",
)
Config = Annotated[Path, typer.Argument(help="The configuration (YAML).", show_default=False)]
BaseUrl = Annotated[
    str | None, typer.Option("--llm-base-url", help="The LLM's endpoint; else AGENTTTS_AGENT_BASE_URL.")
]
Model = Annotated[str | None, typer.Option("--llm-model", help="The LLM's model; else AGENTTTS_AGENT_MODEL.")]


@app.command("data")
def data(config: Config, llm_base_url: BaseUrl = None, llm_model: Model = None, json: Json = False) -> None:
    """Build a dataset: gather rows, check them, split them, write them with a card.

    Example: `agenttts tune data data.yaml`
    """
    loaded = load_config(config, DataConfig)
    with _stages() as told:
        made = asyncio.run(
            build(loaded, config.parent, llm=agent_settings(llm_base_url, llm_model), progress=told)
        )
    _show_data(made, json)


def _show_data(made: TaskData, json: bool) -> None:
    if json:
        print_json({"path": str(made.path), **made.card})
        return
    out().print(card_text(made.card), markup=False)
    say(f"{made.path}: every row that went is in dropped.jsonl", "dim")


@app.command("fit")
def fit_(config: Config, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Tune a model on a dataset; interrupted, the same command goes on.

    Example: `agenttts tune fit fit.yaml --db run.duckdb`
    """
    loaded = load_config(config, FitConfig)
    with _training() as on_event:
        made = fit(loaded, config.parent, on_event=on_event)
    if int(os.environ.get("RANK", "0")) != 0:
        return
    register(db, made)
    if json:
        print_json([{"path": str(one.path), "digest": one.digest, **one.card} for one in made])
        return
    table = Table("model", "sub-task", "rows", "before", "after", "steps", "seconds", "peak GiB")
    for one in made:
        before, after = one.card["metrics"]["before"], one.card["metrics"]["after"]
        for task in one.card["tasks"]:
            scores = [f"{m[task]:.3f}" if task in m else "–" for m in (before, after)]
            table.add_row(
                str(one.path),
                task,
                str(one.card["rows"]),
                *scores,
                str(one.card["steps"]),
                f"{one.card['seconds']:.0f}",
                f"{one.card['peak_bytes'] / 2**30:.2f}",
            )
    out().print(table)
    say("scores are greedy, on the dataset's evaluation split; `agenttts tune eval` compares models", "dim")


@app.command("eval")
def eval_(
    dataset: Annotated[Path, typer.Argument(help="Directory that `agenttts tune data` made.")],
    model: Annotated[
        list[str],
        typer.Option("--model", help="NAME=DIRECTORY of a checkpoint or adapter, or NAME=URL; repeat it."),
    ],
    against: Annotated[
        str | None, typer.Option("--against", help="The reference; else the largest model that is not tuned.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="test, eval or train.")] = None,
    judge: Annotated[bool, typer.Option("--judge", help="Have the LLM prefer between answers too.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the scores as an HTML plot.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    llm_base_url: BaseUrl = None,
    llm_model: Model = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Compare models on the rows that none of them learnt from, with paired intervals.

    Example: `agenttts tune eval data/ --model base=models/small --model tuned=adapters/small`
    """
    loaded = load_dataset(dataset)
    settings = agent_settings(llm_base_url, llm_model) if judge else None
    if judge and settings is None:
        raise UserError("--judge needs an LLM: export AGENTTTS_AGENT_BASE_URL and AGENTTTS_AGENT_MODEL")
    log_dir = Path(tempfile.mkdtemp(prefix="agenttts-eval-"))
    with _stages() as told, Store.open(db) as store:
        found = asyncio.run(
            evaluate(
                loaded,
                named_places(model),
                store=store,
                reference=against,
                split=split,
                seed=seed,
                judge=settings,
                log_dir=log_dir,
                progress=told,
            )
        )
    if plot is not None:
        figure(found).write_html(plot)
    if json:
        print_json(found.to_json_dict())
    else:
        out().print(evaluation_table(found))


def named_places(models: list[str]) -> dict[str, str]:
    """NAME=PLACE options by name. UserError for one that is not of that form, or twice."""
    places: dict[str, str] = {}
    for option in models:
        name, _, place = option.partition("=")
        if not name or not place or name in places:
            raise UserError(f"--model takes NAME=DIRECTORY or NAME=URL, each name once, got {option!r}")
        places[name] = place
    return places


def evaluation_table(found: Evaluation) -> Table:
    """The comparison as a person reads it."""
    table = Table(title=f"{found.split} split; differences from {found.reference}")
    for name in ("model", "parameters", "sub-task", "score", "95 %", "difference", "95 %", "n", "tuning s"):
        table.add_column(name, justify="left" if name in ("model", "sub-task") else "right")
    for one in found.scores:
        seconds = found.cards.get(one.model, {}).get("seconds")
        table.add_row(
            one.model,
            f"{found.params[one.model]:,.0f}",
            one.task + (" (tuned for)" if one.tuned_for else ""),
            f"{one.score.mean:.3f}",
            f"{one.score.low:.3f} … {one.score.high:.3f}",
            "" if one.against is None else f"{one.against.mean:+.3f}",
            "" if one.against is None else f"{one.against.low:+.3f} … {one.against.high:+.3f}",
            str(one.score.n),
            "" if seconds is None else f"{seconds:.0f}",
        )
    return table


def register(db: Path, made: list[TunedModel], names: list[str] | None = None) -> None:
    """Put tuned models, and how they were tuned, into the store."""
    with Store.open(db) as store:
        for one, name in zip(made, names or [one.path.name for one in made], strict=True):
            base = Path(one.base) if one.base else one.path
            params = float(one.card.get("base_params") or (read_tuned(base).n_params if base.is_dir() else 0))
            store.put_models(
                [model_record(name, one, base_params=params, context_length=context_length(base))]
            )
            store.put_tunings([tuning_record(name, one, created_at=time.time())])


@contextmanager
def _stages() -> Iterator[Any]:
    """A line that says what is being done."""
    with talk().status("starting") as status:
        yield lambda text: status.update(text)


@contextmanager
def _training() -> Iterator[Any]:
    """A bar of training steps with loss, score and time left."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=talk(), transient=True) as progress:
        bar = progress.add_task("tuning", total=None, told="")
        said = {"score": ""}

        def on_event(event: dict[str, Any]) -> None:
            if event["kind"] == "tune_score":
                said["score"] = f"score {event['score']:.3f}  "
                return
            left = time.strftime("%H:%M:%S", time.gmtime(event["seconds_left"]))
            told = f"{said['score']}loss {event['loss']:.3f}  {left} left"
            progress.update(bar, completed=event["step"], total=event["steps"], told=told)

        yield on_event
