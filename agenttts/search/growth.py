"""What changes the space during a search: prices that follow measured lengths, and prompts of proposers.

Both are decided from what the store has, so that a resumed search goes on in the same space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from pydantic import TypeAdapter, ValidationError

from agenttts.proposers.base import NewPrompt, Turn
from agenttts.replay.bank import BankOutcomes
from agenttts.report.changes import ADDED
from agenttts.results.events import stored_events
from agenttts.results.prices import REPRICED, Repriced
from agenttts.search.check import stand_ins
from agenttts.search.events import Note
from agenttts.search.pricing import announcement
from agenttts.search.state import SearchWork, Step, tell
from datastore.store import Store
from pipelines.errors import SpecError
from pipelines.examples import Example
from pipelines.spec.files import dump_spec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage_parts import PromptVariant
from pipelines.spec.strict import VariantName
from pipelines.spec.templates import check_templates, needed_fields, used_fields
from pipelines.stages.prompts import render

_NEW_PROMPT = TypeAdapter(NewPrompt)
_PROMPTS = TypeAdapter(dict[VariantName, PromptVariant])


def reprice(runtime: Step) -> None:
    """Plan allocations by the lengths and costs that the trials so far had, where they are off the planned.

    Args:
        runtime: The graph's runtime, whose context is the work of the search.

    Raises:
        SpaceError: By the measured prices even the cheapest allocation is over the budget.
    """
    work = runtime.context
    repriced = work.prices.repriced(work.space)
    if repriced is None:
        return
    advised = work.space.below_reference()
    work.space, changes = repriced
    work.bank.measure = work.space.measure
    work.trials = [replace(t, budget_units=work.space.units(t.allocation)) for t in work.trials]
    units = {trial.number: trial.budget_units for trial in work.trials}
    for row in work.store.trials(work.run_id):
        if row.number in units and row.budget_units != units[row.number]:
            work.store.finish_trial(replace(row, budget_units=units[row.number]))
    work.n_repriced += 1
    n_stored = sum(event.kind == REPRICED for event in work.store.events(work.run_id))
    if work.n_repriced > n_stored:
        work.event(REPRICED, **Repriced.of(changes, work.space.spec).to_json_dict())
    tell(runtime, Note(message=announcement(changes)))
    if advised is None and (advice := work.space.below_reference()) is not None:
        tell(runtime, Note(message=f"By these lengths {advice}."))


async def add_prompts(runtime: Step, turn: Turn, step: int) -> None:
    """Add the prompts of a proposer's turn to the space, and store them with who wrote them.

    A prompt that can't be used is left out, and a note says why.

    Args:
        runtime: The graph's runtime, whose context is the work of the search.
        turn: The turn.
        step: The step of the search, for the events.
    """
    work = runtime.context
    for new in turn.prompts:
        try:
            spec = with_prompt(work.spec, new, work.examples)
        except SpecError as error:
            tell(
                runtime, Note(message=f"The prompt {new.name!r} of {work.proposer.name} is left out: {error}")
            )
            continue
        work.event(ADDED, step=step, proposer=work.proposer.name, **asdict(new))
        await _use(work, spec)
        tell(
            runtime,
            Note(message=f"{work.proposer.name} adds the prompt {new.name} to {new.stage}: {new.reason}"),
        )


def with_prompt(spec: PipelineSpec, new: NewPrompt, examples: Sequence[Example] = ()) -> PipelineSpec:
    """Return a pipeline with one more prompt of a stage.

    Args:
        spec: The pipeline.
        new: The prompt.
        examples: Those that the template must render for; the outputs of earlier stages are stand-ins.

    Raises:
        SpecError: The stage is unknown, runs a function or has such a prompt; or the template does not parse,
            uses a name that is neither an input nor a field that the pipeline reads already, or does not
            render.
    """
    field = f"stages[{new.stage}].prompts.{new.name}"
    stage = spec.stage(new.stage)
    if stage.python is not None:
        raise SpecError("belongs to stages where models answer, and this one has python", field=field)
    if new.name in stage.prompts:
        raise SpecError(f"prompts have different names, got {new.name!r} again", field=field)
    try:
        added = _PROMPTS.validate_python({new.name: {"text": new.text}})
    except ValidationError:
        raise SpecError(
            f"a prompt's name is letters, digits and _.-, got {new.name!r}", field=field
        ) from None
    grown = stage.model_copy(update={"prompts": {**stage.prompts, **added}})
    stages = tuple(grown if one.name == new.stage else one for one in spec.stages)
    whole = spec.model_copy(update={"stages": stages})
    check_templates(whole)
    prompted = grown.prompted(new.name)
    needed = needed_fields(prompted)
    for example in examples:
        if missing := needed - set(example.fields):
            raise SpecError(
                f"uses {', '.join(sorted(missing))}, which example {example.id!r} lacks", field=field
            )
    read_before = frozenset[str]().union(*(used_fields(one) for one in spec.stages))
    if further := used_fields(prompted) - read_before:
        raise SpecError(
            f"uses {', '.join(sorted(further))}, which the pipeline as given does not read: a label is in no "
            "input of `run`",
            field=field,
        )
    for example in examples[:1]:
        render(prompted, example, stand_ins(whole, grown, example))
    return whole


def with_stored_prompts(spec: PipelineSpec, store: Store, run_id: str) -> PipelineSpec:
    """Return a pipeline with the prompts that proposers of a run have added.

    Args:
        spec: The pipeline as it was given.
        store: The database, open for reading.
        run_id: The run.
    """
    for new in stored_events(store, run_id, ADDED, _NEW_PROMPT):
        if new.name not in spec.stage(new.stage).prompts:
            spec = with_prompt(spec, new)
    return spec


async def _use(work: SearchWork, spec: PipelineSpec) -> None:
    """Go on with a spec that has a further prompt: in the space, the runtime, the bank and the store."""
    work.space = work.space.of(spec)
    planned = with_stored_prompts(work.runtime.spec, work.store, work.run_id)
    work.runtime.use(planned)
    work.store.start_run(replace(work.store.run(work.run_id), spec=dump_spec(planned)))
    work.bank = BankOutcomes(spec, work.store, work.examples, work.space.measure)
    for trial in work.trials:
        if trial.scores:
            await work.bank.add(trial.allocation, trial.scores)
