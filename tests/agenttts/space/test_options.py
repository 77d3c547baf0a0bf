"""Planned costs of what stages choose from: lengths of single options, prompts, functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttts.space.measure import Measure
from agenttts.space.space import SearchSpace
from agenttts.space.units import (
    planned_stage_flops,
    planned_stage_seconds,
    planned_stage_units,
    planned_stage_usd,
    query_units,
)
from pipelines import load_spec
from pipelines.allocation import Allocation, StageChoice
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.policyfile import load_policy
from pipelines.stages.plans import policy_problem
from tests.agenttts.choosing import write_choosing
from tests.agenttts.small_specs import small_spec

PRICED = {
    "price": {"prompt_usd_per_million": 1.0, "generated_usd_per_million": 10.0},
    "speed": {"prompt_tokens_per_second": 100.0, "generated_tokens_per_second": 10.0},
}
PROMPTS = {"steps": {"text": "Steps. {{ question }}"}}
LENGTHS = {"small:steps": {"prompt_tokens": 20, "generated_tokens": 12.5}, "large": {"generated_tokens": 4}}


@pytest.fixture
def spec(tmp_path: Path) -> PipelineSpec:
    return load_spec(write_choosing(tmp_path))


def test_planned_costs_are_those_of_the_options_lengths() -> None:
    """Units, dollars and seconds are planned with the lengths of the option, else the stage's."""
    spec = small_spec(stages=({"prompts": PROMPTS, "lengths": LENGTHS},), model=PRICED)
    stage = spec.stages[0]
    for option, read, written in (("small", 16, 8), ("small:steps", 20, 12.5), ("large:steps", 16, 4)):
        choice, params = stage.option(option).with_samples(2), 4e6 if "large" in option else 1e6
        assert planned_stage_flops(spec, stage, choice) == 2 * params * (read + 2 * written)
        assert planned_stage_units(spec, stage, choice) == pytest.approx(
            (params / 1e6 * (read + 2 * written) - 16) / 8
        )
        assert planned_stage_usd(spec, stage, choice) == pytest.approx((read + 2 * written * 10) / 1e6)
        assert planned_stage_seconds(spec, stage, choice) == pytest.approx(read / 100 + written / 10)


def test_a_functions_units_are_its_flops(spec: PipelineSpec) -> None:
    """A call counts FLOPs / (2·P·Nd of the reference), and takes off no reference prompt."""
    stage = spec.stages[0]
    choice = stage.options[0].with_samples(1)
    assert planned_stage_units(spec, stage, choice) == 1e9 / (2 * 3e9 * 64)
    assert planned_stage_usd(spec, stage, choice) == planned_stage_seconds(spec, stage, choice) == 0
    allocation = SearchSpace(spec, 60).defaults()[0]
    flops = sum(planned_stage_flops(spec, s, allocation[s.name]) or 0 for s in spec.stages)
    assert Measure.of(spec).planned(allocation) == pytest.approx(query_units(spec, flops))


def test_the_space_has_every_option(spec: PipelineSpec) -> None:
    """Options of the function times variants times prompts; the defaults have each model with the firsts."""
    space = SearchSpace(spec, 60)
    assert [str(option) for option in space.options["find"]] == ["overlap-1", "overlap-2", "alphabet"]
    assert [str(option) for option in space.options["answer"]] == [
        "q/think",
        "q/fast",
        "q/think:steps",
        "q/fast:steps",
    ]
    assert space.size == 3 * 4 * 4
    assert [str(allocation) for allocation in space.defaults()] == [
        "find overlap-1×1 · answer q/think×4",
        "find overlap-1×1 · answer q/fast×4",
    ]


def test_allocations_with_prompts_are_written_and_read(spec: PipelineSpec) -> None:
    """JSON has `prompt` only where there is one; the text of an option is read as model and prompt."""
    space = SearchSpace(spec, 60)
    with_prompt = Allocation(
        {"find": StageChoice("alphabet", 1), "answer": StageChoice("q/fast", 2, prompt="steps")}
    )
    assert Allocation.from_json(with_prompt.to_json()) == with_prompt and with_prompt in space
    assert with_prompt.to_dict()["answer"] == {"model": "q/fast", "n_samples": 2, "prompt": "steps"}
    assert "prompt" not in with_prompt.to_dict()["find"]
    text = Allocation({"find": StageChoice("alphabet", 1), "answer": StageChoice("q/fast:steps", 2)})
    assert space.resolve(text) == with_prompt
    unknown = Allocation({**with_prompt, "answer": StageChoice("q/fast", 2, prompt="none")})
    assert space.problem(unknown) is not None


def test_policies_name_prompts_and_functions(spec: PipelineSpec, tmp_path: Path) -> None:
    """YAML and JSON files of policies may have `prompt`; a prompt that the stage lacks is refused."""
    file = tmp_path / "policy.yaml"
    text = (
        "rungs:\n  - find: {model: alphabet, n_samples: 1}\n"
        "    answer: {model: q/fast, prompt: steps, n_samples: 2}\n"
    )
    file.write_text(text)
    policy = load_policy(file)
    assert policy_problem(spec, policy) is None
    assert policy.rungs[0]["answer"].choice == StageChoice("q/fast", 2, prompt="steps")
    again = tmp_path / "policy.json"
    again.write_text(policy.to_json())
    assert load_policy(again) == policy
    file.write_text(text.replace("steps", "none"))
    assert "none" in (policy_problem(spec, load_policy(file)) or "")
