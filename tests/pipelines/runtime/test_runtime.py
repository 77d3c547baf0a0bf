"""Running a pipeline: nested samples paid for once, every aggregator, faults that become missing values."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from datastore import Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.errors import ConfigurationError, ReplayMiss
from pipelines.examples import Example
from pipelines.runtime.outcomes import ExampleOutcome
from pipelines.runtime.runtime import Runtime
from pipelines.servers.clients import ModelClients
from pipelines.spec.pipeline import PipelineSpec
from tests.agenttts.small_specs import small_spec
from tests.servers import ScriptedServer

EXAMPLE = Example(id="e", fields={"question": "why", "gold": "red"})


@pytest.fixture
def run(runtime_of: Callable[[PipelineSpec, bool], Runtime]) -> Callable[..., Awaitable[Any]]:
    """`await run(spec, n_retrieve, n_answer)` on the small model; each call is a runtime of its own."""

    async def start(
        spec: PipelineSpec, n_retrieve: int = 1, n_answer: int = 1, replay: bool = False
    ) -> ExampleOutcome:
        chosen = {"retrieve": StageChoice("small", n_retrieve), "answer": StageChoice("small", n_answer)}
        return await runtime_of(spec, replay).run_example(Allocation(chosen), EXAMPLE)

    return start


SMALL = {"models": ["small"]}
VERIFIED = {**SMALL, "aggregator": {"kind": "verifier", "model": "large"}}


def spec_of(server: ScriptedServer, **changes: Any) -> PipelineSpec:
    return small_spec(base_url=server.base_url, **changes)


async def test_samples_are_nested_and_missing_indices_are_one_request(
    server: ScriptedServer, run: Callable[..., Any]
) -> None:
    """After 2 samples, asking for 5 draws 3 in one request; asking for 4 draws none."""
    server.answer = lambda request, index: "red"
    spec = spec_of(server)
    await run(spec, 2)
    first = [request.n for request in server.arrived]
    outcome = await run(spec, 5)
    assert first == [2, 1] and [request.n for request in server.arrived[2:]] == [3]
    retrieve = outcome.stages[0]
    assert (retrieve.samples_drawn, retrieve.samples_reused, retrieve.calls) == (3, 2, 1)
    await run(spec, 4)
    assert len(server.arrived) == 3


async def test_two_draws_of_one_prompt_are_two_samples(
    server: ScriptedServer, store: Store, run: Callable[..., Any]
) -> None:
    """At temperature above 0 the samples differ and are kept under their indices."""
    server.answer = lambda request, index: f"colour{index}"
    outcome = await run(spec_of(server), 3)
    found = (await store.get_samples([outcome.stages[0].prompt_key]))[outcome.stages[0].prompt_key]
    assert [(sample.index, sample.text) for sample in found] == [(i, f"colour{i}") for i in range(3)]


async def test_a_model_that_takes_few_at_once_gets_several_requests(
    server: ScriptedServer, run: Callable[..., Any]
) -> None:
    """max_n of a model splits a draw; together they are the samples asked for."""
    outcome = await run(spec_of(server, model={"max_n": 3}), 8)
    assert sorted(request.n for request in server.arrived if "{" not in request.prompt)[-3:] == [2, 3, 3]
    assert outcome.stages[0].samples_drawn == 8


async def test_the_same_prompt_at_the_same_time_is_drawn_once(server: ScriptedServer, store: Store) -> None:
    """Examples that ask alike, and stages whose upstream output is the same, share samples in flight too."""
    server.latency_s = 0.05
    spec = spec_of(server)
    clients = ModelClients(spec, rng=random.Random(0))
    runtime = Runtime(spec, store, clients, run_id=None)
    allocation = Allocation({"retrieve": StageChoice("small", 4), "answer": StageChoice("large", 2)})
    outcomes = await asyncio.gather(*(runtime.run_example(allocation, EXAMPLE) for _ in range(6)))
    await clients.aclose()
    assert len(server.arrived) == 2
    assert len({outcome.output for outcome in outcomes}) == 1


async def test_a_replay_answers_from_the_store_and_refuses_the_rest(
    server: ScriptedServer, run: Callable[..., Any]
) -> None:
    """What was drawn is there without a call; one sample more is a ReplayMiss."""
    spec = spec_of(server)
    live = await run(spec, 3, 2)
    asked = len(server.arrived)
    assert (await run(spec, 3, 2, replay=True)).output == live.output
    with pytest.raises(ReplayMiss):
        await run(spec, 4, 2, replay=True)
    assert len(server.arrived) == asked


async def test_votes_of_a_stage_decide_what_the_next_is_asked(
    server: ScriptedServer, run: Callable[..., Any]
) -> None:
    """Plurality, ties to the first drawn; the winner is in the next stage's prompt."""
    texts = ["blue", "red", "red", "blue"]
    server.answer = lambda r, index: texts[index] if len(r.prompt.split()) == 2 else r.prompt.split()[-1]
    assert (await run(spec_of(server), 1)).output == "blue"
    assert (await run(spec_of(server), 3)).output == "red"
    tied = await run(spec_of(server), 4)
    assert tied.output == "blue" and tied.score == 0.0


