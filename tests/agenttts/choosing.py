"""A pipeline on disk whose stages choose from all there is: a retriever's function, variants, prompts.

`find` is a function with three options; `answer` has a model with two variants and two prompts. The scripted
answer is right where the passage about the question's ball was found.
"""

from __future__ import annotations

import json
import random
import re
import sys
from itertools import count
from pathlib import Path

from agenttts.proposers.base import SearchView
from agenttts.settings import SearchSettings
from agenttts.space.space import SearchSpace
from tests.servers import Request, ScriptedServer

_NUMBERS = count()
FUNCTION = """\
from pathlib import Path

CALLS = Path(__file__).with_name("calls.txt")

def find(question: str, passages: list[str], method: str, top_k: int = 2):
    with CALLS.open("a") as file:
        file.write(f"{method} {top_k} {question}\\n")
    words = set(question.lower().split())
    if method == "overlap":
        ranked = sorted(passages, key=lambda passage: -len(words & set(passage.lower().split())))
    else:
        ranked = sorted(passages)
    return ranked[:top_k]
"""
SPEC = """\
name: choosing
models:
  q:
    served_name: small
    base_url: {url}
    active_params: 4e9
    variants:
      think: {{request: {{reasoning_effort: high}}}}
      fast: {{sampling: {{max_tokens: 16}}}}
stages:
  - name: find
    python: "{module}:find"
    options:
      overlap-1: {{method: overlap, top_k: 1}}
      overlap-2: {{method: overlap}}
      alphabet: {{method: alphabet}}
    cost: {{flops: 1e9}}
  - name: answer
    prompt: "{{{{ find | join('\\n') }}}}\\n{{{{ question }}}}"
    prompts: {{steps: steps.j2}}
    models: [q]
    max_samples: 4
    sampling: {{temperature: 0.8, max_tokens: 64}}
    prompt_tokens: 50
    generated_tokens: 10
    lengths: {{q/think: {{generated_tokens: 40}}, "q/fast:steps": {{generated_tokens: 12}}}}
metric: {{kind: exact_match, label: answer}}
dataset: {{search: search.jsonl, test: test.jsonl}}
budget: {{units: 60}}
"""


def write_choosing(
    folder: Path, url: str = "http://127.0.0.1:9/v1", *, function: str = FUNCTION, n_examples: int = 12
) -> Path:
    """Write spec, function, prompt and the examples of each split; the spec's path."""
    folder.mkdir(parents=True, exist_ok=True)
    module = f"retriever_{next(_NUMBERS)}"
    (folder / f"{module}.py").write_text(function)
    (folder / "steps.j2").write_text("Think.\n{% for p in find %}{{ p }}\n{% endfor %}{{ question }}\n")
    rng = random.Random(0)
    for split in ("search", "test"):
        rows = []
        for i in range(n_examples):
            colour = rng.choice(["red", "blue"])
            passages = [f"The {split} ball {i} is {colour}.", "Balls roll far.", "A dog."]
            question = f"What colour is the {split} ball {i}?"
            rows.append({"question": question, "passages": passages, "answer": colour})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = folder / "pipeline.yaml"
    spec.write_text(SPEC.format(url=url, module=module))
    return spec


def answer(request: Request, index: int) -> str:
    """Right in most samples where the passage is there, else another word."""
    passage = re.search(r"ball (\d+) is (red|blue)", request.prompt)
    question = re.search(r"ball (\d+)\?", request.prompt)
    if passage and question and passage[1] == question[1]:
        effort = request.body.get("reasoning_effort")
        if random.Random(f"{request.prompt}{effort}{index}").random() < 0.8:
            return passage[2]
    return "green"


def choosing_server() -> ScriptedServer:
    """A server of the model `small` that answers as above."""
    return ScriptedServer({"small": 4096}, answer=answer)


def calls_of(spec: Path) -> list[str]:
    """The calls of the function so far, one line each."""
    file = spec.with_name("calls.txt")
    return file.read_text().splitlines() if file.exists() else []


def view_of(space: SearchSpace) -> SearchView:
    """What an LLM that proposes sees of a space before any trial."""
    return SearchView(
        settings=SearchSettings(budget_units=space.budget_units, proposer="agent"),
        space=space,
        trials=(),
        insights=(),
        cells_left=50,
        n_examples=10,
        task="t",
        step=1,
    )


def forget(spec: Path) -> None:
    """Forget the function's module, as a new process would."""
    for file in spec.parent.glob("retriever_*.py"):
        sys.modules.pop(file.stem, None)
