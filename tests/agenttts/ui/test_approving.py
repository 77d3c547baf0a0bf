"""Proposals of a running search are decided on in the browser."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agenttts import load_run
from agenttts.search.waiting import AskedProposal, Question, WaitingRoom
from datastore import Store
from pipelines.allocation import Allocation
from tests.agenttts.commands import agenttts
from tests.agenttts.ui.conftest import Served, serving
from tests.agenttts.ui.test_browser import _tab_to, opened


@pytest.fixture
def searching(recorded: Path, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A search that asks in the browser, in a process of its own."""
    db = tmp_path / "run.duckdb"
    command = [sys.executable, "-m", "agenttts", "search", str(recorded), "--replay", "--approve-in-ui"]
    command += ["--trials", "4", "--db", str(db), "--policy", "fixed"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    line = ""
    while "for your decision on" not in line:
        line = process.stderr.readline()
        assert line, "the search has ended"
    assert f"agenttts ui {db}" in line
    yield db, process
    if process.poll() is None:
        process.kill()
    process.wait()
    process.stderr.close()


def run_page(served: Served, page: Any) -> str:
    page.goto(f"{served.base}/?token={served.token}")
    page.locator("td a").first.click()
    page.locator("#waiting fieldset").first.wait_for()
    return str(page.url)


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_the_proposals_are_shown_with_their_cost(
    searching: tuple[Path, Any], chromium: Any, width: int, scheme: str
) -> None:
    """Each with its allocation, cost and reason; axe finds nothing, and nothing is wider than the window."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with serving(searching[0]) as served, opened(chromium, width, scheme) as page:
        run_page(served, page)
        first = page.locator("fieldset").first
        assert "units per query" in first.inner_text() and "on 8 of 60" in first.inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        audit = axe.run(page)
        assert audit.violations_count == 0, audit.generate_report()


def test_decisions_reach_the_search(searching: tuple[Path, Any], chromium: Any) -> None:
    """By the keyboard: one is edited, one refused, the others run; what can't be run is asked again."""
    db, process = searching
    with serving(db) as served, opened(chromium) as page:
        run_page(served, page)
        n = page.locator("fieldset").count()
        assert n >= 3
        page.locator("select[name=option-0-0]").select_option("1")
        page.locator("input[name=samples-0-0]").fill("2")
        page.locator("select[name=option-0-1]").select_option("0")
        page.locator("input[name=samples-0-1]").fill("3")
        page.locator("input[name=note-0]").fill("try <this>")
        page.locator("input[name=action-0][value=approve]").focus()
        page.keyboard.press("ArrowDown")
        page.locator("input[name=action-1][value=refuse]").check()
        page.locator("select[name=option-2-0]").select_option("2")
        page.locator("input[name=samples-2-0]").fill("8")
        page.locator("select[name=option-2-1]").select_option("2")
        page.locator("input[name=samples-2-1]").fill("8")
        page.locator("input[name=action-2][value=edit]").check()
        _tab_to(page, "form.approval button")
        page.keyboard.press("Enter")
        page.get_by_text("What you wanted instead can't be run").wait_for()
        assert page.locator("input[name=samples-0-1]").input_value() == "3", "what was decided stays"
        assert page.locator("input[name=action-1][value=refuse]").is_checked()
        page.locator("input[name=action-2][value=approve]").check()
        while process.poll() is None:
            if page.locator("form.approval button").count():
                page.locator("form.approval button").click()
            page.wait_for_timeout(400)
        assert process.returncode == 0
        page.locator("#run:not([hx-get])").wait_for(timeout=20_000)
    result = load_run(db)
    edited = Allocation.from_dict(
        {"retrieve": {"model": "medium", "n_samples": 2}, "answer": {"model": "small", "n_samples": 3}}
    )
    with Store.read(db) as store:
        statuses = [p.status for p in store.proposals(result.run_id) if p.step == 0]
    assert edited in [trial.allocation for trial in result.trials]
    assert statuses[:3] == ["edited", "refused", "accepted"] and not WaitingRoom(db).path.exists()


def test_a_killed_search_asks_nobody_and_asks_again_when_it_goes_on(
    searching: tuple[Path, Any], chromium: Any
) -> None:
    """Its question is not shown; a form that is still open can't be sent."""
    db, process = searching
    with serving(db) as served:
        with opened(chromium) as page:
            url = run_page(served, page)
            process.kill()
            process.wait()
            page.locator("#waiting fieldset").first.wait_for(state="detached", timeout=20_000)
        cookie = {"Cookie": f"agenttts_{served.port}={served.token}"}
        sent = httpx2.post(f"{url}/decide", data={"question": "x"}, headers=cookie, trust_env=False)
        assert sent.status_code == 404 and "wait no longer" in sent.text
    assert WaitingRoom(db).question() is not None, "it was left"


@pytest.mark.parametrize("pipeline", ["the same", "another"])
def test_the_page_of_a_killed_run_shows_no_other_run_s_proposals(
    searched: Path, tmp_path: Path, pipeline: str
) -> None:
    """Whatever its pipeline, though it is stored as running: only the run that asks can be decided on."""
    db = tmp_path / "run.duckdb"
    shutil.copy(searched, db)
    with Store.open(db) as store:
        asking = replace(store.run(), status="running", outcome=None, finished_at=None)
        stages = asking.spec if pipeline == "the same" else asking.spec.replace("answer", "reply")
        killed = replace(asking, run_id="killed", spec=stages, started_at=asking.started_at - 60)
        for run in (asking, killed):
            store.start_run(run)
        allocation = Allocation.from_json(store.trials(asking.run_id)[0].allocation)
        store.refresh_live_snapshot()
        proposal = AskedProposal(
            allocation=allocation.to_json(),
            text=str(allocation),
            proposer="rules",
            reason="why",
            cost="3 units",
            examples="on 8 of 60 examples",
            problem=None,
        )
        room = WaitingRoom(db)
        room.path.mkdir(mode=0o700)
        question = Question(id="q", run_id=asking.run_id, proposals=(proposal,))
        (room.path / "question.json").write_text(question.model_dump_json())
        with serving(db) as served:
            status, _, body = served.get(f"/runs/{asking.run_id}")
            assert status == 200 and "for your decision" in body
            status, _, body = served.get(f"/runs/{killed.run_id}")
            assert status == 200 and "for your decision" not in body
            cookie = {"Cookie": f"agenttts_{served.port}={served.token}"}
            place = f"{served.base}/runs/{killed.run_id}/decide"
            form = {"question": "q", "action-0": "refuse"}
            sent = httpx2.post(place, data=form, headers=cookie, trust_env=False)
            assert sent.status_code == 404 and "wait no longer" in sent.text
        assert room.question() == question


def test_one_place_to_ask(recorded: Path, tmp_path: Path) -> None:
    """Terminal and browser exclude each other."""
    done = agenttts("search", recorded, "--approve", "--approve-in-ui", "--db", tmp_path / "r.duckdb")
    assert done.code == 2 and "give one of them" in done.errors[0]
