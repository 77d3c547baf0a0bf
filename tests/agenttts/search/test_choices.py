"""Searches whose stages choose among functions' options, variants and prompts: live, resumed, replayed."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agenttts import UserError, load_run, search
from agenttts.proposers.agent_form import answer_schema
from agenttts.proposers.agent_view import shown
from agenttts.results.cost import call_costs
from agenttts.search.limits import Ledger
from agenttts.settings import SearchLimits
from agenttts.space.space import SearchSpace
from agenttts.tasktune.improve import smaller_models
from datastore import Store
from pipelines import load_spec
from pipelines.dataset import load_examples
from pipelines.errors import MissingDependency, SpendRefused
from pipelines.runtime import Runtime
from pipelines.runtime.recording import record_full_bank
from pipelines.servers.clients import ModelClients
from pipelines.spec.pipeline import PipelineSpec
from tests.agenttts.choosing import FUNCTION, calls_of, choosing_server, view_of, write_choosing
from tests.agenttts.commands import agenttts

COSTED = (
    FUNCTION.replace("from pathlib", "from pipelines import Costed\nfrom pathlib")
    + "\n\nplain = find\n\n\ndef find(question: str, passages: list[str], method: str, top_k: int = 2):\n"
    "    return Costed(value=plain(question, passages, method, top_k), flops=2e9 * top_k, usd=0.001)\n"
)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pipeline and the store of a live search on it, with an adaptive policy at its end if one wins."""
    root = tmp_path_factory.mktemp("choosing")
    with choosing_server() as server:
        spec = write_choosing(root, server.base_url)
        search(spec, trials=8, db=root / "run.duckdb")
    shutil.copy(root / "calls.txt", root / "searched.txt")
    return spec, root / "run.duckdb"


def calls_of_search(spec: Path) -> list[str]:
    """The calls of that search, without those of the tests after it."""
    return spec.with_name("searched.txt").read_text().splitlines()


def test_the_agent_is_shown_it_and_answers_in_its_words(searched: tuple[Path, Path]) -> None:
    """The view has prompts, arguments and lengths' costs; the schema takes the names that there are."""
    space = SearchSpace(load_spec(searched[0]), 60)
    text = json.dumps(shown(view_of(space)))
    for part in ("overlap-1", "top_k", "q/think", "Think.", "steps"):
        assert part in text
    schema = json.dumps(answer_schema(space, 2))
    assert '["overlap-1", "overlap-2", "alphabet"]' in schema and '["q/think", "q/fast"]' in schema
    assert '[null, "steps"]' in schema


def priced(text: str) -> str:
    price = "price: {prompt_usd_per_million: 1, generated_usd_per_million: 2}"
    return text.replace("active_params: 4e9", f"active_params: 4e9\n    {price}")


def decisions(db: Path) -> list[tuple[str, float | None]]:
    result = load_run(db)
    return [(str(trial.allocation), trial.score) for trial in result.trials]


def test_a_search_tries_what_stages_choose_from(searched: tuple[Path, Path]) -> None:
    """Trials differ in the function's option, the variant and the prompt; no call is repeated."""
    spec, db = searched
    result = load_run(db)
    tried = " ".join(str(trial.allocation) for trial in result.trials)
    for option in ("overlap-1×", "overlap-2×", "alphabet×", "q/think×", "q/fast×", ":steps×"):
        assert option in tried
    assert result.best is not None and result.best.search_score > 0.6
    calls = calls_of_search(spec)
    assert len(calls) == len(set(calls)) > 0
    with Store.read(db) as store:
        assert len(call_costs(store, result.run_id)) == len(calls)


def test_a_lesson_on_variants_of_one_model_calls_none_of_them_smaller(searched: tuple[Path, Path]) -> None:
    """Variants have one size: where they are not told apart, the cheaper choice is named."""
    with Store.read(searched[1]) as store:
        lessons = [insight.text for insight in store.insights(store.run().run_id)]
    ties = [text for text in lessons if text.startswith("At answer") and "not told apart" in text]
    assert any("the cheaper, q/" in text for text in ties)
    assert not any("the smaller" in text for text in ties)


