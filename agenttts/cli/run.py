"""`agenttts run`: run an allocation or a policy on new inputs."""

from __future__ import annotations

import asyncio
import json as jsonlib
import math
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import agenttts
import pipelines
from agenttts.cli.answerfile import Answers
from agenttts.cli.options import (
    DEFAULT_DB,
    PATIENCE,
    Db,
    Json,
    LongestOutage,
    RetryFor,
    Spec,
    Timeout,
    say,
)
from agenttts.errors import UserError
from pipelines.allocation import Allocation
from pipelines.runtime.streaming import WINDOW
from pipelines.servers.patience import Patience

if TYPE_CHECKING:
    from agenttts.answering import Answer, MeanCost
    from agenttts.results.adaptive import TestedPolicy


def run(
    spec: Spec,
    allocation: Annotated[
        Path | None,
        typer.Option(
            "--allocation",
            help="JSON: {stage: {model, n_samples, prompt, verifier}}, or what search --json printed.",
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="A policy (YAML or JSON): rungs of plans, thresholds, confidences."),
    ] = None,
    mean_units: Annotated[
        float | None,
        typer.Option(
            "--mean-units", help="Units that a query of the policy may cost on average; thresholds give way."
        ),
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run",
            help="Take what this run of --db chose, its policy or its best allocation; or: latest.",
        ),
    ] = None,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="With --run: its best allocation, though it has a policy.")
    ] = False,
    db: Db = DEFAULT_DB,
    replay: Annotated[
        bool, typer.Option("--replay", help="Forbid every call that recorded samples can't answer.")
    ] = False,
    window: Annotated[
        int,
        typer.Option("--window", min=1, help="Inputs that are read and not yet answered, at most."),
    ] = WINDOW,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write to this file; stdout where not given.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on after the last whole line of --out, with the same inputs from their start.",
        ),
    ] = False,
    timeout: Timeout = PATIENCE.timeout_s,
    retry_for: RetryFor = PATIENCE.retry_s,
    longest_outage: LongestOutage = PATIENCE.longest_outage_s,
    json: Json = True,
) -> None:
    """Run an allocation or a policy on JSON lines from stdin; a JSON line for each goes to stdout, in order.

    Inputs are read as they come, and each answer is written as soon as it and those before it are there. An
    input that can't be run has a line with the status `error` and the reason; at the end the exit code is 1.
    `id` is the input's own (the dataset's `id_field`, else `id`), or its number.

    Example: `agenttts run pipeline.yaml --run latest --db run.duckdb < inputs.jsonl > outputs.jsonl`
    """
    if [allocation, policy, run_id].count(None) != 2:
        raise UserError(
            "one of --allocation FILE, --policy FILE and --run RUN says what to run; give exactly one"
        )
    if fixed and run_id is None:
        raise UserError("--fixed says which of a run's results is taken; give --run RUN too")
    if resume and out is None:
        raise UserError("--resume goes on with the file of --out; give --out FILE too")
    loaded = pipelines.load_spec(spec)
    from agenttts.answering import STREAM_CACHE_BYTES, MeanCost, answers
    from agenttts.cli.atwork import AtWork
    from datastore import Store
    from pipelines.dataset.inputs import read_inputs

    mean: MeanCost | None = None
    tested: TestedPolicy | None = None
    chosen: Allocation | pipelines.Policy
    if policy is not None:
        chosen = pipelines.load_policy(policy)
    elif run_id is not None:
        loaded_run = agenttts.load_run(db, run_id)
        chosen, mean = loaded_run.chosen(fixed=fixed)
        tested = None if fixed or loaded_run.adaptive is None else loaded_run.adaptive.tested
    else:
        chosen = _read_allocation(allocation)
    comparable = mean is not None and (mean_units is None or mean.measure == "units")
    mean = mean if mean_units is None else MeanCost(mean_units)
    if isinstance(chosen, Allocation):
        chosen = fitting(loaded, chosen)
    key = "cost_usd" if mean is not None and mean.measure == "usd" else "units"
    at_work = AtWork(chosen, key) if isinstance(chosen, pipelines.Policy) else None
    note = at_work.add if at_work is not None else lambda answer: None
    inputs = read_inputs(loaded, _stdin(), source="stdin")
    with Store.open(db, cache_bytes=STREAM_CACHE_BYTES) as store, Answers.open(out, resume=resume) as written:
        coming = answers(
            loaded,
            chosen,
            inputs,
            store,
            mean=mean,
            replay=replay,
            window=window,
            earlier=_noted(written.before(inputs), note),
            patience=Patience(timeout_s=timeout, retry_s=retry_for, longest_outage_s=longest_outage),
            on_notice=lambda line: None if written.is_broken else say(line),
        )
        asyncio.run(_write(coming, written, note))
    if at_work is not None:
        if mean is not None:
            expected = tested.cost.mean if comparable and tested is not None and tested.cost else None
            at_work.tell_pace(mean, expected)
        if tested is not None and tested.confidence is not None and not at_work.lowered:
            at_work.tell_drift(tested.confidence)
    if written.n_failed:
        say(f"{written.n_failed} of {written.n} inputs have no output: {written.first_failure}", "yellow")
        raise typer.Exit(1)


async def _write(coming: AsyncGenerator[Answer], written: Answers, note: Callable[[Answer], None]) -> None:
    async with aclosing(coming):
        async for answer in coming:
            written.write(answer)
            note(answer)


def _noted(answers: Iterator[Answer], note: Callable[[Answer], None]) -> Iterator[Answer]:
    for answer in answers:
        note(answer)
        yield answer


def _stdin() -> Iterable[str | bytes]:
    """Lines as bytes, so that one that is no text is that one's fault."""
    return () if sys.stdin is None else getattr(sys.stdin, "buffer", sys.stdin)


def fitting(spec: pipelines.PipelineSpec, allocation: Allocation) -> Allocation:
    """Return an allocation as it is run on a pipeline.

    Args:
        spec: The pipeline.
        allocation: The allocation.

    Raises:
        UserError: It does not fit the pipeline.
    """
    from agenttts.space.space import SearchSpace

    space = SearchSpace(spec, math.inf)
    chosen = space.resolve(allocation)
    problem = space.problem(chosen)
    if problem is not None:
        raise UserError(problem)
    return chosen


def _read_allocation(path: Path | None) -> Allocation:
    assert path is not None
    try:
        data: Any = jsonlib.loads(path.read_text())
        if isinstance(data, Mapping) and isinstance(data.get("best"), Mapping):
            data = data["best"]["allocation"]
        if not isinstance(data, Mapping) or not data:
            raise ValueError("must be an object: {stage: {model, n_samples}}")
        return Allocation.from_dict(data)
    except OSError as error:
        raise UserError(f"{path}: the allocation can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"{path}: not an allocation: {error}") from error
