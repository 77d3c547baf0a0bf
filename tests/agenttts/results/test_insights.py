"""The insights of a report: at most eight, the strongest first, none twice."""

from __future__ import annotations

from dataclasses import replace

from agenttts.report.insights import MOST, strongest
from agenttts.report.sentences import verdict_text
from datastore.records import Insight, Verdict
from tests.datastore.made import insight


def named(
    text: str, step: int, verdict: Verdict = "open", proposer: str = "solve", position: int = 0
) -> Insight:
    return replace(insight(step, position), text=text, verdict=verdict, proposer=proposer)


def test_the_strongest_come_first_and_at_most_eight() -> None:
    """Supported ones before refuted ones before open ones."""
    many = [named(f"open {i}", i + 1) for i in range(12)]
    shown = strongest([*many, named("no", 13, "refuted"), named("yes", 14, "supported")], [])
    assert [i.text for i in shown[:2]] == ["yes", "no"] and len(shown) == MOST


def test_an_inherited_insight_is_shown_once() -> None:
    """Tested here it names its run and stands for the same words of this run and the untested form."""
    source = "inherited from r1"
    untested = named("From run r1, not tested here yet: a helps", 0, proposer=source)
    tested = named("a helps", 3, "supported", source)
    own = named("a helps", 2, "supported")
    assert strongest([untested, own, tested], []) == (tested,)
    assert strongest([untested], []) == (untested,)


def test_a_verdict_is_a_sentence() -> None:
    """What a paired test says, or that the trials do not decide."""
    texts = [verdict_text(named("x", 1, verdict)) for verdict in ("supported", "refuted", "open")]
    assert texts == ["a paired test supports it", "a paired test refutes it", "the trials do not decide it"]
    assert verdict_text(replace(named("x", 0), trials=())) == "not tested in this run yet"
