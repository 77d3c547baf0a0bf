"""`agenttts tune classifier`, `verifier`, `prefer`, `judge`: text classifiers and their preferences."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from agenttts.cli.options import (
    DEFAULT_DB,
    Config,
    Db,
    Json,
    LlmBaseUrl,
    LlmModel,
    Seed,
    Spec,
    in_a_directory,
    out,
    print_json,
    say,
    status_line,
)
from agenttts.cli.search import agent_settings
from agenttts.errors import UserError

if TYPE_CHECKING:
    from agenttts.llm import AgentSettings
    from agenttts.p2c.classifier import ClassifierConfig, ClassifierReport
    from agenttts.p2c.texts import LabelledText
    from agenttts.training.events import OnTuneEvent, TuneEvent
    from datastore.records import Preference
    from datastore.store import Store


def classifier(
    config: Config,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", callback=in_a_directory, help="Write a plot of accuracy against confidence here."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train a text classifier on labels, and on preferences too (P2C); interrupted, the same command goes on.

    Example: `agenttts tune classifier classifier.yaml`
    """
    from agenttts.p2c.classifier import ClassifierConfig, fit_classifier
    from pipelines.spec.configfile import load_config

    loaded = load_config(config, ClassifierConfig)
    with _scores_shown(" on the validation texts") as on_event:
        report = fit_classifier(loaded, config.parent, on_event=on_event)
    for name in report.classes_without_pairs:
        say(
            f"warning: no pair of the class {name} has a preference; it is learnt from labels alone", "yellow"
        )
    if report.test_texts_cut:
        say(f"warning: {report.test_texts_cut} test texts are longer than max_tokens and were cut", "yellow")
    if json:
        print_json(report.to_json_dict())
    else:
        _print_figures(report)
    if html is not None:
        from agenttts.report import figures as plots
        from agenttts.report.html import save_figures

        save_figures([plots.reliability(report.figures.reliability)], f"{config.stem}: reliability", html)


def _print_figures(report: ClassifierReport) -> None:
    from rich.table import Table

    figures, interval = report.figures, report.figures.accuracy_interval
    table = Table("figure", "test texts")
    bounds = "" if interval is None else f" [{interval.low:.3f}, {interval.high:.3f}]"
    table.add_row("accuracy", f"{figures.accuracy:.3f}{bounds}")
    for name, value in (
        ("macro f1", figures.macro_f1),
        ("matthews", figures.matthews),
        ("calibration error", figures.calibration_error),
        ("consistency", figures.consistency),
        ("preference accuracy", figures.preference_accuracy),
    ):
        if value is not None:
            table.add_row(name, f"{value:.3f}")
    out().print(table)
    say(str(report.path or "No model was exported, because the backbone was frozen."))


@contextlib.contextmanager
def _scores_shown(where: str = "") -> Iterator[OnTuneEvent]:
    """Show the score after each epoch on a status line within the block."""
    from agenttts.training.events import TuneScore

    with status_line() as show:
        show("training")

        def on_event(event: TuneEvent) -> None:
            if isinstance(event, TuneScore):
                show(f"step {event.step}: macro-F1 {event.score:.3f}{where}")

        yield on_event


