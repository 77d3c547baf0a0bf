"""What a search and its client processes tell each other of draws: Parquet files in a folder, the spool.

The search writes what is asked for, a client process what came of it, each file whole or not at all. A file
stays until the store has what is in it, so that nothing that was paid for is lost with the process that had
asked (`recovered`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.costs import generated_tokens_bound, prompt_tokens_bound
from pipelines.runtime.sampler import SampleBank, Sampler, enter, sample_of
from pipelines.servers.billing import Bill
from pipelines.servers.wire import Draw, DrawnSample
from pipelines.spec import SamplingSpec
from pipelines.spec.pipeline import PipelineSpec

ASKED, DRAWN, LOCK = ".asked.parquet", ".drawn.parquet", ".lock"
_ASKED = pa.schema(
    [
        pa.field("number", pa.int64()),
        pa.field("model", pa.string()),
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
_DRAWN = pa.schema(
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
_OF_DRAW = _DRAWN.names[_DRAWN.names.index("prompt_tokens") :]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A draw that a client process is asked for.

    Attributes:
        number: What tells it from others of the same search.
        model: The model's key in the spec.
        content: Of the request, as JSON.
        sampling: The sampling parameters, as JSON.
        n: Samples that are wanted.
        first: The index of the first of them among all of the prompt.
    """

    number: int
    model: str
    content: str
    sampling: str
    n: int
    first: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What came of it.

    Attributes:
        number: Of what was asked.
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


def write_asked(path: Path, asked: Iterable[Asked]) -> None:
    """Write what is asked for to a file.

    Args:
        path: The file.
        asked: The draws.
    """
    _write(path, _ASKED, [{name: getattr(one, name) for name in _ASKED.names} for one in asked])


def read_asked(path: Path) -> list[Asked]:
    """Read a file that `write_asked` wrote."""
    return [Asked(**row) for row in pq.read_table(path).to_pylist()]


def write_drawn(path: Path, drawn: Iterable[Drawn]) -> None:
    """Write what came of draws to a file.

    Args:
        path: The file.
        drawn: What came of them.
    """
    _write(path, _DRAWN, [_row(one) for one in drawn])


def read_drawn(path: Path) -> list[Drawn]:
    """Read a file that `write_drawn` wrote."""
    return [
        Drawn(
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


def _row(drawn: Drawn) -> dict[str, object]:
    row: dict[str, object] = {"number": drawn.number, "error": drawn.error, "message": drawn.message}
    row |= {f"billed_{name}": getattr(drawn.bill, name) for name in _BILL}
    if drawn.draw is not None:
        row |= {name: getattr(drawn.draw, name) for name in _OF_DRAW}
        row["samples"] = [
            {
                "text": sample.text,
                "generated_tokens": sample.generated_tokens,
                "mean_logprob": sample.mean_logprob,
                "finish_reason": sample.finish_reason,
            }
            for sample in drawn.draw.samples
        ]
    return row


def _write(path: Path, schema: pa.Schema, rows: list[dict[str, object]]) -> None:
    """The file appears under its name once it is complete."""
    new = path.with_name(f".{path.name}.new")
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table, new, compression="NONE", use_dictionary=False, write_statistics=False)
    os.replace(new, path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file within the block; the system drops it with the process.

    Args:
        path: The file.
    """
    import fcntl  # not on Windows, where client processes are not for

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)


def _await_end(folder: Path, longest_s: float) -> None:
    """Wait until no client process writes to a spool any more, whose search was killed."""
    import fcntl

    until = time.monotonic() + longest_s
    for path in folder.glob(f"*{LOCK}"):
        with path.open("w") as file:
            while time.monotonic() < until:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    time.sleep(0.05)
        path.unlink(missing_ok=True)


async def recovered(
    folder: Path, spec: PipelineSpec, bank: SampleBank, run_id: str | None, *, longest_s: float = 8.0
) -> int:
    """Bring what a killed search had left in its spool into the bank, and remove the files.

    Args:
        folder: The spool; there may be none.
        spec: The pipeline of that search.
        bank: The bank.
        run_id: The run that asked, which pays; None where another one goes on with the database.
        longest_s: Seconds for which client processes that still end are awaited.

    Returns:
        The number of samples that were new.
    """
    if not folder.is_dir():
        return 0
    _await_end(folder, longest_s)
    sampler = Sampler(spec, bank, None, run_id=run_id, replay=True, gate=None)
    asked = {
        (path.name.split(".")[0], one.number): one
        for path in folder.glob(f"*{ASKED}")
        for one in read_asked(path)
    }
    n_new = 0
    for path in sorted(folder.glob(f"*{DRAWN}")):
        for drawn in read_drawn(path):
            one = asked.get((path.name.split(".")[0], drawn.number))
            if one is not None and one.model in spec.models:
                n_new += await _entered(sampler, bank, spec, run_id, one, drawn)
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
    folder.rmdir()
    return n_new


async def _entered(
    sampler: Sampler, bank: SampleBank, spec: PipelineSpec, run_id: str | None, asked: Asked, drawn: Drawn
) -> int:
    """Enter a draw with its bill, unless the bank has it; how many samples were new."""
    sampling = SamplingSpec.model_validate_json(asked.sampling)
    prompt = sampler.prompt(asked.model, json.loads(asked.content), sampling)
    banked = {sample.index for sample in (await bank.get_samples([prompt.key])).get(prompt.key, ())}
    samples = []
    if drawn.draw is not None:
        prompt = replace(prompt, prompt_tokens=drawn.draw.prompt_tokens)
        samples = [
            sample_of(prompt.key, index, sample, drawn.draw, run_id)
            for index, sample in enumerate(drawn.draw.samples, asked.first)
        ]
    if samples and all(sample.index in banked for sample in samples):
        return 0
    window = spec.models[asked.model].context_length
    bounds = prompt_tokens_bound(prompt.content, window), generated_tokens_bound(sampling, window)
    await enter(bank, run_id, prompt, samples, drawn.bill, bounds)
    return sum(sample.index not in banked for sample in samples)
