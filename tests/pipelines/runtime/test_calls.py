"""Stages that run a function: what they return, what is banked, what they cost, and how they fail."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datastore import Store
from pipelines import Costed, PipelineSpec
from pipelines.allocation import Allocation
from pipelines.errors import ReplayMiss
from pipelines.examples import Example
from pipelines.runtime import Runtime
from pipelines.spec.functions import resolve
from tests.servers import ScriptedServer

MakeRuntime = Callable[[PipelineSpec, bool], Runtime]
EXAMPLE = Example("e1", {"question": "why", "passages": ["because", "so"], "answer": "so"})
CALLED: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    CALLED.clear()


def find(passages: list[str], top_k: int = 1) -> list[str]:
    CALLED.append((threading.current_thread() is threading.main_thread(), top_k))
    passages.sort()
    return passages[:top_k]


async def find_later(passages: list[str], top_k: int = 1) -> list[str]:
    await asyncio.sleep(0.01)
    CALLED.append(asyncio.current_task() is not None)
    return passages[:top_k]


class Finder:
    async def __call__(self, passages: list[str]) -> list[str]:
        CALLED.append(1)
        return passages


def priced(question: str, top_k: int = 1) -> Costed:
    return Costed(value=(question,) * top_k, flops=5e3, usd=0.25 if top_k > 1 else None)


def last(answer: str, question: str) -> str:
    return f"{answer} to {question}"


def function_spec(function: object, *, base_url: str = "http://127.0.0.1:9/v1", **stage: Any) -> PipelineSpec:
    """`find` runs the function; `answer` reads what it returned."""
    stages = [
        {"name": "find", "python": function, **stage},
        {
            "name": "answer",
            "prompt": "{{ find }} {{ question }}",
            "models": ["small"],
            "max_samples": 2,
            "sampling": {"max_tokens": 8},
            "prompt_tokens": 8,
            "generated_tokens": 2,
        },
    ]
    return PipelineSpec.model_validate(
        {
            "name": "functions",
            "stages": stages,
            "models": {"small": {"base_url": base_url, "active_params": 1e6}},
            "dataset": {"search": "search.jsonl", "test": "test.jsonl"},
            "metric": {"kind": "exact_match", "label": "answer"},
            "budget": {"units": 60},
        }
    )


async def outcome_of(runtime: Runtime, option: str | None = None, example: Example = EXAMPLE) -> Any:
    stage = runtime.spec.stages[0]
    chosen = stage.options[0] if option is None else stage.option(option)
    return await runtime.stage_outcome("find", chosen.with_samples(1), example, {})


@pytest.mark.parametrize("function", [find, find_later, Finder()])
async def test_a_function_is_called_once_for_its_arguments(function: Any, runtime_of: MakeRuntime) -> None:
    """In a thread, or on the loop where it is asynchronous; a second query has the result from the bank."""
    runtime = runtime_of(function_spec(function), False)
    first, second = await outcome_of(runtime), await outcome_of(runtime)
    assert first.status == "ok" and first.value[0] == "because"
    assert (first.samples_drawn, first.samples_reused, second.samples_drawn, second.samples_reused) == (
        1,
        0,
        0,
        1,
    )
    assert len(CALLED) == 1 and first.prompt_key == second.prompt_key
    assert EXAMPLE["passages"] == ["because", "so"]


async def test_a_synchronous_function_does_not_hold_the_loop(runtime_of: MakeRuntime) -> None:
    """It runs in another thread, so that requests go on beside it."""
    await outcome_of(runtime_of(function_spec(find), False))
    assert CALLED == [(False, 1)]


async def test_the_same_call_asked_for_at_once_runs_once(runtime_of: MakeRuntime) -> None:
    """Fifty queries wait for one call; another option is another call."""
    spec = function_spec(find_later, options={"one": {}, "two": {"top_k": 2}})
    runtime = runtime_of(spec, False)
    outcomes = await asyncio.gather(*(outcome_of(runtime, "one") for _ in range(50)))
    assert len(CALLED) == 1 and sum(outcome.samples_drawn for outcome in outcomes) == 1
    assert (await outcome_of(runtime, "two")).value == ["because", "so"] and len(CALLED) == 2


async def test_a_replay_calls_nothing(runtime_of: MakeRuntime) -> None:
    """What the bank has is the result, its cost included; what it lacks is a miss."""
    spec = function_spec(priced, options={"one": {}, "two": {"top_k": 2}}, cost={"usd": 0.5, "flops": 1})
    drawn = await outcome_of(runtime_of(spec, False), "one")
    replayed = await outcome_of(runtime_of(spec, True), "one")
    assert (replayed.value, replayed.flops, replayed.cost_usd) == (["why"], 5e3, 0.5)
    assert drawn.flops == 5e3 and replayed.samples_drawn == 0
    with pytest.raises(ReplayMiss, match=r"the bank has no result of .*:priced with option 'two'"):
        await outcome_of(runtime_of(spec, True), "two")


async def test_costs_are_the_functions_else_the_specs(runtime_of: MakeRuntime) -> None:
    """What Costed leaves out is the option's cost of the spec."""
    spec = function_spec(
        priced, options={"one": {}, "two": {"top_k": 2}}, cost={"usd": 0.5}, costs={"one": {"usd": 0.125}}
    )
    runtime = runtime_of(spec, False)
    one, two = [await outcome_of(runtime, name) for name in ("one", "two")]
    assert (one.cost_usd, two.cost_usd) == (0.125, 0.25)
    assert one.prompt_tokens == one.generated_tokens == 0


