-- What was measured. One file per project or run; DuckDB, schema version in schema_version.
-- Times are Unix seconds (UTC), tokens are counts, money is US dollars. JSON is kept as text.
-- samples and prompts carry no index: the one writer knows which (prompt_key, index) are banked and never
-- writes one twice (an index on samples makes the file 2.3 times as large and inserts 1.4 times as slow).

CREATE TABLE schema_version (
    format VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    created_at DOUBLE NOT NULL
);
COMMENT ON COLUMN schema_version.format IS 'always sample-store: the mark of a file of this package';
COMMENT ON COLUMN schema_version.version IS 'schema version, see migrations.py';
COMMENT ON COLUMN schema_version.created_at IS 'Unix seconds, UTC';

CREATE TABLE models (
    key VARCHAR PRIMARY KEY,
    name VARCHAR NOT NULL,
    revision VARCHAR,
    active_params DOUBLE,
    context_length BIGINT,
    parent VARCHAR,
    usd_per_million_prompt_tokens DOUBLE,
    usd_per_million_generated_tokens DOUBLE
);
COMMENT ON TABLE models IS 'what a server answers as';
COMMENT ON COLUMN models.key IS 'name, or name@revision';
COMMENT ON COLUMN models.name IS 'name in requests to the server';
COMMENT ON COLUMN models.revision IS 'weights revision or adapter digest; NULL: not stated';
COMMENT ON COLUMN models.active_params IS 'active parameters, a count; NULL: not known';
COMMENT ON COLUMN models.context_length IS 'tokens of prompt and generation together; NULL: not known';
COMMENT ON COLUMN models.parent IS 'for an adapter: the base model; NULL: not an adapter';
COMMENT ON COLUMN models.usd_per_million_prompt_tokens IS 'US dollars per million tokens; NULL: no price';
COMMENT ON COLUMN models.usd_per_million_generated_tokens IS 'US dollars per million tokens; NULL: no price';

CREATE TABLE prompts (
    key VARCHAR NOT NULL,
    model_key VARCHAR NOT NULL,
    content VARCHAR NOT NULL,
    sampling VARCHAR NOT NULL,
    prompt_tokens BIGINT
);
COMMENT ON TABLE prompts IS 'an exact prompt, for one model and one set of sampling parameters';
COMMENT ON COLUMN prompts.key IS '128 bits in hex: SHA-256 of the canonical JSON of content, model_key and sampling';
COMMENT ON COLUMN prompts.model_key IS 'models.key';
COMMENT ON COLUMN prompts.content IS 'canonical JSON: {"messages": [...]} or {"prompt": "..."}';
COMMENT ON COLUMN prompts.sampling IS 'canonical JSON of the sampling parameters, without n';
COMMENT ON COLUMN prompts.prompt_tokens IS 'tokens, as the server counted them; NULL: not counted yet';

CREATE TABLE samples (
    prompt_key VARCHAR NOT NULL,
    "index" INTEGER NOT NULL,
    text VARCHAR NOT NULL,
    generated_tokens INTEGER NOT NULL,
    mean_logprob DOUBLE,
    finish_reason VARCHAR NOT NULL,
    run_id VARCHAR,
    request_id VARCHAR
);
COMMENT ON TABLE samples IS 'draws, each paid for once; (prompt_key, index) is unique';
COMMENT ON COLUMN samples.prompt_key IS 'prompts.key';
COMMENT ON COLUMN samples."index" IS '0-based: the how-manieth draw for this prompt';
COMMENT ON COLUMN samples.text IS 'what the model wrote, untouched';
COMMENT ON COLUMN samples.generated_tokens IS 'tokens';
COMMENT ON COLUMN samples.mean_logprob IS 'natural log, mean over the generated tokens; NULL: the server gave none';
COMMENT ON COLUMN samples.finish_reason IS 'as the server said: stop, length, ...';
COMMENT ON COLUMN samples.run_id IS 'runs.run_id that paid for it; NULL: imported';
COMMENT ON COLUMN samples.request_id IS 'one request draws several samples; NULL: not known';

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

