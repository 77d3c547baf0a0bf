"""Sequential refinement: n samples are n rounds, each reading the draft before; nested, paid for as read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agenttts import search
from agenttts.space.units import flops, planned_stage_flops
from datastore import Store
from pipelines import Allocation, Example, SpecError, StageChoice
from pipelines.dataset import load_examples
from pipelines.runtime import Runtime
from pipelines.runtime.recording import record_full_bank
from pipelines.servers.billing import Bill
from pipelines.servers.grace import Grace
from pipelines.servers.streamed import TextStream
from pipelines.servers.wire import Draw, DrawnSample, Negotiated
from pipelines.spec import PipelineSpec, SamplingSpec
from pipelines.spec.variants import Plurality
from tests.agenttts.small_specs import small_spec


def short(draft: Any, example: Example) -> str | None:
    return None if len(str(draft)) >= 4 else f"only {len(str(draft))}"


def failing(draft: Any, example: Example) -> str | None:
    raise RuntimeError("never")


def refining(feedback: Any = None, **answer: Any) -> PipelineSpec:
    """The second stage lengthens what the first wrote, a letter a round."""
    aggregator: dict[str, Any] = {"kind": "refine", "start": "retrieve", "feedback": feedback, **answer}
    stages: list[dict[str, Any]] = [
        {},
        {"prompt": "lengthen [{{ draft }}] {{ feedback }}", "aggregator": aggregator},
    ]
    return small_spec(stages=stages)


class Lengthening:
    """Draws as a client would: x for a question, and one letter more than it is given."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.grace = Grace(0.0, lambda line: None)

    async def draw(
        self,
        model: str,
        content: Mapping[str, Any],
        sampling: SamplingSpec,
        n: int,
        *,
        first: int = 0,
        bill: Bill,
        stream: TextStream | None = None,
    ) -> Draw:
        prompt = str(content["messages"][0]["content"])
        self.asked.append(prompt)
        text = "x" if "[" not in prompt else prompt.partition("[")[2].partition("]")[0] + "x"
        drawn = DrawnSample(text=text, generated_tokens=len(text), mean_logprob=-0.5, finish_reason="stop")
        draw = Draw(samples=(drawn,) * n, prompt_tokens=len(prompt), request_id=None)
        draw.billed_to(bill)
        return draw

    def tell(self, negotiated: Negotiated) -> None:
        """What real clients tell of a server."""


async def outcome(spec: PipelineSpec, store: Store, n: int, clients: Any) -> Any:
    runtime = Runtime(spec, store, clients, run_id=None)
    allocation = Allocation({"retrieve": StageChoice("small", 1), "answer": StageChoice("small", n)})
    made = await runtime.run_example(allocation, Example("e", {"question": "q", "gold": "xxxx"}))
    return made.stages[1], made.output


async def test_rounds_read_the_draft_before_and_are_paid_for_once(tmp_path: Path) -> None:
    """Five rounds after three draw two; every round's prompt is read and paid for."""
    spec = refining()
    with Store.open(tmp_path / "r.duckdb") as store:
        three, output = await outcome(spec, store, 3, Lengthening())
        assert output == "xxxx" and (three.samples_drawn, three.samples_reused) == (3, 0)
        five, output = await outcome(spec, store, 5, Lengthening())
        assert output == "xxxxxx" and (five.samples_drawn, five.samples_reused) == (2, 3)
        assert five.prompt_tokens > three.prompt_tokens > 3
        assert five.flops == 2 * 1e6 * (five.prompt_tokens + five.generated_tokens)


async def test_feedback_is_in_the_prompt_and_ends_the_rounds(tmp_path: Path) -> None:
    """No round is drawn when nothing is left to mend; a fault of the function makes the example missing."""
    with Store.open(tmp_path / "r.duckdb") as store:
        clients = Lengthening()
        made, output = await outcome(refining(short), store, 8, clients)
        assert output == "xxxx" and made.samples_drawn == 3
        assert [p for p in clients.asked if "[xx]" in p] == ["lengthen [xx] only 2"]
        broken, _ = await outcome(refining(failing), store, 8, clients)
        assert broken.status == "error" and "feedback" in broken.reason and "RuntimeError" in broken.reason


def test_the_budget_reads_every_round() -> None:
    """n rounds cost n prompts and n generations; other aggregators one prompt."""
    spec = refining()
    stage, choice = spec.stage("answer"), StageChoice("small", 4)
    assert planned_stage_flops(spec, stage, choice) == 4 * flops(1e6, 16, 8, 1)
    voted = stage.model_copy(update={"aggregator": Plurality()})
    assert planned_stage_flops(spec, voted, choice) == flops(1e6, 16, 8, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": None}, r"start\n.*valid string"),
        ({"start": "nowhere"}, "must be one of the stage's inputs, 'retrieve', got 'nowhere'"),
        ({"kind": "plurality"}, r"start\n.*not permitted"),
    ],
)
def test_what_is_revised_must_be_an_input(change: dict[str, Any], said: str) -> None:
    """start names the stage; it belongs to refinement alone."""
    with pytest.raises((SpecError, ValidationError), match=said):
        refining(**change)


def test_a_search_over_rounds_replays(tmp_path: Path) -> None:
    """A recorded pipeline with refinement is searched without a call, and decides the same twice."""
    for split, count in (("search", 20), ("test", 10)):
        rows = [{"question": f"{split} {i}", "gold": "x" * (2 + i % 4)} for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = refining(short).model_copy(update={"root": tmp_path})
    with Store.open(tmp_path / "bank.duckdb") as store:
        runtime = Runtime(spec, store, Lengthening(), run_id=None)  # type: ignore[arg-type]
        for split in ("search", "test"):
            asyncio.run(record_full_bank(runtime, load_examples(spec, split)))  # type: ignore[arg-type]
        store.export_bank(tmp_path / "bank.parquet")
    runs = [
        search(spec, trials=8, db=tmp_path / f"{i}.duckdb", replay=True, banks=[tmp_path / "bank.parquet"])
        for i in range(2)
    ]
    assert [t.allocation for t in runs[0].trials] == [t.allocation for t in runs[1].trials]
    assert runs[0].cost.calls == 0 and runs[0].best is not None
