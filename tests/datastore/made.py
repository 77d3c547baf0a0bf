"""Records to put into stores under test."""

from __future__ import annotations

import hashlib
from pathlib import Path

from datastore import (
    ExampleScore,
    Insight,
    ModelRecord,
    Payment,
    Preference,
    Prompt,
    Proposal,
    Run,
    Sample,
    StageResult,
    Trial,
    Tuning,
)
from datastore import make_prompt as canonical_prompt


def prompt(number: int = 0, *, model_key: str = "small", prompt_tokens: int | None = 10) -> Prompt:
    content = {"messages": [{"role": "user", "content": f"question {number}"}]}
    return canonical_prompt(model_key, content, {"temperature": 1.0, "max_tokens": 8}, prompt_tokens)


def sample(of: Prompt, index: int, text: str = "answer", *, run_id: str | None = "run-1") -> Sample:
    return Sample(
        prompt_key=of.key,
        index=index,
        text=text,
        generated_tokens=3,
        mean_logprob=-0.5,
        finish_reason="stop",
        run_id=run_id,
        request_id=None if run_id is None else f"{run_id}-{of.key}",
    )


def model(key: str = "small") -> ModelRecord:
    return ModelRecord(
        key=key,
        name=key,
        revision=None,
        active_params=3e9,
        context_length=4096,
        parent=None,
        usd_per_million_prompt_tokens=0.1,
        usd_per_million_generated_tokens=None,
    )


def run(run_id: str = "run-1", *, started_at: float = 100.0) -> Run:
    return Run(
        run_id=run_id,
        spec="{}",
        spec_digest="d",
        settings="{}",
        status="running",
        started_at=started_at,
        finished_at=None,
        outcome=None,
    )


def payment(
    of: Prompt | None = None, *, run_id: str = "run-1", calls: int = 1, samples_drawn: int = 1
) -> Payment:
    """Each call reads 10 tokens, each sample has 3."""
    return Payment(
        run_id=run_id,
        model_key="small" if of is None else of.model_key,
        prompt_key=None if of is None else of.key,
        calls=calls,
        samples_drawn=samples_drawn,
        prompt_tokens=10 * calls,
        generated_tokens=3 * samples_drawn,
    )


def trial(number: int = 0, *, run_id: str = "run-1", score: float | None = None) -> Trial:
    return Trial(
        trial_id=f"{run_id}-{number:04d}",
        run_id=run_id,
        number=number,
        purpose="search",
        split="search",
        allocation='{"answer":{"model":"small","n_samples":4}}',
        proposer="insights",
        reason="to see",
        status="running" if score is None else "complete",
        score=score,
        n_scored=0 if score is None else 2,
        n_missing=0,
        budget_units=12.5,
        flops_per_query=None,
        prompt_tokens=0,
        generated_tokens=0,
        cost_usd=None,
        samples_drawn=0,
        samples_reused=0,
        calls=0,
        error=None,
        started_at=101.0,
        finished_at=None,
    )


def stage_result(example_id: str, *, stage: str = "answer", output: str | None = '"yes"') -> StageResult:
    return StageResult(
        trial_id="run-1-0000",
        example_id=example_id,
        stage=stage,
        model_key="small",
        n_samples=4,
        prompt_key=None,
        output=output,
        score=1.0,
        status="ok",
        reason=None,
        prompt_tokens=10,
        generated_tokens=12,
        flops=1e9,
        cost_usd=None,
        samples_drawn=4,
        samples_reused=0,
    )


def score(example_id: str, value: float | None) -> ExampleScore:
    status, reason = ("ok", None) if value is not None else ("error", "the server died")
    return ExampleScore(
        trial_id="run-1-0000",
        example_id=example_id,
        score=value,
        status="ok" if status == "ok" else "error",
        reason=reason,
    )


def proposal(step: int, position: int = 0, *, reason: str = "more samples") -> Proposal:
    return Proposal(
        run_id="run-1",
        step=step,
        position=position,
        allocation="{}",
        proposer="insights",
        reason=reason,
        status="accepted",
        problem=None,
    )


def insight(step: int, position: int = 0, *, trials: tuple[int, ...] = (0, 2)) -> Insight:
    return Insight(
        run_id="run-1",
        step=step,
        position=position,
        proposer="insights",
        text="small is enough",
        trials=trials,
        verdict="open",
    )


def digest(path: Path) -> str:
    """The hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tuning() -> Tuning:
    return Tuning(
        model_key="small-tuned@abc",
        base="models/small",
        path="/adapters/small",
        dataset_digest="d" * 64,
        tasks='["retrieve"]',
        settings='{"seed": 0}',
        curve="[]",
        metrics='{"retrieve": 0.5}',
        seconds=12.5,
        peak_bytes=2**30,
        created_at=1.0,
    )


def preference(preferred: float) -> Preference:
    return Preference(
        key="k",
        collection="mine",
        first="a",
        second="b",
        label="polite",
        preferred=preferred,
        source="people",
        judge="ada",
        prompt=None,
        created_at=1.0,
    )
