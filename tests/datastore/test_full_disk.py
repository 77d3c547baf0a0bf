"""A disk that fills up: an error that says so, and everything stored before is there afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datastore import Store
from tests.faults import small_file_system

FILL = """
import asyncio, os, resource, sys
from datastore import DiskFull, Sample, Store, make_prompt

async def main(path, most_bytes):
    store = Store.open(path)
    if most_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    number = 0
    refused = 0
    while refused < 3:
        prompt = make_prompt("m", {"prompt": f"{number}"}, {}, 1)
        samples = [
            Sample(prompt_key=prompt.key, index=i, text=os.urandom(500).hex(), generated_tokens=1,
                   mean_logprob=None, finish_reason="stop", run_id="r", request_id=None)
            for i in range(50)
        ]
        try:
            await store.put_samples(prompt, samples)
            print("stored", prompt.key, flush=True)
        except DiskFull as error:
            assert str(path) in str(error) and "disk is full" in str(error) and "\\n" not in str(error), error
            refused += 1
            print("refused", prompt.key, flush=True)
        number += 1
    store.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def _fill_and_check(path: Path, most_bytes: int, make_room: int = 0) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(path), str(most_bytes)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    stored = [key for what, key in lines if what == "stored"]
    assert len(stored) > 5
    assert sum(what == "refused" for what, _ in lines) == 3
    if make_room:
        os.system(f"mount -o remount,size={make_room} {path.parent}")
    with Store.open(path) as store:
        found = await store.get_samples(stored)
        assert all(len(samples) == 50 for samples in found.values())


async def test_a_file_that_may_not_grow(path: Path) -> None:
    """Where the system refuses to let a file grow, puts fail as a full disk and what was stored is intact."""
    await _fill_and_check(path, 3_000_000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    with small_file_system(tmp_path / "small", 4) as folder:
        yield folder


async def test_no_space_left(small_disk: Path) -> None:
    """On a full file system puts fail as a full disk, and once there is room all that was stored is there."""
    await _fill_and_check(small_disk / "runs.duckdb", 0, make_room=64 << 20)
