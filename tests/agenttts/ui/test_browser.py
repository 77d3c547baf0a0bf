"""The pages and the report in a real browser: drawn, readable, usable by keyboard, and nothing else runs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agenttts import load_run
from agenttts.results.trials import trial_id
from datastore import Store
from tests.agenttts.hostile_texts import HOSTILE
from tests.agenttts.ui.conftest import TUNED, Served, serving

SIZES = [(1400, "light"), (400, "dark")]


@contextmanager
def opened(chromium: Any, width: int = 1400, scheme: str = "light", **options: Any) -> Iterator[Any]:
    """A page; at the end no warning and no error has been logged, and no request was sent elsewhere."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
    page, problems = context.new_page(), []
    page.on("console", lambda line: problems.append(line.text) if line.type != "log" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: _note_foreign(request.url, problems))
    yield page
    context.close()
    assert problems == []


def _note_foreign(url: str, problems: list[str]) -> None:
    if not url.startswith(("http://127.0.0.1:", "file:", "data:", "blob:")):
        problems.append(url)


def places(served: Served) -> list[str]:
    result = load_run(served.db)
    assert result.best is not None
    run = f"/runs/{result.run_id}"
    wrong = served.get(f"{run}/trials/{result.best.trial}?show=wrong")[2]
    (example, *_) = re.findall(r'href="(/runs/[^"]+/examples/[^"]+)"', wrong)
    compare = f"/compare?first={result.run_id}&second={result.run_id}"
    tuned = [f"/tuned/{quote(key)}" for key in (TUNED.model_key, f"{HOSTILE}@ef")]
    return ["/", compare, run, f"{run}/trials/{result.best.trial}?show=wrong", example, *tuned, "/none"]


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_no_page_breaks_its_policy_or_is_wider_than_the_window(
    served: Served, chromium: Any, width: int, scheme: str
) -> None:
    """Nothing is blocked, nothing loaded from elsewhere, hostile samples run no script, figures are drawn."""
    with opened(chromium, width, scheme) as page:
        page.goto(f"{served.base}/?token={served.token}")
        for place in places(served)[:-1]:
            page.goto(served.base + place)
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, place
            assert page.title() != "owned"
            for plot in page.locator(".plot").all():
                plot.locator(".main-svg").first.wait_for()


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_axe_finds_nothing_to_object_to(served: Served, chromium: Any, width: int, scheme: str) -> None:
    """Names, contrast, order of headings, keyboard access of what scrolls: on every page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{served.base}/?token={served.token}")
    for place in places(served):
        page.goto(served.base + place)
        page.wait_for_load_state("networkidle")
        audit = axe.run(page)
        assert audit.violations_count == 0, (place, audit.generate_report())
    context.close()


def test_a_failing_example_is_reached_by_the_keyboard(served: Served, chromium: Any) -> None:
    """Tab to the filter, choose by letter, Enter shows; Tab and Enter open the example and its prompt."""
    trial = places(served)[3].partition("?")[0]
    with opened(chromium) as page:
        page.goto(f"{served.base}/?token={served.token}")
        page.goto(served.base + trial)
        _tab_to(page, "select")
        page.keyboard.type("wrong")
        _tab_to(page, "button")
        page.keyboard.press("Enter")
        page.wait_for_url("**show=wrong**")
        _tab_to(page, "td a")
        page.keyboard.press("Enter")
        page.wait_for_url("**/examples/**")
        _tab_to(page, "summary")
        page.keyboard.press("Enter")
        assert page.locator("details pre").first.is_visible()


def _tab_to(page: Any, selector: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def test_a_running_search_is_followed_without_a_reload(searched: Path, tmp_path: Path, chromium: Any) -> None:
    """A trial that starts appears by itself, where the page stands; it ends when the search does."""
    db = tmp_path / "live.duckdb"
    shutil.copy(searched, db)
    with Store.open(db) as store:
        finished = store.run()
        run = replace(finished, status="running", outcome=None, finished_at=None)
        store.start_run(run)
        store.refresh_live_snapshot()
        trial = store.trials(run.run_id)[0]
        with serving(db) as served, opened(chromium) as page:
            page.goto(f"{served.base}/?token={served.token}")
            page.goto(f"{served.base}/runs/{run.run_id}")
            page.locator(".main-svg").first.wait_for()
            page.evaluate("window.same = true; scrollTo(0, 300)")
            store.begin_trial(
                replace(trial, trial_id=trial_id(run.run_id, 999), number=999, status="running")
            )
            store.refresh_live_snapshot()
            page.locator('a[href$="/trials/999"]').wait_for(timeout=20_000)
            assert page.evaluate("window.same && scrollY") == 300
            assert page.locator(".main-svg").count() > 0
            store.start_run(finished)
            store.refresh_live_snapshot()
            page.locator("#run:not([hx-get])").wait_for(timeout=20_000)


def test_the_report_is_drawn_offline_and_below_six_thousand_pixels(
    searched: Path, tmp_path: Path, chromium: Any
) -> None:
    """Contents lead to their sections, every figure is drawn, and axe finds nothing."""
    path = load_run(searched).report(tmp_path / "report.html")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for width, scheme in SIZES:
        with opened(chromium, width, scheme, offline=True) as page:
            page.goto(path.as_uri())
            for plot in page.locator(".plot").all():
                plot.locator(".main-svg").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            if width == 1400:
                assert page.evaluate("document.documentElement.scrollHeight") < 6_000
            page.get_by_role("link", name="Examples that fail").click()
            assert page.url.endswith("#failing")
            audit = axe.run(page)
            assert audit.violations_count == 0, audit.generate_report()
