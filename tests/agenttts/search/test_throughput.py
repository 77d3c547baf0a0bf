"""The hours of a plan are by what servers were measured to do."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from agenttts.errors import UserError
from agenttts.search.plan import plan
from agenttts.search.probe import n_probe_requests, probed_throughput
from agenttts.search.throughput import Throughput, stated_throughput
from agenttts.serving.machine import parse_gpus
from pipelines.dataset.splits import load_splits
from pipelines.servers.clients import ModelClients
from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec
from tests.agenttts.commands import agenttts
from tests.agenttts.small_specs import small_spec, write_pipeline
from tests.servers import ScriptedServer

ONE_SAMPLE = [{"max_samples": 1}, {"max_samples": 1}]


def two_servers() -> PipelineSpec:
    """One allocation, a sample of each stage, on two servers."""
    models = {
        name: {"base_url": f"http://127.0.0.1:{port}/v1", "active_params": 1e6}
        for name, port in (("first", 9), ("second", 10))
    }
    stages = [{"max_samples": 1, "models": [name]} for name in models]
    return small_spec(params=dict.fromkeys(models, 1e6), models=models, stages=stages)


def test_a_query_takes_as_long_as_its_busiest_server() -> None:
    """Examples run side by side, so that servers do; stages at one server add up."""
    rates = {("retrieve", "first"): 4.0, ("answer", "second"): 1.0}
    speed = Throughput(source="by a probe", rates=rates)
    forecast = plan(two_servers(), 40, trials=1, n_search=360, n_test=0, throughput=speed)
    assert forecast.hours == pytest.approx(360 * 1.0 / 3600)
    assert forecast.samples_per_second == pytest.approx(2.0)
    one = small_spec(params={"first": 1e6}, stages=ONE_SAMPLE)
    speed = Throughput(source="by a probe", rates={("retrieve", "first"): 4.0, ("answer", "first"): 1.0})
    forecast = plan(one, 40, trials=1, n_search=360, n_test=0, throughput=speed)
    assert forecast.hours == pytest.approx(360 * 1.25 / 3600)


def test_money_is_for_all_gpus_of_the_machine() -> None:
    """Hours times GPUs times the price of one; without a speed there are neither hours nor money."""
    fields = {"n_search": 100, "n_test": 0, "gpus": parse_gpus("4x80"), "usd_per_gpu_hour": 2.5}
    forecast = plan(two_servers(), 40, trials=1, throughput=stated_throughput(10), **fields)
    assert forecast.hours is not None and forecast.gpu_cost_usd == pytest.approx(forecast.hours * 4 * 2.5)
    assert forecast.machine == "4x80"
    unknown = plan(two_servers(), 40, trials=1, **fields)
    assert unknown.hours is unknown.gpu_cost_usd is unknown.samples_per_second is None
    with pytest.raises(UserError, match="--gpus 4x80"):
        plan(two_servers(), 40, n_search=10, n_test=0, usd_per_gpu_hour=1.0)
    with pytest.raises(UserError, match="samples_per_second is > 0, got 0"):
        stated_throughput(0)


async def test_a_probe_measures_each_stage_and_model(tmp_path: Path) -> None:
    """A slow model is as slow as it is; as many requests are sent as were announced."""
    with ScriptedServer(latency_s=0.05) as server:
        spec = load_spec(write_pipeline(tmp_path, server.base_url))
        clients = ModelClients(spec, rng=random.Random(0), holds=False)
        try:
            speed = await probed_throughput(spec, load_splits(spec).search, clients)
        finally:
            await clients.aclose()
        assert n_probe_requests(spec) == 4 * 32 == len(server.arrived)
    assert set(speed.rates) == {(s, m) for s in ("retrieve", "answer") for m in ("small", "large")}
    assert all(0 < rate < 32 * 4 / 0.05 for rate in speed.rates.values())
    assert speed.source.startswith("by a probe of 512 samples")


def test_a_plan_is_by_the_run_before_on_the_same_servers(tmp_path: Path) -> None:
    """Another address, or a database without runs, gives no hours; a stated speed goes before a recorded."""
    with ScriptedServer() as server:
        spec, db = write_pipeline(tmp_path, server.base_url), tmp_path / "run.duckdb"
        command = ("plan", spec, "--db", db, "--json")
        assert agenttts(*command).json["hours"] is None
        done = agenttts("search", spec, "--db", db, "--trials", 4, "--json")
        assert done.code == 0, done.err
        planned = agenttts(*command).json
        assert planned["hours"] > 0 and re.match(
            r"by [\d,]+ samples that run .* drew", planned["speed_source"]
        )
        stated = agenttts(*command, "--samples-per-second", 10).json
        assert (stated["samples_per_second"], stated["speed_source"]) == (pytest.approx(10), "as stated")
        probed = agenttts(*command, "--probe")
        assert (
            probed.json["speed_source"].startswith("by a probe") and "sending 128 real requests" in probed.err
        )
        text = agenttts("plan", spec, "--db", db).out
        assert re.search(r"hours at [\d.,e+]+ samples/s, by [\d,]+ samples that run", text)
    elsewhere = write_pipeline(tmp_path / "other", "http://127.0.0.1:9/v1")
    assert agenttts("plan", elsewhere, "--db", db, "--json").json["hours"] is None
    assert "not known" in agenttts("plan", elsewhere, "--db", db).out
    hosted = write_pipeline(tmp_path / "hosted", "https://api.example.com/v1")
    priced = agenttts("plan", hosted, "--gpus", "1x80", "--usd-per-gpu-hour", 2, "--samples-per-second", 10)
    assert "cost of 1x80 GB" in priced.out, "what is hosted elsewhere needs no GPU here"
    refused = agenttts("plan", elsewhere, "--db", db, "--usd-per-gpu-hour", 2)
    assert refused.code == 2 and "--gpus 4x80" in refused.errors[0]
