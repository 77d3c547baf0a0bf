"""`agenttts init`: a new pipeline's files, from a few questions or from flags."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from agenttts.cli.options import say
from agenttts.cli.starter import (
    Starter,
    candidates,
    columns,
    families,
    family_files,
    gold_fields,
    guessed_label,
    starter_files,
    suited_metric,
    write_files,
)
from agenttts.errors import UserError

_LOCAL = "small=http://127.0.0.1:8000/v1,3e9"


def init(
    directory: Annotated[Path, typer.Argument(help="Where the files go.")] = Path("pipeline"),
    family: Annotated[
        str | None, typer.Option("--from", help=f"Copy a ready-made pipeline: {', '.join(families())}.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The pipeline's name; the directory's if absent.")] = None,
    data: Annotated[Path | None, typer.Option(help="Rows to draw from: JSON, JSONL, CSV or Parquet.")] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="A field that the prompts show; several times.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="The field with the gold value.")] = None,
    gold: Annotated[
        list[str] | None,
        typer.Option("--gold", help="A further field that no prompt may show; several times."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="How an output is scored; by the label's type if absent.")
    ] = None,
    stages: Annotated[
        list[str] | None, typer.Option("--stage", help="A stage's name; several times, in their order.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help=f"NAME=URL,PARAMS, such as {_LOCAL}; several times."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(min=0.001, help="Units per query; four samples of the largest model if absent, or 50."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; guess what no flag says.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
) -> None:
    """Write a pipeline file with comments, and its prompts. Asks for what no flag says.

    Example: `agenttts init mine --data rows.jsonl --label answer --model small=http://127.0.0.1:8001/v1,3e9`
    """
    if family is not None:
        texts = family_files(family)
    else:
        interactive = sys.stdin.isatty() and not yes
        if data is None:
            if not interactive:
                raise UserError("--data is needed: the file with the rows; or --from, a ready-made pipeline")
            data = Path(typer.prompt("File with the rows", err=True))
        rows, fields = columns(data)
        guess = guessed_label(fields)
        if label is None:
            if interactive:
                label = str(typer.prompt(f"Field with the gold value ({', '.join(fields)})", guess, err=True))
            elif guess is None:
                raise UserError(f"--label is needed: which of {', '.join(fields)} holds the gold value")
            else:
                label = guess
        hidden = gold_fields(rows, label) | {*(gold or ()), "id"}
        shown = [field for field in fields if field not in hidden]
        if not (inputs or shown):
            raise UserError(f"--input is needed: every field of {data} may give the answer away")
        if not inputs and interactive:
            inputs = str(typer.prompt("Fields that the prompts show", " ".join(shown), err=True)).split()
        if not stages and interactive:
            stages = str(typer.prompt("Stages, in their order", "draft final", err=True)).split()
        if not models and interactive:
            models = str(typer.prompt("Models, NAME=URL,PARAMS each", _LOCAL, err=True)).split()
        starter = Starter(
            name=name or directory.resolve().name,
            data=data,
            inputs=inputs or shown,
            label=label,
            metric=metric or suited_metric(rows, label),
            stages=stages or ("draft", "final"),
            models=candidates(models or [_LOCAL]),
            budget=budget,
        )
        texts = starter_files(starter, directory)
        left_out = [
            field for field in fields if field in hidden - {label, "id"} and field not in starter.inputs
        ]
        say(f"prompts show {', '.join(starter.inputs)}; the metric is {starter.metric}", "dim")
        if left_out:
            say(f"left out of the prompts, as they may give the answer away: {', '.join(left_out)}", "dim")
    write_files(texts, directory, force)
    for path in texts:
        say(f"wrote {directory / path}", "dim")
    say(f"next: agenttts check {directory / 'pipeline.yaml'}")
