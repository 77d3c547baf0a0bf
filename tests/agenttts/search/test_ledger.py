"""One ledger of what servers bill: report, JSON, progress and limits tell what the server itself counted."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agenttts import SearchLimits, search
from agenttts.report.data import read_report
from agenttts.results.cost import SearchCost
from agenttts.search.events import SearchEvent, TrialFinished
from agenttts.search.limits import Ledger
from benchmarks.kill_resume import command
from datastore import Store
from pipelines import load_spec
from tests.agenttts.commands import agenttts
from tests.agenttts.small_specs import write_pipeline
from tests.servers import Request, ScriptedServer
from tests.servers.scripted import Reply

PRICE = "price: {prompt_usd_per_million: 1, generated_usd_per_million: 2}"
BUDGET = 90e-6


def priced(folder: Path, url: str) -> Path:
    """The small pipeline as on a hosted server: prices in place of active parameters, a budget in dollars."""
    spec = write_pipeline(folder, url)
    text = spec.read_text()
    for size in ("1.0e+6}\n  large", "4.0e+6}\nstages"):
        text = text.replace(f"active_params: {size}", f"{PRICE}{size[size.index('}') :]}")
    spec.write_text(text[: text.index("budget:")] + f"budget: {{usd: {BUDGET:.6f}}}\n")
    return spec


class Hosted(ScriptedServer):
    """Takes n = 1 only and no logprobs, answers some prompts with a refusal, some with nothing at first, and
    bills the probe of a check that it should refuse.
    """

    def __init__(self) -> None:
        super().__init__(
            most_n=1,
            refuses={"logprobs"},
            message=self._refused,
            reply=self._probed,
            answer=lambda request, index: ("red", "green blue")[index % 2],
        )
        self.fault_next("empty", "empty")

    def _refused(self, request: Request, text: str) -> Mapping[str, Any]:
        return {"content": None, "refusal": "I can't"} if "search-3" in request.prompt else {}

    def _probed(self, request: Request) -> Reply | None:
        if not request.body.get("presence_penalty") or "logprobs" in request.body or request.n > 1:
            return None
        self.n_answered += 1
        self.prompt_tokens += 5
        self.generated_tokens += 1
        message = {"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
        return 200, {"choices": [message], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}, {}

    def billed(self) -> tuple[int, int, int, float]:
        usd = (self.prompt_tokens + 2 * self.generated_tokens) / 1e6
        return self.n_answered, self.prompt_tokens, self.generated_tokens, round(usd, 12)


def told(cost: SearchCost) -> tuple[int, int, int, float]:
    return cost.calls, cost.prompt_tokens, cost.generated_tokens, round(cost.usd or 0.0, 12)


def test_all_figures_are_the_servers_own(tmp_path: Path) -> None:
    """Calls, tokens and dollars of result, report, JSON and progress equal the server's count, also when the
    run was stopped and resumed; FLOPs, which nobody can know here, are not told.
    """
    spent: list[TrialFinished] = []

    def stop(event: SearchEvent) -> None:
        if isinstance(event, TrialFinished):
            spent.append(event)
            if len(spent) == 3:
                raise KeyboardInterrupt

    with Hosted() as server:
        spec, db = priced(tmp_path, server.base_url), tmp_path / "run.duckdb"
        with pytest.raises(KeyboardInterrupt):
            search(spec, trials=5, db=db, on_event=stop)
        with Store.read(db) as store:
            so_far = read_report(store, solve=False)
        assert told(so_far.outcome.cost) == server.billed()
        result = search(spec, trials=5, db=db, resume=True, on_event=stop)
        assert told(result.cost) == server.billed()
        assert spent[-1].spent.tokens == server.prompt_tokens + server.generated_tokens
        assert spent[-1].spent.usd == pytest.approx(result.cost.usd)
    assert result.cost.calls > result.cost.samples_drawn > 5 * 24
    assert sum(trial.n_missing for trial in result.trials) > 0
    for key, value in vars(result.cost).items():
        assert value is None or not key.startswith("flops")
    printed = json.loads(agenttts("report", db, "--json").out)
    assert told(SearchCost(**printed["cost"])) == server.billed()
    assert printed["measure"] == "usd" and printed["trials"][0]["flops_per_query"] is None
    page = agenttts("report", db).out
    assert "FLOPs not known" in page and " units" not in page and "USD" in page
    with Store.read(db) as store:
        ledger = Ledger.resumed(
            SearchLimits(), load_spec(spec), clock=time.time, store=store, run_id=result.run_id
        )
    assert ledger.spent.usd == pytest.approx(result.cost.usd)


def test_planned_dollars_stay_within_the_budget_and_the_cheapest_is_found(tmp_path: Path) -> None:
    """Every allocation tried is within the dollars per query, and the objective cost minimises dollars."""
    with ScriptedServer(answer=lambda request, index: "red") as server:
        spec, db = priced(tmp_path, server.base_url), tmp_path / "run.duckdb"
        best = search(spec, trials=6, db=db, objective="cost", min_quality=0.1, proposer="solve").best
        half = search(spec, budget=BUDGET / 2, trials=3, db=db)
    assert best is not None and best.search_cost is not None
    assert [choice.n_samples for choice in best.allocation.values()] == [1, 1]  # both models have one price
    assert best.search_cost.mean <= best.budget_units <= (8 + 4 + 8 + 4) / 1e6  # as the spec expects, or less
    assert all(0 < trial.budget_units <= BUDGET / 2 for trial in half.trials)


def test_nothing_that_was_entered_is_lost_by_a_kill(tmp_path: Path) -> None:
    """After kill -9 the ledger lacks at most what was in flight, and after --resume no more than that."""
    with ScriptedServer(most_n=1, latency_s=0.004) as server:
        spec, db = priced(tmp_path, server.base_url), tmp_path / "run.duckdb"

        def lost() -> int:
            with Store.read(db) as store:
                paid = store.run_cost(store.run().run_id)
            return server.n_answered - paid.calls

        process = subprocess.Popen(command(spec, db), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while server.n_answered < 300 and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.2)  # what the server was answering
        in_flight = lost()
        assert 0 <= in_flight <= 24 * 8  # answers come faster than commits: the samples of 24 examples
        subprocess.run(command(spec, db, "--resume"), check=True, capture_output=True)
        assert lost() == in_flight and server.n_answered > 600
