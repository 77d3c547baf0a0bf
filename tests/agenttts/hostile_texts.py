"""A copy of a searched database in which every sample of a failing example is markup that must stay text."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from agenttts.blocking import run_blocking
from agenttts.report.data import read_report
from agenttts.results.spec_bank import attach_spec_bank
from agenttts.results.trials import trial_id
from datastore import Store
from pipelines.spec.files import restore_spec

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def with_hostile_samples(searched: Path, folder: Path) -> Path:
    """Copy the database and give the first failing example of the winner hostile samples; the copy's path."""
    db = folder / "hostile.duckdb"
    shutil.copy(searched, db)
    with Store.read(db) as store:
        run = store.run()
        example = read_report(store, solve=False).failing[0]
        rows = store.stage_results(trial_id(run.run_id, example.trial))
    keys = [row.prompt_key for row in rows if row.example_id == example.example_id and row.prompt_key]
    run_blocking(_overwrite(db, keys))
    return db


async def _overwrite(db: Path, keys: list[str]) -> None:
    with Store.open(db) as store:
        attach_spec_bank(restore_spec(store.run().spec), store)
        for key in keys:
            prompt = await store.get_prompt(key)
            assert prompt is not None
            samples = (await store.get_samples([key]))[key]
            await store.put_samples(prompt, [replace(sample, text=HOSTILE) for sample in samples])
