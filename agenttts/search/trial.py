"""One trial of a search: taken from the store, or evaluated within the limits on spending."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

from agenttts.proposers.base import races
from agenttts.results.byexample import ExampleIds, ScoresByExample
from agenttts.results.health import SampleHealth
from agenttts.results.meter import EVENT, TEXTLESS, TextlessAnswers, allocations_of, commonest, warned
from agenttts.results.ranking import SEARCHING, ranked
from agenttts.results.trials import TrialResult, load_trial, mean
from agenttts.search.evaluate import evaluate
from agenttts.search.events import Note, SamplesWarned, TrialFinished, TrialProgress, TrialStarted
from agenttts.search.parts import cut, new_results
from agenttts.search.planned import PlannedTrial, row_of
from agenttts.search.racing import stop_of
from agenttts.search.redone import LIMIT, NOT_RECORDED, require_scores
from agenttts.search.state import SearchWork, Step, tell
from pipelines.errors import ReplayMiss, SpendRefused

_PROGRESS_EVERY_S = 0.25


async def run_trial(runtime: Step, planned: PlannedTrial) -> tuple[TrialResult, str | None]:
    """Run the next trial of the search, or take it from the store when it was finished before.

    Args:
        runtime: The graph's runtime, whose context is the work of the search.
        planned: The trial to run.

    Returns:
        The trial, and the limit on spending that stopped it, in words; None when none did. A trial that was
        stopped is stored as failed; one that was to grow stays as it was, and one on the test split is
        partial, with the score on its part.

    Raises:
        TrialsFailed: It is one of several in a row that have failed.
    """
    work, allocation = runtime.context, planned.allocation
    number, ran = work.number_of(planned), allocations_of(allocation, planned.policy)
    tell(
        runtime,
        TrialStarted(
            number=number,
            purpose=planned.purpose,
            allocation=allocation,
            proposer=planned.proposer,
            reason=planned.reason,
            policy=planned.policy,
            budget_units=planned.planned_cost(work.space),
            n_examples=len(planned.part),
            n_before=planned.n_before,
        ),
    )
    stored, refusal = stored_trial(work, planned), None
    if stored is not None:
        trial = stored
        if trial.split != "test":
            await work.meter.add(ran, new_results(work, planned, trial))
    else:
        try:
            trial = await evaluate(
                planned,
                runtime=work.runtime,
                store=work.store,
                run_id=work.run_id,
                number=number,
                space=work.space,
                clock=work.clock,
                max_error_rate=work.settings.max_error_rate,
                on_progress=_progress(runtime),
                race_with=_rival_scores(work, planned),
                seed=work.settings.seed,
                meter=work.meter,
            )
        except SpendRefused as error:
            trial = planned.grows or _stopped_trial(work, number, f"{LIMIT}: {error}")
            refusal = str(error)
        except ReplayMiss as error:
            if not planned.optional:
                raise
            trial = planned.grows or _stopped_trial(work, number, f"{NOT_RECORDED}: {error}")
            tell(runtime, Note(message=f"A trial is left out, since the bank does not answer it: {error}"))
    await work.meter.catch_up()
    _count_textless(work, trial)
    shown = replace(trial, score=None, scores={}, stage_scores={}) if trial.split == "test" else trial
    health = () if trial.split == "test" else work.meter.health(ran)
    tell(
        runtime,
        TrialFinished(trial=shown, from_store=stored is not None, spent=work.ledger.spent, health=health),
    )
    _warn(runtime, health)
    if stored is None and trial.purpose in SEARCHING:
        require_scores([*(t for t in work.trials if t.number != number), trial])
    return trial, refusal


async def run_search_trial(runtime: Step, planned: PlannedTrial) -> str | None:
    """Run a trial of the search itself, and add what is new in it to the trials, the prices and the bank.

    Args:
        runtime: The graph's runtime, whose context is the work of the search.
        planned: The trial to run, or the growth of one.

    Returns:
        The limit on spending that stopped it, in words; None when none did.

    Raises:
        TrialsFailed: It is one of several in a row that have failed.
    """
    work = runtime.context
    trial, refusal = await run_trial(runtime, planned)
    results = new_results(work, planned, trial)
    work.prices.add(work.spec, planned.allocation, results)
    await work.bank.add(planned.allocation, {result.example_id for result in results})
    scores = ScoresByExample.of(ExampleIds.of(work.examples), trial.scores)
    trial = replace(trial, scores=scores)  # as they come, a resumed search would have them in another order
    others = [earlier for earlier in work.trials if earlier.number != trial.number]
    work.trials = sorted([*others, trial], key=lambda each: each.number)
    return refusal


def _count_textless(work: SearchWork, trial: TrialResult) -> None:
    """Count and store the answers without a text that the trial has met, but those on the test split."""
    for (stage, model), answers in work.runtime.sampler.take_textless().items():
        if trial.split != "test":
            met = TextlessAnswers(
                stage=stage,
                model=model,
                n=answers.n,
                cut=answers.cut,
                reason=commonest(answers.reasons) or "",
            )
            work.meter.add_textless(met)
            work.event(TEXTLESS, **asdict(met))


def _warn(runtime: Step, healths: Sequence[SampleHealth]) -> None:
    """Warn of notable shares, once for each stage and model, and store those that the run has not."""
    work = runtime.context
    for health in healths:
        place, warning = (health.stage, health.model), health.warning
        if warning is not None and place not in work.warned:
            if place not in {(known.stage, known.model) for known in warned(work.store, work.run_id)}:
                work.event(EVENT, **health.to_json_dict())
            work.warned.add(place)
            tell(runtime, SamplesWarned(health=health, message=warning))


def stored_trial(work: SearchWork, planned: PlannedTrial) -> TrialResult | None:
    """Return a trial from the store, as far as it is planned.

    Args:
        work: The work of the search.
        planned: The trial, or the growth of one.

    Returns:
        The trial; None unless it was run, and as far as that, before the run was resumed.
    """
    trial = work.stored.get(work.number_of(planned))
    if trial is None or trial.allocation != planned.allocation or trial.policy != planned.policy:
        return None
    best, n_wanted = _rival_scores(work, planned), len(planned.part)
    if best is not None:
        ids = [example.id for example in planned.examples]
        n_wanted = min(n_wanted, stop_of(trial.scores, best, ids, planned.n_before, work.settings.seed))
    if trial.status != "failed" and trial.n_run <= planned.n_before:
        return None
    if trial.status == "partial" or trial.n_run > n_wanted:
        return cut(work, trial, planned, min(n_wanted, trial.n_run))
    return trial


def _rival_scores(work: SearchWork, planned: PlannedTrial) -> Mapping[str, float | None] | None:
    """Return the scores that a racing proposer's trial is compared with; None for every other trial."""
    by_proposer = planned.purpose == "search" and planned.proposer == work.proposer.name
    best = next(iter(ranked(work.trials)), None)
    return best.scores if best is not None and by_proposer and races(work.proposer) else None


def _stopped_trial(work: SearchWork, number: int, reason: str) -> TrialResult:
    row = row_of(work.store, work.run_id, number)
    scores = work.store.scores(row.trial_id)
    known = [score.score for score in scores.values() if score.score is not None]
    is_kept = row.split == "test" and bool(known)  # what was paid for is reported on the part scored
    ended = replace(
        row,
        status="partial" if is_kept else "failed",
        score=mean(known) if is_kept else None,
        n_scored=len(known),
        n_missing=len(scores) - len(known),
        error=reason,
        finished_at=work.clock(),
    )
    work.store.finish_trial(ended)
    return load_trial(work.store, ended)


def _progress(runtime: Step) -> Callable[[TrialProgress], None]:
    """Return a callback that passes on a trial's progress, at most four times a second, and its end."""
    last = 0.0

    def on_progress(progress: TrialProgress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PROGRESS_EVERY_S or progress.n_done == progress.n_examples:
            last = now
            tell(runtime, progress)

    return on_progress
