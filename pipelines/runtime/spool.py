"""What a search and its client processes tell each other of draws: Parquet files in a folder, the spool.

The search writes what is asked for, a client process what came of it, each file whole or not at all. A file
stays until the store has what is in it, so that nothing that was paid for is lost with the process that had
asked (`recovery`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from datastore.keys import canonical_json, well_formed
from pipelines.servers.billing import Bill
from pipelines.servers.wire import Draw, DrawnSample
from pipelines.spec.pipeline import PipelineSpec

REQUESTS, ANSWERS, LOCK = ".asked.parquet", ".drawn.parquet", ".lock"
_REQUEST = pa.schema(
    [
        pa.field("number", pa.int64()),
        pa.field("model", pa.string()),
        pa.field("identity", pa.string()),
        pa.field("content", pa.string()),
        pa.field("sampling", pa.string()),
        pa.field("n", pa.int64()),
        pa.field("first", pa.int64()),
    ]
)
_SAMPLE = pa.struct(
    [
        pa.field("text", pa.string()),
        pa.field("generated_tokens", pa.int64()),
        pa.field("mean_logprob", pa.float64()),
        pa.field("finish_reason", pa.string()),
    ]
)
_BILL = ("calls", "prompt_tokens", "generated_tokens", "uncounted_prompts", "uncounted_answers")
_ANSWER = pa.schema(
    [
        pa.field("number", pa.int64()),
        *(pa.field(f"billed_{name}", pa.int64()) for name in _BILL),
        pa.field("error", pa.string()),  # NULL: it brought a draw
        pa.field("message", pa.string()),
        pa.field("samples", pa.list_(_SAMPLE)),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("request_id", pa.string()),
        pa.field("missing", pa.list_(pa.string())),
        pa.field("missing_tokens", pa.int64()),
        pa.field("total_tokens", pa.int64()),
        pa.field("missing_cut", pa.int64()),
        pa.field("estimated", pa.bool_()),
        pa.field("most_n", pa.int64()),
    ]
)
_OF_DRAW = _ANSWER.names[_ANSWER.names.index("prompt_tokens") :]


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawRequest:
    """A draw that a client process is asked for.

    Attributes:
        number: What tells it from others of the same search.
        model: The model's key in the spec.
        identity: What the model was when it was asked (`identity`).
        content: Of the request, as JSON.
        sampling: The sampling parameters, as JSON.
        n: Samples that are wanted.
        first: The index of the first of them among all of the prompt.
    """

    number: int
    model: str
    identity: str
    content: str
    sampling: str
    n: int
    first: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawAnswer:
    """What came of a request.

    Attributes:
        number: Of the request.
        bill: What the server bills, also for a draw that failed.
        draw: What it brought; None when it failed.
        error: The name of the error's class; None without one.
        message: What the error says.
    """

    number: int
    bill: Bill = field(default_factory=Bill)
    draw: Draw | None = None
    error: str | None = None
    message: str = ""


def identity(spec: PipelineSpec, model: str) -> str:
    """Return all that a model's description adds to the identity of its samples, as JSON.

    Args:
        spec: The pipeline.
        model: The model's key in it.
    """
    described = spec.models[model].model_dump(mode="json", include={"request", "sampling"})
    return canonical_json({"key": spec.model_key(model), **described})


def write_requests(path: Path, requests: Iterable[DrawRequest]) -> None:
    """Write requests to a file.

    Args:
        path: The file.
        requests: The requests.
    """
    _write(path, _REQUEST, [{name: getattr(one, name) for name in _REQUEST.names} for one in requests])


def read_requests(path: Path) -> list[DrawRequest]:
    """Read a file that `write_requests` wrote."""
    return [DrawRequest(**row) for row in pq.read_table(path).to_pylist()]


def write_answers(path: Path, answers: Iterable[DrawAnswer]) -> None:
    """Write what came of requests to a file.

    Args:
        path: The file.
        answers: What came of them.
    """
    _write(path, _ANSWER, [_row(one) for one in answers])


def read_answers(path: Path) -> list[DrawAnswer]:
    """Read a file that `write_answers` wrote."""
    return [
        DrawAnswer(
            number=row["number"],
            bill=Bill(**{name: row[f"billed_{name}"] for name in _BILL}),
            draw=None
            if row["samples"] is None
            else Draw(
                samples=tuple(DrawnSample(**sample) for sample in row["samples"]),
                **{name: row[name] for name in _OF_DRAW if name != "missing"},
                missing=tuple(row["missing"]),
            ),
            error=row["error"],
            message=row["message"],
        )
        for row in pq.read_table(path).to_pylist()
    ]


def _row(answer: DrawAnswer) -> dict[str, object]:
    row: dict[str, object] = {"number": answer.number, "error": answer.error, "message": answer.message}
    row |= {f"billed_{name}": getattr(answer.bill, name) for name in _BILL}
    if answer.draw is not None:
        row |= {name: getattr(answer.draw, name) for name in _OF_DRAW}
        row["samples"] = [
            {part.name: getattr(sample, part.name) for part in _SAMPLE} for sample in answer.draw.samples
        ]
    return row


def _write(path: Path, schema: pa.Schema, rows: list[dict[str, object]]) -> None:
    """The file appears under its name once it is complete."""
    new = path.with_name(f".{path.name}.new")
    table = pa.Table.from_pylist([_writable(row) for row in rows], schema)
    pq.write_table(table, new, compression="NONE", use_dictionary=False, write_statistics=False)
    os.replace(new, path)


def _writable(value: Any) -> Any:
    """The value without lone surrogates in its texts, which Parquet does not hold."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list | tuple):
        return [_writable(one) for one in value]
    if isinstance(value, dict):
        return {name: _writable(one) for name, one in value.items()}
    return value


def opened_lock(path: Path) -> IO[str]:
    """Open a lock file, which is made where there is none; what a link leads to stays as it is."""
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW
    return open(path, "r+", opener=lambda name, _: os.open(name, flags, 0o600))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file within the block; the system drops it with the process.

    Args:
        path: The file.
    """
    import fcntl  # not on Windows, where client processes are not for

    with opened_lock(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)