def test_a_replay_of_a_search_decides_the_same_and_calls_nothing(
    searched: tuple[Path, Path], tmp_path: Path
) -> None:
    """The bank has what the function returned; a bank as Parquet has it too."""
    spec, db = searched
    n_calls = len(calls_of(spec))
    search(spec, trials=8, db=tmp_path / "again.duckdb", replay=True, banks=[db])
    assert decisions(tmp_path / "again.duckdb") == decisions(db)
    exported = agenttts("bank", "export", db, tmp_path / "bank.parquet")
    assert exported.code == 0, exported.err
    search(spec, trials=8, db=tmp_path / "parquet.duckdb", replay=True, banks=[tmp_path / "bank.parquet"])
    assert decisions(tmp_path / "parquet.duckdb") == decisions(db)
    assert len(calls_of(spec)) == n_calls
    into = agenttts("bank", "import", tmp_path / "imported.duckdb", tmp_path / "bank.parquet")
    assert into.code == 0, into.err
    listed = agenttts("bank", "list", tmp_path / "imported.duckdb", "--json").json
    assert any(row["model"].startswith("python:retriever") for row in listed)


def test_commands_take_such_a_pipeline(searched: tuple[Path, Path], tmp_path: Path) -> None:
    """`plan`, `report` with its HTML and JSON, and `run` with an allocation of the run."""
    spec, db = searched
    planned = agenttts("plan", spec, "--json")
    assert planned.code == 0, planned.err
    report = agenttts("report", db, "--html", tmp_path / "report.html")
    assert report.code == 0, report.err
    html = (tmp_path / "report.html").read_text()
    assert "overlap-1" in html and "q/think" in html
    data = agenttts("report", db, "--json").json
    assert "overlap-1" in json.dumps(data)
    row = json.loads((spec.parent / "test.jsonl").read_text().splitlines()[0])
    stdin = json.dumps({name: row[name] for name in ("question", "passages")}) + "\n"
    ran = agenttts("run", spec, "--run", "latest", "--db", db, "--replay", "--fixed", stdin=stdin)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["output"] in ("red", "blue", "green")


def test_what_functions_cost_is_in_every_figure(tmp_path: Path) -> None:
    """FLOPs and dollars of calls count in trials, in the search's cost and in its JSON."""
    with choosing_server() as server:
        spec = write_choosing(tmp_path, server.base_url, function=COSTED)
        spec.write_text(priced(spec.read_text()))
        result = search(spec, trials=3, db=tmp_path / "run.duckdb", policy="fixed")
    with Store.read(tmp_path / "run.duckdb") as store:
        calls = call_costs(store, result.run_id)
    assert len(calls) == len(calls_of(spec)) and {call.usd for call in calls} == {0.001}
    cost = result.cost
    tokens = cost.prompt_tokens + cost.generated_tokens
    called = sum(call.flops for call in calls)
    assert called > 0 and cost.flops == pytest.approx(called + 2 * 4e9 * tokens)
    of_models = (cost.prompt_tokens + 2 * cost.generated_tokens) / 1e6
    assert cost.usd == pytest.approx(of_models + 0.001 * len(calls))
    assert cost.agent_tokens == cost.agent_calls == 0
    for trial in result.trials:
        assert trial.flops_per_query is not None and trial.cost_usd is not None
        assert trial.flops_per_query > 2e9 and trial.cost_usd > 0.001
    assert json.loads(json.dumps(result.to_json_dict()))["cost"]["usd"] == pytest.approx(cost.usd)


def test_a_function_is_not_tuned(searched: tuple[Path, Path]) -> None:
    """`agenttts improve` says in a line that the stage has no model."""
    with pytest.raises(UserError, match="stage find runs a function, which has no model to tune"):
        smaller_models(load_spec(searched[0]), "find")


async def test_a_limit_refuses_calls_that_do_not_fit(tmp_path: Path) -> None:
    """A call over the cap on FLOPs or dollars is refused; what it really cost is what is spent."""
    path = write_choosing(tmp_path)
    path.write_text(priced(path.read_text()))
    spec = load_spec(path)
    ledger = Ledger(SearchLimits(flops=3e9), spec.models, clock=time.time)
    (await ledger.reserve_cost("find", 1e9, 0.0)).settle_cost(2.5e9, 0.0)
    with pytest.raises(SpendRefused, match=r"limit on flops: 3e.09 allowed, 2.5e.09 spent.*'find'.*1e.09"):
        await ledger.reserve_cost("find", 1e9, 0.0)
    in_usd = Ledger(SearchLimits(usd=0.5), spec.models, clock=time.time)
    first = await in_usd.reserve_cost("find", 0.0, 0.4)
    waiting = asyncio.create_task(in_usd.reserve_cost("find", 0.0, 0.4))
    await asyncio.sleep(0)
    assert not waiting.done()
    first.settle_cost(0.0, 0.05)
    await waiting