CREATE TABLE runs (
    run_id VARCHAR PRIMARY KEY,
    spec VARCHAR NOT NULL,
    spec_digest VARCHAR NOT NULL,
    settings VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    started_at DOUBLE NOT NULL,
    finished_at DOUBLE,
    outcome VARCHAR
);
COMMENT ON TABLE runs IS 'searches';
COMMENT ON COLUMN runs.spec IS 'JSON of the whole pipeline spec';
COMMENT ON COLUMN runs.spec_digest IS 'hash of the spec';
COMMENT ON COLUMN runs.settings IS 'JSON: budget, seed, proposer, limits, ...';
COMMENT ON COLUMN runs.status IS 'running, complete, stopped or failed';
COMMENT ON COLUMN runs.started_at IS 'Unix seconds, UTC';
COMMENT ON COLUMN runs.finished_at IS 'Unix seconds, UTC; NULL: not finished';
COMMENT ON COLUMN runs.outcome IS 'JSON: the result and its certificate; NULL: none yet';

CREATE TABLE trials (
    trial_id VARCHAR PRIMARY KEY,
    run_id VARCHAR NOT NULL,
    number INTEGER NOT NULL,
    purpose VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    allocation VARCHAR NOT NULL,
    policy VARCHAR,
    proposer VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    score DOUBLE,
    n_scored INTEGER NOT NULL,
    n_missing INTEGER NOT NULL,
    budget_units DOUBLE NOT NULL,
    flops_per_query DOUBLE,
    prompt_tokens BIGINT NOT NULL,
    generated_tokens BIGINT NOT NULL,
    cost_usd DOUBLE,
    samples_drawn BIGINT NOT NULL,
    samples_reused BIGINT NOT NULL,
    calls BIGINT NOT NULL,
    error VARCHAR,
    started_at DOUBLE NOT NULL,
    finished_at DOUBLE
);
COMMENT ON TABLE trials IS 'an allocation run on a set of examples';
COMMENT ON COLUMN trials.number IS '0-based, in order of decision within the run';
COMMENT ON COLUMN trials.purpose IS 'search, baseline, confirm, policy or test';
COMMENT ON COLUMN trials.split IS 'search or test';
COMMENT ON COLUMN trials.allocation IS 'JSON: {stage: {model, n_samples}}; of a policy its first rung';
COMMENT ON COLUMN trials.policy IS 'JSON of the policy that was run; NULL: the allocation was';
COMMENT ON COLUMN trials.reason IS 'why the proposer wanted it';
COMMENT ON COLUMN trials.status IS 'running, complete, failed, partial: cut by a limit on the test split, or pruned: stopped early, clearly worse than the best';
COMMENT ON COLUMN trials.score IS 'mean over the scored examples, 0 to 1; NULL: none was scored';
COMMENT ON COLUMN trials.n_scored IS 'examples';
COMMENT ON COLUMN trials.n_missing IS 'examples without a score, for an error';
COMMENT ON COLUMN trials.budget_units IS 'planned cost per query in the budget''s measure: units of the reference, or US dollars';
COMMENT ON COLUMN trials.flops_per_query IS 'realised FLOPs, mean over the scored examples; NULL: none was scored, or parameters are not known';
COMMENT ON COLUMN trials.prompt_tokens IS 'realised tokens of what the allocation uses, banked or not';
COMMENT ON COLUMN trials.generated_tokens IS 'realised tokens of what the allocation uses, banked or not';
COMMENT ON COLUMN trials.cost_usd IS 'US dollars of what the allocation uses; NULL: a model has no price';
COMMENT ON COLUMN trials.samples_drawn IS 'samples that this trial paid for';
COMMENT ON COLUMN trials.samples_reused IS 'samples found in the bank';
COMMENT ON COLUMN trials.calls IS 'requests that this trial made';
COMMENT ON COLUMN trials.error IS 'why it failed; NULL: it did not';
COMMENT ON COLUMN trials.started_at IS 'Unix seconds, UTC';
COMMENT ON COLUMN trials.finished_at IS 'Unix seconds, UTC; NULL: not finished';

