"""The nodes of the search, step by step: seed, validate, approve, evaluate, reflect, propose.

Each decision is stored before its cost: the insights and proposals of a step are in the store before the
step's first trial. A node first looks whether its step was decided before; if so, it takes what is stored.
The nodes share what is in `state`. The edges between them are in `graph`, a trial is run in `trial`, the
nodes after the last step are in `confirm`, and a run is opened and closed in `run`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace

from agenttts.errors import SpaceError
from agenttts.proposers.base import Lesson, Suggestion, Turn, opening, seeds
from agenttts.proposers.verdicts import verdicts
from agenttts.results.trials import trial_id
from agenttts.search.approval import decided, question
from agenttts.search.drafts import Draft
from agenttts.search.evaluate import PlannedTrial
from agenttts.search.events import InsightLearnt, Note, PhaseStarted, ProposalMade
from agenttts.search.growth import add_prompts, reprice
from agenttts.search.insights import open_insights
from agenttts.search.state import SearchState, SearchWork, Step, tell
from agenttts.search.trial import run_trial, stored_trial
from datastore.records import Insight
from pipelines.allocation import Allocation


async def seed(state: SearchState, runtime: Step) -> SearchState:
    """Propose what the proposer begins with, else the defaults: one model at every stage, the baseline of
    every claim.
    """
    work = runtime.context
    tell(runtime, PhaseStarted(phase="seed", step=0))
    inherited = open_insights(work.run_id, work.inherited)
    work.store.put_insights(inherited)
    work.insights = inherited + [i for i in work.insights if i.step > 0]
    for insight in inherited:
        tell(runtime, InsightLearnt(insight=insight))
    view = work.view(0)
    _note(runtime, await opening(work.proposer, view))
    first = seeds(work.proposer, view)
    if first is None:
        reason = "Baseline: one model at every stage, the budget shared equally."
        first = [Suggestion(allocation, reason, "default") for allocation in _first_tried(work)]
    drafts = [Draft.of(suggestion, "default", 0, i) for i, suggestion in enumerate(first)]
    work.drafts = work.proposals.get(0, drafts)
    return {"step": 0, "ended": None}


def _first_tried(work: SearchWork) -> list[Allocation]:
    """The defaults; where they would take more than half of the trials, fewer configurations of each model.

    The first configuration of a model stays, and the others evenly from the first to the last.
    """
    defaults, spec = work.space.defaults(), work.spec
    if work.trials_left is None or 2 * len(defaults) <= work.trials_left:
        return defaults
    by_model: dict[tuple[str, ...], list[Allocation]] = {}
    for allocation in defaults:
        sources = tuple(spec.source_key(stage, choice.model) for stage, choice in allocation.items())
        by_model.setdefault(sources, []).append(allocation)
    most = max(1, work.trials_left // 2 // len(by_model))
    return [
        configured[i]
        for configured in by_model.values()
        for i in sorted({k * (len(configured) - 1) // max(1, most - 1) for k in range(most)})
    ]


async def reflect(state: SearchState, runtime: Step) -> SearchState:
    """Ask the proposer for its turn, and store the lessons with their verdicts."""
    work, step = runtime.context, state["step"] + 1
    tell(runtime, PhaseStarted(phase="reflect", step=step))
    if step in work.proposals:
        for insight in work.insights:
            if insight.step == step:
                tell(runtime, InsightLearnt(insight=insight))
        return {"step": step}
    count = work.proposer.batch if work.trials_left is None else min(work.proposer.batch, work.trials_left)
    turn = await work.proposer.propose(work.view(step), count)
    _note(runtime, turn, step)
    await add_prompts(runtime, turn, step)
    proposer = work.proposer.name
    if turn.silent:
        turn = work.rules.in_place(work.view(step), count)
        proposer = work.rules.name
    lessons = [(proposer, lesson) for lesson in turn.insights] + _tested_again(work)
    judged = zip(
        lessons, verdicts([lesson for _, lesson in lessons], work.trials, work.settings.seed), strict=True
    )
    insights = [
        Insight(
            run_id=work.run_id,
            step=step,
            position=i,
            proposer=source,
            text=lesson.text,
            trials=lesson.trials,
            verdict=verdict,
        )
        for i, ((source, lesson), verdict) in enumerate(judged)
    ]
    work.store.put_insights(insights)
    work.insights = [i for i in work.insights if i.step != step] + insights
    for insight in insights:
        tell(runtime, InsightLearnt(insight=insight))
    work.turn = turn
    return {"step": step}


def _note(runtime: Step, turn: Turn, step: int = 0) -> None:
    for note in turn.notes:
        runtime.context.event("note", step=step, message=note)
        tell(runtime, Note(message=note))


async def propose(state: SearchState, runtime: Step) -> SearchState:
    """Take the proposals of this step: those stored, else those of the turn with the rejected ones as
    invalid.
    """
    work, step = runtime.context, state["step"]
    tell(runtime, PhaseStarted(phase="propose", step=step))
    if step in work.proposals:
        work.drafts = work.proposals[step]
        return {}
    turn = work.turn
    if turn.finished is not None and not turn.suggestions:
        work.drafts = []
        return {"ended": turn.finished}
    name = work.proposer.name
    work.drafts = [Draft.of(suggestion, name, step, i) for i, suggestion in enumerate(turn.suggestions)]
    work.drafts += [
        Draft(
            step=step,
            position=position,
            allocation=rejected.allocation,
            proposer=name,
            reason=rejected.reason,
            status="invalid",
            problem=rejected.problem,
        )
        for position, rejected in enumerate(turn.rejected, len(work.drafts))
    ]
    return {}


async def validate(state: SearchState, runtime: Step) -> SearchState:
    """Proposals outside the space, over budget or tried become invalid; the rules' stand in for them."""
    work, step = runtime.context, state["step"]
    if state.get("ended"):
        return {}
    tell(runtime, PhaseStarted(phase="validate", step=step))
    if step not in work.proposals:
        work.drafts = _validated(work, step)
    for draft in work.drafts:
        tell(runtime, ProposalMade(proposal=draft))
    runnable = any(draft.status != "invalid" for draft in work.drafts)
    return {"ended": None if runnable else "every allocation of the space was tried"}


