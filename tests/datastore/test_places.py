"""Where a store can be made: also on file systems without hard links."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datastore import Store

OPENER = """
import errno, os, sys, time
from pathlib import Path
def refused(*arguments, **options):
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")
os.link = refused
from datastore import Store, StoreLocked
while time.time() < float(sys.argv[2]):
    pass
try:
    with Store.open(Path(sys.argv[1])) as store:
        print("opened", flush=True)
        sys.stdin.read()
except StoreLocked:
    print("locked", flush=True)
"""


@pytest.fixture
def no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)


@pytest.mark.usefixtures("no_hard_links")
def test_a_store_is_made_without_hard_links(tmp_path: Path) -> None:
    """The database is there, whole, and nothing is left beside it."""
    with Store.open(tmp_path / "run.duckdb"):
        pass
    with Store.open(tmp_path / "run.duckdb") as store:
        assert store.runs() == []
    assert [file.name for file in tmp_path.iterdir()] == ["run.duckdb"]


@pytest.mark.usefixtures("no_hard_links")
def test_a_claim_of_a_killed_process_is_given_up(tmp_path: Path) -> None:
    """A process that died between claim and rename keeps nobody out for longer than some seconds."""
    claim = tmp_path / ".run.duckdb.claim"
    claim.touch()
    os.utime(claim, (time.time() - 60, time.time() - 60))
    with Store.open(tmp_path / "run.duckdb") as store:
        assert store.runs() == []
    assert not claim.exists()


def test_of_several_processes_that_make_one_store_one_writes(tmp_path: Path) -> None:
    """Without hard links none renames over the database that another has opened."""
    start = str(time.time() + 3)
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(tmp_path / "run.duckdb"), start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    said = []
    for opener in openers:
        assert opener.stdout is not None
        said.append(opener.stdout.readline().strip())
    for opener in openers:
        opener.communicate("")
    assert sorted(said) == ["locked", "locked", "locked", "opened"]
