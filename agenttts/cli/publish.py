"""`agenttts tune push` and `agenttts tune gguf`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agenttts.cli.options import say


def push(
    model: Annotated[Path, typer.Argument(help="Directory of an adapter or checkpoint.")],
    name: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.")],
    base: Annotated[
        str | None, typer.Option("--base", help="Hub name of an adapter's base, where that is a directory.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="A new repository is public; else private.")
    ] = False,
) -> None:
    """Push a tuned model to the hub of Hugging Face, with a model card; `hf auth login` first.

    Example: `agenttts tune push adapters/small me/small-rulings --base Qwen/Qwen3-0.6B`
    """
    from agenttts.tasktune.publishing import push as run_push

    say(f"{run_push(model, name, base=base, public=public)}: pushed", "green")


def gguf(
    checkpoint: Annotated[Path, typer.Argument(help="Directory of a whole checkpoint.")],
    out_file: Annotated[Path, typer.Option("--out", help="File to write.")],
    kind: Annotated[
        str, typer.Option("--type", help="Type of the weights, as llama.cpp's converter has it.")
    ] = "f16",
) -> None:
    """Write a checkpoint as GGUF, by llama.cpp's converter: on PATH, or in the directory LLAMA_CPP.

    Example: `agenttts tune gguf checkpoints/small --out small.gguf --type q8_0`
    """
    from agenttts.tasktune.publishing import to_gguf

    to_gguf(checkpoint, out_file, kind=kind)
    say(f"{out_file}: written", "green")
