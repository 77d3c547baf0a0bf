"""A live search and recorded samples: what is not drawn is said, and `--no-bank` draws all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttts import search
from agenttts.cli.main import app
from pipelines.spec.files import load_spec
from tests.agenttts.commands import agenttts
from tests.agenttts.small_specs import write_pipeline
from tests.servers import ScriptedServer


@pytest.fixture
def with_bank(server: ScriptedServer, tmp_path: Path) -> Path:
    """A pipeline whose file names a bank that answers the same search."""
    spec = write_pipeline(tmp_path, server.base_url)
    db = tmp_path / "recording.duckdb"
    assert agenttts("search", spec, "--trials", 3, "--db", db).code == 0
    assert agenttts("bank", "export", db, tmp_path / "bank.parquet").code == 0
    spec.write_text(spec.read_text() + "bank: bank.parquet\n")
    return spec


def test_a_search_that_a_bank_answers_says_so_in_its_first_line(
    with_bank: Path, server: ScriptedServer, tmp_path: Path
) -> None:
    """It draws nothing; with --no-bank it draws what it needs, and its report reads no bank either."""
    drawn = sum(server.samples.values())
    found = agenttts("search", with_bank, "--trials", 3, "--db", tmp_path / "a.duckdb")
    first = next(line for line in found.err.splitlines() if line.startswith("run "))
    assert "what bank.parquet holds is not drawn again (--no-bank draws afresh)" in first
    assert sum(server.samples.values()) == drawn

    db = tmp_path / "b.duckdb"
    fresh = agenttts("search", with_bank, "--trials", 3, "--db", db, "--no-bank")
    assert fresh.code == 0 and "--no-bank draws afresh" not in fresh.err
    drawn_afresh = sum(server.samples.values()) - drawn
    (with_bank.parent / "bank.parquet").unlink()
    reported = agenttts("report", db, "--json").json
    assert reported["cost"]["samples_drawn"] == drawn_afresh > 0 and reported["health"]


def test_no_bank_in_python_is_an_empty_list(with_bank: Path, tmp_path: Path) -> None:
    """The run keeps no name of a bank, and is the same pipeline to --resume."""
    result = search(with_bank, banks=[], trials=2, db=tmp_path / "c.duckdb")
    assert result.cost.samples_drawn > 0 and result.spec.bank_path is None
    assert load_spec(with_bank).bank_path is not None
    again = search(with_bank, banks=[], trials=2, db=tmp_path / "c.duckdb", resume=True)
    assert again.run_id == result.run_id


def test_a_bank_and_no_bank_exclude_each_other(with_bank: Path, tmp_path: Path) -> None:
    """One line of error, before anything is read."""
    refused = agenttts(
        "search", with_bank, "--bank", "bank.parquet", "--no-bank", "--db", tmp_path / "d.duckdb"
    )
    assert refused.code == 2 and "give one of them" in refused.errors[0]


def test_shells_complete_commands_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What bash asks for as a person types; the script that asks is installed by --install-completion."""
    assert "--install-completion" in agenttts("--help").out
    monkeypatch.setenv("_AGENTTTS_COMPLETE", "complete_bash")
    for typed, position, expected in (
        ("agenttts rep", "1", "report"),
        ("agenttts search --no-b", "2", "--no-bank"),
    ):
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", position)
        with pytest.raises(SystemExit):
            app(prog_name="agenttts")
        assert capsys.readouterr().out.split() == [expected]
