"""Recorded samples as outcomes: however few of them the store keeps at hand, they say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttts.replay import bank
from agenttts.replay.bank import BankOutcomes
from datastore import Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.dataset.splits import load_examples
from pipelines.spec.files import load_spec


async def test_samples_are_looked_up_many_at_once(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial on more examples than are looked up at once scores as it does one example after another."""
    spec = load_spec(recorded)
    examples = load_examples(spec, "search")
    allocation = Allocation({"retrieve": StageChoice("small", 4), "answer": StageChoice("large", 3)})
    with Store.open(tmp_path / "run.duckdb", cache_bytes=4096) as store:
        store.import_bank(spec.bank_path or "")
        scores = []
        for at_once in (1024, 7):
            monkeypatch.setattr(bank, "_READ_AT_ONCE", at_once)
            replayed = await BankOutcomes(spec, store, examples).replay(allocation)
            assert replayed is not None
            scores.append(replayed.scores)
    assert scores[0] == scores[1] and len(scores[0]) == len(examples)
