"""The schema's version: making a new file's tables, knowing a file of ours, and bringing an older one up to
date.

`schema.sql` is always the newest schema. `STEPS[n]` is the SQL that turns version n into version n + 1; a
file is migrated step by step in one transaction, when it is opened for writing.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import duckdb

from datastore.errors import ForeignFile, NewerSchema, StoreError

FORMAT = "sample-store"
FIRST_VERSION = 3
"""The schema of release 0.1.0. Files from before it are refused."""
_PAYMENTS = """
CREATE TABLE payments (
    run_id VARCHAR NOT NULL,
    model_key VARCHAR NOT NULL,
    prompt_key VARCHAR,
    calls BIGINT NOT NULL,
    samples_drawn BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    generated_tokens BIGINT NOT NULL
);
COMMENT ON TABLE payments IS 'the ledger: what answered requests were billed, one row for each draw';
COMMENT ON COLUMN payments.run_id IS 'runs.run_id that paid';
COMMENT ON COLUMN payments.model_key IS 'models.key, or agent: and the name of the agent''s model';
COMMENT ON COLUMN payments.prompt_key IS 'prompts.key; NULL: a request of a check';
COMMENT ON COLUMN payments.calls IS 'requests that the server answered, those without a text included';
COMMENT ON COLUMN payments.samples_drawn IS 'samples that they brought';
COMMENT ON COLUMN payments.prompt_tokens IS 'as billed, for each request; a bound where nobody counted';
COMMENT ON COLUMN payments.generated_tokens IS 'as billed; a bound where nobody counted';
INSERT INTO payments
SELECT drawn.run_id, prompts.model_key, drawn.prompt_key, drawn.calls, drawn.samples,
       coalesce(prompts.prompt_tokens, 0), drawn.generated_tokens
FROM (SELECT run_id, prompt_key,
             count(DISTINCT coalesce(request_id, '')) AS calls,
             count(*) AS samples,
             sum(generated_tokens) AS generated_tokens
      FROM samples WHERE run_id IS NOT NULL GROUP BY run_id, prompt_key) AS drawn
JOIN prompts ON prompts.key = drawn.prompt_key;
DROP VIEW run_costs;
CREATE VIEW run_costs AS
SELECT run_id,
       model_key,
       sum(calls)::BIGINT AS calls,
       sum(samples_drawn)::BIGINT AS samples_drawn,
       sum(prompt_tokens)::BIGINT AS prompt_tokens,
       sum(generated_tokens)::BIGINT AS generated_tokens
FROM payments GROUP BY run_id, model_key;
ALTER TABLE models ALTER COLUMN active_params DROP NOT NULL;
ALTER TABLE stage_results ALTER COLUMN flops DROP NOT NULL;
"""
"""Before, what a run paid was derived from its samples: each prompt once, requests by their ids."""
_POLICIES = """
ALTER TABLE trials ADD COLUMN policy VARCHAR;
COMMENT ON COLUMN trials.policy IS 'JSON of the policy that was run; NULL: the allocation was';
COMMENT ON COLUMN trials.allocation IS 'JSON: {stage: {model, n_samples}}; of a policy its first rung';
COMMENT ON COLUMN trials.purpose IS 'search, baseline, confirm, policy or test';
CREATE TABLE policy_results (
    trial_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    n_rungs INTEGER NOT NULL,
    rung INTEGER NOT NULL,
    confidence DOUBLE,
    n_samples BIGINT NOT NULL,
    flops DOUBLE,
    cost_usd DOUBLE,
    seconds DOUBLE NOT NULL,
    PRIMARY KEY (trial_id, example_id)
);
COMMENT ON TABLE policy_results IS 'how far one example went in one trial of a policy';
COMMENT ON COLUMN policy_results.n_rungs IS 'rungs that were run';
COMMENT ON COLUMN policy_results.rung IS '0-based: the rung whose outcome stands';
COMMENT ON COLUMN policy_results.confidence IS 'of the outcome, 0 to 1; NULL: none was computed, or an error';
COMMENT ON COLUMN policy_results.n_samples IS 'samples of all rungs, each once, banked or not';
COMMENT ON COLUMN policy_results.flops IS 'realised FLOPs, each sample once, banked or not; NULL: not known';
COMMENT ON COLUMN policy_results.cost_usd IS 'US dollars of the same; NULL: a model has no price';
COMMENT ON COLUMN policy_results.seconds IS 'seconds from the first request to the outcome';
"""
_PARTS = """
ALTER TABLE proposals ADD COLUMN n_examples INTEGER;
COMMENT ON COLUMN proposals.n_examples IS 'examples to score the trial on, the first ones; NULL: all';
UPDATE trials SET status = 'partial' WHERE status = 'pruned';
COMMENT ON COLUMN trials.status IS 'running, complete, failed, or partial: on the first examples, so far';
COMMENT ON COLUMN trials.started_at IS 'Unix seconds, UTC; of one that grew, its end less its running time';
"""
"""Before, every trial was to be scored on all examples, and one that a race had stopped was pruned."""
STEPS: dict[int, str] = {3: _PAYMENTS, 4: _POLICIES, 5: _PARTS}


def current_version() -> int:
    """The schema version that this package writes."""
    return FIRST_VERSION + len(STEPS)


def create(connection: duckdb.DuckDBPyConnection, *, created_at: float) -> None:
    """Make all tables in an empty database. `created_at` is in Unix seconds."""
    connection.execute("BEGIN")
    connection.execute(files("datastore").joinpath("schema.sql").read_text(encoding="utf-8"))
    connection.execute("INSERT INTO schema_version VALUES (?, ?, ?)", [FORMAT, current_version(), created_at])
    connection.execute("COMMIT")


def version_of(connection: duckdb.DuckDBPyConnection, path: Path, *, catalog: str | None = None) -> int:
    """The schema version of an open database (or of one attached as `catalog`).

    Raises ForeignFile when this package did not make it, NewerSchema when a newer version of it did,
    StoreError for one of before the first release.
    """
    table = "schema_version" if catalog is None else f"{catalog}.main.schema_version"
    foreign = ForeignFile(
        f"{path}: a DuckDB database, but not a sample store; name another file, it was left as it is"
    )
    try:
        rows = connection.execute(f"SELECT format, version FROM {table}").fetchall()
    except (duckdb.CatalogException, duckdb.BinderException):
        raise foreign from None
    if len(rows) != 1 or rows[0][0] != FORMAT:
        raise foreign
    version = int(rows[0][1])
    if version < FIRST_VERSION:
        raise StoreError(
            f"{path}: schema versions from {FIRST_VERSION} on can be read, the file has {version}, of before "
            "release 0.1.0; delete it or name another file, it was left as it is"
        )
    if version > current_version():
        raise NewerSchema(
            f"{path}: schema versions up to {current_version()} can be read, the file has {version}; "
            "upgrade this program, the file was left as it is"
        )
    return version


def migrate(connection: duckdb.DuckDBPyConnection, version: int) -> None:
    """Bring an open database of `version` up to date, all steps in one transaction or none."""
    if version == current_version():
        return
    connection.execute("BEGIN")
    try:
        for step in range(version, current_version()):
            connection.execute(STEPS[step])
        connection.execute("UPDATE schema_version SET version = ?", [current_version()])
        connection.execute("COMMIT")
    except duckdb.Error:
        connection.execute("ROLLBACK")
        raise
