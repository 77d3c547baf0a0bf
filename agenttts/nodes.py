"""What the nodes of the search do, step by step: seed, validate, approve, evaluate, reflect, propose.

Each decision is in the store before its cost: insights and proposals of a step are stored before the step's
first trial. A node first looks whether its step was decided before; if so, it takes what is stored. The
wiring is in `graph`, what comes after the last step in `confirm`, opening and closing a run in `search`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypedDict

from langgraph.runtime import Runtime as GraphRuntime
from langgraph.types import interrupt

from agenttts.approval import Decision, decided, question
from agenttts.bank_outcomes import BankOutcomes
from agenttts.evaluate import evaluate
from agenttts.goal import Goal
from agenttts.inherited import Inherited, as_told
from agenttts.limits import Ledger, SearchLimits, Spending
from agenttts.outcome import ranked
from agenttts.proposers.base import Lesson, Proposer, SearchView, Suggestion, Turn, races
from agenttts.proposers.insights import InsightsProposer
from agenttts.proposers.verdicts import verdicts
from agenttts.retest import MOST_RIVALS
from agenttts.space import SearchSpace
from agenttts.trial import Progress, TrialResult, load_trial, trial_id
from datastore.records import Event, Insight, Proposal, Trial, TrialPurpose
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.errors import SpendRefused
from pipelines.examples import Example
from pipelines.runtime import Runtime
from pipelines.spec import PipelineSpec

_PROGRESS_EVERY_S = 0.25


class SearchState(TypedDict, total=False):
    """What one node hands to the next.

    drafts: this step's proposals; ended: why the search goes no further.
    """

    step: int
    drafts: list[dict[str, Any]]
    ended: str | None


@dataclass(kw_only=True)
class SearchWork:
    """Everything that the nodes of one search work with, and what it has found so far."""

    spec: PipelineSpec
    space: SearchSpace
    examples: Sequence[Example]
    held: Sequence[Example]  # for the re-test of rivals
    runtime: Runtime
    store: Store
    ledger: Ledger
    limits: SearchLimits
    proposer: Proposer
    run_id: str
    seed: int
    replay: bool
    asks: bool
    frontier: bool
    goal: Goal
    clock: Callable[[], float]
    max_error_rate: float
    test_examples: Callable[[], Sequence[Example]]
    bank: BankOutcomes  # of the samples that this run's trials took
    rules: InsightsProposer = field(default_factory=InsightsProposer)
    trials: list[TrialResult] = field(default_factory=list)  # on the search split, as decided
    extra: list[TrialResult] = field(default_factory=list)  # confirmations and test trials
    inherited: Sequence[Inherited] = ()
    insights: list[Insight] = field(default_factory=list)
    proposals: dict[int, list[Proposal]] = field(default_factory=dict)  # by step
    stored: dict[int, Trial] = field(
        default_factory=dict
    )  # trials of the run before it was resumed, by number
    turn: Turn = field(default_factory=Turn)

    def view(self, step: int) -> SearchView:
        """What a proposer may know at this step: nothing of the test split."""
        refused = [p for proposals in self.proposals.values() for p in proposals if p.status == "refused"]
        return SearchView(
            space=self.space,
            trials=tuple(self.trials),
            insights=tuple(i for i in self.insights if i.step < step),
            seed=self.seed,
            trials_left=self.trials_left,
            n_examples=len(self.examples),
            task=self.spec.name,
            step=step,
            refused=tuple(Allocation.from_json(p.allocation) for p in refused if p.step < step),
            bank=self.bank,
            frontier=self.frontier,
            goal=self.goal,
        )

    @property
    def trials_left(self) -> int | None:
        return None if self.limits.trials is None else max(0, self.limits.trials - len(self.trials))

    def event(self, kind: str, **detail: Any) -> None:
        self.store.put_event(Event(run_id=self.run_id, at=self.clock(), kind=kind, detail=json.dumps(detail)))


Step = GraphRuntime[SearchWork]


async def seed(state: SearchState, runtime: Step) -> SearchState:
    """Step 0: the defaults, one model everywhere. They are the baseline of every claim."""
    work = runtime.context
    _phase(runtime, "seed", 0)
    told = as_told(work.run_id, work.inherited)
    work.store.put_insights(told)
    work.insights = told + [i for i in work.insights if i.step > 0]
    for insight in told:
        _tell_insight(runtime, insight)
    reason = "Baseline: one model at every stage, the budget shared equally."
    drafts = [
        _draft(work, 0, i, Suggestion(a, reason, "default")) for i, a in enumerate(work.space.defaults())
    ]
    return {"step": 0, "drafts": [asdict(draft) for draft in drafts], "ended": None}


async def reflect(state: SearchState, runtime: Step) -> SearchState:
    """Ask the proposer what the trials teach and what to try; keep the lessons."""
    work, step = runtime.context, state["step"] + 1
    _phase(runtime, "reflect", step)
    if step in work.proposals:
        for insight in work.insights:
            if insight.step == step:
                _tell_insight(runtime, insight)
        return {"step": step}
    count = work.proposer.batch if work.trials_left is None else min(work.proposer.batch, work.trials_left)
    turn = await work.proposer.propose(work.view(step), count)
    for note in turn.notes:
        work.event("note", step=step, message=note)
        _tell(runtime, "note", message=note)
    proposer = work.proposer.name
    if turn.silent:
        turn = work.rules.in_place(work.view(step), count)
        proposer = work.rules.name
    learnt = [(proposer, lesson) for lesson in turn.insights] + _tested_again(work)
    found = verdicts([lesson for _, lesson in learnt], work.trials, work.seed)
    lessons = [
        Insight(
            run_id=work.run_id,
            step=step,
            position=i,
            proposer=source,
            text=lesson.text,
            trials=lesson.trials,
            verdict=verdict,
        )
        for i, ((source, lesson), verdict) in enumerate(zip(learnt, found, strict=True))
    ]
    work.store.put_insights(lessons)
    work.insights = [i for i in work.insights if i.step != step] + lessons
    for insight in lessons:
        _tell_insight(runtime, insight)
    work.turn = turn
    return {"step": step}


async def propose(state: SearchState, runtime: Step) -> SearchState:
    """The proposals of this step: those stored, else those of the turn, what came to nothing among them."""
    work, step = runtime.context, state["step"]
    _phase(runtime, "propose", step)
    if step in work.proposals:
        return {"drafts": [asdict(proposal) for proposal in work.proposals[step]]}
    turn = work.turn
    if turn.finished is not None and not turn.suggestions:
        return {"drafts": [], "ended": turn.finished}
    drafts = [_draft(work, step, i, suggestion) for i, suggestion in enumerate(turn.suggestions)]
    for rejected in turn.rejected:
        drafts.append(
            Proposal(
                run_id=work.run_id,
                step=step,
                position=len(drafts),
                allocation=rejected.allocation,
                proposer=work.proposer.name,
                reason=rejected.reason,
                status="invalid",
                problem=rejected.problem,
            )
        )
    return {"drafts": [asdict(draft) for draft in drafts]}


async def validate(state: SearchState, runtime: Step) -> SearchState:
    """Proposals outside the space, over budget or tried become invalid; the rules' stand in for them."""
    work, step = runtime.context, state["step"]
    if state.get("ended"):
        return {}
    _phase(runtime, "validate", step)
    drafts = [Proposal(**draft) for draft in state["drafts"]]
    if step not in work.proposals:
        drafts = _validated(work, step, drafts)
    for draft in drafts:
        _tell_proposal(runtime, work, draft)
    ended = None if any(d.status != "invalid" for d in drafts) else "every allocation of the space was tried"
    return {"drafts": [asdict(draft) for draft in drafts], "ended": ended}


