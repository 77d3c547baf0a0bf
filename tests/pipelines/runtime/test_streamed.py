"""The text of a last stage of one sample is passed on while it is drawn, and the same sample is banked."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from datastore import Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.examples import Example
from pipelines.reading.noanswer import NoAnswer
from pipelines.reading.thinking import strip_thinking
from pipelines.runtime.outcomes import ExampleOutcome
from pipelines.runtime.runtime import Runtime
from pipelines.servers.clients import ModelClients
from pipelines.servers.patience import Patience
from pipelines.servers.streamed import TextStream
from pipelines.spec import PipelineSpec
from pipelines.stages import growing as growing_module
from pipelines.stages.growing import GrowingOutput, is_streamable
from tests.servers import ScriptedServer

SENTENCE = "one two three four five six seven eight nine ten eleven twelve thirteen"


def spec_of(server: ScriptedServer) -> PipelineSpec:
    return PipelineSpec.model_validate(
        {
            "name": "streamed",
            "models": {"small": {"base_url": server.base_url, "active_params": 1e6}},
            "stages": [
                {
                    "name": name,
                    "prompt": f"{name} {{{{ question }}}}",
                    "models": ["small"],
                    "max_samples": 4,
                    "prompt_tokens": 8,
                    "generated_tokens": 8,
                    "sampling": {"max_tokens": 64},
                }
                for name in ("find", "answer")
            ],
            "metric": {"kind": "exact_match", "label": "gold"},
            "dataset": {"search": "s.jsonl", "test": "t.jsonl"},
            "budget": {"units": 50},
        }
    )


async def answered(
    server: ScriptedServer, store: Store, pieces: list[str], n_samples: int = 1
) -> ExampleOutcome:
    spec = spec_of(server)
    clients = ModelClients(
        spec, rng=random.Random(0), patience=Patience(retry_s=0.0), holds=False, backoff_s=0.01
    )
    allocation = Allocation({"find": StageChoice("small", 1), "answer": StageChoice("small", n_samples)})
    runtime = Runtime(spec, store, clients, run_id=None)
    try:
        example = Example("1", {"question": "what"})
        return await runtime.run_example(
            allocation, example, with_score=False, stream=TextStream(pieces.append)
        )
    finally:
        await clients.aclose()


async def test_the_pieces_are_the_sample_and_it_is_banked_once(
    make_server: Callable[..., ScriptedServer], tmp_path: Path
) -> None:
    """Only the last stage is streamed; what is banked has tokens, log-probabilities and the whole text."""
    server = make_server(answer=lambda request, index: SENTENCE)
    pieces: list[str] = []
    with Store.open(tmp_path / "s.duckdb") as store:
        outcome = await answered(server, store, pieces)
        assert outcome.output == SENTENCE and "".join(pieces) == SENTENCE and len(pieces) == 13
        assert [bool(r.body.get("stream")) for r in server.arrived] == [False, True]
        key = outcome.stages[1].prompt_key
        assert key is not None
        (sample,) = (await store.get_samples([key]))[key]
        assert (sample.text, sample.generated_tokens, sample.finish_reason) == (SENTENCE, 14, "stop")
        assert sample.mean_logprob is not None
        again: list[str] = []
        assert (await answered(server, store, again)).output == SENTENCE
        assert again == [] and len(server.arrived) == 2


async def test_several_samples_are_not_streamed(server: ScriptedServer, tmp_path: Path) -> None:
    """Their vote is known at the end only."""
    pieces: list[str] = []
    with Store.open(tmp_path / "s.duckdb") as store:
        outcome = await answered(server, store, pieces, n_samples=3)
    assert outcome.status == "ok" and pieces == []
    stage = spec_of(server).stages[1]
    assert is_streamable(stage, StageChoice("small", 1)) and not is_streamable(stage, StageChoice("small", 2))


@pytest.mark.parametrize(
    ("fault", "code"), [("truncated", 0), ("error_event", 500), ("error_event", 400), ("no_reason", 0)]
)
async def test_an_answer_that_breaks_off_is_not_drawn_anew(
    make_server: Callable[..., ScriptedServer], tmp_path: Path, fault: str, code: int
) -> None:
    """Another try would give another text, and the part that came is no sample: nothing of it is banked."""
    server = make_server(answer=lambda request, index: SENTENCE)
    server.event_code = code
    server.fault = lambda request: fault if request.body.get("stream") else None
    pieces: list[str] = []
    with Store.open(tmp_path / "s.duckdb") as store:
        outcome = await answered(server, store, pieces)
        assert outcome.status == "error" and "in the middle of its text" in (outcome.reason or "")
        assert pieces and len(server.arrived) == 2
        server.fault = None
        assert (await answered(server, store, [])).output == SENTENCE


async def test_a_server_that_refuses_to_stream_answers_whole(
    make_server: Callable[..., ScriptedServer], tmp_path: Path
) -> None:
    """The field is left out, whatever the refusal says."""
    server = make_server(refuses=["stream_options"], answer=lambda request, index: SENTENCE)
    pieces: list[str] = []
    with Store.open(tmp_path / "s.duckdb") as store:
        assert (await answered(server, store, pieces)).output == SENTENCE
    assert pieces == []


@pytest.mark.parametrize(
    "text",
    [
        f"  {SENTENCE}\n\n",
        f"<think>{SENTENCE}</think>\n{SENTENCE}",
        f"{SENTENCE} <think>{SENTENCE}</think> end",
        f"{SENTENCE} a < b and [c] {SENTENCE}",
        f"<|channel|>analysis<|message|>{SENTENCE}<|end|><|start|>assistant<|channel|>final<|message|>ok",
        f"<analysis>{SENTENCE}</analysis>\n{SENTENCE}",
        f"<think>{SENTENCE}</think><Reflection>{SENTENCE}</Reflection>\n{SENTENCE}",
        f"<think>{SENTENCE}</think>\n<answer>{SENTENCE}</answer>",
        f"analysis I see. {SENTENCE}assistantfinal {SENTENCE}",
        "short",
    ],
)
def test_what_grows_is_never_taken_back(text: str) -> None:
    """White space at the ends and thinking stay out, wherever the pieces are cut; the rest comes last."""
    answer = strip_thinking(text)
    assert isinstance(answer, str)
    for size in (1, 3, 7):
        growing = GrowingOutput()
        pieces = [growing.add(text[at : at + size]) for at in range(0, len(text), size)]
        rest = growing.rest(answer.strip())
        assert rest is not None and "".join(pieces) + rest == answer.strip()
    assert GrowingOutput().rest(None) == ""


def test_a_long_text_is_read_seldom_and_comes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that 20,000 pieces of one answer do not keep a service from its other requests."""
    read = list[int]()

    def counted(text: str) -> str | NoAnswer:
        read.append(len(text))
        return strip_thinking(text)

    monkeypatch.setattr(growing_module, "strip_thinking", counted)
    growing = GrowingOutput()
    n_given = sum(len(growing.add("word ")) for _ in range(20_000))
    assert n_given > 80_000 and sum(read) < 12 * 100_000
    assert growing.rest(("word " * 20_000).strip()) is not None