def verifier(
    spec: Spec,
    stage: Annotated[str, typer.Option("--stage", help="The stage whose samples it classifies.")],
    base: Annotated[str, typer.Option("--base", help="Directory or hub name of the backbone.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Directory of the verifier.")],
    run: Annotated[
        str | None, typer.Option("--run", help="The search to learn from; the newest of --db if not given.")
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="The training method, such as p2c or plain.")
    ] = "p2c",
    epochs: Annotated[float, typer.Option("--epochs", min=0.01, help="How often each row is seen.")] = 5.0,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", min=1e-8, help="The largest learning rate.")
    ] = 2e-5,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows of one step.")] = 16,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=8, help="Longest prompt and sample together.")
    ] = 512,
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
    from agenttts.p2c.settings import Method, P2CSettings
    from agenttts.p2c.verifier import train_verifier
    from pipelines.spec.files import load_spec

    try:
        settings = P2CSettings.model_validate(
            {
                "method": method,
                "epochs": epochs,
                "learning_rate": learning_rate,
                "batch_size": batch_size,
                "max_tokens": max_tokens,
                "seed": seed,
            }
        )
    except ValueError:
        raise UserError(f"--method is one of {', '.join(get_args(Method))}, got {method!r}") from None
    with _scores_shown() as on_event:
        report = train_verifier(
            load_spec(spec),
            stage,
            base,
            out_dir,
            db=db,
            run_id=run,
            settings=settings,
            tune_share=tune_share,
            seed=seed,
            on_event=on_event,
        )
    if json:
        print_json(report.to_json_dict())
        return
    auc = "–" if report.auc is None else f"{report.auc:.3f} ± {report.auc_error or 0.0:.3f}"
    out().print(
        f"{report.path}: AUC inside a prompt {auc} (chance is 0.5; {report.n_prompts} prompts of unseen "
        f"examples); {report.base_rate:.0%} of their samples are right, {report.accuracy:.0%} judged rightly",
        markup=False,
    )
    if not report.tells_apart:
        say("that is not shown to be better than chance: leave the choice to the vote", "yellow")
    say(
        f"in the pipeline file: models: {{verifier: {{path: {report.path}, "
        f"base_url: http://127.0.0.1:PORT/v1, active_params: {report.active_params}}}}}\n"
        f"and of stage {stage}: verifiers: [verifier]; the search then weighs it against the vote",
        "dim",
    )