def after_validate(state: SearchState, runtime: Step) -> str:
    if state.get("ended"):
        return "confirm"
    return (
        "approve" if runtime.context.asks and state["step"] not in runtime.context.proposals else "evaluate"
    )


async def approve(state: SearchState, runtime: Step) -> SearchState:
    """Stop until a person has approved, edited or refused every proposal of this step."""
    work, step = runtime.context, state["step"]
    drafts = [Proposal(**draft) for draft in state["drafts"]]
    problems: Mapping[int, str] = {}
    while True:
        answer = interrupt([asked.to_dict() for asked in question(drafts, work.space, problems)])
        decisions = [Decision.from_dict(decision) for decision in answer]
        drafts_now, problems = decided(drafts, decisions, work.space, work.view(step).tried)
        if not problems:
            break
    for draft in drafts_now:
        if draft.status != "invalid":
            _tell_proposal(runtime, work, draft)
    return {"drafts": [asdict(draft) for draft in drafts_now]}


async def evaluate_step(state: SearchState, runtime: Step) -> SearchState:
    """Store what was decided, then run the step's proposals one after the other, until a limit is reached."""
    work, step = runtime.context, state["step"]
    _phase(runtime, "evaluate", step)
    drafts = [Proposal(**draft) for draft in state["drafts"]]
    if step not in work.proposals:
        work.store.put_proposals(drafts)
        work.proposals[step] = drafts
    defaults = work.space.defaults()
    for draft in drafts:
        if draft.status not in ("accepted", "edited"):
            continue
        allocation = Allocation.from_json(draft.allocation)
        if any(trial.allocation == allocation for trial in work.trials):
            continue  # edited into one that was tried
        ended = reached(work)
        if ended is not None and not _is_stored(work, len(work.trials), allocation):
            return {"ended": ended}
        purpose: TrialPurpose = "baseline" if allocation in defaults else "search"
        trial, refusal = await run_trial(
            runtime, allocation, work.examples, len(work.trials), purpose, draft.proposer, draft.reason
        )
        work.trials.append(trial)
        if trial.scores:
            await work.bank.add(allocation, trial.scores)
        if refusal is not None:
            return {"ended": refusal}
    return {"ended": None if step + 1 in work.proposals else reached(work)}


