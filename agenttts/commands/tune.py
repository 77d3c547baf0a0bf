"""`agenttts tune`: sub-tasks, their datasets, tuned models, and what they are worth."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from agenttts.commands.common import DEFAULT_DB, Db, Json, Seed, Spec, out, print_json, say, talk
from agenttts.commands.search import agent_settings
from agenttts.errors import UserError
from agenttts.proposers import AgentSettings
from agenttts.tasktune.adapters import (
    TunedModel,
    model_record,
    read_tuned,
    require_servable,
    tuning_record,
)
from agenttts.tasktune.build import DataConfig, TaskData, build, card_text, load_dataset
from agenttts.tasktune.chat import JsonChat
from agenttts.tasktune.classified import LabelledText, read_texts
from agenttts.tasktune.classifier import ClassifierConfig, fit_classifier
from agenttts.tasktune.cleaning import evenly
from agenttts.tasktune.configfile import load_config
from agenttts.tasktune.evaluation import Evaluation, context_length, evaluate, figure, rivals_spec
from agenttts.tasktune.fit import FitConfig, fit
from agenttts.tasktune.judgepage import JudgePage, Judging, judged_pairs
from agenttts.tasktune.merging import Method, merge, merge_into_base
from agenttts.tasktune.preferring import agreement, by_llm, by_votes, drawn_pairs, read_csv, write_csv
from agenttts.tasktune.propose import Proposed, propose_subtasks
from agenttts.tasktune.serving import ask_each, load_adapter
from agenttts.tasktune.sources import documents as read_documents
from agenttts.tasktune.subtask import subtasks_yaml, template_names, template_text
from agenttts.tasktune.verifier import train_verifier
from datastore.records import Preference
from datastore.store import Store
from pipelines.servecommand import commands, require_vllm
from pipelines.serving import ServerGroup
from pipelines.specfile import load_spec
from pipelines.tables import Row, read_file

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
    if os.environ.get("RANK", "0") != "0":
        fit(loaded, config.parent)
        return
    with _training() as on_event:
        made = fit(loaded, config.parent, on_event=on_event)
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
    if json:
        print_json(found.to_json_dict())
    else:
        out().print(evaluation_table(found))
    if plot is not None:
        try:
            figure(found).write_html(plot)
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
    llm_base_url: BaseUrl = None,
    llm_model: Model = None,
) -> None:
    """Write a file of sub-tasks: proposed by an LLM from documents, or a ready domain. Review it before use.

    Example: `agenttts tune tasks rulings/*.txt --domain "Rulings of labour courts"`
    """
    if template == "list":
        out().print("\n".join(template_names()))
        return
    if out_file.exists():
        raise UserError(f"{out_file}: must be free; choose another --out")
    if template is not None:
        text = template_text(template)
    else:
        settings = agent_settings(llm_base_url, llm_model)
        if settings is None:
            raise UserError(
                "proposing sub-tasks needs an LLM: export AGENTTTS_AGENT_BASE_URL and AGENTTTS_AGENT_MODEL, "
                "start from --template, or write the file by hand"
            )
        if not documents or not domain:
            raise UserError("proposing sub-tasks needs --domain and documents of it")
        read = read_documents(documents)
        with _stages() as told, Store.open(db) as store:
            told(f"reading {len(read)} documents")
            found = asyncio.run(_proposed(domain, read, settings, store))
        for name, reason in found.left_out:
            say(f"left out {name}: {reason}", "yellow")
        text = subtasks_yaml(found.tasks)
    out_file.write_text(text, encoding="utf-8")
    say(f"{out_file}: review it; `agenttts tune data` builds a dataset for it")


async def _proposed(domain: str, read: list[Row], settings: AgentSettings, store: Store) -> Proposed:
    chat = JsonChat(settings, store)
    try:
        return await propose_subtasks(domain, read, chat)
    finally:
        await chat.aclose()


@app.command("merge")
def merge_(
    adapters: Annotated[list[Path], typer.Argument(help="Adapters of one base.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Directory of the result.")],
    method: Annotated[str, typer.Option("--method", help="sum, ties, dare; or base: into the base.")] = "sum",
    weight: Annotated[list[float] | None, typer.Option("--weight", help="One for each adapter.")] = None,
    density: Annotated[
        float, typer.Option("--density", min=0.01, max=1.0, help="Share that ties and dare keep.")
    ] = 0.5,
    learn: Annotated[
        Path | None, typer.Option("--learn", help="Dataset to learn a coefficient for each layer on.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Its first so many training rows.")] = 64,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Make several adapters one, or (--method base) one adapter part of its base's weights.

    Example: `agenttts tune merge adapters/a adapters/b --out adapters/ab --learn data/`
    """
    if method == "base":
        if len(adapters) != 1:
            raise UserError(f"--method base takes one adapter, got {len(adapters)}")
        made = merge_into_base(adapters[0], out_dir)
    elif method in ("sum", "ties", "dare"):
        learn_from = None if learn is None else evenly(load_dataset(learn).train, rows)
        with _stages() as told:
            made = merge(
                adapters,
                out_dir,
                method=cast(Method, method),
                weights=weight,
                density=density,
                learn_from=learn_from,
                seed=seed,
                on_loss=lambda step, loss: told(f"step {step}, loss {loss:.3f}"),
            )
    else:
        raise UserError(f"--method is sum, ties, dare or base, got {method!r}")
    register(db, [made])
    if json:
        print_json({"path": str(made.path), "digest": made.digest, "rank": made.rank, **made.card})
    else:
        say(f"{made.path}: rank {made.rank}, {made.n_params:,} parameters")


