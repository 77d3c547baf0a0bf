"""Recording a full bank: every sample that any allocation of a pipeline can need, on a set of examples.

With a full bank any allocation's true score is known without a call, so a search can be replayed and judged.
Stage by stage, each model draws the stage's largest n for every input that can reach it, and each verifier
reads them; the outputs of n = 1, 2, … of every option, without doubles, are the inputs of the stages after.
What becomes of the samples
is the store's affair; a recording that was interrupted goes on with what the store has.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

from pipelines.allocation import StageOption
from pipelines.errors import DrawFailed
from pipelines.examples import Example
from pipelines.runtime.runtime import Runtime
from pipelines.runtime.values import Outputs
from pipelines.spec.stage import StageSpec


async def record_full_bank(
    runtime: Runtime, examples: Sequence[Example], *, on_progress: Callable[[str, int], None] | None = None
) -> int:
    """Draw all of it and return how many (stage, model, input) cells there are.

    on_progress is called with a stage's name and the number of its cells done so far. Raises what
    `Runtime.stage_outcome` raises, and DrawFailed when a cell could not be drawn: a full bank has no gaps.
    """
    done: dict[str, int] = {}

    def count(stage: str) -> None:
        done[stage] = done.get(stage, 0) + 1
        if on_progress is not None:
            on_progress(stage, done[stage])

    await asyncio.gather(*(_record_example(runtime, example, count) for example in examples))
    return sum(done.values())


async def _record_example(runtime: Runtime, example: Example, count: Callable[[str], None]) -> None:
    reachable: list[Outputs] = [{}]
    for stage in runtime.spec.stages:
        cells = [(option, outputs) for outputs in reachable for option in stage.options]
        drawn = await asyncio.gather(
            *(_record_cell(runtime, stage, option, example, outputs, count) for option, outputs in cells)
        )
        reachable = _without_doubles([state for states in drawn for state in states])


async def _record_cell(
    runtime: Runtime,
    stage: StageSpec,
    option: StageOption,
    example: Example,
    outputs: Outputs,
    count: Callable[[str], None],
) -> list[Outputs]:
    """Draw the cell to the largest n; the states that its outputs at each n lead to."""
    states: list[Outputs] = []
    for n_samples in range(stage.max_samples, 0, -1):
        choice = option.with_samples(n_samples)
        outcome = await runtime.stage_outcome(stage, choice, example, outputs, with_score=False)
        if outcome.status == "error":
            place = f"{stage.name} with {option} on example {example.id}"
            raise DrawFailed(f"{place}: {outcome.reason}", transient=False)
        states.append({**outputs, stage.name: outcome.value})
        if stage is runtime.spec.output_stage:
            break
    count(stage.name)
    return states


def _without_doubles(states: Sequence[Outputs]) -> list[Outputs]:
    return list({json.dumps(state, sort_keys=True): state for state in states}.values())