def after_evaluate(state: SearchState) -> str:
    return "confirm" if state.get("ended") else "reflect"


async def run_trial(
    runtime: Step,
    allocation: Allocation,
    examples: Sequence[Example],
    number: int,
    purpose: TrialPurpose,
    proposer: str,
    reason: str,
    split: str | None = None,
) -> tuple[TrialResult, str | None]:
    """The trial of this number: as stored when it is finished, else evaluated now.

    When a limit on spending stops it, it is kept as failed, and the second value says which limit.
    """
    work = runtime.context
    _tell(
        runtime,
        "trial_started",
        number=number,
        purpose=purpose,
        allocation=allocation.to_dict(),
        proposer=proposer,
        reason=reason,
        budget_units=work.space.units(allocation),
    )
    stored, refusal = _is_stored(work, number, allocation), None
    if stored is not None:
        trial = load_trial(work.store, stored)
    else:
        try:
            trial = await evaluate(
                allocation,
                examples,
                runtime=work.runtime,
                store=work.store,
                run_id=work.run_id,
                number=number,
                space=work.space,
                purpose=purpose,
                proposer=proposer,
                reason=reason,
                clock=work.clock,
                split=split,
                max_error_rate=work.max_error_rate,
                on_progress=_progress(runtime),
                race_with=_rival(work, purpose, proposer),
                seed=work.seed,
            )
        except SpendRefused as error:
            trial, refusal = _stopped_trial(work, number, str(error)), str(error)
    _tell(
        runtime,
        "trial_finished",
        number=number,
        purpose=purpose,
        allocation=allocation.to_dict(),
        status=trial.status,
        score=trial.score if purpose != "test" else None,
        n_scored=trial.n_scored,
        n_missing=trial.n_missing,
        samples_drawn=trial.samples_drawn,
        samples_reused=trial.samples_reused,
        calls=trial.calls,
        error=trial.error,
        from_store=stored is not None,
        spent=asdict(work.ledger.spent),
    )
    return trial, refusal


def reached(work: SearchWork) -> str | None:
    """The limit that the search has reached, in words; what the confirmation will take is held back."""
    held = held_back(work)
    limits = work.limits
    work.ledger.limits = replace(
        limits,
        tokens=None if limits.tokens is None else max(1, limits.tokens - held.tokens),
        flops=None if limits.flops is None else max(1.0, limits.flops - held.flops),
        usd=None if limits.usd is None else max(1e-12, limits.usd - held.usd),
    )
    return work.ledger.reached(len(work.trials))


def held_back(work: SearchWork) -> Spending:
    """What re-test and test trials will take: for each example as much as the dearest trial so far."""
    if work.replay or all(getattr(work.limits, name) is None for name in ("tokens", "flops", "usd")):
        return Spending()
    n_test, n_search = len(work.test_examples()), max(1, len(work.examples))
    shares = [
        Spending(
            tokens=trial.prompt_tokens + trial.generated_tokens,
            flops=(trial.flops_per_query or 0.0) * n_search,
            usd=trial.cost_usd or 0.0,
        )
        for trial in work.trials
    ]
    n_examples = 2 * n_test + MOST_RIVALS * len(work.held)
    times = 1.1 * n_examples / n_search  # a tenth for prompts that differ
    return Spending(
        tokens=int(times * max((s.tokens for s in shares), default=0)),
        flops=times * max((s.flops for s in shares), default=0.0),
        usd=times * max((s.usd for s in shares), default=0.0),
    )


