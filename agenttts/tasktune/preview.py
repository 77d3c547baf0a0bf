"""Rows as a training sees them: rendered by the chat template, cut into tokens, the learnt part apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agenttts.errors import UserError
from agenttts.tasktune.data.rows import TaskRow
from agenttts.tasktune.generate import encode_answer, encode_chat
from agenttts.training.checkpoints import one_line, quiet
from pipelines.extras import library
from pipelines.jsonvalues import JSON

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class SeenRow:
    """A row in tokens.

    Attributes:
        row: The row.
        context: The text of each token up to the answer; no loss is on these.
        learnt: The text of each token of the answer and its end; the loss is on these.
    """

    row: TaskRow
    context: Sequence[str]
    learnt: Sequence[str]

    def to_json_dict(self) -> dict[str, JSON]:
        """JSON-able, in one mapping."""
        return {
            "task": self.row.task,
            "source": self.row.source,
            "weight": self.row.weight,
            "flags": list(self.row.flags),
            "context": list(self.context),
            "learnt": list(self.learnt),
        }


def seen_rows(rows: Sequence[TaskRow], base: str) -> list[SeenRow]:
    """Render and tokenise rows as `fit` does.

    Args:
        rows: The rows.
        base: The directory or hub name of the model whose tokenizer and chat template are used.

    Raises:
        UserError: There is no such tokenizer, it has no chat template, or that refuses a row's messages.
        MissingDependency: transformers is not installed.
    """
    transformers = library("transformers", "a preview")
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(Path(base).expanduser()) if Path(base).expanduser().is_dir() else base
            )
    except (OSError, ValueError) as error:
        raise UserError(f"--base: {base} has no tokenizer: {one_line(error)}") from None

    seen = []
    for row in rows:
        context = encode_chat(tokenizer, row.messages)
        pieces = _pieces(tokenizer, [*context, *encode_answer(tokenizer, row.completion)])
        seen.append(SeenRow(row=row, context=pieces[: len(context)], learnt=pieces[len(context) :]))
    return seen


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """What each token adds to the text; of the bytes of one character the last adds all of it."""
    pieces, before = [], ""
    for end in range(1, len(ids) + 1):
        text = str(tokenizer.decode(ids[:end]))
        whole = not text.endswith("\ufffd")
        pieces.append(text[len(before) :] if whole else "")
        before = text if whole else before
    return pieces