CREATE TABLE stage_results (
    trial_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    stage VARCHAR NOT NULL,
    model_key VARCHAR NOT NULL,
    n_samples INTEGER NOT NULL,
    prompt_key VARCHAR,
    output VARCHAR,
    score DOUBLE,
    status VARCHAR NOT NULL,
    reason VARCHAR,
    prompt_tokens BIGINT NOT NULL,
    generated_tokens BIGINT NOT NULL,
    flops DOUBLE,
    cost_usd DOUBLE,
    samples_drawn BIGINT NOT NULL,
    samples_reused BIGINT NOT NULL,
    PRIMARY KEY (trial_id, example_id, stage)
);
COMMENT ON TABLE stage_results IS 'what one stage made of one example in one trial';
COMMENT ON COLUMN stage_results.n_samples IS 'samples the allocation gives the stage';
COMMENT ON COLUMN stage_results.prompt_key IS 'prompts.key; NULL: no prompt was reached';
COMMENT ON COLUMN stage_results.output IS 'JSON of the aggregated value; NULL: none';
COMMENT ON COLUMN stage_results.score IS 'stage metric, 0 to 1; NULL: no metric or no label, or an error';
COMMENT ON COLUMN stage_results.status IS 'ok or error';
COMMENT ON COLUMN stage_results.reason IS 'why it is missing; of a good one what its prompt lacks; else NULL';
COMMENT ON COLUMN stage_results.prompt_tokens IS 'tokens, banked or not';
COMMENT ON COLUMN stage_results.generated_tokens IS 'tokens, banked or not';
COMMENT ON COLUMN stage_results.flops IS 'realised FLOPs, banked or not; NULL: the model''s parameters are not known';
COMMENT ON COLUMN stage_results.cost_usd IS 'US dollars, banked or not; NULL: the model has no price';
COMMENT ON COLUMN stage_results.samples_drawn IS 'samples paid for here';
COMMENT ON COLUMN stage_results.samples_reused IS 'samples found in the bank';

CREATE TABLE example_scores (
    trial_id VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    score DOUBLE,
    status VARCHAR NOT NULL,
    reason VARCHAR,
    PRIMARY KEY (trial_id, example_id)
);
COMMENT ON TABLE example_scores IS 'the pipeline metric of one example in one trial';
COMMENT ON COLUMN example_scores.score IS '0 to 1; NULL: missing, see status and reason';
COMMENT ON COLUMN example_scores.status IS 'ok or error';
COMMENT ON COLUMN example_scores.reason IS 'why it is missing; NULL: it is not';

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

CREATE TABLE proposals (
    run_id VARCHAR NOT NULL,
    step INTEGER NOT NULL,
    position INTEGER NOT NULL,
    allocation VARCHAR NOT NULL,
    proposer VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    problem VARCHAR,
    PRIMARY KEY (run_id, step, position)
);
COMMENT ON TABLE proposals IS 'what a proposer wanted at one step, why, and what became of it';
COMMENT ON COLUMN proposals.step IS '0-based';
COMMENT ON COLUMN proposals.position IS '0-based within the step';
COMMENT ON COLUMN proposals.allocation IS 'JSON: {stage: {model, n_samples}}';
COMMENT ON COLUMN proposals.status IS 'accepted, edited, refused or invalid';
COMMENT ON COLUMN proposals.problem IS 'why it was refused or invalid; NULL: it was not';

CREATE TABLE insights (
    run_id VARCHAR NOT NULL,
    step INTEGER NOT NULL,
    position INTEGER NOT NULL,
    proposer VARCHAR NOT NULL,
    text VARCHAR NOT NULL,
    trials INTEGER[] NOT NULL,
    verdict VARCHAR NOT NULL,
    PRIMARY KEY (run_id, step, position)
);
COMMENT ON TABLE insights IS 'what a search had learnt, in words';
COMMENT ON COLUMN insights.step IS '0-based';
COMMENT ON COLUMN insights.position IS '0-based within the step';
COMMENT ON COLUMN insights.trials IS 'trials.number of the trials cited';
COMMENT ON COLUMN insights.verdict IS 'supported, refuted or open, by a paired test of what it claims';

