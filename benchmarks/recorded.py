"""Recorded answers as a pipeline of one stage, its examples, and a bank of what the stage would draw."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from datastore import Store, bank
from pipelines.dataset.splits import load_examples
from pipelines.runtime.sampler import Sampler
from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.stages import prompts


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The recorded samples of one model for one example.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        samples: The text and the generated tokens of each sample.
    """

    prompt_tokens: int
    samples: Sequence[tuple[str, int]]


def write_examples(folder: Path, split: str, answers: Mapping[str, str]) -> None:
    """Write the examples of a split, by id; a question's id stands for its text."""
    rows = [{"id": name, "question": name, "answer": answer} for name, answer in answers.items()]
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_spec(
    folder: Path,
    name: str,
    *,
    models: Mapping[str, object],
    stage: Mapping[str, object],
    budget: Mapping[str, object],
) -> PipelineSpec:
    """Write the pipeline of a stage `solve` that asks the question, beside its examples.

    Args:
        folder: Where the examples are.
        name: The name of the pipeline and of its file.
        models: The models of the spec.
        stage: The further fields of the stage.
        budget: The budget of the spec.
    """
    data = {
        "name": name,
        "models": models,
        "stages": [{"name": "solve", "prompt": "{{ question }}", **stage}],
        "metric": {"kind": "exact_match", "label": "answer"},
        "dataset": {"search": "search.jsonl", "test": "test.jsonl", "id_field": "id"},
        "budget": budget,
    }
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(data))
    return load_spec(file)


def write_bank(file: Path, spec: PipelineSpec, draws: Callable[[str, str], Draws]) -> None:
    """Write a bank for exactly the prompts of a pipeline that `write_spec` has written.

    Args:
        file: The Parquet file; the database beside it holds nothing.
        spec: The pipeline.
        draws: Called with the key of a model and the id of an example.
    """
    (stage,) = spec.stages
    rows = []
    with Store.open(file.with_suffix(".duckdb")) as store:
        sampler = Sampler(spec, store, None, run_id=None, replay=True, gate=None)
        for example in (*load_examples(spec, "search"), *load_examples(spec, "test")):
            for option in stage.options:
                prompt = sampler.prompt(option.model, prompts.render(stage, example, {}), stage.sampling)
                drawn = draws(option.model, example.id)
                row = {
                    "prompt_key": prompt.key,
                    "model_key": prompt.model_key,
                    "model_name": spec.served_name(option.model),
                    "active_params": spec.models[option.model].active_params,
                    "content": prompt.content,
                    "sampling": prompt.sampling,
                    "prompt_tokens": drawn.prompt_tokens,
                    "samples": [
                        {"index": i, "text": text, "generated_tokens": tokens, "finish_reason": "stop"}
                        for i, (text, tokens) in enumerate(drawn.samples)
                    ],
                }
                rows.append(row)
    bank.write_parquet(file, iter(pa.Table.from_pylist(rows, bank.SCHEMA).to_batches()))
