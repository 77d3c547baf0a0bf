"""A search from a plain spec at a hosted server: one sample a request, few fields, a limit, thinking."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from agenttts import search
from agenttts.result import SearchResult
from tests.servers import Request
from tests.servers.hosted import Counts, HostedServer, reading_answer

SPEC = """\
name: support
models:
  thinker:
    served_name: thinker-1
    base_url: {base_url}
    api_key_env: HOSTED_KEY
    active_params: 8e9
    price: {{prompt_usd_per_million: 0.25, generated_usd_per_million: 2.0}}
stages:
  - name: retrieve
    prompt: |
      Copy the passages needed to answer the question, one per line.
      Question: {{{{ question }}}}
      {{% for passage in passages %}}{{{{ passage }}}}
      {{% endfor %}}
    parser: {{kind: lines, allowed: passages}}
    aggregator: {{kind: set_vote, threshold: 0.5}}
    models: [thinker]
    max_samples: 8
    sampling: {{temperature: 0.8, max_tokens: 256}}
    prompt_tokens: 64
    generated_tokens: 32
  - name: answer
    prompt: "{{{{ retrieve | join('\\n') }}}}\\nQuestion: {{{{ question }}}}\\nShort answer:"
    models: [thinker]
    max_samples: 8
    sampling: {{temperature: 0.8, max_tokens: 64}}
    prompt_tokens: 64
    generated_tokens: 32
metric: {{kind: token_f1, label: answer}}
dataset: {{search: search.jsonl, test: test.jsonl}}
budget: {{units: 30}}
"""


def often_right() -> Callable[[Request], str]:
    """Answers right two times in three."""
    n_asked = itertools.count()

    def answer(request: Request) -> str:
        return reading_answer(request) if next(n_asked) % 3 else "grey"

    return answer


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SearchResult, Counts, HostedServer]]:
    """A short search; 60 requests a second take the place of 60 a minute."""
    folder = tmp_path_factory.mktemp("hosted")
    for split, count in (("search", 12), ("test", 8)):
        rows = [
            {
                "question": f"What colour is the {split} ball {i}?",
                "passages": [f"The {split} ball {i} is {'red' if i % 2 else 'blue'}.", "Balls roll."],
                "answer": "red" if i % 2 else "blue",
            }
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with HostedServer(often_right(), most_in=(60, 1.0)) as server:
        (folder / "pipeline.yaml").write_text(SPEC.format(base_url=server.base_url))
        result = search(
            folder / "pipeline.yaml",
            trials=3,
            db=folder / "run.duckdb",
            environ={"HOSTED_KEY": "sk-hosted"},
        )
        yield result, replace(server.counts), server


def test_a_plain_spec_runs_and_nothing_is_missing(
    searched: tuple[SearchResult, Counts, HostedServer],
) -> None:
    """What is refused is negotiated once, limits are waited out, and the answer after the thinking counts."""
    result, counts, server = searched
    assert result.status == "complete" and result.trials
    assert all(trial.status != "failed" and trial.n_missing == 0 for trial in result.trials)
    assert "complete" in {trial.status for trial in result.trials}
    assert result.best is not None and (result.best.test_score or 0) > 0.3
    assert counts.limited > 0 and counts.refused < 12
    body = server.arrived[-1].body
    assert "max_completion_tokens" in body and not {"temperature", "logprobs", "max_tokens"} & set(body)


def test_the_bill_is_the_servers(searched: tuple[SearchResult, Counts, HostedServer]) -> None:
    """Calls, tokens, thinking included, and money are what the server counted, to one per cent."""
    cost, counts = searched[0].cost, searched[1]
    assert cost.calls == pytest.approx(counts.answered, rel=0.01)
    assert cost.prompt_tokens == pytest.approx(counts.prompt_tokens, rel=0.01)
    assert cost.generated_tokens == pytest.approx(counts.generated_tokens, rel=0.01)
    assert cost.usd == pytest.approx(counts.usd, rel=0.01)
