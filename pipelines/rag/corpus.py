"""The passages that retrieval searches: read from files of the reader's, or pooled from a dataset's rows.

    python -m pipelines.rag.corpus mine/pipeline.yaml --data rows.json

writes the distinct candidates of all rows that the pipeline draws, in one pool, where its `files` say that
the corpus is. Answers and evidence stay out of it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipelines.dataset.splits import load_splits, with_data
from pipelines.errors import DatasetError, PipelineError
from pipelines.examples import Example
from pipelines.files import whole
from pipelines.retrieve_answer.rows import distinct
from pipelines.spec.files import load_spec
from pipelines.spec.functions import files_below
from pipelines.stages.parsers import normal_space

_TEXTS = (".txt", ".md")
_BLANK_LINES = re.compile(r"\n\s*\n")


def read_passages(corpus: Path) -> list[str]:
    """Read the distinct passages of a corpus.

    Args:
        corpus: A JSONL file, each line an object with `text` and perhaps a `title`, which is put before the
            text; or a text file (.txt, .md), or a directory of such, whose passages are the paragraphs
            between blank lines, each after the name of its file.

    Raises:
        DatasetError: It can't be read, has another form or no passage.
    """
    files = [file for file in files_below(corpus) if corpus.is_file() or file.suffix in _TEXTS]
    try:
        passages = [passage for file in files for passage in _passages(file)]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{corpus}: can't be read: {error}") from None
    if not passages:
        forms = "a JSONL file of texts or a directory of .txt and .md files"
        raise DatasetError(f"{corpus}: a corpus must have a passage, got none; name {forms}")
    return distinct(passages)


def pooled(examples: Iterable[Example]) -> list[str]:
    """Return the distinct candidates of all examples, in order: one pool for all questions.

    Args:
        examples: Examples with `candidates`, as `pipelines.retrieve_answer.rows` prepares them.
    """
    return distinct(text for example in examples for text in example["candidates"])


def write_passages(passages: Iterable[str], file: Path) -> None:
    """Write passages as a JSONL file that `read_passages` reads; the file is complete, or does not exist."""
    with whole(file) as beside:
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in passages]
        beside.write_text("".join(lines), encoding="utf-8")


def _passages(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8-sig")
    if file.suffix in _TEXTS:
        paragraphs = [normal_space(part) for part in _BLANK_LINES.split(text)]
        return [f"{file.stem}: {paragraph}" for paragraph in paragraphs if paragraph]
    passages = []
    for number, line in enumerate(text.splitlines(), 1):
        row = json.loads(line) if line.strip() else {"text": ""}
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise ValueError(f"line {number} must be an object with a text under 'text', got {line!r:.60}")
        passages.append(f"{row['title']}: {row['text']}" if row.get("title") else row["text"])
    return passages


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the corpus of a pipeline whose rows have candidates; an error is one line and exit code 2.

    Args:
        arguments: Of the command line; None: those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m pipelines.rag.corpus", description=main.__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--data", type=Path, help="rows in place of the pipeline's pool")
    parser.add_argument("--n-search", type=int)
    parser.add_argument("--n-test", type=int)
    parser.add_argument("--stage", default="retrieve", help="the stage whose corpus is written")
    args = parser.parse_args(arguments)
    try:
        spec = with_data(load_spec(args.pipeline), args.data, args.n_search, args.n_test)
        file = spec.stage(args.stage).paths.get("corpus")
        if file is None or file.is_dir():
            field = f"stages[{args.stage}].files.corpus"
            raise spec.error_at(field, "must name the file to write", remedy="such as corpus.jsonl")
        splits = load_splits(spec)
        passages = pooled([*splits.search, *splits.test])
        write_passages(passages, file)
    except (PipelineError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    sys.stdout.write(f"wrote {len(passages):,} passages to {file}\n")


if __name__ == "__main__":
    main()
