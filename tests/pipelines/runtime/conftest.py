"""A store, and runtimes on it whose clients retry within milliseconds."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from datastore import Store
from pipelines.runtime import Runtime
from pipelines.servers.clients import ModelClients
from pipelines.servers.patience import Patience
from pipelines.spec.pipeline import PipelineSpec


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new store, open for writing."""
    with Store.open(tmp_path / "samples.duckdb") as opened:
        yield opened


@pytest.fixture
async def runtime_of(store: Store) -> AsyncIterator[Callable[[PipelineSpec, bool], Runtime]]:
    """`runtime_of(spec, replay)` gives a runtime of its own on the store; none asks a server in a replay."""
    opened: list[ModelClients] = []

    def make(spec: PipelineSpec, replay: bool) -> Runtime:
        clients = ModelClients(
            spec, rng=random.Random(0), patience=Patience(retry_s=0.2), holds=False, backoff_s=0.01
        )
        opened.append(clients)
        return Runtime(spec, store, None if replay else clients, run_id=None, replay=replay)

    yield make
    for clients in opened:
        await clients.aclose()
