"""The pages of a database, served by the command in a process of its own, and a browser that opens them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from datastore import Store, Tuning
from tests.agenttts.hostile_texts import HOSTILE, with_hostile_samples

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

TUNED = Tuning(
    model_key="small-tuned-answer@abcd",
    base="models/small",
    path="/adapters/small",
    dataset_digest="d" * 64,
    tasks=json.dumps(["answer"]),
    settings="{}",
    curve=json.dumps(
        [
            {"step": 10, "epoch": 0.5, "loss": 2.125},
            {"step": 20, "epoch": 1.0, "loss": 0.75, "eval_loss": 0.875, "score": 0.625},
        ]
    ),
    metrics=json.dumps({"before": {"answer": 0.25}, "after": {"answer": 0.625}}),
    seconds=12.5,
    peak_bytes=2**30,
    created_at=1.0,
)
"""A model that was tuned for a sub-task, with what was measured on the way."""


@dataclass(frozen=True)
class Served:
    """A running server: its port, its token, and the process."""

    db: Path
    port: int
    token: str
    process: subprocess.Popen[str]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, headers: dict[str, str] | None = None, *, cookie: bool = True) -> Any:
        """(status, headers, body) of one request; `headers` replace those that a browser would send."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {"Cookie": f"agenttts_{self.port}={self.token}"} if cookie else {}
        connection.request("GET", path, headers={**sent, **(headers or {})})
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, answer.headers, body


@contextmanager
def serving(db: Path) -> Iterator[Served]:
    """`agenttts ui DB` until the block ends."""
    command = [sys.executable, "-m", "agenttts", "ui", str(db), "--no-browser"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    address = process.stderr.readline()
    try:
        assert "/?token=" in address, address + process.stderr.read()
        place, _, token = address.strip().partition("/?token=")
        yield Served(db, int(place.rpartition(":")[2]), token, process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        process.stderr.close()


@pytest.fixture(scope="module")
def served(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The pages of a finished search in which one failing example has hostile samples, and of two models
    that were tuned, one of them a merge with a hostile name."""
    db = with_hostile_samples(searched, tmp_path_factory.mktemp("ui"))
    with Store.open(db) as store:
        store.put_tunings([TUNED, replace(TUNED, model_key=f"{HOSTILE}@ef", curve="[]", metrics="{}")])
    with serving(db) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(searched: Path) -> Iterator[Any]:
    """A headless Chromium; the test is skipped where there is none.

    The search is made first: playwright keeps an event loop running in this thread.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    if CHROMIUM is None:
        pytest.skip("the browser tests need Chromium on the PATH (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
