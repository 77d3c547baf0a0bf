"""`agenttts run`: run an allocation or a policy on new inputs."""

from __future__ import annotations

import asyncio
import json as jsonlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import agenttts
import pipelines
from agenttts.cli.options import DEFAULT_DB, Db, Json, Spec, say
from agenttts.errors import UserError
from pipelines.allocation import Allocation


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
        str | None, typer.Option("--run", help="Take the best allocation of this run of --db; or: latest.")
    ] = None,
    db: Db = DEFAULT_DB,
    replay: Annotated[
        bool, typer.Option("--replay", help="Forbid every call that recorded samples can't answer.")
    ] = False,
    json: Json = True,
) -> None:
    """Run an allocation or a policy on JSON lines from stdin; a JSON line for each goes to stdout, in order.

    Example: `agenttts run pipeline.yaml --run latest --db run.duckdb < inputs.jsonl > outputs.jsonl`
    """
    if [allocation, policy, run_id].count(None) != 2:
        raise UserError(
            "one of --allocation FILE, --policy FILE and --run RUN says what to run; give exactly one"
        )
    if mean_units is not None and policy is None:
        raise UserError("--mean-units lowers the thresholds of a policy; give --policy FILE too")
    loaded = pipelines.load_spec(spec)
    chosen = (
        pipelines.load_policy(policy) if policy is not None else _allocation(loaded, allocation, db, run_id)
    )
    from agenttts.result import run_inputs
    from datastore import Store

    inputs = [_input(number, line) for number, line in enumerate(sys.stdin, 1) if line.strip()]
    with Store.open(db) as store:
        outputs = asyncio.run(run_inputs(loaded, chosen, inputs, store, mean_units=mean_units, replay=replay))
    for output in outputs:
        sys.stdout.write(jsonlib.dumps(output, ensure_ascii=False) + "\n")
    if mean_units is not None and isinstance(chosen, pipelines.Policy) and outputs:
        _tell_pace(chosen, outputs, mean_units)
    failed = [output for output in outputs if output["status"] != "ok"]
    if failed:
        say(f"{len(failed)} of {len(outputs)} inputs have no output: {failed[0]['reason']}", "yellow")
        raise typer.Exit(1)


def _tell_pace(policy: pipelines.Policy, outputs: Sequence[Mapping[str, Any]], mean_units: float) -> None:
    """Say what the queries cost, and that thresholds gave way, where they did."""
    mean = sum(output["units"] for output in outputs) / len(outputs)
    last = outputs[-1]["thresholds"]
    moved = [f"{before:g} to {after:.2g}" for before, after in zip(policy.thresholds, last, strict=True)]
    if last != list(policy.thresholds):
        say(
            f"{mean:.1f} units a query, at most {mean_units:g} wanted: thresholds went from "
            f"{', '.join(moved)}; these inputs are harder than those the policy was chosen on",
            "yellow",
        )


def _allocation(spec: pipelines.PipelineSpec, file: Path | None, db: Path, run_id: str | None) -> Allocation:
    from agenttts.space.space import SearchSpace

    space = SearchSpace(spec, math.inf)
    chosen = space.resolve(_read_allocation(file) if run_id is None else best_allocation(db, run_id))
    problem = space.problem(chosen)
    if problem is not None:
        raise UserError(problem)
    return chosen


def best_allocation(db: Path, run_id: str) -> Allocation:
    """Return the best allocation of a run.

    Args:
        db: The DuckDB file.
        run_id: The run, or `latest` for the newest.

    Raises:
        UserError: No allocation of the run has a score.
    """
    loaded = agenttts.load_run(db, run_id)
    if loaded.best is None:
        raise UserError(f"{db}: run {loaded.run_id} has no scored allocation; search again")
    return loaded.best.allocation


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