def _rival(work: SearchWork, purpose: TrialPurpose, proposer: str) -> Mapping[str, float | None] | None:
    """The scores that a trial of a racing proposer is measured by; None for every other trial."""
    if purpose != "search" or proposer != work.proposer.name or not races(work.proposer):
        return None
    best = next(iter(ranked(work.trials)), None)
    return None if best is None else best.scores


def _stopped_trial(work: SearchWork, number: int, reason: str) -> TrialResult:
    row = next(t for t in work.store.trials(work.run_id) if t.trial_id == trial_id(work.run_id, number))
    scores = work.store.scores(row.trial_id)
    n_scored = sum(score.score is not None for score in scores.values())
    ended = replace(
        row,
        status="failed",
        n_scored=n_scored,
        n_missing=len(scores) - n_scored,
        error=f"stopped by a limit: {reason}",
        finished_at=work.clock(),
    )
    work.store.finish_trial(ended)
    return load_trial(work.store, ended)


def _tested_again(work: SearchWork) -> list[tuple[str, Lesson]]:
    """Inherited insights whose allocations both have a score now, each once."""
    done = {(i.proposer, i.text) for i in work.insights if i.step > 0}
    waiting = [i for i in work.inherited if (i.source, i.text) not in done]
    met = [(i.source, lesson) for i in waiting if (lesson := i.tested_again(work.trials)) is not None]
    return met


def _validated(work: SearchWork, step: int, drafts: Sequence[Proposal]) -> list[Proposal]:
    view = work.view(step)
    taken: set[Allocation] = set()
    checked: list[Proposal] = []
    for draft in drafts:
        if draft.status != "invalid":
            allocation = Allocation.from_json(draft.allocation)
            problem = work.space.problem(allocation)
            if problem is None and allocation in view.tried | taken:
                problem = "tried before, or refused"
            if problem is not None:
                draft = replace(draft, status="invalid", problem=problem)
            elif work.trials_left is not None and len(taken) >= work.trials_left:
                continue
            else:
                taken.add(allocation)
        checked.append(draft)
    for draft in [d for d in checked if d.status == "invalid"]:
        if work.trials_left is None or len(taken) < work.trials_left:
            stand_in = work.rules.fallback(view, tuple(taken))
            if stand_in is not None:
                reason = f"In place of proposal {draft.position} of {draft.proposer}. {stand_in.reason}"
                suggestion = Suggestion(stand_in.allocation, reason, work.rules.name)
                checked.append(_draft(work, step, len(checked), suggestion))
                taken.add(stand_in.allocation)
    return [replace(draft, position=i) for i, draft in enumerate(checked)]


def _draft(work: SearchWork, step: int, position: int, suggestion: Suggestion) -> Proposal:
    return Proposal(
        run_id=work.run_id,
        step=step,
        position=position,
        allocation=suggestion.allocation.to_json(),
        proposer=suggestion.proposer or work.proposer.name,
        reason=suggestion.reason,
        status="accepted",
        problem=None,
    )


def _is_stored(work: SearchWork, number: int, allocation: Allocation) -> Trial | None:
    row = work.stored.get(number)
    if row is None or row.status == "running" or Allocation.from_json(row.allocation) != allocation:
        return None
    return row


def _progress(runtime: Step) -> Callable[[Progress], None]:
    last = 0.0

    def on_progress(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PROGRESS_EVERY_S or progress.n_done == progress.n_examples:
            last = now
            _tell(runtime, "trial_progress", **asdict(progress))

    return on_progress


def _phase(runtime: Step, phase: str, step: int) -> None:
    _tell(runtime, "phase", phase=phase, step=step)


def _tell_insight(runtime: Step, insight: Insight) -> None:
    _tell(
        runtime,
        "insight",
        text=insight.text,
        trials=list(insight.trials),
        proposer=insight.proposer,
        verdict=insight.verdict,
    )


def _tell_proposal(runtime: Step, work: SearchWork, draft: Proposal) -> None:
    _tell(
        runtime,
        "proposal",
        step=draft.step,
        position=draft.position,
        allocation=json.loads(draft.allocation),
        proposer=draft.proposer,
        reason=draft.reason,
        status=draft.status,
        problem=draft.problem,
    )


def _tell(runtime: Step, kind: str, **detail: Any) -> None:
    runtime.stream_writer({"kind": kind, **detail})
