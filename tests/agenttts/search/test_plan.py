"""Forecasts of what a search takes and can show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttts.errors import SpaceError, UserError
from agenttts.search.plan import plan
from agenttts.search.throughput import stated_throughput
from pipelines.errors import PipelineError
from tests.agenttts.small_specs import small_spec, write_examples

ONE_SAMPLE = [{"max_samples": 1}, {"max_samples": 1}]


def test_a_space_of_one_allocation_is_forecast_exactly() -> None:
    """Calls, tokens, FLOPs and hours of one trial and the confirmation follow from the expected lengths."""
    spec = small_spec(params={"small": 1e6}, stages=ONE_SAMPLE)
    forecast = plan(spec, 10, trials=5, n_search=300, n_test=100, throughput=stated_throughput(10))
    queries = 300 + 2 * 100
    assert (forecast.allocations, forecast.trials) == (1, 1)
    assert (forecast.calls, forecast.samples) == (2 * queries, 2 * queries)
    assert (forecast.prompt_tokens, forecast.generated_tokens) == (32 * queries, 16 * queries)
    assert forecast.tokens == 48 * queries
    assert forecast.flops == pytest.approx(2 * 1e6 * 48 * queries)
    assert forecast.cost_usd is None
    assert forecast.hours == pytest.approx(2 * queries / 10 / 3600)
    assert forecast.warnings == (
        "only retrieve small×1 · answer small×1 is within the budget, so there is nothing "
        "to search; raise the budget",
    )


def test_money_and_fusion() -> None:
    """A fuser's call, tokens and price are part of the forecast."""
    price = {"prompt_usd_per_million": 1.0, "generated_usd_per_million": 2.0}
    fusion = {"kind": "fusion", "model": "small", "prompt": "fuse {{ samples }}", "prompt_tokens": 4}
    spec = small_spec(
        params={"small": 1e6}, model={"price": price}, stages=[{"max_samples": 1, "aggregator": fusion}]
    )
    forecast = plan(spec, 100, n_search=10, n_test=0)
    assert (forecast.calls, forecast.samples) == (20, 20)
    assert (forecast.prompt_tokens, forecast.generated_tokens) == (10 * (16 + 4 + 8), 10 * 16)
    assert forecast.cost_usd == pytest.approx((280 + 2 * 160) / 1e6)


def test_a_plan_in_dollars_reads_the_prompt_for_each_request() -> None:
    """With max_n = 1 every sample is a request that is billed its prompt; FLOPs are not known."""
    price = {"prompt_usd_per_million": 1.0, "generated_usd_per_million": 2.0}
    model = {"price": price, "active_params": None, "max_n": 1}
    stages = [{"max_samples": 4, "models": ["small"]}]
    spec = small_spec(params={"small": 1}, model=model, stages=stages, budget=None, usd=1e-3)
    forecast = plan(spec, 32.5e-6, trials=1, n_search=10, n_test=0)
    assert (forecast.measure, forecast.allocations, forecast.flops) == ("usd", 1, None)
    forecast = plan(spec, n_search=10, n_test=0)
    assert forecast.allocations == 4 and forecast.calls == forecast.samples
    assert forecast.prompt_tokens == pytest.approx(2 * forecast.generated_tokens, abs=2)
    assert forecast.cost_usd == pytest.approx((16 + 2 * 8) * forecast.calls / 1e6, rel=0.01)


def test_few_examples_are_hopeless() -> None:
    """A warning says what few examples can show and how many would do; many examples bring none."""
    few = plan(small_spec(), n_search=20, n_test=20)
    assert few.resolvable_difference > 0.3
    assert "20 search examples show differences of 0.3" in few.warnings[0]
    assert plan(small_spec(), n_search=400, n_test=20).warnings == ()


def test_the_dataset_says_how_many_examples(tmp_path: Path) -> None:
    """Without numbers, the splits are read; the plan is JSON-able and the same each time."""
    write_examples(tmp_path, 12, 8)
    forecast = plan(small_spec(root=tmp_path), 30)
    assert (forecast.n_search, forecast.n_test, forecast.trials) == (12, 8, 20)
    assert json.loads(json.dumps(forecast.to_dict()))["tokens"] == forecast.tokens
    assert plan(small_spec(root=tmp_path), 30) == forecast
    assert forecast.calls == 2 * (20 * 12 + 2 * 8)


def test_what_cannot_be_planned(tmp_path: Path) -> None:
    """A budget under the cheapest allocation, no trials, and a missing dataset are errors."""
    with pytest.raises(SpaceError, match="raise the budget"):
        plan(small_spec(), 1, n_search=10, n_test=10)
    with pytest.raises(UserError, match="trials is >= 1"):
        plan(small_spec(), trials=0)
    with pytest.raises(PipelineError, match=r"search\.jsonl"):
        plan(small_spec(root=tmp_path))
