"""`agenttts compare`: on a bank, on landscapes, with bad input, and after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agenttts.compare import family_jobs, regret, side_by_side
from agenttts.proposers import DEFAULT
from agenttts.report import figures as plots
from tests.agenttts.commands import agenttts
from tests.servers import ScriptedServer


def test_on_a_bank(recorded: Path, tmp_path: Path) -> None:
    """A row for each proposer and budget; regret is against the best by enumeration and never grows."""
    out = tmp_path / "c.parquet"
    done = agenttts(
        *("compare", recorded, "--proposers", "default,random+seeds,tpe", "--seeds", 2, "--trials", 10),
        *("--budget", 30, "--budget", 60, "--out", out, "--html", tmp_path / "c.html", "--json"),
    )
    assert done.code == 0, done.err
    rows = [row for row in done.json["table"] if row["landscapes"] == "all"]
    assert [(r["proposer"], r["budget_units"]) for r in rows] == [
        (name, budget) for budget in (30.0, 60.0) for name in ("default", "random+seeds", "tpe")
    ]
    for row in rows:
        assert row["searches"] == 2 and row["mean_flops"] > 0 and row["seconds_per_proposal"] >= 0
        assert set(row["mean_regret"]) == {"1", "2", "5", "10", "20", "50"} == set(row["regret_ci"])
        assert row["mean_regret"]["5"] >= row["mean_regret"]["10"] >= 0 and row["mean_regret"]["20"] is None
        low, high = row["regret_ci"]["10"]
        assert low - 1e-12 <= row["mean_regret"]["10"] <= high + 1e-12
    moments = pd.read_parquet(out)
    assert moments["best_by_enumeration"].all() and (moments["regret"] > -1e-9).all()
    assert set(moments["proposer"]) == {"default", "random+seeds", "tpe"}
    assert not out.with_name("c.parquet.part").exists() and "plotly" in (tmp_path / "c.html").read_text()
    assert {d["second"] for d in done.json["differences"]} == {"random+seeds", "tpe"}
    assert all(d["p"] <= d["p_holm"] <= 1 for d in done.json["differences"])


def test_on_landscapes_and_again(tmp_path: Path) -> None:
    """Landscapes have no common budget; the same command gives the same figures, but for the seconds."""
    command = ("compare", "--landscapes", "scarce", "--proposers", "solve+seeds,default,random+seeds")
    more = ("--seeds", 2, "--trials", 6, "--json", "--out")
    first = agenttts(*command, *more, tmp_path / "a.parquet", "--workers", 1)
    again = agenttts(*command, *more, tmp_path / "b.parquet", "--workers", 2)
    assert first.code == again.code == 0, first.err
    a, b = pd.read_parquet(tmp_path / "a.parquet"), pd.read_parquet(tmp_path / "b.parquet")
    pd.testing.assert_frame_equal(a.drop(columns="seconds"), b.drop(columns="seconds"))
    rows = {row["proposer"]: row for row in first.json["table"]}
    assert rows["default"]["budget_units"] is None and DEFAULT == "solve"
    assert rows["default"]["mean_regret"] == rows["solve+seeds"]["mean_regret"]
    figure = plots.regret_against(a, "flops")
    assert [trace.name for trace in figure.data] == ["solve+seeds", "default", "random+seeds"]


def test_an_interrupted_comparison_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs in the part file are not run again; a line cut off in the middle is."""
    jobs = family_jobs(["scarce"], 2, 5, ["random+seeds"])
    out = tmp_path / "c.parquet"
    whole = side_by_side.compare(jobs, out=out, workers=1).moments
    rows = json.loads(whole[whole["seed"] == 0].to_json(orient="records"))
    rows[0]["true_score"] = 0.123
    kept = json.dumps({"job": side_by_side._key(jobs[0], None, None), "rows": rows})
    (tmp_path / "c.parquet.part").write_text(kept + "\n" + kept[: len(kept) // 2])
    told: list[tuple[int, int]] = []
    again = side_by_side.compare(
        jobs, out=out, workers=1, on_progress=lambda d, t: told.append((d, t))
    ).moments
    assert told[0] == (1, 2) and told[-1] == (2, 2)
    assert again["true_score"][0] == 0.123 and len(again) == len(whole)
    fresh = again[again["seed"] == 1].drop(columns="seconds")
    pd.testing.assert_frame_equal(fresh, whole[whole["seed"] == 1].drop(columns="seconds"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give one of the three"),
        (("--landscapes", "flat"), "a class of landscapes is all or one of"),
        (("--landscapes", "voting", "--budget", "3"), "budgets of their own"),
        (("--landscapes", "voting", "--proposers", "best"), "one of"),
        (("--landscapes", "voting", "--proposers", "agenthpo"), "needs an endpoint"),
        (("--landscapes", "voting", "--proposers", "agent-blank"), "needs an endpoint"),
        (("--landscapes", "voting", "--proposers", ","), "at least one proposer"),
    ],
)
def test_bad_input_is_refused(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = agenttts("compare", *arguments, "--out", tmp_path / "c.parquet")
    assert done.code == 2 and said in done.errors[0] and not done.out
    assert not list(tmp_path.iterdir())


def test_a_budget_that_leaves_nothing_is_refused(recorded: Path, tmp_path: Path) -> None:
    done = agenttts("compare", recorded, "--budget", 0.1, "--out", tmp_path / "c.parquet")
    assert done.code == 2 and "covers at least the cheapest allocation" in done.errors[0]


def test_intervals_of_regret() -> None:
    """Without spread the interval is the mean; with it, it holds the mean; signs at random give p near 1."""
    assert regret._interval([0.2, 0.2, 0.2]) == (0.2, 0.2) and regret._interval([]) is None
    values = list(np.random.default_rng(0).uniform(0, 0.1, 30))
    low, high = regret._interval(values) or (1, 0)
    assert low < float(np.mean(values)) < high
    assert regret._sign_flip_p([0.1, -0.1] * 10) > 0.9 and regret._sign_flip_p([0.1] * 12) < 0.01
    assert regret._sign_flip_p([0.0, 0.0]) == 1.0


def test_an_llm_and_its_controls_are_compared(recorded: Path, tmp_path: Path) -> None:
    """The solver alone is searched too; tokens, and what the LLM adds after 1, 2 and 5 trials, are shown.

    What it was asked once is not asked again.
    """
    stages = {"retrieve": {"model": "medium", "n_samples": 2}, "answer": {"model": "large", "n_samples": 1}}
    answer = json.dumps(
        {
            "insights": [],
            "ratings": {},
            "proposals": [{"allocation": stages, "reason": "a guess"}],
            "finished": None,
        }
    )
    names = "agent,agent-blank,agent-shuffled,agent-renamed,insights+seeds,llm-zero-shot"
    command = ("compare", recorded, "--proposers", names, "--seeds", 2, "--trials", 6, "--out")
    with ScriptedServer({"planner": 1_000_000}, answer=lambda request, index: answer) as server:
        endpoint = ("--agent-base-url", server.base_url, "--agent-model", "planner")
        done = agenttts(*command, tmp_path / "c.parquet", *endpoint, "--json")
        n_asked = len(server.arrived)
        again = agenttts(*command, tmp_path / "c.parquet", *endpoint)
        assert len(server.arrived) == n_asked > 0
    assert done.code == 0, done.err
    rows = {row["proposer"]: row for row in done.json["table"]}
    assert set(rows) == {*names.split(","), "default"}
    assert rows["agent"]["mean_agent_tokens"] > 0 == rows["default"]["mean_agent_tokens"]
    added = [(row["first"], row["after"]) for row in done.json["added"] if row["first"] == "agent"]
    assert added == [("agent", 1), ("agent", 2), ("agent", 5)]
    assert {row["second"] for row in done.json["added"]} == {"default"}
    assert again.code == 0 and "What an LLM adds" in again.out and "LLM tokens" in again.out
    moments = pd.read_parquet(tmp_path / "c.parquet")
    first = moments[(moments.proposer == "agent") & (moments.trial == 1)]
    assert all(json.loads(text) == stages for text in first.allocation)
