"""What a stage's samples hold beyond their vote, from the samples themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agenttts import search
from agenttts.replay.headroom import headroom
from agenttts.report.data import read_report
from agenttts.report.sentences import fault_lines, headroom_lines
from datastore import Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.dataset.splits import load_examples
from pipelines.spec.files import load_spec
from tests.agenttts.small_specs import small_spec, write_examples
from tests.servers import ScriptedServer


def test_one_sample_the_vote_and_any_of_them(recorded: Path, tmp_path: Path) -> None:
    """With one sample all three are the same but for luck; with more, any of them is the largest."""
    spec = load_spec(recorded)
    examples = load_examples(spec, "search")
    with Store.open(tmp_path / "h.duckdb") as store:
        store.attach_bank(recorded.parent / "bank.parquet")

        def at(n: int) -> tuple[float, float, float]:
            allocation = Allocation({"retrieve": StageChoice("small", n), "answer": StageChoice("small", 1)})
            (found,) = headroom(spec, store, examples, allocation)
            assert found.stage == "retrieve" and found.n_samples == n and found.maj_at_n is not None
            assert (
                found.pass_at_n.low <= found.pass_at_n.mean <= found.pass_at_n.high
                and found.pass_at_1.n == 60
            )
            return found.pass_at_1.mean, found.maj_at_n.mean, found.pass_at_n.mean

        one, vote, any_right = at(1)
        assert any_right == pytest.approx(one) and vote == pytest.approx(one, abs=0.05)
        same, vote, any_right = at(8)
        assert same == one and one < vote < any_right


def test_the_report_tells_it(recorded: Path, tmp_path: Path) -> None:
    """In words and in JSON; a run whose bank is gone says nothing of it."""
    db = tmp_path / "r.duckdb"
    search(recorded, trials=6, db=db, replay=True)
    with Store.read(db) as store:
        data = read_report(store)
        (line,) = headroom_lines(data)
        assert line.startswith("At retrieve, one sample of ") and "at least one of" in line
        headroom: Any = data.to_json_dict()["headroom"]
        assert headroom[0]["pass_at_n"]["mean"] <= 1
        assert read_report(store, solve=False).headroom == ()


def test_the_report_counts_prompts_that_were_cut(tmp_path: Path) -> None:
    """By stage, over all trials of the run; a stage whose prompts are whole is not named."""
    write_examples(tmp_path)
    cut = {"truncate": [{"field": "question", "chars": 7}]}  # "search 3" has 8, "test 3" 6
    with ScriptedServer() as server:
        spec = small_spec(base_url=server.base_url, stages=(cut, {}))
        search(spec.model_copy(update={"root": tmp_path}), trials=2, db=tmp_path / "c.duckdb")
    with Store.read(tmp_path / "c.duckdb") as store:
        data = read_report(store, solve=False)
    (told,) = data.truncated
    n_tested = sum(row.n_scored for row in data.trials if row.split == "test")
    assert told.stage == "retrieve" and told.n_cut == told.n_results - n_tested > 0
    assert any("results rest on prompts that were cut as planned" in line for line in fault_lines(data))
