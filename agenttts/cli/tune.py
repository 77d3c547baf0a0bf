"""`agenttts tune`: build datasets for sub-tasks, tune small models on them, and compare the models."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agenttts.cli import p2c as classifiers
from agenttts.cli.options import (
    DEFAULT_DB,
    Config,
    Db,
    Json,
    LlmBaseUrl,
    LlmModel,
    Seed,
    in_a_directory,
    out,
    print_json,
    say,
    status_line,
    talk,
)
from agenttts.cli.preview import preview
from agenttts.cli.publish import gguf, push
from agenttts.cli.search import agent_settings
from agenttts.cli.serve import serving
from agenttts.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from agenttts.llm import AgentSettings
    from agenttts.tasktune.data.propose import Proposed
    from agenttts.tasktune.evaluation import Evaluation
    from agenttts.training.events import OnTuneEvent, TuneEvent
    from agenttts.training.weights import TunedModel
    from datastore.store import Store
    from pipelines.dataset.rows import Row


app = typer.Typer(
    no_args_is_help=True,
    help="Sub-tasks, their datasets, and small models tuned on them (AnyTaskTune).",
)


@app.command("data")
def data(
    config: Config, llm_base_url: LlmBaseUrl = None, llm_model: LlmModel = None, json: Json = False
) -> None:
    """Build a dataset: gather rows, check them, split them, write them with a card.

    Example: `agenttts tune data data.yaml`
    """
    from agenttts.tasktune.data.build import DataConfig, run_build
    from agenttts.tasktune.data.dataset import card_text
    from pipelines.spec.configfile import load_config

    loaded = load_config(config, DataConfig)
    llm = agent_settings(llm_base_url, llm_model)
    with status_line() as show:
        dataset = run_build(loaded, config.parent, llm=llm, on_status=show)
    if json:
        print_json({"path": str(dataset.path), **dataset.card.to_json_dict()})
        return
    out().print(card_text(dataset.card), markup=False)
    say(f"{dataset.path}: every row that was dropped is in dropped.jsonl", "dim")


@app.command("fit")
def fit_(
    config: Config,
    accelerate: Annotated[
        Path | None,
        typer.Option(
            "--accelerate",
            help="Several GPUs or machines: a file of `accelerate config`, with FSDP, DeepSpeed or neither.",
        ),
    ] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Tune a model on a dataset; interrupted, the same command resumes. The key `dpo` is experimental.

    Example: `agenttts tune fit fit.yaml --db run.duckdb`

    On several machines the same command runs on each, with its own `machine_rank`; data and out are to be on
    a disk that all of them see.
    """
    from rich.markup import escape
    from rich.table import Table

    from agenttts.cli.curves import curves
    from agenttts.tasktune.fit import FitConfig, fit
    from agenttts.tasktune.launching import errors_to_launcher, launch
    from agenttts.training.checkpoints import is_first
    from pipelines.spec.configfile import load_config

    loaded = load_config(config, FitConfig)
    if accelerate is not None:
        launch(accelerate, ["tune", "fit", str(config), "--db", str(db), *(["--json"] if json else [])])
        return
    with errors_to_launcher():
        if not is_first():
            fit(loaded, config.parent)
            return
        with _training() as on_event:
            models = fit(loaded, config.parent, on_event=on_event)
        _register(db, {model.path.name: model for model in models})
    if json:
        print_json([{"path": str(m.path), "digest": m.digest, **m.card.to_json_dict()} for m in models])
        return
    table = Table("model", "sub-task", "rows", "before", "after", "steps", "seconds", "peak GiB")
    for model in models:
        card = model.card
        for task in card.tasks:
            scores = (card.metrics.before, card.metrics.after)
            table.add_row(
                escape(str(model.path)),
                escape(task),
                str(card.rows),
                *(f"{by_task[task]:.3f}" if task in by_task else "–" for by_task in scores),
                str(card.steps),
                f"{card.seconds or 0:.0f}",
                f"{(card.peak_bytes or 0) / 2**30:.2f}",
            )
    out().print(table)
    for model in models:
        card = model.card
        if card.rows_too_long or card.eval_rows_too_long:
            say(
                f"{model.path.name}: left out as longer than max_tokens or the model's context: "
                f"{card.rows_too_long} training rows, {card.eval_rows_too_long} evaluation rows",
                "yellow",
            )
        if course := curves(model.card.curve):
            say(f"{model.path.name}: {course}", "dim")
    say("scores are greedy, on the dataset's evaluation split; `agenttts tune eval` compares models", "dim")


