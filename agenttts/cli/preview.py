"""`agenttts tune preview`: rows of a dataset as a training sees them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agenttts.cli.options import Json, Seed, out, print_json
from agenttts.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text

    from agenttts.tasktune.preview import SeenRow

_BETWEEN = "·"


def preview(
    dataset: Annotated[Path, typer.Argument(help="A dataset of `agenttts tune data`.")],
    base: Annotated[str, typer.Option("--base", help="Directory or hub name of the model to tune.")],
    task: Annotated[str | None, typer.Option("--task", help="Rows of this sub-task alone.")] = None,
    split: Annotated[str, typer.Option("--split", help="train, eval or test.")] = "train",
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows, drawn by the seed.")] = 3,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show where each token ends.")] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Print rows as a training sees them: rendered, in tokens, what is learnt between ⟦ and ⟧.

    Example: `agenttts tune preview data --base models/small --tokens`
    """
    from agenttts.tasktune.data.dataset import load_dataset
    from agenttts.tasktune.preview import seen_rows
    from pipelines.dataset.splits import seeded_order

    data = load_dataset(dataset)
    splits = {"train": data.train, "eval": data.eval, "test": data.test}
    if split not in splits:
        raise UserError(f"--split is {', '.join(splits)}, got {split!r}")
    if task is not None and task not in data.tasks:
        raise UserError(f"--task: {task!r} is not in {dataset}; it has {', '.join(data.tasks)}")
    chosen = [row for row in splits[split] if task is None or row.task == task]
    if not chosen:
        raise UserError(f"{dataset}: has no such rows in {split}; choose another --split")
    seen = seen_rows(seeded_order(chosen, lambda row: row.id, seed)[:rows], base)
    if json:
        print_json([one.to_json_dict() for one in seen])
        return
    for one in seen:
        out().print(_shown(one, _BETWEEN if tokens else ""))


def _shown(seen: SeenRow, between: str) -> Text:
    from rich.text import Text

    row = seen.row
    total = len(seen.context) + len(seen.learnt)
    flags = f", {', '.join(row.flags)}" if row.flags else ""
    weight = f", weight {row.weight}" if row.weight > 1 else ""
    head = f"{row.task}, {row.source}: {total} tokens, {len(seen.learnt)} learnt{weight}{flags}\n"
    return Text.assemble(
        (head, "dim"),
        between.join(seen.context),
        ("⟦", "green"),
        (between.join(seen.learnt), "bold green"),
        ("⟧\n", "green"),
    )