@app.command("classifier")
def classifier_(config: Config, json: Json = False) -> None:
    """Train a text classifier on labels, and on preferences too (P2C); interrupted, the same command goes on.

    Example: `agenttts tune classifier classifier.yaml`
    """
    loaded = load_config(config, ClassifierConfig)
    with _stages() as told:
        told("training")

        def on_event(event: dict[str, Any]) -> None:
            told(f"step {event['step']}: macro-F1 {event['score']:.3f} on the validation texts")

        found = fit_classifier(loaded, config.parent, on_event=on_event)
    for name in found["classes_without_pairs"]:
        say(f"warning: no pair of the class {name} has a preference: learnt from its labels alone", "yellow")
    if found["test_texts_cut"]:
        say(
            f"warning: {found['test_texts_cut']} test texts are longer than max_tokens and were cut", "yellow"
        )
    if json:
        print_json(found)
        return
    table = Table("figure", "test texts")
    low, high = found["accuracy_ci"]
    table.add_row("accuracy", f"{found['accuracy']:.3f} [{low:.3f}, {high:.3f}]")
    for name in ("macro_f1", "matthews", "calibration_error", "consistency", "preference_accuracy"):
        if found.get(name) is not None:
            table.add_row(name.replace("_", " "), f"{found[name]:.3f}")
    out().print(table)
    say(f"{found.get('path', 'nothing exported: the backbone was frozen')}")