async def test_best_of_n_takes_the_likeliest_sample(server: ScriptedServer, run: Callable[..., Any]) -> None:
    """The built-in scorer is the mean log-probability of a sample's tokens."""
    words = ["sevenxx", "six", "fours"]  # the scripted server likes short words
    server.answer = lambda request, index: words[index % 3]
    stage = {"aggregator": {"kind": "best_of_n", "scorer": "mean_logprob"}}
    outcome = await run(spec_of(server, stages=(stage, {})), 3)
    logprobs = {word: -(1 + len(word) % 7) / 10 for word in words}
    assert outcome.stages[0].value == max(words, key=lambda word: logprobs[word])


async def test_fusion_is_a_call_that_is_paid_for(server: ScriptedServer, run: Callable[..., Any]) -> None:
    """The fuser reads all samples; its tokens and FLOPs are the stage's."""
    stage = {
        "aggregator": {
            "kind": "fusion",
            "model": "large",
            "prompt": "fuse {% for s in samples %}{{ s }} {% endfor %}",
        }
    }
    server.answer = lambda r, index: "fused" if r.model == "large" else f"draft{index}"
    plain = await run(spec_of(server), 3)
    fused = await run(spec_of(server, stages=(stage, {})), 3)
    (call,) = [request for request in server.arrived if request.model == "large"]
    assert all(f"draft{i}" in call.prompt for i in range(3))
    assert fused.stages[0].value == "fused"
    assert fused.stages[0].flops > plain.stages[0].flops


async def test_a_verifier_reads_every_sample_once_and_is_paid_for(
    server: ScriptedServer, store: Store, run: Callable[..., Any]
) -> None:
    """Likeliest right wins; prompt and sample are read, equal texts once; a replay asks nothing."""
    words = ["red", "blue", "green", "red"]
    server.answer = lambda request, index: words[index % 4]
    liked = {"red": 0.2, "blue": 0.7, "green": 0.6}
    server.classify = lambda request: [1 - (p := liked[request.text.split()[-1]]), p]
    spec = spec_of(server, stages=(VERIFIED, SMALL))
    plain = await run(spec_of(server), 4)
    found = await run(spec, 4)
    asked = found.stages[0]
    assert asked.value == "blue"
    assert len(server.classified) == 3
    assert all(request.text.split("\n\n")[0] for request in server.classified)
    read = sum(len(request.text.split()) for request in server.classified)
    assert asked.prompt_tokens == plain.stages[0].prompt_tokens + read
    assert asked.flops == (plain.stages[0].flops or 0.0) + 2 * 4e6 * read
    again = await run(spec, 4, replay=True)
    assert again.stages[0].value == "blue"
    assert again.stages[0].flops == asked.flops
    assert (await run(spec, 2, replay=True)).stages[0].value == "blue"
    assert len(server.classified) == 3


