"""`agenttts compare --matrix`: recorded tables as landscapes, and what searches on them come to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agenttts.compare.matrix import Matrix, read_matrix
from agenttts.compare.matrix_landscape import matrix_landscape
from agenttts.errors import UserError
from agenttts.replay.arrays import Bank
from tests.agenttts.commands import agenttts

MODELS = ("large model", "mid", "small", "tiny")
N = 60


def table(folder: Path, holes: int = 0) -> tuple[Path, Path]:
    """Write a table in which the best solver is the worst planner, and its costs."""
    rng = np.random.default_rng(4)
    ease = rng.normal(0, 0.5, N)
    rows, costs = [], []
    for i, planner in enumerate(MODELS):
        for j, solver in enumerate(MODELS):
            level = 0.4 + 0.15 * i - 0.12 * j
            scores = ((ease + rng.normal(0, 0.5, N)) < level).astype(float)
            name = f"planner={planner} + solver={solver}"
            rows.append([name, *scores])
            costs.append([name, *np.full(N, 0.001 * (8 - i - j))])
    header = ["combo", *(f"q{k}" for k in range(N))]
    scores_frame, costs_frame = pd.DataFrame(rows, columns=header), pd.DataFrame(costs, columns=header)
    if holes:
        scores_frame.iloc[0, 1 : 1 + holes] = np.nan
    scores_frame.to_csv(folder / "scores.csv", index=False)
    costs_frame.to_csv(folder / "costs.csv", index=False)
    return folder / "scores.csv", folder / "costs.csv"


def test_wide_and_long_tables_are_the_same(tmp_path: Path) -> None:
    """A long table, as CSV or Parquet, gives the same figures as a wide one; an empty cell is missing."""
    scores, costs = table(tmp_path, holes=3)
    wide = read_matrix(scores, costs)
    assert wide.scores.shape == (4, 4, N) and np.isnan(wide.scores).sum() == 3
    assert wide.options == {"planner": MODELS, "solver": MODELS} and wide.costs is not None
    long = pd.read_csv(scores).melt("combo", var_name="example", value_name="score")
    long["cost"] = pd.read_csv(costs).melt("combo")["value"]
    long = long.rename(columns={"combo": "configuration"})
    long.to_csv(tmp_path / "long.csv", index=False)
    long.to_parquet(tmp_path / "long.parquet")
    for file in ("long.csv", "long.parquet"):
        again = read_matrix(tmp_path / file)
        assert again.examples == wide.examples and again.options == wide.options
        np.testing.assert_array_equal(again.scores, wide.scores)
        assert again.costs is not None
        np.testing.assert_allclose(again.costs, wide.costs)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("combo,a\nplanner=x + solver=y,2,3\n", "row 2 has a value for each of the 2 columns, got 3"),
        ("combo,a\nplanner=x + solver=y,high\n", "row 2, column 'a': a score is a number from 0 to 1"),
        ("combo,a\nplanner=x + solver=y,-1\n", "or empty, got '-1'"),
        ("combo,a\nplanner,1\n", "row 2, column 'a': a configuration is stage=option + stage=option"),
        ("combo,a\np=x + s=y,1\np=x,1\n", "row 3, column 'a': every configuration names the stages p, s"),
        ("combo,a\np=x,1\np=x,1\n", "one value for each example"),
        ("combo,a\n", "a header and at least one row"),
        ("combo,a\np=x,\n", "at least one score"),
        ("combo,a\np=x,80\n", "from 0 to 1, or empty, got '80'"),
        ("configuration,example,score,tokens\np=x,a,1,9\n", "after the score comes cost, or nothing"),
        ("configuration,example,score,cost\np=x,a,1,9\np=y,a,1,\n", "has a cost, got none for 'p=y'"),
        ("configuration,example,score\np=x,a,?\n", "row 2, column 'score': a score is a number"),
    ],
)
def test_errors_name_file_row_column_and_rule(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_matrix(file)
    assert said in str(caught.value) and str(file) in str(caught.value)


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """The mark of UTF-8 before the header of a long table is no part of it."""
    file = tmp_path / "scores.csv"
    file.write_text("configuration,example,score\np=x,a,1\n", encoding="utf-8-sig")
    assert read_matrix(file).examples == ("a",)


def test_a_table_is_a_landscape_that_costs_what_it_says(tmp_path: Path) -> None:
    """Every cell has the recorded score and cost; the order of options and examples goes by the seed."""
    matrix = read_matrix(*table(tmp_path, holes=3))
    landscape = matrix_landscape(matrix, 1)
    assert landscape.space.size == 16 and landscape.exact
    means = {
        (a["planner"].model, a["solver"].model): landscape.true_scores([a])[0]
        for a in landscape.space.enumerate()
    }
    for (planner, solver), mean in means.items():
        at = MODELS.index(planner), MODELS.index(solver)
        assert mean == pytest.approx(np.nanmean(matrix.scores[at]))
    bank = Bank(landscape.outcomes)
    best = max(landscape.space.enumerate(), key=lambda a: means[a["planner"].model, a["solver"].model])
    at = MODELS.index(best["planner"].model), MODELS.index(best["solver"].model)
    _, spent = bank.buy(best, slice(0, 10))
    assert matrix.costs is not None and spent == pytest.approx(10 * matrix.costs[at][0], rel=1e-5)
    assert {s.model for s in landscape.space.defaults()[0].values()} <= set(MODELS)
    orders = {matrix_landscape(matrix, seed).outcomes.example_ids for seed in range(3)}
    assert len(orders) == 3


def test_held_out_examples_give_the_true_scores(tmp_path: Path) -> None:
    """With a share held out the search sees the other examples only."""
    matrix = read_matrix(*table(tmp_path))
    landscape = matrix_landscape(matrix, 0, 0.5)
    seen, fresh = set(landscape.outcomes.example_ids), set(landscape.truth.example_ids)
    assert len(seen) == len(fresh) == N // 2 and not seen & fresh
    with pytest.raises(UserError, match=r"examples on both sides, got 0\.999 of 60"):
        matrix_landscape(matrix, 0, 0.999)


def test_without_costs_every_option_costs_the_same(tmp_path: Path) -> None:
    matrix = read_matrix(table(tmp_path)[0])
    assert isinstance(matrix, Matrix) and matrix.costs is None
    space = matrix_landscape(matrix, 0).space
    assert len({round(space.units(a), 12) for a in space.enumerate()}) == 1


def test_the_command_compares_on_a_table(tmp_path: Path) -> None:
    """Proposers are set against brute force: cells, dollars, and the share that ends near the best."""
    scores, costs = table(tmp_path)
    command = ("compare", "--matrix", scores, "--matrix-cost", costs, "--out", tmp_path / "c.parquet")
    done = agenttts(*command, "--proposers", "default,elimination", "--seeds", 2, "--trials", 16, "--json")
    assert done.code == 0, done.err
    rows = {row["proposer"]: row for row in done.json["matrix"]}
    assert set(rows) == {"default", "elimination"}
    for row in rows.values():
        assert row["searches"] == 2 and 0 <= row["near"] <= 1 and row["cells"] <= 16 * N
        assert row["usd"] > 0 and 0 < row["saved"] < 1 and row["regret"] >= -1e-9
    text = agenttts(*command, "--proposers", "greedy+seeds", "--seeds", 1, "--trials", 3, "--holdout", 0.5)
    assert text.code == 0 and "Searches on the table" in text.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--holdout", 0.5, "--landscapes", "voting"), "belong to a --matrix"),
        (("--matrix", "none.csv"), "none.csv"),
        (("--matrix", "none.csv", "--landscapes", "voting"), "give one of the three"),
    ],
)
def test_bad_input_is_refused(arguments: tuple[object, ...], said: str, tmp_path: Path) -> None:
    done = agenttts("compare", *arguments, "--out", tmp_path / "c.parquet")
    assert done.code == 2 and said in done.errors[0] and not done.out
