"""A search's row in the store: which run to go on with, how a run begins, and how it ends too early."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

from agenttts.errors import UserError
from agenttts.events import RunStopped
from agenttts.settings import SearchSettings
from datastore.records import Event, ModelRecord, Run, RunStatus
from datastore.store import Store
from pipelines.spec import PipelineSpec
from pipelines.specfile import dump_spec, spec_digest


def run_to_resume(store: Store, settings: SearchSettings, digest: str) -> Run:
    """The newest unfinished run of this spec and these settings, else the newest finished one.

    Args:
        store: The database.
        settings: The settings of the command that resumes.
        digest: The digest of its spec.

    Raises:
        UserError: No run fits; it says what differs from the newest run.
    """
    runs = store.runs()
    if not runs:
        raise UserError(f"{store.path}: --resume needs a run, this database has none; leave --resume out")
    fitting = [run for run in runs if not _differences(settings, digest, run)]
    if not fitting:
        raise UserError(
            f"run {runs[-1].run_id} can't be resumed with other settings: "
            f"{'; '.join(_differences(settings, digest, runs[-1]))}; "
            "repeat the command that began it, or leave --resume out"
        )
    unfinished = [run for run in fitting if run.status != "complete"]
    return (unfinished or fitting)[-1]


def _differences(settings: SearchSettings, digest: str, run: Run) -> list[str]:
    changed = ["the spec has changed"] if run.spec_digest != digest else []
    return changed + settings.differences(SearchSettings.from_json_dict(json.loads(run.settings)))


def begin_run(
    store: Store, spec: PipelineSpec, settings: SearchSettings, unfinished: Run | None, now: float
) -> Run:
    """Store the run and its models.

    Args:
        store: The database.
        spec: What is searched.
        settings: What is searched for, and how.
        unfinished: The run to go on with; None for a new one.
        now: Unix seconds.
    """
    digest = spec_digest(spec)
    run = Run(
        run_id=unfinished.run_id if unfinished else _new_run_id(store, now, settings.seed, digest),
        spec=dump_spec(spec),
        spec_digest=digest,
        settings=json.dumps({"spec_digest": digest, **settings.to_json_dict()}),
        status="running",
        started_at=unfinished.started_at if unfinished else now,
        finished_at=None,
        outcome=None,
    )
    store.start_run(run)
    store.put_models([_model_record(spec, name) for name in spec.models])
    kind = "resumed" if unfinished else "started"
    store.put_event(Event(run_id=run.run_id, at=now, kind=kind, detail=run.settings))
    return run


def _model_record(spec: PipelineSpec, name: str) -> ModelRecord:
    model = spec.models[name]
    price = model.price
    return ModelRecord(
        key=spec.model_key(name),
        name=name,
        revision=model.revision,
        active_params=model.active_params,
        context_length=model.context_length,
        parent=model.parent,
        usd_per_million_prompt_tokens=price.prompt_usd_per_million if price else None,
        usd_per_million_generated_tokens=price.generated_usd_per_million if price else None,
    )


def stop_run(store: Store, run_id: str, status: RunStatus, reason: str, now: float) -> RunStopped:
    """Mark the run as ended before it was complete; what it paid for is in the store already."""
    store.put_event(Event(run_id=run_id, at=now, kind=status, detail=json.dumps({"reason": reason})))
    store.finish_run(run_id, status, None, now)
    message = f"run {run_id} is kept in {store.path}; the same command with --resume goes on where it stopped"
    return RunStopped(run_id=run_id, status=status, reason=reason, message=message)


def _new_run_id(store: Store, now: float, seed: int, digest: str) -> str:
    """Such as 20261124-073012-ab12: UTC, and four hex digits of what is searched."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S")
    taken = {run.run_id for run in store.runs()}
    for attempt in range(1000):
        mark = hashlib.sha256(f"{now}|{seed}|{digest}|{attempt}".encode()).hexdigest()[:4]
        if f"{stamp}-{mark}" not in taken:
            return f"{stamp}-{mark}"
    raise UserError(f"{store.path}: a thousand runs began in one second; wait and try again")