def after_validate(state: SearchState, runtime: Step) -> str:
    """Return the name of the node that follows `validate`."""
    if state.get("ended"):
        return "confirm"
    work = runtime.context
    return "evaluate" if work.approve is None or state["step"] in work.proposals else "approve"


async def approve(state: SearchState, runtime: Step) -> SearchState:
    """Wait until a person has approved, edited or refused every proposal of this step."""
    work = runtime.context
    assert work.approve is not None
    tried = work.view(state["step"]).tried
    problems: Mapping[int, str] = {}
    drafts: list[Draft] | None = None
    while drafts is None or problems:
        answer = work.approve(question(work.drafts, work.space, problems))
        decisions = await answer if inspect.isawaitable(answer) else answer
        drafts, problems = decided(work.drafts, decisions, work.space, tried)
    work.drafts = drafts
    for draft in drafts:
        if draft.status != "invalid":
            tell(runtime, ProposalMade(proposal=draft))
    return {}


async def evaluate_step(state: SearchState, runtime: Step) -> SearchState:
    """Store the decisions, run the step's proposals until a limit is reached, and price by what they took."""
    ended = await _evaluated(state, runtime)
    try:
        reprice(runtime)
    except SpaceError as error:
        ended = ended or f"by the lengths that trials had, {error}"
    return {"ended": ended}


async def _evaluated(state: SearchState, runtime: Step) -> str | None:
    """Run the step's proposals one after another; why the search goes no further."""
    work, step = runtime.context, state["step"]
    tell(runtime, PhaseStarted(phase="evaluate", step=step))
    if step not in work.proposals:
        work.store.put_proposals([draft.to_record(work.run_id) for draft in work.drafts])
        work.proposals[step] = work.drafts
    defaults = work.space.defaults()
    for draft in work.drafts:
        allocation = draft.allocation
        if isinstance(allocation, str) or draft.status == "refused":
            continue
        if any(trial.allocation == allocation for trial in work.trials):
            continue  # edited into one that was tried
        ended = work.limit_reached()
        if ended is not None and stored_trial(work, allocation) is None:
            return ended
        planned = PlannedTrial(
            allocation=allocation,
            examples=work.examples,
            purpose="baseline" if allocation in defaults else "search",
            proposer=draft.proposer,
            reason=draft.reason,
        )
        trial, refusal = await run_trial(runtime, planned)
        work.trials.append(trial)
        results = work.store.stage_results(trial_id(work.run_id, trial.number))
        work.prices.add(work.spec, allocation, results)
        if trial.scores:
            await work.bank.add(allocation, trial.scores)
        if refusal is not None:
            return refusal
    return None if step + 1 in work.proposals else work.limit_reached()


def after_evaluate(state: SearchState) -> str:
    """Return the name of the node that follows `evaluate`."""
    return "confirm" if state.get("ended") else "reflect"


def _tested_again(work: SearchWork) -> list[tuple[str, Lesson]]:
    """Return the inherited insights whose allocations both have a score now, each once, with their source."""
    done = {(i.proposer, i.text) for i in work.insights if i.step > 0}
    waiting = [i for i in work.inherited if (i.source, i.text) not in done]
    return [(i.source, lesson) for i in waiting if (lesson := i.tested_again(work.trials)) is not None]


def _validated(work: SearchWork, step: int) -> list[Draft]:
    """Mark the drafts that can't be run as invalid, and add the rules' suggestions in their place."""
    view = work.view(step)
    room = math.inf if work.trials_left is None else work.trials_left
    taken: list[Allocation] = []
    checked: list[Draft] = []
    for draft in work.drafts:
        allocation = draft.allocation
        if isinstance(allocation, str):
            checked.append(draft)
            continue
        problem = work.space.problem(allocation)
        if problem is None and (allocation in view.tried or allocation in taken):
            problem = "tried before, or refused"
        if problem is not None:
            checked.append(draft.invalid(problem))
        elif len(taken) < room:
            checked.append(draft)
            taken.append(allocation)
    for draft in [draft for draft in checked if draft.status == "invalid"]:
        stand_in = work.rules.fallback(view, taken) if len(taken) < room else None
        if stand_in is not None:
            reason = f"In place of proposal {draft.position} of {draft.proposer}. {stand_in.reason}"
            suggestion = Suggestion(stand_in.allocation, reason)
            checked.append(Draft.of(suggestion, work.rules.name, step, len(checked)))
            taken.append(stand_in.allocation)
    return [replace(draft, position=i) for i, draft in enumerate(checked)]
