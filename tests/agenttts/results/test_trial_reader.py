"""Reading a trial's examples: prompts, samples, votes, gold; and which examples are shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agenttts import SearchResult, UserError, load_run
from agenttts.results.trial_reader import TrialReader
from agenttts.results.trials import TrialResult
from datastore import Store


@pytest.fixture(scope="module")
def run(searched: Path) -> SearchResult:
    return load_run(searched)


@pytest.fixture
def reader(run: SearchResult) -> Iterator[TrialReader]:
    with Store.read(run.db) as store:
        yield TrialReader(store, run.run_id, run.spec)


def winner(run: SearchResult) -> TrialResult:
    trial = run.best_trial()
    assert trial is not None
    return trial


def test_what_is_read_is_what_the_trial_scored(run: SearchResult, reader: TrialReader) -> None:
    """Scores, numbers of samples and costs are the trial's; the first of the votes is the stage's output."""
    trial = winner(run)
    examples = reader.read(trial)
    assert {e.example_id: e.score for e in examples} == dict(trial.scores)
    assert {e.example_id: e.cost for e in examples if e.score is not None} == dict(trial.costs)
    for example in examples:
        assert [stage.stage for stage in example.stages] == ["retrieve", "answer"]
        assert example.gold == example.fields["gold"]
        for stage in example.stages:
            assert len(stage.samples) == stage.n_samples == trial.allocation[stage.stage].n_samples
            assert stage.source == str(trial.allocation[stage.stage].option)
            assert (
                stage.votes[0].value == stage.output and sum(v.votes for v in stage.votes) <= stage.n_samples
            )
            assert sum(times for _, times in stage.distinct) == stage.n_samples
        assert example.stages[0].prompt == (("user", f"find {example.example_id}"),)
        assert example.stages[1].prompt[0][1].endswith(str(example.stages[0].output))


def test_examples_of_a_policy_are_those_of_the_rung_that_stands(
    run: SearchResult, reader: TrialReader
) -> None:
    """Where the outcome stands, the votes by that rung's rule give the output of its stage."""
    policies = [trial for trial in run.confirmation if trial.policy is not None]
    for trial in policies:
        for example in reader.read(trial, list(trial.scores)[:20]):
            for stage in example.stages:
                assert stage.votes[0].value == stage.output


def test_examples_are_chosen_by_what_became_of_them(run: SearchResult, reader: TrialReader) -> None:
    """Wrong ones come from the lowest score up; changed ones score otherwise in the other trial."""
    trial = winner(run)
    other = next(t for t in run.trials if t.status == "complete" and t.number != trial.number)
    wrong = reader.ids(trial, "wrong")
    assert set(wrong) == {key for key, score in trial.scores.items() if score is not None and score < 1}
    assert [trial.scores[key] for key in wrong] == sorted(trial.scores[key] or 0.0 for key in wrong)
    assert reader.ids(trial) == sorted(trial.scores)
    assert reader.ids(trial, "missing") == reader.ids(trial, "cut") == []
    changed = reader.ids(trial, "changed", other)
    assert changed and all(trial.scores[key] != other.scores[key] for key in changed)
    with pytest.raises(UserError, match="changed with another trial to compare with"):
        reader.ids(trial, "changed")


def test_a_pipeline_that_is_gone_leaves_the_texts(run: SearchResult) -> None:
    """Without its spec samples have no values, and prompts and outputs are shown all the same."""
    with Store.read(run.db) as store:
        (example,) = TrialReader(store, run.run_id, None).read(winner(run), [next(iter(winner(run).scores))])
    assert example.fields == {} and example.gold is None
    assert [stage.stage for stage in example.stages] and example.stages[-1].output is not None