def raising(question: str) -> str:
    raise ValueError(f"no {question}")


def without_next(question: str) -> str:
    return next(iter(()))


def exiting(question: str) -> object:
    sys.exit("no\n  index")


def unprintable(question: str) -> object:
    return {"a": object()}


def infinite(question: str) -> float:
    return float("inf")


def cheap(question: str) -> Costed:
    return Costed(value=1, flops=-1.0)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (raising, "raising raised ValueError: no why"),
        (without_next, "without_next raised RuntimeError: StopIteration"),
        (exiting, "exiting raised SystemExit: no index"),
        (unprintable, "unprintable returned what JSON can't hold: dict is not JSON-able"),
        (infinite, "infinite returned what JSON can't hold: float is not JSON-able"),
        (cheap, "cheap returned Costed whose costs must be numbers >= 0, got flops -1.0"),
    ],
)
async def test_a_failure_is_a_missing_value(
    function: Any, reason: str, runtime_of: MakeRuntime, store: Store
) -> None:
    """The example is missing with the reason, nothing is banked, and the next query tries again."""
    runtime = runtime_of(function_spec(function), False)
    for _ in range(2):
        outcome = await asyncio.wait_for(outcome_of(runtime), 10)
        assert outcome.status == "error" and outcome.value is None
        assert reason in outcome.reason and "\n" not in outcome.reason
    assert store.sql("SELECT count(*) AS n FROM samples")["n"][0] == 0


async def test_a_field_that_a_row_lacks_is_a_missing_value(runtime_of: MakeRuntime) -> None:
    """The function's own error names the parameter."""
    outcome = await outcome_of(
        runtime_of(function_spec(find), False), example=Example("e", {"question": "q"})
    )
    assert (
        outcome.status == "error" and "missing 1 required positional argument: 'passages'" in outcome.reason
    )