def test_a_resumed_ledger_counts_the_calls_of_before(searched: tuple[Path, Path]) -> None:
    """What functions cost is spent after a restart too."""
    spec, db = searched
    loaded = load_spec(spec)
    with Store.read(db) as store:
        run = store.run().run_id
        ledger = Ledger.resumed(SearchLimits(), loaded, clock=time.time, store=store, run_id=run)
        flops = sum(call.flops for call in call_costs(store, run))
    assert flops == 1e9 * len(calls_of_search(spec))
    assert ledger.spent.flops > flops


def test_a_search_stops_at_a_limit_on_what_functions_cost(tmp_path: Path) -> None:
    """A cap on FLOPs ends the search within it, calls counted."""
    with choosing_server() as server:
        spec = write_choosing(tmp_path, server.base_url)
        spec.write_text(spec.read_text().replace("flops: 1e9", "flops: 1e12"))
        search(spec, trials=8, db=tmp_path / "run.duckdb", policy="fixed", limits=SearchLimits(flops=6e13))
    n_calls = len(calls_of(spec))
    assert 12 <= n_calls < 60
    flops = load_run(tmp_path / "run.duckdb").cost.flops
    assert flops is not None and flops <= 6e13


def test_a_broken_function_leaves_examples_missing(tmp_path: Path) -> None:
    """One option fails for one example: that example is missing in its trials, with the reason."""
    broken = FUNCTION.replace(
        "    words =", "    if 'ball 3?' in question:\n        raise OSError('no index')\n    words ="
    )
    with choosing_server() as server:
        spec = write_choosing(tmp_path, server.base_url, function=broken)
        result = search(spec, trials=2, db=tmp_path / "run.duckdb", policy="fixed", max_error_rate=0.2)
    missing = {i for trial in result.trials for i, score in trial.scores.items() if score is None}
    assert len(missing) == 1 and any(trial.status == "complete" for trial in result.trials)
    assert all(trial.n_missing == len(missing & trial.scores.keys()) for trial in result.trials)
    assert "find raised OSError: no index" in json.dumps(
        agenttts("report", tmp_path / "run.duckdb", "--json").json
    )


def test_killed_a_search_goes_on_without_repeating_a_call(tmp_path: Path) -> None:
    """After `kill -9` and --resume each call of the function that was stored is made once."""
    slow = FUNCTION.replace("    words =", "    import time\n    time.sleep(0.03)\n    words =")
    with choosing_server() as server:
        spec = write_choosing(tmp_path, server.base_url, function=slow)
        db = tmp_path / "run.duckdb"
        command = [sys.executable, "-m", "agenttts", "search", str(spec), "--trials", "5", "--db", str(db)]
        command += ["--policy", "fixed"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while len(calls_of(spec)) < 15 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before = calls_of(spec)
        done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    with Store.read(db) as store:
        n_paid = len(call_costs(store, store.run().run_id))
    calls = calls_of(spec)
    assert len(before) >= 15 and len(set(calls)) == n_paid
    assert len(calls) - len(set(calls)) <= IN_FLIGHT  # those that were running when it was killed


IN_FLIGHT = 32  # threads that run synchronous functions
NAMES = ("solve", "insights", "greedy", "halving", "random", "tpe", "nsga2", "gp")


@pytest.fixture(scope="module")
def full_bank(searched: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every sample and every call that any allocation can need."""
    bank = tmp_path_factory.mktemp("bank") / "bank.parquet"

    async def record(spec: PipelineSpec, store: Store) -> None:
        clients = ModelClients(spec, rng=random.Random(0))
        examples = [*load_examples(spec, "search"), *load_examples(spec, "test")]
        await record_full_bank(Runtime(spec, store, clients, run_id=None), examples)
        await clients.aclose()

    with choosing_server() as server, Store.open(bank.with_suffix(".duckdb")) as store:
        path = searched[0]
        path.write_text(re.sub(r"base_url: .*", f"base_url: {server.base_url}", path.read_text()))
        asyncio.run(record(load_spec(path), store))
        store.export_bank(bank)
    return bank


@pytest.mark.parametrize("name", NAMES)
def test_every_proposer_searches_it(
    name: str, searched: tuple[Path, Path], full_bank: Path, tmp_path: Path
) -> None:
    """Each stays within the space, and does the same again."""
    spec, _ = searched
    seen = []
    for attempt in ("a", "b"):
        try:
            result = search(
                spec,
                trials=6,
                replay=True,
                banks=[full_bank],
                db=tmp_path / f"{attempt}.duckdb",
                proposer=name,
                policy="fixed",
            )
        except MissingDependency as error:
            pytest.skip(str(error))
        seen.append([str(trial.allocation) for trial in result.trials])
    space = SearchSpace(load_spec(spec), 60)
    assert all(trial.allocation in space for trial in result.trials)
    assert seen[0] == seen[1] and len(seen[0]) >= 2
