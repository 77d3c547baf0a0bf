"""The zoo's kept-out domain as a task: rows, a dataset, and configurations to tune on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agenttts.tasktune.data.build import DataConfig, run_build
from agenttts.tasktune.data.dataset import TaskData
from agenttts.tasktune.fit import FitConfig
from pipelines.zoo import SPEC
from pipelines.zoo.training.rows import read_rows

ZOO = SPEC.parent
SUBTASKS = """\
domain: museum
subtasks:
  - name: read_off
    instruction: Name who or what the question asks for.
    inputs: {question: text, sentences: list}
    prompt: |
      Question: {{ question }}
      Sentences:
      {%- for sentence in sentences %}
       {{ sentence }}
      {%- endfor %}
      Answer:
    metric: exact_match
    max_tokens: 8
"""


def museum_config(folder: Path, n_train: int, n_test: int = 50) -> DataConfig:
    """Files in the folder, and what to build of them. Names start with a space: so each is one token."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "subtasks.yaml").write_text(SUBTASKS)
    for name, count in (("heldout_train", n_train), ("heldout_eval", n_test)):
        rows = [
            {
                "question": row.question,
                "sentences": [s for s in row.candidates if s in row.evidence],
                "output": " " + row.answer,
            }
            for row in read_rows(ZOO / f"data/{name}.jsonl")[:count]
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig.model_validate(
        {
            "out": "museum",
            "subtasks": "subtasks.yaml",
            "near_duplicates": None,
            "sources": [{"kind": "file", "task": "read_off", "path": "heldout_train.jsonl", "strip": False}],
            "test": [{"task": "read_off", "path": "heldout_eval.jsonl", "strip": False}],
        }
    )


def museum(folder: Path, n_train: int, n_test: int = 50) -> TaskData:
    """The dataset `museum` in the folder."""
    return run_build(museum_config(folder, n_train, n_test), folder, llm=None)


def fit_config(**changes: Any) -> FitConfig:
    """The small model on the museum."""
    return FitConfig.model_validate(
        {
            "base": str(ZOO / "models/small"),
            "data": "museum",
            "out": "adapter",
            "learning_rate": 5e-3,
            "epochs": 2,
            **changes,
        }
    )
