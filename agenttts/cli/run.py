"""`agenttts run`: run an allocation or a policy on new inputs."""

from __future__ import annotations

import asyncio
import json as jsonlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import agenttts
import pipelines
from agenttts.cli.atwork import lowered, tell_drift, tell_pace
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
from pipelines.servers.patience import Patience

if TYPE_CHECKING:
    from agenttts.results.adaptive import TestedPolicy


def run(
    spec: Spec,
    allocation: Annotated[
        Path | None,
        typer.Option(
            "--allocation", help="JSON: {stage: {model, n_samples, verifier}}, or what search --json printed."
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
    timeout: Timeout = PATIENCE.timeout_s,
    retry_for: RetryFor = PATIENCE.retry_s,
    longest_outage: LongestOutage = PATIENCE.longest_outage_s,
    json: Json = True,
) -> None:
    """Run an allocation or a policy on JSON lines from stdin; a JSON line for each goes to stdout, in order.

    Example: `agenttts run pipeline.yaml --run latest --db run.duckdb < inputs.jsonl > outputs.jsonl`
    """
    if [allocation, policy, run_id].count(None) != 2:
        raise UserError(
            "one of --allocation FILE, --policy FILE and --run RUN says what to run; give exactly one"
        )
    if fixed and run_id is None:
        raise UserError("--fixed says which of a run's results is taken; give --run RUN too")
    loaded = pipelines.load_spec(spec)
    from agenttts.result import MeanCost, run_inputs
    from datastore import Store

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
        chosen = _fitting(loaded, chosen)
    inputs = [_input(number, line) for number, line in enumerate(sys.stdin, 1) if line.strip()]
    with Store.open(db) as store:
        patience = Patience(timeout_s=timeout, retry_s=retry_for, longest_outage_s=longest_outage)
        outputs = asyncio.run(
            run_inputs(
                loaded, chosen, inputs, store, mean=mean, replay=replay, patience=patience, on_notice=say
            )
        )
    for output in outputs:
        sys.stdout.write(jsonlib.dumps(output, ensure_ascii=False) + "\n")
    if isinstance(chosen, pipelines.Policy) and outputs:
        if mean is not None:
            expected = tested.cost.mean if comparable and tested is not None and tested.cost else None
            tell_pace(chosen, outputs, mean, expected)
        if tested is not None and tested.confidence is not None and not lowered(chosen, outputs):
            tell_drift(tested.confidence, outputs)
    failed = [output for output in outputs if output["status"] != "ok"]
    if failed:
        say(f"{len(failed)} of {len(outputs)} inputs have no output: {failed[0]['reason']}", "yellow")
        raise typer.Exit(1)


def _fitting(spec: pipelines.PipelineSpec, allocation: Allocation) -> Allocation:
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not an allocation: {error}") from error


def _input(number: int, line: str) -> Mapping[str, Any]:
    try:
        data = jsonlib.loads(line)
    except ValueError as error:
        raise UserError(f"stdin:{number}: not JSON: {error}; one object per line") from error
    if not isinstance(data, Mapping):
        raise UserError(f"stdin:{number}: an input is a JSON object, got {type(data).__name__}")
    return data