CREATE TABLE events (
    run_id VARCHAR NOT NULL,
    "at" DOUBLE NOT NULL,
    kind VARCHAR NOT NULL,
    detail VARCHAR NOT NULL
);
COMMENT ON TABLE events IS 'what happened, in order of insertion';
COMMENT ON COLUMN events."at" IS 'Unix seconds, UTC';
COMMENT ON COLUMN events.detail IS 'JSON';

CREATE TABLE tunings (
    model_key VARCHAR PRIMARY KEY,
    base VARCHAR NOT NULL,
    path VARCHAR NOT NULL,
    dataset_digest VARCHAR NOT NULL,
    tasks VARCHAR NOT NULL,
    settings VARCHAR NOT NULL,
    curve VARCHAR NOT NULL,
    metrics VARCHAR NOT NULL,
    seconds DOUBLE NOT NULL,
    peak_bytes BIGINT NOT NULL,
    created_at DOUBLE NOT NULL
);
COMMENT ON TABLE tunings IS 'how a tuned model came about';
COMMENT ON COLUMN tunings.model_key IS 'models.key of the tuned model, its digest included';
COMMENT ON COLUMN tunings.base IS 'directory or hub name of what was tuned';
COMMENT ON COLUMN tunings.path IS 'directory of the adapter or checkpoint';
COMMENT ON COLUMN tunings.dataset_digest IS 'SHA-256 in hex of the rows it was tuned on';
COMMENT ON COLUMN tunings.tasks IS 'JSON: names of the sub-tasks';
COMMENT ON COLUMN tunings.settings IS 'JSON of the configuration, seed included';
COMMENT ON COLUMN tunings.curve IS 'JSON: [{step, epoch, loss, eval_loss, score}], what was not measured left out';
COMMENT ON COLUMN tunings.metrics IS 'JSON: score by sub-task on the evaluation split, greedy, 0 to 1';
COMMENT ON COLUMN tunings.seconds IS 'seconds of training, evaluation included';
COMMENT ON COLUMN tunings.peak_bytes IS 'most resident memory of the process, bytes; GPU memory where there is one';
COMMENT ON COLUMN tunings.created_at IS 'Unix seconds, UTC';

CREATE TABLE preferences (
    key VARCHAR PRIMARY KEY,
    collection VARCHAR NOT NULL,
    first VARCHAR NOT NULL,
    second VARCHAR NOT NULL,
    label VARCHAR NOT NULL,
    preferred DOUBLE NOT NULL,
    source VARCHAR NOT NULL,
    judge VARCHAR NOT NULL,
    prompt VARCHAR,
    created_at DOUBLE NOT NULL
);
COMMENT ON TABLE preferences IS 'which of two texts of one label is more of it';
COMMENT ON COLUMN preferences.key IS '128 bits in hex: SHA-256 of collection, texts, label, source and judge';
COMMENT ON COLUMN preferences.preferred IS '1: the first, 0: the second, 0.5: neither';
COMMENT ON COLUMN preferences.source IS 'votes, llm or people';
COMMENT ON COLUMN preferences.judge IS 'the annotator or model';
COMMENT ON COLUMN preferences.prompt IS 'what an LLM was asked in the first order; NULL: nobody was';
COMMENT ON COLUMN preferences.created_at IS 'Unix seconds, UTC';

-- The two views are tables of the same name in a live snapshot, which has no prompts, samples and payments.
CREATE VIEW bank_summary AS
SELECT prompts.model_key,
       count(*) AS prompts,
       sum(drawn.samples)::BIGINT AS samples,
       coalesce(sum(prompts.prompt_tokens), 0)::BIGINT AS prompt_tokens,
       sum(drawn.generated_tokens)::BIGINT AS generated_tokens
FROM (SELECT prompt_key, count(*) AS samples, sum(generated_tokens) AS generated_tokens
      FROM samples GROUP BY prompt_key) AS drawn
JOIN prompts ON prompts.key = drawn.prompt_key
GROUP BY prompts.model_key;

CREATE VIEW run_costs AS
SELECT run_id,
       model_key,
       sum(calls)::BIGINT AS calls,
       sum(samples_drawn)::BIGINT AS samples_drawn,
       sum(prompt_tokens)::BIGINT AS prompt_tokens,
       sum(generated_tokens)::BIGINT AS generated_tokens
FROM payments GROUP BY run_id, model_key;
