"""`agenttts export`: runs for MLflow, traces for OpenTelemetry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agenttts.cli.options import Json, print_json, say
from agenttts.errors import UserError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from datastore.records import Run
    from datastore.store import Store

app = typer.Typer(no_args_is_help=True, help="Export runs to MLflow, and traces to OpenTelemetry.")

Database = Annotated[Path, typer.Argument(help="The DuckDB file.", show_default=False)]
OneRun = Annotated[
    str | None,
    typer.Option("--run", help="This run only, or: latest; all where not given.", show_default=False),
]


@app.command("mlflow")
def to_mlflow(
    db: Database,
    run: OneRun = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="Where MLflow keeps its runs; its own environment variables' where not given."),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(help="One experiment for all; that of each pipeline's name where not given.")
    ] = None,
    json: Json = False,
) -> None:
    """Send runs, trials and metrics to MLflow; a second export brings them up to date.

    Needs the extra `mlflow`.

    Example: `agenttts export mlflow run.duckdb --tracking-uri http://localhost:5000`
    """
    from agenttts.export.mlflow_runs import export_mlflow
    from datastore import Store

    with Store.read(db) as store:
        done = export_mlflow(store, _runs(store, run), tracking_uri=tracking_uri, experiment=experiment)
    if json:
        print_json(done.__dict__)
    else:
        say(
            f"{', '.join(done.experiments)}: {done.n_runs} searches and {done.n_trials} trials are in "
            f"MLflow, {done.n_new} of them new"
        )


@app.command("otel")
def to_otel(
    db: Database,
    run: OneRun = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            help="The database of a service: the requests that it answered, instead of the search.",
            show_default=False,
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="The collector's address for traces; OpenTelemetry's environment variables' else."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write JSON lines to this file instead.", show_default=False)
    ] = None,
    stages: Annotated[
        bool, typer.Option(help="A span for each stage of each example, beside trials.")
    ] = True,
    content: Annotated[
        bool, typer.Option("--content", help="Put prompts, samples and the examples' ids into the spans too.")
    ] = False,
    json: Json = False,
) -> None:
    """Send traces as spans of OpenTelemetry, by its conventions for generative AI. Needs the extra `otel`.

    Example: `agenttts export otel run.duckdb --samples run.service.duckdb --out spans.jsonl`
    """
    from datastore import Store
    from pipelines.extras import library

    for name in ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"):
        library(name, "agenttts export otel", extra="otel")
    from agenttts.export.content import Content
    from agenttts.export.sending import send_spans, write_spans
    from agenttts.export.spans import RunSpans

    with Store.read(db) as store:
        runs = _runs(store, run)
    with Store.read(samples or db) as store:
        texts = Content(store) if content else None

        def spans() -> Iterator[ReadableSpan]:
            for one in runs:
                own = RunSpans(store, one, texts)
                yield from own.search(stages=stages) if samples is None else own.served()

        n = send_spans(spans(), endpoint) if out is None else write_spans(spans(), out)
    if json:
        print_json({"spans": n, "runs": len(runs)})
    else:
        say(f"{n:,} spans of {len(runs)} runs {'sent' if out is None else f'written to {out}'}")


def _runs(store: Store, name: str | None) -> list[Run]:
    """The run of a name, or all of them."""
    if name is not None:
        return [store.run(name)]
    runs = store.runs()
    if not runs:
        raise UserError(f"{store.path}: has no run yet; search first")
    return runs
