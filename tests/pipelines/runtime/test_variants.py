"""Samples of a model's variants: told apart in the bank where requests differ, shared where they do not."""

from __future__ import annotations

from collections.abc import Callable

from datastore import Store
from pipelines import PipelineSpec
from pipelines.examples import Example
from pipelines.runtime import Runtime
from tests.agenttts.small_specs import small_spec
from tests.servers import Request, ScriptedServer

EXAMPLE = Example("e1", {"question": "why", "gold": "red"})
SPEED = {"prompt_tokens_per_second": 1.0, "generated_tokens_per_second": 1.0}


async def test_samples_of_variants_are_told_apart_where_they_differ(
    server: ScriptedServer, runtime_of: Callable[[PipelineSpec, bool], Runtime], store: Store
) -> None:
    """Another request field or temperature draws anew; variants of the same request share their samples."""
    variants = {
        "high": {"request": {"reasoning_effort": "high"}},
        "low": {"request": {"reasoning_effort": "low"}},
        "cool": {"sampling": {"temperature": 0.5}},
        "same": {"request": {"reasoning_effort": "low"}, "speed": SPEED},
    }
    model = {"served_name": "small", "variants": variants}
    spec = small_spec(params={"q": 1e6}, base_url=server.base_url, model=model, stages=({"models": ["q"]},))
    runtime = runtime_of(spec, False)
    drawn = {}
    for option in runtime.spec.stages[0].options:
        outcome = await runtime.stage_outcome("retrieve", option.with_samples(2), EXAMPLE, {})
        drawn[str(option)] = outcome.samples_drawn
    assert drawn == {"q/high": 2, "q/low": 2, "q/cool": 2, "q/same": 0}
    bodies = [request.body for request in server.arrived]
    assert {body["model"] for body in bodies} == {"small"}
    assert [body.get("reasoning_effort") for body in bodies] == ["high", "low", None]
    assert [body["temperature"] for body in bodies] == [1.0, 1.0, 0.5]
    assert store.sql("SELECT count(DISTINCT model_key) AS n FROM prompts")["n"][0] == 1


async def test_a_verifier_reads_the_prompt_that_was_sent(
    make_server: Callable[..., ScriptedServer], runtime_of: Callable[[PipelineSpec, bool], Runtime]
) -> None:
    """Of an option with a prompt and a verifier, samples and verdicts are those of that prompt."""
    read: list[str] = []

    def classify(request: Request) -> list[float]:
        read.append(request.text)
        return [0.5, 0.5]

    server = make_server(models={"small": 4096, "judge": 4096}, classify=classify)
    prompts = {"steps": {"text": "By steps: {{ question }}"}}
    spec = small_spec(
        params={"small": 1e6, "judge": 1e6},
        base_url=server.base_url,
        stages=({"models": ["small"], "prompts": prompts, "verifiers": ["judge"]},),
    )
    choice = spec.stages[0].option("small:steps@judge").with_samples(3)
    outcome = await runtime_of(spec, False).stage_outcome("retrieve", choice, EXAMPLE, {})
    assert outcome.status == "ok"
    assert [request.prompt for request in server.arrived if request.path.endswith("completions")] == [
        "By steps: why"
    ]
    assert read and all("By steps: why" in text for text in read)
