"""The pages on which a person judges pairs: by mouse, by keys alone, and never by accident."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from agenttts.p2c.judging import Judging
from agenttts.p2c.preferences import drawn_pairs
from agenttts.p2c.texts import LabelledText
from agenttts.ui.access import Access
from agenttts.ui.judging import judging_pages
from datastore import Store
from tests.agenttts.ui.test_browser import opened

TEXTS = [LabelledText(text=f"Text {n} <b>bold</b>\n" + "word " * 40 * n, label=0) for n in range(6)]


@dataclass(frozen=True)
class Judged:
    """The running pages, and where their answers go."""

    access: Access
    store: Store

    def answers(self) -> dict[str, float]:
        """What was preferred, by the text that stood first."""
        return {one.first + one.second: one.preferred for one in self.store.preferences("tone")}


@pytest.fixture
def judged(chromium: Any, tmp_path: Path) -> Iterator[Judged]:
    """The pages of one person, in a thread."""
    with Store.open(tmp_path / "s.duckdb") as store, socket.socket() as listening:
        judging = Judging(store, "tone", "ada", TEXTS, ["long"], drawn_pairs(TEXTS, 6, 0), lambda: 1.0)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        access = Access(port=listening.getsockname()[1])
        app = judging_pages(judging, "tone", access)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
        thread = threading.Thread(target=partial(server.run, sockets=[listening]))
        thread.start()
        yield Judged(access, store)
        server.should_exit = True
        thread.join()


def test_keys_alone_judge_and_take_back(judged: Judged, chromium: Any) -> None:
    """1, 2 and 0 answer the pair that is shown, once for each page; u takes the last answer back."""
    with opened(chromium) as page:
        page.goto(judged.access.address)
        for done, (key, preferred) in enumerate((("1", 1.0), ("2", 0.0), ("0", 0.5)), 1):
            before = judged.answers()
            page.keyboard.press(key)
            page.get_by_text(f"{done} of 6").wait_for()
            (new,) = judged.answers().keys() - before.keys()
            assert judged.answers()[new] in (preferred, 1 - preferred)
        page.keyboard.press("u")
        page.get_by_text("2 of 6").wait_for()
        assert len(judged.answers()) == 2
        for done in range(3, 7):
            page.keyboard.press("1")
            page.get_by_text(f"{done} of 6").wait_for()
        assert page.get_by_role("heading", name="Thank you").is_visible()
        page.keyboard.press("1")
        assert len(judged.answers()) == 6


def test_space_and_other_keys_record_nothing(judged: Judged, chromium: Any) -> None:
    """Neither on the page nor on a text; on a button, Space presses that button, as everywhere."""
    with opened(chromium) as page:
        page.goto(judged.access.address)
        for selector in ("body", ".said", "h1"):
            page.evaluate(
                "s => { const e = document.querySelector(s); e.tabIndex = 0; e.focus(); }", selector
            )
            for key in (" ", "Enter", "n", "a", "ArrowLeft", "Control+1", "3"):
                page.keyboard.press(key)
        page.wait_for_timeout(200)
        assert judged.answers() == {}
        page.get_by_role("button", name="the second").focus()
        page.keyboard.press(" ")
        page.get_by_text("1 of 6").wait_for()
        assert len(judged.answers()) == 1


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_the_page_fits_and_axe_finds_nothing(judged: Judged, chromium: Any, width: int, scheme: str) -> None:
    """Texts are shown as texts, whole, at any width."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(chromium, width, scheme) as page:
        page.goto(judged.access.address)
        assert "<b>bold</b>" in page.locator(".said").first.inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        audit = axe.run(page)
        assert audit.violations_count == 0, audit.generate_report()


def test_what_is_no_answer_is_refused(judged: Judged) -> None:
    """Another pair, another word, no form, a page of another site: nothing is stored."""
    base = f"http://127.0.0.1:{judged.access.port}"
    cookie = {"Cookie": f"{judged.access.cookie}={judged.access.token}"}
    with httpx2.Client(base_url=base, trust_env=False, headers=cookie) as web:
        for form in ({"number": "99", "preferred": "first"}, {"number": "0", "preferred": "0.5"}, {}):
            assert web.post("/answer", data=form).status_code == 404
        assert web.post("/answer", content=b"\xff" * 10).status_code == 404
        assert web.post("/answer", content=b"a" * 300_000).status_code == 404
        foreign = {"Origin": "http://evil.example"}
        good = {"number": "0", "preferred": "first"}
        assert web.post("/answer", data=good, headers=foreign).status_code == 403
        assert web.get("/none").status_code == 404
        assert judged.answers() == {}
        assert web.post("/answer", data=good).status_code == 303
    assert httpx2.get(base, trust_env=False).status_code == 403