def prefer(
    collection: Annotated[str, typer.Argument(help="Name of the collection in the store.")],
    config: Annotated[
        Path | None,
        typer.Argument(help="The classifier's file (YAML), which says where its training texts are."),
    ] = None,
    source: Annotated[str, typer.Option("--source", help="votes, or llm (experimental).")] = "llm",
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Pairs to ask about.")] = 500,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the number of calls and tokens; send no request.")
    ] = False,
    import_csv: Annotated[
        Path | None, typer.Option("--import", help="Take people's preferences from a CSV file instead.")
    ] = None,
    export_csv: Annotated[
        Path | None, typer.Option("--export", help="Write the collection as a CSV file instead.")
    ] = None,
    seed: Seed = 0,
    llm_base_url: LlmBaseUrl = None,
    llm_model: LlmModel = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Collect which of two training texts of one label is more of it: from votes, an LLM, or people.

    Example: `agenttts tune prefer tone classifier.yaml --pairs 300`
    """
    from agenttts.llm import require_llm
    from agenttts.p2c.preferences import by_votes, drawn_pairs, read_csv, write_csv
    from agenttts.p2c.texts import TIE
    from datastore.store import Store

    if export_csv is not None:
        with Store.read(db) as reading:
            count = write_csv(reading.preferences(collection), export_csv)
        say(f"{export_csv}: {count} preferences")
        return
    warnings: list[str] = []
    if import_csv is not None:
        preferences = read_csv(collection, import_csv, at=time.time())
    else:
        if config is None:
            raise UserError("name the classifier's file, or take preferences from --import")
        loaded, texts = _training_texts(config)
        names = loaded.labels
        chosen = drawn_pairs(texts, pairs, seed)
        if source == "votes":
            tie = loaded.preferences.tie
            preferences = by_votes(collection, texts, names, chosen, tie=tie, at=time.time())
        elif source == "llm":
            characters = sum(len(texts[i].text) + len(texts[j].text) + 300 for i, j in chosen)
            cost = f"{2 * len(chosen)} calls, about {2 * characters // 4:,} prompt tokens"
            if dry_run:
                say(f"{len(chosen)} pairs in both orders: {cost}")
                return
            settings = require_llm(agent_settings(llm_base_url, llm_model), "--source llm needs")
            say(f"{len(chosen)} pairs in both orders: {cost}", "dim")
            with status_line() as show, Store.open(db) as store:
                preferences, warnings = asyncio.run(
                    _preferred(collection, texts, names, chosen, settings, store, show)
                )
        else:
            raise UserError(f"--source is votes or llm, got {source!r}")
    with Store.open(db) as store:
        store.put_preferences(preferences)
        total = len(store.preferences(collection))
    counts = {
        "first": sum(preference.preferred == 1 for preference in preferences),
        "second": sum(preference.preferred == 0 for preference in preferences),
        "tie": sum(preference.preferred == TIE for preference in preferences),
    }
    for warning in warnings:
        say(f"warning: {warning}", "yellow")
    if json:
        print_json({"collection": collection, "added": counts, "total": total, "warnings": warnings})
    else:
        ties = counts["tie"] / max(1, len(preferences))
        say(
            f"{collection}: {counts['first']} for the first text, {counts['second']} for the second, "
            f"{counts['tie']} ties ({ties:.0%}); {total} in {db}"
        )


def _training_texts(config: Path) -> tuple[ClassifierConfig, list[LabelledText]]:
    """The configuration of a classifier, and the texts that it is trained on."""
    from agenttts.p2c.classifier import ClassifierConfig, classifier_texts
    from pipelines.spec.configfile import load_config

    loaded = load_config(config, ClassifierConfig)
    return loaded, classifier_texts(loaded, config.parent)[0]


async def _preferred(
    collection: str,
    texts: Sequence[LabelledText],
    labels: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    settings: AgentSettings,
    store: Store,
    show: Callable[[str], None],
) -> tuple[list[Preference], list[str]]:
    from agenttts.llm import JsonChat
    from agenttts.p2c.preferences import by_llm

    async with JsonChat(settings, store) as chat:
        return await by_llm(collection, texts, labels, pairs, chat, at=time.time(), on_status=show)


def judge(
    collection: Annotated[str, typer.Argument(help="Name of the collection in the store.")],
    config: Config,
    person: Annotated[str, typer.Option("--person", help="The name of the person who judges.")],
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Pairs to judge.")] = 100,
    same: Annotated[
        bool, typer.Option("--same", help="Judge the pairs that others have judged, to measure agreement.")
    ] = False,
    seed: Seed = 0,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of the page; 0 takes a free one.")
    ] = 0,
    db: Db = DEFAULT_DB,
) -> None:
    """Serve a local page on which a person judges pairs with the keyboard; it goes on where they stopped.

    It listens on 127.0.0.1 only, and the printed address holds a token. Needs the extra `ui`.

    Example: `agenttts tune judge tone classifier.yaml --person ada`
    """
    from agenttts.p2c.judging import Judging, judged_pairs
    from agenttts.p2c.preferences import agreement, drawn_pairs
    from datastore.store import Store
    from pipelines.extras import library

    for name in ("starlette", "uvicorn"):
        library(name, "agenttts tune judge", extra="ui")
    from agenttts.ui.judging import judging_pages
    from agenttts.ui.server import serve

    loaded, texts = _training_texts(config)
    names = loaded.labels
    with Store.open(db) as store:
        chosen = judged_pairs(store, collection, texts, names) if same else drawn_pairs(texts, pairs, seed)
        if not chosen:
            raise UserError(f"--same: nobody has judged pairs of {collection} yet")
        judging = Judging(store, collection, person, texts, names, chosen, time.time)

        def ready(address: str) -> None:
            say(f"open {address}", "green")
            say("Press Ctrl-C to stop the server. Every answer is stored at once.", "dim")

        with contextlib.suppress(KeyboardInterrupt):
            serve(partial(judging_pages, judging, collection), port, ready)
        state, agreed = judging.state(), agreement(store.preferences(collection))
    say(f"{state.done} of {state.total} pairs judged by {person}")
    if agreed is not None:
        say(f"two judges of one pair agree in {agreed:.0%}")
