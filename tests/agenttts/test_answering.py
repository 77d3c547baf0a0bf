"""New inputs from Python: a list gives a list, an iterator an iterator; policies go on where they ended."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from agenttts import load_run
from agenttts.answering import Answer, MeanCost, answers
from datastore import Store
from pipelines import load_examples, load_spec
from pipelines.dataset.inputs import read_inputs
from pipelines.errors import DatasetError
from tests.pipelines.runtime.cascades import small_then_large


def rows_of(path: Path, split: str = "test") -> list[dict[str, Any]]:
    return [dict(example.fields) for example in load_examples(load_run(path).spec, split)]  # type: ignore[arg-type]


def test_an_iterator_is_read_as_its_answers_are_taken(searched: Path, tmp_path: Path) -> None:
    """An endless one too: no more is read than the window allows, and the answers are those of a list."""
    run, rows, read = load_run(searched), rows_of(searched), 0
    bad = {"id": "bad", "other": 1}

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal read
        for row in itertools.cycle([bad, *rows]):
            read += 1
            yield row

    whole = run.run(rows, db=tmp_path / "list.duckdb")
    assert isinstance(whole, list) and [a["id"] for a in whole] == [row["id"] for row in rows]
    coming = run.run(endless(), db=tmp_path / "run.duckdb", window=4)
    taken = list(itertools.islice(coming, 40))
    assert read <= 40 + 1 + 4 + 1, "the window, the one kept ready, and the one that waits to be handed over"
    coming.close()  # type: ignore[attr-defined]
    assert taken[0]["status"] == "error" and taken[0]["id"] == "bad"
    timeless = [{k: v for k, v in answer.items() if k != "seconds"} for answer in taken[1:]]
    assert timeless == [{k: v for k, v in answer.items() if k != "seconds"} for answer in whole[:39]]
    Store.open(tmp_path / "run.duckdb").close()
    with pytest.raises(DatasetError, match=r"inputs: row 1: field 'question' is missing"):
        run.run([bad], db=tmp_path / "run.duckdb")


async def test_a_stream_is_closed_under_way(searched: Path, tmp_path: Path) -> None:
    """In asynchronous code; the database is free afterwards."""
    run, rows = load_run(searched), rows_of(searched)
    async with aclosing(run.stream(iter(rows), db=tmp_path / "run.duckdb")) as coming:
        first = await anext(coming)
    assert first["id"] == rows[0]["id"]
    Store.open(tmp_path / "run.duckdb").close()


def test_what_an_iterator_raises_comes_after_the_answers_before_it(searched: Path, tmp_path: Path) -> None:
    """The rows that it gave are answered, then its own exception is raised."""
    rows = rows_of(searched)

    def failing() -> Iterator[dict[str, Any]]:
        yield from rows[:3]
        raise LookupError("the queue is gone")

    coming = load_run(searched).run(failing(), db=tmp_path / "run.duckdb")
    assert [next(coming)["status"] for _ in range(3)] == ["ok"] * 3
    with pytest.raises(LookupError, match="the queue is gone"):
        next(coming)


@pytest.mark.parametrize("window", [1, 7, 256])
def test_thresholds_go_on_from_the_answers_before(recorded: Path, tmp_path: Path, window: int) -> None:
    """Whatever the window, and ended anywhere, a policy whose mean is held decides on each row alike."""
    spec = load_spec(recorded)
    policy = small_then_large(spec, 0.99, 4)
    rows: list[dict[str, Any]] = [dict(e.fields) for e in load_examples(spec, "test")]
    rows[5:5] = [{"id": "bad"}]

    async def run(n: int, earlier: list[Answer]) -> list[Answer]:
        with Store.open(tmp_path / "run.duckdb") as store:
            coming = answers(
                spec,
                policy,
                itertools.islice(read_inputs(spec, rows), len(earlier), n),
                store,
                mean=MeanCost(20),
                replay=True,
                window=window,
                earlier=earlier,
            )
            return [answer async for answer in coming]

    whole = asyncio.run(run(len(rows), []))
    assert len({tuple(answer.get("thresholds", ())) for answer in whole}) > 3
    parts: list[Answer] = []
    for end in (3, 40, 41, len(rows)):
        parts += asyncio.run(run(end, parts))
    keep = ("id", "output", "status", "thresholds", "units")
    assert [[a.get(k) for k in keep] for a in parts] == [[a.get(k) for k in keep] for a in whole]
