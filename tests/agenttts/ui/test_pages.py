"""The pages: what the report says, by trial and example, also while a search writes."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import duckdb

from agenttts import load_run
from agenttts.report.data import read_report
from agenttts.report.sentences import score_text, units_text
from agenttts.results.trials import trial_id
from datastore import Store
from datastore.snapshot import live_path
from tests.agenttts.hostile_texts import HOSTILE
from tests.agenttts.ui.conftest import Served, serving


def links(body: str, pattern: str) -> list[str]:
    return [html.unescape(link) for link in re.findall(r'href="([^"]+)"', body) if re.search(pattern, link)]


def test_the_runs_lead_to_a_run_its_trials_and_their_examples(served: Served) -> None:
    """Every link of the way answers, and shows the figures of the result."""
    result = load_run(served.db)
    best = result.best
    assert best is not None
    (run,) = links(served.get("/")[2], "^/runs/")
    body = served.get(run)[2]
    assert html.escape(result.certificate) in body and str(best.allocation) in body
    trials = links(body, r"/trials/\d+$")
    assert len(set(trials)) == len(result.trials) + len(result.confirmation)
    assert all(served.get(trial)[0] == 200 for trial in set(trials[:6]))
    trial = f"{run}/trials/{best.trial}"
    examples = links(served.get(trial)[2], "/examples/")
    status, _, page = served.get(examples[0])
    assert status == 200 and "find search-" in page and "votes" in page


def test_examples_are_filtered_and_compared_with_another_trial(served: Served) -> None:
    """Wrong, missing, cut and changed ones; the numbers are those of the scores."""
    result = load_run(served.db)
    winner = result.best_trial()
    assert winner is not None
    other = next(t for t in result.trials if t.status == "complete" and t.number != winner.number)
    place = f"/runs/{result.run_id}/trials/{winner.number}"
    wrong = [key for key, score in winner.scores.items() if score is not None and score < 1]
    changed = [key for key, score in winner.scores.items() if score != other.scores.get(key)]
    for query, n in (("wrong", len(wrong)), ("missing", 0), ("cut", 0), ("none such", 60)):
        body = served.get(f"{place}?show={query.replace(' ', '%20')}")[2]
        assert f"{n} example{'s' * (n != 1)}, page 1" in body, query
    body = served.get(f"{place}?show=changed&against={other.number}&page=99")[2]
    n = len(changed)
    assert f"{n} example{'s' * (n != 1)}, page 1" in body and f"trial {other.number}" in body
    assert served.get(f"{place}?page={'9' * 5000}&against={'9' * 5000}")[0] == 200
    status, _, body = served.get(f"{place}?show=changed")
    assert status == 404 and "changed with another trial to compare with" in body


def test_the_examples_of_a_policy_have_their_rungs_and_costs(served: Served) -> None:
    """How many rungs a query ran, how sure its outcome is, and what it cost, as the report has them."""
    result = load_run(served.db)
    policies = [trial for trial in result.confirmation if trial.policy is not None]
    assert policies
    body = served.get(f"/runs/{result.run_id}/trials/{policies[0].number}")[2]
    with Store.read(served.db) as store:
        query = min(read_report(store, solve=False).policy_queries, key=lambda query: query.example_id)
    assert query.cost is not None
    cells = f'<td class="n">{query.n_rungs}</td><td class="n">{score_text(query.confidence)}</td>'
    assert f'{cells}<td class="n">{units_text(query.cost, "units")}</td>' in body


def test_long_lists_are_paged(served: Served) -> None:
    """60 search examples are two pages, without a double."""
    result = load_run(served.db)
    assert result.best is not None
    place = f"/runs/{result.run_id}/trials/{result.best.trial}"
    pages = [links(served.get(f"{place}?page={n}")[2], "/examples/") for n in (1, 2)]
    assert [len(page) for page in pages] == [50, 10] and len({*pages[0], *pages[1]}) == 60


def test_what_a_model_wrote_stays_text_on_every_page(served: Served) -> None:
    """No markup of a sample reaches the page."""
    result = load_run(served.db)
    assert result.best is not None
    place = f"/runs/{result.run_id}/trials/{result.best.trial}"
    example = links(served.get(f"{place}?show=wrong")[2], "/examples/")[0]
    body = served.get(example)[2]
    assert html.escape(HOSTILE, quote=False).replace('"', "&#34;").replace("'", "&#39;") in body
    assert HOSTILE not in body and "<img" not in body


def test_tuned_models_lead_to_the_course_of_their_training(served: Served) -> None:
    """Each is listed with its scores; its page has losses and score by step, as figures and in numbers; a
    merge, of which nothing was measured, says so; the names are text."""
    start = served.get("/")[2]
    merged, tuned = links(start, "^/tuned/")
    assert "0.250</td>" in start and HOSTILE not in start
    body = served.get(tuned)[2]
    assert "Tuned from models/small for answer: 0.250 → 0.625" in body
    loss, score = (
        {trace["name"]: (trace["x"], trace["y"]) for trace in json.loads(figure)["data"]}
        for figure in re.findall(r'<script type="application/json">(.*?)</script>', body)
    )
    assert loss == {"training loss": ([10, 20], [2.125, 0.75]), "evaluation loss": ([20], [0.875])}
    assert score == {"score": ([20], [0.625])}
    cells = "".join(f'<td class="n">{cell}</td>' for cell in ("20", "1.00", "0.750", "0.875", "0.625"))
    assert cells in body
    status, _, body = served.get(merged)
    assert status == 200 and "Nothing was measured on the way" in body and HOSTILE not in body


def test_an_example_whose_id_has_a_line_end(searched: Path, tmp_path: Path) -> None:
    """Its page answers, as that of any other."""
    db, strange = tmp_path / "lines.duckdb", "one\ntwo\n"
    shutil.copy(searched, db)
    winner = load_run(db).best_trial()
    assert winner is not None
    with duckdb.connect(db) as connection:
        for table in ("stage_results", "example_scores"):
            connection.execute(
                f"UPDATE {table} SET example_id = ? WHERE example_id = ?",
                [strange, next(iter(winner.scores))],
            )
    with serving(db) as served:
        page = served.get(f"/runs/{load_run(db).run_id}/trials/{winner.number}")[2]
        (link,) = {link for link in links(page, "/examples/") if "%0A" in link}
        assert served.get(link)[0] == 200


def test_what_is_not_there_is_said(served: Served) -> None:
    """Runs, trials, examples and paths that do not exist are 404 with a reason."""
    run = load_run(served.db).run_id
    missing = (
        "/runs/none",
        f"/runs/{run}/trials/99999",
        f"/runs/{run}/trials/0/examples/none",
        "/tuned/a",
        "/x",
    )
    for path in (*missing, f"/compare?first={run}&second=none"):
        status, _, body = served.get(path)
        assert status == 404 and "This can't be shown" in body, path


def test_a_run_is_read_while_its_search_writes(searched: Path, tmp_path: Path) -> None:
    """From the live snapshot: scores and outputs, no samples; a state that was seen is not sent again."""
    db = tmp_path / "live.duckdb"
    shutil.copy(searched, db)
    with Store.open(db) as store:
        run = replace(store.run(), status="running", outcome=None, finished_at=None)
        store.start_run(run)
        trial = next(t for t in store.trials(run.run_id) if t.status == "complete")
        store.refresh_live_snapshot()
        with serving(db) as served:
            body = served.get(f"/runs/{run.run_id}")[2]
            assert "run in progress, as of" in body
            n_cells = sum(len(trial.scores) for trial in load_run(searched).trials)
            assert f"<p>{n_cells:,} of at most 600 examples run in" in body and "at this pace at most" in body
            (poll,) = re.findall(r'hx-get="([^"]+[?]state=[^"]+)"', body)
            (asked,) = re.findall(r'hx-get="([^"]+/waiting[?]seen=)"', body)
            assert served.get(asked)[0] == 204, "nothing waits for a decision"
            assert served.get(poll)[0] == 204
            place = f"/runs/{run.run_id}/trials/{trial.number}"
            page = served.get(place)[2]
            assert "Prompts and samples can be read when the search has ended" in page
            assert served.get(links(page, "/examples/")[0])[0] == 200
            late = replace(trial, trial_id=trial_id(run.run_id, 999), number=999)
            store.begin_trial(late)
            store.refresh_live_snapshot()
            status, _, part = served.get(poll)
            assert status == 200 and "/trials/999" in part and "<html" not in part
            live_path(db).unlink()
            assert served.get(poll)[0] == 204, "what stands on the page stays there"
    with serving(db) as served:
        assert "can be read when" not in served.get(place)[2]
        with Store.open(db):  # the server keeps nothing open between requests
            pass
