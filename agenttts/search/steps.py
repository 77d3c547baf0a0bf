"""The nodes of the search, step by step: seed, validate, approve, evaluate, reflect, propose.

Each decision is stored before its cost: the insights and proposals of a step are in the store before the
step's first trial. A node first looks whether its step was decided before; if so, it takes what is stored.
The nodes share what is in `state`. The edges between them are in `graph`, a trial is run in `trial`, the
nodes after the last step are in `confirm`, and a run is opened and closed in `run`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace

from agenttts.errors import SpaceError
from agenttts.proposers.base import Lesson, Suggestion, Turn, opening, seeds
from agenttts.proposers.verdicts import verdicts
from agenttts.search.approval import decided, question
from agenttts.search.drafts import Draft
from agenttts.search.events import InsightLearnt, Note, PhaseStarted, ProposalMade
from agenttts.search.growth import add_prompts, reprice
from agenttts.search.insights import open_insights
from agenttts.search.parts import planned_trial
from agenttts.search.state import SearchState, SearchWork, Step, tell
from agenttts.search.trial import run_search_trial, stored_trial
from agenttts.search.validation import validated
from datastore.records import Insight
from pipelines.allocation import Allocation


async def seed(state: SearchState, runtime: Step) -> SearchState:
    """Propose what the proposer begins with, else the defaults, which are the baseline of every claim."""
    work = runtime.context
    tell(runtime, PhaseStarted(phase="seed", step=0))
    inherited = open_insights(work.run_id, work.inherited)
    work.store.put_insights(inherited)
    work.insights = inherited + [i for i in work.insights if i.step > 0]
    for insight in inherited:
        tell(runtime, InsightLearnt(insight=insight))
    view = work.view(0)
    _note(runtime, await opening(work.proposer, view))
    if 0 in work.proposals:
        work.drafts = work.proposals[0]
    else:
        suggestions = seeds(work.proposer, view) or _defaults(work)
        name = work.proposer.name
        work.drafts = [Draft.of(suggestion, name, 0, i) for i, suggestion in enumerate(suggestions)]
    return {"step": 0, "ended": None}


def _defaults(work: SearchWork) -> list[Suggestion]:
    """The defaults, one model at every stage, on all examples."""
    reason = "Baseline: one model at every stage, the budget shared equally."
    return [Suggestion(allocation, reason, "default") for allocation in _first_tried(work)]


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
    lessons = [(lesson.proposer or proposer, lesson) for lesson in turn.insights] + _tested_again(work)
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
        work.drafts = validated(work, step)
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
    view = work.view(state["step"])
    problems: Mapping[int, str] = {}
    drafts: list[Draft] | None = None
    while drafts is None or problems:
        answer = work.approve(question(work.run_id, work.drafts, view, problems))
        decisions = await answer if inspect.isawaitable(answer) else answer
        drafts, problems = decided(work.drafts, decisions, view)
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
    for draft in work.drafts:
        if isinstance(draft.allocation, str) or draft.status == "refused":
            continue
        planned = planned_trial(work, draft.allocation, draft.n_examples, draft.proposer, draft.reason)
        if planned is None:
            continue  # edited into one that was tried
        if stored_trial(work, planned) is None:
            ended = work.limit_reached()
            if ended is not None:
                return ended
            n_wanted, planned = planned.n_examples, planned.within(work.cells_left)
            if (
                planned.n_examples != n_wanted
            ):  # by the limit on trials, which a resumed run may have another of
                draft = replace(draft, n_examples=planned.n_examples)
                work.store.put_proposals([draft.to_record(work.run_id)])
        refusal = await run_search_trial(runtime, planned)
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