async def test_a_changed_file_is_another_function(
    runtime_of: MakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a change of its module the function is called again; its old results stay in the bank."""
    module = tmp_path / "changing_tool.py"
    values = []
    for version in ("1", "2", "1"):
        module.write_text(f"def f(question):\n    return {version}\n")
        monkeypatch.delitem(sys.modules, "changing_tool", raising=False)
        outcome = await outcome_of(runtime_of(function_spec(resolve("changing_tool:f", tmp_path)), False))
        values.append((outcome.value, outcome.samples_drawn))
    assert values == [(1, 1), (2, 1), (1, 0)]


def size(corpus: list[str], question: str) -> int:
    CALLED.append(question)
    return len(corpus)


async def test_a_corpus_is_not_banked_with_every_call(runtime_of: MakeRuntime, store: Store) -> None:
    """The bank knows a long argument by its digest; the function gets the whole."""
    runtime = runtime_of(function_spec(size), False)
    corpora = [[f"passage {i} of {name}" for i in range(5_000)] for name in ("a", "b")]
    for corpus in (*corpora, corpora[0]):
        outcome = await outcome_of(runtime, example=Example("e", {"question": "q", "corpus": corpus}))
        assert outcome.value == 5_000
    assert CALLED == ["q", "q"]
    contents = store.sql("SELECT content FROM prompts")["content"]
    assert len(contents) == 2 and all(len(content) < 500 for content in contents)


async def test_functions_stand_anywhere_in_a_pipeline(
    server: ScriptedServer, runtime_of: MakeRuntime
) -> None:
    """First, last, in the middle and beside others, a function reads outputs and gives one."""
    spec = function_spec(find, base_url=server.base_url, options={"two": {"top_k": 2}})
    data = spec.model_dump(mode="python")
    answer = {**data["stages"][1], "inputs": ["find"]}
    stages = [
        {"name": "find", "python": find, "options": {"two": {"top_k": 2}}, "inputs": []},
        {"name": "count", "python": counted, "inputs": ["find"]},
        {**answer, "prompt": "{{ find }} {{ count }} {{ question }}", "inputs": ["find", "count"]},
        {"name": "end", "python": last, "inputs": ["answer"]},
    ]
    whole = PipelineSpec.model_validate({**data, "stages": stages})
    choices = {
        stage.name: stage.options[0].with_samples(1 if stage.python else 2).to_dict()
        for stage in whole.stages
    }
    outcome = await runtime_of(whole, False).run_example(Allocation.from_dict(choices), EXAMPLE)
    assert [stage.stage for stage in outcome.stages] == ["find", "count", "answer", "end"]
    assert "['because', 'so'] 2 why" in server.arrived[0].prompt
    assert outcome.stages[-1].value == f"{outcome.stages[2].value} to why"
    assert json.dumps(outcome.stages[-1].value)


def counted(find: list[str]) -> int:
    return len(find)


async def test_a_pipeline_may_be_functions_alone(runtime_of: MakeRuntime) -> None:
    """Without any model that answers, the last function's value is the output."""
    spec = function_spec(find)
    alone = PipelineSpec.model_validate(
        {**spec.model_dump(mode="python"), "stages": [{"name": "find", "python": find}]}
    )
    choice = alone.stages[0].options[0].with_samples(1)
    outcome = await runtime_of(alone, False).run_example(Allocation({"find": choice}), EXAMPLE)
    assert outcome.stages[-1].value == ["because"] and alone.n_answering == 0


async def later(question: str) -> Costed:
    """Takes a while, and costs something."""
    await asyncio.sleep(0.3)
    return Costed(value=question, usd=0.01)


async def test_a_call_under_way_is_kept_when_the_run_is_stopped(runtime_of: MakeRuntime) -> None:
    """It is awaited as a request is, banked with what it cost, and the task ends as cancelled."""
    runtime = runtime_of(function_spec(later), False)
    task = asyncio.create_task(outcome_of(runtime))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    stage = runtime.spec.stages[0]
    assert (await outcome_of(runtime_of(function_spec(later), True))).value == EXAMPLE.fields["question"]
    with pytest.raises(asyncio.CancelledError):
        await runtime.caller.call(stage, stage.options[0], Example("2", {"question": "other"}), {})
