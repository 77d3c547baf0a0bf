"""The HTML report: one small file that needs no network, with contents, winner and failing examples."""

from __future__ import annotations

import json
import re
from pathlib import Path

import plotly.offline
import pytest

from agenttts import load_run
from agenttts.report.data import ReportData, read_report
from agenttts.report.html import to_html
from agenttts.report.metric import metric_name
from agenttts.report.pages import PLOTLY, asset, shortened
from datastore import Store
from tests.agenttts.commands import agenttts
from tests.agenttts.hostile_texts import HOSTILE, with_hostile_samples


@pytest.fixture(scope="module")
def data(searched: Path) -> ReportData:
    with Store.read(searched) as store:
        return read_report(store)


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return to_html(data)


def test_a_report_is_one_file_below_one_and_a_half_megabytes(page: str) -> None:
    """It names no other file and no address that a browser would load."""
    assert len(page.encode()) < 1_500_000
    without_bundle = page.replace(asset(PLOTLY), "")
    assert len(without_bundle) < len(page) - 1_000_000
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=", without_bundle)
    assert "@import" not in without_bundle and "url(" not in without_bundle
    assert "default-src 'none'" in page.partition("<style>")[0]


def test_its_figures_need_nothing_but_the_basic_bundle_of_the_same_plotly(page: str) -> None:
    """Scatter and bar; the bundle has the version of plotly.js that plotly for Python brings."""
    figures = [json.loads(text) for text in re.findall(r'application/json">(.*?)</script>', page)]
    assert len(figures) > 4
    assert {trace["type"] for figure in figures for trace in figure["data"]} <= {"scatter", "bar"}
    version = re.compile(r"plotly\.js (?:\(basic - minified\) )?v(\d+\.\d+)")
    whole = version.search(plotly.offline.get_plotlyjs()[:300])
    basic = version.search(asset(PLOTLY)[:300])
    assert whole and basic and whole.group(1) == basic.group(1), "copy the bundle of the new version"


def test_the_contents_lead_to_every_section(page: str) -> None:
    """Each heading is in the list, in the order of the page."""
    listed = re.findall(r'<li><a href="#([\w-]+)">', page.partition("<main>")[0])
    assert listed == re.findall(r'<h2 id="([\w-]+)">', page) and len(listed) >= 8


def test_the_winner_stands_on_the_line_of_the_best_so_far(data: ReportData, page: str) -> None:
    """Its star is at the plain mean of its own trial."""
    first = json.loads(re.findall(r'application/json">(.*?)</script>', page)[0])
    star = next(trace for trace in first["data"] if trace["name"] == "winner")
    best = data.outcome.best
    assert best is not None
    (winner,) = [trial for trial in data.trials if trial.number == best.trial]
    assert star["y"] == [winner.score]


def test_failing_examples_are_shown_with_their_texts(data: ReportData, page: str) -> None:
    """The lowest scores of the winner's trial, each with prompt, samples, output and gold."""
    winner = load_run_trial(data)
    assert [example.score for example in data.failing] == sorted(
        score for score in winner.values() if score is not None and score < 1
    )[:10]
    assert page.count('<details class="example">') == len(data.failing) > 0
    example = data.failing[0]
    assert f"find {example.example_id}" in page and example.stages[0].samples
    assert str(example.gold) in page


def load_run_trial(data: ReportData) -> dict[str, float | None]:
    best = data.outcome.best
    assert best is not None
    return dict(next(trial for trial in data.trials if trial.number == best.trial).scores)


def test_examples_can_be_left_out(searched: Path, tmp_path: Path) -> None:
    """`--no-examples` keeps every text of an example out of page and JSON."""
    page = tmp_path / "report.html"
    shown = agenttts("report", searched, "--no-examples", "--html", page, "--json")
    assert shown.code == 0 and shown.json["failing"] == []
    assert 'class="example"' not in page.read_text() and "Examples that fail" not in page.read_text()


def test_what_a_model_writes_stays_text(searched: Path, tmp_path: Path) -> None:
    """Markup in samples is escaped, in the page and in the data of its figures."""
    db = with_hostile_samples(searched, tmp_path)
    page = load_run(db).report(tmp_path / "report.html").read_text()
    assert HOSTILE not in page and "<img src=x" not in page
    assert "&lt;/script&gt;&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ({"kind": "exact_match", "label": "answer"}, "exact match"),
        ({"kind": "token_f1", "label": "answer"}, "token F1"),
        ({"kind": "squad_exact_match", "label": "answer"}, "SQuAD exact match"),
        ({"kind": "rouge_l", "label": "answer"}, "ROUGE-L"),
        ({"python": "pipelines.retrieve_answer.scoring:answer_f1"}, "answer F1"),
        ("my_module.my_score", "my score"),
        (None, "score"),
    ],
)
def test_a_metric_has_a_name_in_words(metric: object, name: str) -> None:
    """A function is called by its own name, not by the path of its module."""
    assert metric_name(metric) == name


def test_a_long_text_is_cut_and_its_length_given() -> None:
    """A short one is shown whole."""
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd" * 500, 5) == "abcda… (2,000 characters)"
    assert shortened("abcd", None) == "abcd"
