"""The published families on real rows, live: small models score near zero; every stage does its work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agenttts import search
from datastore import Store
from pipelines import BudgetSpec, ReferenceSpec, SamplingSpec, TruncateSpec, load_spec
from pipelines.dataset.splits import with_data
from pipelines.software.confinement import SandboxUnavailable, confinement
from pipelines.spec.pipeline import PipelineSpec
from tests.real_data import need

PIPELINES = Path(__file__).parents[2] / "pipelines"
FAMILIES = {
    "retrieve_answer/2wikimultihopqa": (
        "retrieve_answer/2wikimultihopqa_100.json",
        ("candidates", "retrieve"),
    ),
    "knowledge_graph/cwq": ("kgqa/cwq_triples_100.json", ("candidates", "retrieve")),
    "tool_use/ultratool": ("tools/ultratool_data.json", ("request", "tools", "decompose")),
    "software/humaneval": ("code/HumanEval.jsonl.gz", ("task", "draft", "feedback", "shown")),
}
CHARS = 220
# A prompt with a task, a program and what became of it: code takes up to a token a character, of 512.
CODE_CHARS = 90


def small(spec: PipelineSpec, live: PipelineSpec, fields: tuple[str, ...], chars: int) -> PipelineSpec:
    """The family with two tiny models of a short context: long values are cut, a few samples drawn."""
    stages = []
    for stage in spec.stages:
        asked = "question" if "question" in (stage.prompt or "") else None
        used = [name for name in (*fields, asked) if name and name in (stage.prompt or "")]
        changes: dict[str, Any] = {
            "models": ("small", "medium"),
            "max_samples": 3,
            "sampling": SamplingSpec(temperature=1.0, max_tokens=24),
            "prompt_tokens": 200,
            "generated_tokens": 12,
            "truncate": tuple(TruncateSpec(field=name, chars=chars, item_chars=60) for name in used),
        }
        stages.append(stage.model_copy(update=changes))
    reference = ReferenceSpec(active_params=1e5, prompt_tokens=200, generated_tokens=12)
    models = {name: live.models[name] for name in ("small", "medium")}
    changed = {
        "models": models,
        "stages": tuple(stages),
        "budget": BudgetSpec(units=400, reference=reference),
    }
    return spec.model_copy(update=changed)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_run_live_on_real_rows(name: str, live_spec: PipelineSpec, tmp_path: Path) -> None:
    """20 rows are rendered, cut as planned, drawn, parsed, voted on, scored, banked, and replayed."""
    file, fields = FAMILIES[name]
    if name.startswith("software"):
        try:
            confinement()
        except SandboxUnavailable as error:
            pytest.skip(str(error))
    family = load_spec(PIPELINES / f"{name}.yaml")
    chars = CODE_CHARS if name.startswith("software") else CHARS
    spec = small(with_data(family, need(file), 12, 8), live_spec, fields, chars)
    db = tmp_path / "family.duckdb"
    found = search(spec, trials=6, proposer="random", db=db)
    assert found.best is not None and len(found.trials) == 6
    with Store.read(db) as store:
        missing = store.sql("SELECT DISTINCT stage, reason FROM stage_results WHERE status <> 'ok'")
    assert missing.empty, missing.to_dict("records")
    assert {t.status for t in found.trials} == {"complete"} and {t.n_missing for t in found.trials} == {0}
    assert found.cost.samples_drawn > 0
    if family.metrics:
        assert set(found.best.test_metrics) == set(family.metrics)
    with Store.read(db) as store:
        results = store.sql("SELECT stage, reason FROM stage_results WHERE status = 'ok'")
        cut = [reason for reason in results["reason"] if reason and reason.startswith("truncated: ")]
        assert cut and set(results["stage"]) == {stage.name for stage in spec.stages}
    again = search(spec, trials=6, proposer="random", db=db, replay=True)
    assert [t.scores for t in again.trials] == [t.scores for t in found.trials]
    assert again.cost.samples_drawn == 0