async def test_prefixes_with_a_verifier(server: ScriptedServer, store: Store) -> None:
    """The outcome of each n is that of n samples by themselves."""
    words = ["red", "blue", "green"]
    server.answer = lambda request, index: words[index % 3]
    server.classify = lambda request: [0.5, 0.1 * len(request.text.split()[-1])]
    spec = spec_of(server, stages=(VERIFIED, SMALL))
    clients = ModelClients(spec, rng=random.Random(0))
    runtime = Runtime(spec, store, clients, run_id=None)
    found = await runtime.prefixes(spec.stages[0], StageChoice("small", 3), EXAMPLE, {})
    await clients.aclose()
    assert [outcome.value for outcome in found] == ["red", "blue", "green"]
    assert [outcome.n_samples for outcome in found] == [1, 2, 3]
    flops = [outcome.flops or 0.0 for outcome in found]
    assert 0 < flops[0] < flops[1] < flops[2]


@pytest.mark.parametrize("kind", ["plurality", "weighted", "length_weighted", "best_of_n"])
async def test_prefixes_are_the_outcomes_of_each_number(
    kind: str, server: ScriptedServer, store: Store, run: Callable[..., Any]
) -> None:
    """Whatever the aggregator, read in one pass as each number of samples by itself."""
    server.answer = lambda request, index: ("red", "blue", "a b c d", "blue", "green")[index % 5]
    aggregator = {"kind": kind, **({"t0": 2.0} if kind == "length_weighted" else {})}
    spec = spec_of(server, stages=({"aggregator": aggregator}, {}))
    await run(spec, 5)
    runtime = Runtime(spec, store, None, run_id=None, replay=True)
    prefixes = await runtime.prefixes(spec.stages[0], StageChoice("small", 5), EXAMPLE, {}, 2)
    alone = [
        await runtime.stage_outcome(spec.stages[0], StageChoice("small", n), EXAMPLE, {}) for n in range(2, 6)
    ]
    assert prefixes == alone


@pytest.mark.parametrize("said", [[], [0.5], [float("nan"), 0.5], ["a", "b"]])
async def test_a_verifier_that_answers_nonsense_is_a_missing_value(
    server: ScriptedServer, run: Callable[..., Any], said: list[float]
) -> None:
    """Not a score of 0."""
    server.answer = lambda request, index: "red"
    server.classify = lambda request: said
    outcome = await run(spec_of(server, stages=(VERIFIED, SMALL)), 2)
    assert outcome.status == "error"
    assert outcome.score is None


@pytest.mark.parametrize("fault", ["500", "garbage", "empty", "close", "cut_json"])
async def test_a_fault_that_stays_is_a_missing_value(
    fault: str, server: ScriptedServer, run: Callable[..., Any]
) -> None:
    """After the retries the example has no score and a reason; it is not a 0."""
    server.fault = lambda request: fault
    outcome = await run(spec_of(server), 2)
    assert outcome.status == "error" and outcome.score is None and outcome.reason
    assert len(server.arrived) >= 2, "it was tried again"


async def test_text_that_was_cut_off_is_kept_as_such(
    server: ScriptedServer, store: Store, run: Callable[..., Any]
) -> None:
    """A sample that reached max_tokens is stored with the reason for its end."""
    server.answer = lambda request, index: "many words " * 20
    outcome = await run(spec_of(server), 1)
    (sample,) = (await store.get_samples([outcome.stages[0].prompt_key]))[outcome.stages[0].prompt_key]
    assert sample.finish_reason == "length" and sample.generated_tokens == 16


async def test_a_request_that_can_never_work_stops_the_run(
    server: ScriptedServer, run: Callable[..., Any]
) -> None:
    """An unknown model is a configuration error, not a missing value."""
    server.fault = lambda request: "no_model"
    with pytest.raises(ConfigurationError):
        await run(spec_of(server))
