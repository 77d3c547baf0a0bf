"""What servers, models, files and data say is shown on the terminal and never obeyed by it."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agenttts.terminal import EscapingConsole, EscapingFormatter, escaped, escaped_json
from tests.agenttts.commands import Done, agenttts
from tests.agenttts.small_specs import write_pipeline
from tests.hostile import TERMINAL
from tests.servers import ScriptedServer
from tests.servers.scripted import Request

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
COLOURS = re.compile(r"\x1b\[[\d;]*m")
ALL = " ".join(TERMINAL.values())


def printed(thing: object, **options: object) -> str:
    """What a terminal with colours is sent for an object, without the colours."""
    file = io.StringIO()
    EscapingConsole(file=file, force_terminal=True, width=100).print(thing, **options)  # type: ignore[arg-type]
    return COLOURS.sub("", file.getvalue())


@pytest.mark.parametrize("name", TERMINAL)
def test_nothing_that_is_printed_is_obeyed(name: str) -> None:
    """In texts, tables, panels and titles alike; what is escaped is still to be read."""
    text = TERMINAL[name]
    table = Table(text, title=text)
    table.add_row(text, style="red")
    for thing in (text, Text(text), table, Panel(text, title=text)):
        assert not OBEYED.search(printed(thing)), thing
    assert "hostile" in printed(text, markup=False)


def test_a_status_line_is_escaped_while_its_own_controls_work() -> None:
    """A spinner moves the cursor; the text beside it does not."""
    file = io.StringIO()
    console = EscapingConsole(file=file, force_terminal=True, width=100)
    with console.status(Text(f"{TERMINAL['title']} hostile")):
        pass
    assert "\x1b]" not in file.getvalue() and "\\x1b]0;" in file.getvalue()
    assert "\x1b[?25l" in file.getvalue()


@given(st.text())
def test_escaped_text_is_obeyed_by_nothing(text: str) -> None:
    """Whatever it holds; ordinary text, accents and other scripts stay as they are."""
    assert not OBEYED.search(escaped(text))
    assert escaped("é 漢字 שלום 👍🏽\tx\n") == "é 漢字 שלום 👍🏽\tx\n"


@given(st.dictionaries(st.text(), st.text()))
def test_escaped_json_reads_as_the_same_value(value: dict[str, str]) -> None:
    """Programs that read it notice nothing."""
    text = escaped_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value and not OBEYED.search(text)


def test_log_messages_are_escaped() -> None:
    """With their tracebacks."""
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "said %s", (ALL,), None)
    assert not OBEYED.search(EscapingFormatter().format(record))


def harmless(done: Done) -> bool:
    return not OBEYED.search(done.out + done.err) and "Traceback" not in done.err


def test_commands_escape_what_servers_models_and_files_say(tmp_path: Path) -> None:
    """Refusals, answers, notes, texts of a dataset, names of files: from check to search, report and run."""

    def refuse(request: Request) -> tuple[int, object, dict[str, str]]:
        return 400, {"error": {"message": ALL, "type": ALL, "code": 400}}, {}

    with ScriptedServer(reply=refuse) as server:
        spec = write_pipeline(tmp_path, server.base_url)
        done = agenttts("check", spec)
        assert done.code == 2 and harmless(done) and "\\x1b]0;" in done.err
        done = agenttts("search", spec, "--db", tmp_path / "a.duckdb", "--trials", 2)
        assert harmless(done), done.err
    with ScriptedServer(answer=lambda request, index: f"red {ALL}") as server:
        spec = write_pipeline(tmp_path, server.base_url)
        db = tmp_path / "b.duckdb"
        for command in (("check", spec), ("search", spec, "--db", db, "--trials", 3), ("report", "--db", db)):
            done = agenttts(*command)
            assert harmless(done), done
        row = json.dumps({"question": ALL, "id": ALL})
        done = agenttts("run", spec, "--run", "latest", "--db", db, stdin=row + "\n")
        assert harmless(done), done
    done = agenttts("check", tmp_path / f"{ALL[:60]}.yaml")
    assert done.code == 2 and harmless(done) and "\\x1b" in done.err
    done = agenttts("report", ALL, "--db", db)
    assert done.code == 2 and harmless(done)