@app.command("eval")
def eval_(
    dataset: Annotated[Path, typer.Argument(help="A dataset of `agenttts tune data`.")],
    model: Annotated[
        list[str],
        typer.Option(
            "--model", help="NAME=DIRECTORY of a checkpoint or adapter, or NAME=URL; may be repeated."
        ),
    ],
    against: Annotated[
        str | None, typer.Option("--against", help="The reference; else the largest model that is not tuned.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="test, eval or train.")] = None,
    judge: Annotated[bool, typer.Option("--judge", help="Experimental: have the LLM prefer too.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", callback=in_a_directory, help="Write the scores as an HTML plot."),
    ] = None,
    seed: Seed = 0,
    llm_base_url: LlmBaseUrl = None,
    llm_model: LlmModel = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Compare models on the rows that none of them learnt from, with paired intervals.

    Example: `agenttts tune eval data/ --model base=models/small --model tuned=adapters/small`
    """
    from agenttts.llm import require_llm
    from agenttts.tasktune.data.dataset import load_dataset
    from agenttts.tasktune.evaluation import evaluate, figure
    from datastore.store import Store

    loaded = load_dataset(dataset)
    settings = require_llm(agent_settings(llm_base_url, llm_model), "--judge needs") if judge else None
    log_dir = Path(tempfile.mkdtemp(prefix="agenttts-eval-"))
    with status_line() as show, Store.open(db) as store:
        evaluation = asyncio.run(
            evaluate(
                loaded,
                named_places(model),
                store=store,
                reference=against,
                split=split,
                seed=seed,
                judge=settings,
                log_dir=log_dir,
                on_status=show,
            )
        )
    if json:
        print_json(evaluation.to_json_dict())
    else:
        out().print(evaluation_table(evaluation))
    if plot is not None:
        try:
            figure(evaluation).write_html(plot)
        except OSError as error:
            raise UserError(f"{plot}: the plot can't be written there: {error.strerror or error}") from None


@app.command("tasks")
def tasks(
    documents: Annotated[
        list[Path] | None, typer.Argument(help="Sample documents (text files).", show_default=False)
    ] = None,
    domain: Annotated[str, typer.Option("--domain", help="What the field is, in a sentence.")] = "",
    template: Annotated[
        str | None, typer.Option("--template", help="A ready domain instead, such as legal-zh; or: list.")
    ] = None,
    out_file: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("subtasks.yaml"),
    db: Db = DEFAULT_DB,
    llm_base_url: LlmBaseUrl = None,
    llm_model: LlmModel = None,
) -> None:
    """Write a file of sub-tasks: proposed by an LLM from documents, or a ready domain. Review it before use.

    Example: `agenttts tune tasks rulings/*.txt --domain "Rulings of labour courts"`
    """
    from agenttts.llm import require_llm
    from agenttts.tasktune.data.subtask import subtasks_yaml, template_names, template_text
    from agenttts.tasktune.data.writing import documents as read_documents
    from datastore.store import Store

    if template == "list":
        out().print("\n".join(template_names()))
        return
    if out_file.exists():
        raise UserError(f"{out_file}: must be free; choose another --out")
    if not out_file.parent.is_dir():
        raise UserError(f"{out_file}: its directory does not exist; create it, or choose another --out")
    if template is not None:
        text = template_text(template)
    else:
        docs = read_documents(documents or [])
        settings = require_llm(
            agent_settings(llm_base_url, llm_model),
            "proposing sub-tasks needs",
            ", start from --template, or write the file by hand",
        )
        if not docs or not domain:
            raise UserError("proposing sub-tasks needs --domain and documents of it")
        with status_line() as show, Store.open(db) as store:
            show(f"reading {len(docs)} documents")
            proposed = asyncio.run(_proposed(domain, docs, settings, store))
        for name, reason in proposed.left_out:
            say(f"left out {name}: {reason}", "yellow")
        text = subtasks_yaml(proposed.tasks)
    out_file.write_text(text, encoding="utf-8")
    say(f"{out_file}: review it; `agenttts tune data` builds a dataset for it")


async def _proposed(domain: str, docs: list[Row], settings: AgentSettings, store: Store) -> Proposed:
    from agenttts.llm import JsonChat
    from agenttts.tasktune.data.propose import propose_subtasks

    async with JsonChat(settings, store) as chat:
        return await propose_subtasks(domain, docs, chat)


@app.command("merge")
def merge_(
    adapters: Annotated[list[Path], typer.Argument(help="Adapters of one base.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Directory of the result.")],
    method: Annotated[
        str, typer.Option("--method", help="sum: one adapter of all; or base: one into its base.")
    ] = "sum",
    weight: Annotated[
        list[float] | None,
        typer.Option("--weight", help="Weight of each adapter, in their order; else equal shares of 1."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", min=1, help="Rank of the sum, cut by SVD; else exact, of all ranks together."),
    ] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Merge several adapters (experimental), or add one adapter to its base's weights (--method base).

    Example: `agenttts tune merge adapters/a adapters/b --out adapters/ab --rank 16`
    """
    from agenttts.tasktune.merging import merge, merge_into_base

    if method == "base":
        if len(adapters) != 1:
            raise UserError(f"--method base takes one adapter, got {len(adapters)}")
        merged = merge_into_base(adapters[0], out_dir)
    elif method == "sum":
        merged = merge(adapters, out_dir, weights=weight, rank=rank)
    else:
        raise UserError(f"--method is sum or base, got {method!r}")
    _register(db, {merged.path.name: merged})
    card = merged.card
    if json:
        figures = {"path": str(merged.path), "digest": merged.digest, "rank": merged.rank}
        print_json({**figures, **card.to_json_dict()})
        return
    say(f"{merged.path}: rank {merged.rank}, {merged.n_params:,} parameters")
    if rank is not None:
        lost = card.settings["lost_energy"]
        say(f"{lost:.1%} of the sum's energy (squared singular values) is lost", "dim")


app.command("preview")(preview)
app.command("push")(push)
app.command("gguf")(gguf)
app.command("classifier")(classifiers.classifier)
app.command("verifier")(classifiers.verifier)
app.command("prefer")(classifiers.prefer)
app.command("judge")(classifiers.judge)


@app.command("serve")
def serve_(
    models: Annotated[
        list[str], typer.Argument(help="NAME=DIRECTORY or DIRECTORY of adapters, checkpoints.")
    ],
    into: Annotated[
        str | None,
        typer.Option("--into", help="Base URL of a vLLM that runs: load adapters into it and end."),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port of the first base; further bases take the next ports.")
    ] = None,
    max_lora_rank: Annotated[
        int | None,
        typer.Option(
            "--max-lora-rank",
            help="Largest rank of an adapter that --into may load later; else that of the adapters given.",
        ),
    ] = None,
    db: Db = DEFAULT_DB,
    log_dir: Annotated[Path | None, typer.Option("--log-dir", help="Where the servers' logs go.")] = None,
) -> None:
    """Serve tuned models with vLLM, each base once with its adapters, and check that each answers.

    A server takes further adapters while it runs, by --into. Its address is open to this machine alone.

    Example: `agenttts tune serve adapters/small --port 8101`
    """
    from agenttts.serving.servers import planned_servers
    from agenttts.tasktune.rivals import rivals_spec
    from agenttts.tasktune.serving import adaptable, ask_each, load_adapter
    from agenttts.training.weights import read_tuned, require_servable

    places = named_places([m if "=" in m else f"{Path(m).name}={m}" for m in models])
    tuned = {name: read_tuned(place) for name, place in places.items()}
    if into is not None:
        for model in tuned.values():
            require_servable(model.path)
        whole = [name for name, model in tuned.items() if not model.is_adapter]
        if whole:
            raise UserError(f"--into takes adapters, {whole[0]} is a whole checkpoint; serve it by itself")
        for name, model in tuned.items():
            load_adapter(into, name, model.path.resolve())
            say(f"{name}: loaded at {into}", "green")
        _register(db, tuned)
    else:
        spec = rivals_spec(places, port=port)
        servers = [adaptable(command, max_lora_rank) for command in planned_servers(spec).commands]
        with serving(servers, log_dir, "starting vLLM"):
            ask_each(spec, list(places))
            _register(db, tuned)
            for name in places:
                say(f"{name}: {spec.models[name].base_url}", "green")


def named_places(models: list[str]) -> dict[str, str]:
    """Parse the values of `--model`.

    Args:
        models: Texts of the form NAME=DIRECTORY or NAME=URL.

    Returns:
        The directory or URL of each model, by its name.

    Raises:
        UserError: A text has another form, or a name occurs twice.
    """
    places: dict[str, str] = {}
    for option in models:
        name, _, place = option.partition("=")
        if not name or not place or name in places:
            raise UserError(f"--model takes NAME=DIRECTORY or NAME=URL, each name once, got {option!r}")
        places[name] = place
    return places


def evaluation_table(evaluation: Evaluation) -> Table:
    """Format a comparison of models as a table.

    Args:
        evaluation: The comparison.
    """
    from rich.markup import escape
    from rich.table import Table

    title = escape(f"{evaluation.split} split; differences from {evaluation.reference}")
    table = Table(title=title)
    scored = ("score", "95 %", "difference", "95 %", "n", "missing", "tuning s")
    for name in ("model", "parameters", "sub-task", *scored):
        table.add_column(name, justify="left" if name in ("model", "sub-task") else "right")
    for row in evaluation.scores:
        card = evaluation.cards.get(row.model)
        table.add_row(
            escape(row.model),
            f"{evaluation.params[row.model]:,.0f}",
            escape(row.task) + (" (tuned for)" if row.tuned_for else ""),
            f"{row.score.mean:.3f}",
            f"{row.score.low:.3f} … {row.score.high:.3f}",
            "" if row.against is None else f"{row.against.mean:+.3f}",
            "" if row.against is None else f"{row.against.low:+.3f} … {row.against.high:+.3f}",
            str(row.score.n),
            str(row.n_missing or ""),
            "" if card is None or card.seconds is None else f"{card.seconds:.0f}",
        )
    return table


def _register(db: Path, models: Mapping[str, TunedModel]) -> None:
    from agenttts.training.weights import register
    from datastore.store import Store

    with Store.open(db) as store:
        for name, model in models.items():
            register(store, name, model, at=time.time())


@contextmanager
def _training() -> Iterator[OnTuneEvent]:
    """Show a bar of training steps with loss, score and time left within the block."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    from agenttts.training.events import TuneScore

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=talk(), transient=True) as progress:
        bar = progress.add_task("tuning", total=None, figures="")
        score = ""

        def on_event(event: TuneEvent) -> None:
            nonlocal score
            if isinstance(event, TuneScore):
                score = f"score {event.score:.3f}  "
                return
            left = time.strftime("%H:%M:%S", time.gmtime(event.seconds_left))
            figures = f"{score}loss {event.loss:.3f}  {left} left"
            progress.update(bar, completed=event.step, total=event.steps, figures=figures)

        yield on_event