@app.command("verifier")
def verifier_(
    spec: Spec,
    stage: Annotated[str, typer.Option("--stage", help="Whose samples it is to tell apart.")],
    base: Annotated[str, typer.Option("--base", help="Directory or hub name of the backbone.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Directory of the verifier.")],
    run: Annotated[
        str | None, typer.Option("--run", help="The search to learn from; the newest of --db if not given.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="p2c, plain, …")] = "p2c",
    epochs: Annotated[float, typer.Option("--epochs", min=0.01)] = 5.0,
    learning_rate: Annotated[float, typer.Option("--learning-rate", min=1e-8)] = 2e-5,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 16,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=8, help="Of prompt and sample.")] = 512,
    tune_share: Annotated[
        float, typer.Option("--tune-share", min=0.01, max=1.0, help="Share of the search examples to use.")
    ] = 0.5,
    db: Db = DEFAULT_DB,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train a classifier that tells a stage's right samples from wrong ones, for best-of-n.

    Example: `agenttts tune verifier pipeline.yaml --stage answer --base answerdotai/ModernBERT-base --out v`
    """
    settings = {
        "method": method,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "max_tokens": max_tokens,
    }
    with _stages() as told:
        told("training")
        found = train_verifier(
            load_spec(spec),
            stage,
            base,
            out_dir,
            db=db,
            run_id=None if run == "latest" else run,
            settings=settings,
            tune_share=tune_share,
            seed=seed,
            on_event=lambda event: told(f"step {event['step']}: macro-F1 {event['score']:.3f}"),
        )
    if json:
        print_json(found)
        return
    above = found["right_above_wrong"] or 0.0
    out().print(
        f"{found['path']}: on samples of unseen examples accuracy {found['accuracy']:.3f}, and a right one "
        f"scores above a wrong one of its prompt in {above:.0%}",
        markup=False,
    )
    say(
        f"in the pipeline file: models: {{verifier: {{path: {found['path']}, "
        f"base_url: http://127.0.0.1:PORT/v1, active_params: {found['active_params']}}}}}\n"
        f"and of stage {stage}: aggregator: {{kind: verifier, model: verifier}}",
        "dim",
    )


@app.command("prefer")
def prefer_(
    collection: Annotated[str, typer.Argument(help="Name of the collection in the store.")],
    data: Annotated[Path | None, typer.Option("--data", help="Texts: CSV, JSONL or Parquet.")] = None,
    labels: Annotated[str, typer.Option("--labels", help="The classes, separated by commas.")] = "",
    text: Annotated[str, typer.Option("--text", help="The column of the text.")] = "text",
    label: Annotated[str | None, typer.Option("--label", help="The column of the label.")] = None,
    votes: Annotated[
        str | None, typer.Option("--votes", help="Columns with counts of votes, one for each label.")
    ] = None,
    source: Annotated[str, typer.Option("--source", help="votes or llm.")] = "llm",
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Pairs to ask about.")] = 500,
    tie: Annotated[
        float, typer.Option("--tie", min=0.0, max=1.0, help="votes: shares this near are a tie.")
    ] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what it would cost; ask nothing.")] = False,
    import_csv: Annotated[
        Path | None, typer.Option("--import", help="Take people's preferences from a CSV file instead.")
    ] = None,
    export_csv: Annotated[
        Path | None, typer.Option("--export", help="Write the collection as a CSV file instead.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    llm_base_url: BaseUrl = None,
    llm_model: Model = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Collect which of two texts of one label is more of it: from votes, an LLM, or people.

    Example: `agenttts tune prefer tone --data texts.csv --labels polite,rude --label tone --pairs 300`
    """
    if export_csv is not None:
        with Store.read(db) as reading:
            count = write_csv(reading.preferences(collection), export_csv)
        say(f"{export_csv}: {count} preferences")
        return
    notes: list[str] = []
    if import_csv is not None:
        found = read_csv(collection, import_csv, at=time.time())
    else:
        if data is None:
            raise UserError("texts come from --data; or take preferences from --import")
        names = [name.strip() for name in labels.split(",") if name.strip()]
        columns = [name.strip() for name in (votes or "").split(",") if name.strip()]
        texts = read_texts(read_file(data), text=text, labels=names, label=label, votes=columns)
        asked = drawn_pairs(texts, pairs, seed)
        if source == "votes":
            found = by_votes(collection, texts, names, asked, tie=tie, at=time.time())
        elif source == "llm":
            characters = sum(len(texts[i].text) + len(texts[j].text) + 300 for i, j in asked)
            cost = f"{2 * len(asked)} calls, about {2 * characters // 4:,} prompt tokens"
            if dry_run:
                say(f"{len(asked)} pairs in both orders: {cost}")
                return
            settings = agent_settings(llm_base_url, llm_model)
            if settings is None:
                raise UserError(
                    "--source llm needs an LLM: export AGENTTTS_AGENT_BASE_URL and AGENTTTS_AGENT_MODEL"
                )
            say(f"{len(asked)} pairs in both orders: {cost}", "dim")
            with _stages() as told, Store.open(db) as store:
                found, notes = asyncio.run(_preferred(collection, texts, names, asked, settings, store, told))
        else:
            raise UserError(f"--source is votes or llm, got {source!r}")
    with Store.open(db) as store:
        store.put_preferences(found)
        total = len(store.preferences(collection))
    counts = {
        "first": sum(one.preferred == 1 for one in found),
        "second": sum(one.preferred == 0 for one in found),
        "tie": sum(one.preferred == 0.5 for one in found),
    }
    for note in notes:
        say(f"warning: {note}", "yellow")
    if json:
        print_json({"collection": collection, "added": counts, "total": total, "warnings": notes})
    else:
        told_counts = ", ".join(f"{count} {what}" for what, count in counts.items())
        say(f"{collection}: {told_counts}; {total} in {db}")


async def _preferred(
    collection: str,
    texts: Sequence[LabelledText],
    labels: Sequence[str],
    asked: Sequence[tuple[int, int]],
    settings: AgentSettings,
    store: Store,
    told: Any,
) -> tuple[list[Preference], list[str]]:
    chat = JsonChat(settings, store)
    try:
        return await by_llm(collection, texts, labels, asked, chat, at=time.time(), told=told)
    finally:
        await chat.aclose()


@app.command("judge")
def judge_(
    collection: Annotated[str, typer.Argument(help="Name of the collection in the store.")],
    person: Annotated[str, typer.Option("--person", help="Who judges.")],
    data: Annotated[Path, typer.Option("--data", help="Texts: CSV, JSONL or Parquet.")],
    labels: Annotated[str, typer.Option("--labels", help="The classes, separated by commas.")],
    text: Annotated[str, typer.Option("--text", help="The column of the text.")] = "text",
    label: Annotated[str, typer.Option("--label", help="The column of the label.")] = "label",
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Pairs to judge.")] = 100,
    same: Annotated[
        bool, typer.Option("--same", help="The pairs that others have judged, to see who agrees.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    port: Annotated[int, typer.Option("--port", help="0: a free one.")] = 0,
    db: Db = DEFAULT_DB,
) -> None:
    """Serve a local page on which a person judges pairs with the keyboard; it goes on where they stopped.

    Example: `agenttts tune judge tone --person ada --data texts.csv --labels polite,rude --label tone`
    """
    names = [name.strip() for name in labels.split(",") if name.strip()]
    texts = read_texts(read_file(data), text=text, labels=names, label=label)
    with Store.open(db) as store:
        asked = judged_pairs(store, collection, texts, names) if same else drawn_pairs(texts, pairs, seed)
        if not asked:
            raise UserError(f"--same: nobody has judged pairs of {collection} yet")
        judging = Judging(store, collection, person, texts, names, asked, time.time)
        with JudgePage(judging, collection, port=port) as page:
            say(f"open {page.url}", "green")
            say("Ctrl-C ends it; every answer is kept at once.", "dim")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(0.5)
        state, agreed = judging.state(), agreement(store.preferences(collection))
    say(f"{state['done']} of {state['total']} pairs judged by {person}")
    if agreed is not None:
        say(f"two judges of one pair say the same in {agreed:.0%}")


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
        int | None, typer.Option("--port", help="Of the first base; the next bases follow.")
    ] = None,
    db: Db = DEFAULT_DB,
    log_dir: Annotated[Path | None, typer.Option("--log-dir", help="Where the servers' logs go.")] = None,
) -> None:
    """Serve tuned models with vLLM, each base once with its adapters, and check that each answers.

    Example: `agenttts tune serve adapters/small --port 8101`
    """
    places = named_places([m if "=" in m else f"{Path(m).name}={m}" for m in models])
    found = {name: read_tuned(place) for name, place in places.items()}
    for one in found.values():
        require_servable(one.path)
    if into is not None:
        whole = [name for name, one in found.items() if not one.is_adapter]
        if whole:
            raise UserError(f"--into takes adapters, {whole[0]} is a whole checkpoint; serve it by itself")
        for name, one in found.items():
            load_adapter(into, name, one.path.resolve())
            say(f"{name}: loaded at {into}", "green")
    else:
        spec = rivals_spec(places, port=port)
        require_vllm()
        logs = log_dir or Path(tempfile.mkdtemp(prefix="agenttts-serve-"))
        with talk().status(f"starting vLLM, logs in {logs}"):
            servers = ServerGroup(commands(spec), log_dir=logs).__enter__()
        try:
            ask_each(spec, list(places))
            register(db, list(found.values()), list(found))
            for name in places:
                say(f"{name}: {spec.models[name].base_url}", "green")
            say("Ctrl-C stops them.", "dim")
            servers.watch()
        except KeyboardInterrupt:
            say("stopping", "dim")
        finally:
            servers.stop()
        return
    register(db, list(found.values()), list(found))


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
    scored = ("score", "95 %", "difference", "95 %", "n", "missing", "tuning s")
    for name in ("model", "parameters", "sub-task", *scored):
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
            str(one.n_missing or ""),
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
