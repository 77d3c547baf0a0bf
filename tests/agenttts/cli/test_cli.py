"""The commands do what their help says, speak JSON on request, and refuse bad input with exit code 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from agenttts.space.space import SearchSpace
from datastore import Store
from pipelines.spec.files import load_spec
from pipelines.zoo import SPEC
from tests.agenttts.commands import Done, agenttts
from tests.agenttts.small_specs import write_pipeline
from tests.servers import ScriptedServer

COMMANDS = (
    ["demo"],
    ["check"],
    ["plan"],
    ["search"],
    ["report"],
    ["run"],
    ["serve"],
    ["schema"],
    ["bank", "list"],
    ["bank", "export"],
    ["bank", "import"],
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """One demo of 8 trials, and where its files are."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, agenttts("demo", "--trials", 8, "--out", folder, "--json")


@pytest.fixture
def small(tmp_path: Path, server: ScriptedServer) -> Path:
    """A pipeline of two stages on the scripted server."""
    return write_pipeline(tmp_path, server.base_url)


def test_the_demo_searches_the_bank_and_leaves_a_report(demo: tuple[Path, Done]) -> None:
    """No call is made; the winner is within the budget, scored on the test split, and written down."""
    folder, done = demo
    assert done.code == 0, done.err
    found = done.json
    assert found["cost"]["calls"] == 0
    assert found["cost"]["samples_reused"] > 0
    n_run = [trial["n_scored"] + trial["n_missing"] for trial in found["trials"]]
    assert 0 < sum(n_run) <= (8 + 2) * found["n_search"], "those of eight trials, and two completed"
    spec = load_spec(SPEC)
    every = [*found["trials"], *found["confirmation"]]
    assert found["best"]["budget_units"] in [
        t["budget_units"] for t in every if t["allocation"] == found["best"]["allocation"]
    ]
    assert found["best"]["budget_units"] <= spec.budget.units
    low, high = found["best"]["test_ci"]
    assert low < found["best"]["test_score"] < high
    assert {p.name for p in folder.iterdir()} >= {"demo.duckdb", "report.html"}
    assert "learnt:" in done.err


def test_search_json_has_the_promised_fields(tmp_path: Path) -> None:
    """One JSON object with the fields that programs rely on; the spec's bank is found by itself."""
    done = agenttts("search", SPEC, "--replay", "--trials", 5, "--db", tmp_path / "run.duckdb", "--json")
    assert done.code == 0, done.err
    found = done.json
    finalist = {"allocation", "budget_units", "search_score", "test_score", "test_ci"}
    assert finalist <= set(found["best"]) and finalist <= set(found["baseline"])
    assert {"run_id", "difference_ci", "requirement", "recommended", "fresh", "trials", "cost"} <= set(found)
    trial = {"allocation", "score", "n_scored", "n_missing", "budget_units", "proposer", "reason"}
    assert all(trial <= set(entry) for entry in found["trials"])
    assert set(found["cost"]) >= {
        "calls",
        "samples_drawn",
        "samples_reused",
        "prompt_tokens",
        "generated_tokens",
        "flops",
        "agent_tokens",
    }
    for stage, choice in found["best"]["allocation"].items():
        assert stage in ("retrieve", "answer")
        assert set(choice) == {"model", "n_samples"}


def test_the_same_seed_gives_the_same_search(tmp_path: Path) -> None:
    """Two replays in two databases differ in nothing but the run's id."""
    first, second = (
        agenttts("search", SPEC, "--replay", "--trials", 6, "--db", tmp_path / name, "--json").json
        for name in ("a.duckdb", "b.duckdb")
    )
    first.pop("run_id"), second.pop("run_id")
    assert first == second


def test_a_live_search_from_check_to_run(small: Path, server: ScriptedServer, tmp_path: Path) -> None:
    """check, plan, search, resume, report, bank and run, one after the other, as a person would."""
    db = tmp_path / "run.duckdb"
    checked = agenttts("check", small, "--no-requests")
    assert (checked.code, checked.errors) == (0, []), checked.err
    planned = agenttts("plan", small, "--trials", 6, "--json").json
    assert planned["allocations"] == SearchSpace(load_spec(small), 60.0).size > 1
    assert planned["n_search"] == 24

    searched = agenttts("search", small, "--trials", 6, "--db", db, "--json")
    assert searched.code == 0, searched.err
    found = searched.json
    assert found["cost"]["samples_drawn"] == sum(server.samples.values()) > 0

    requests = len(server.arrived)
    again = agenttts("search", small, "--trials", 6, "--db", db, "--resume", "--json")
    assert again.json == found and len(server.arrived) == requests

    html = tmp_path / "report.html"
    told = agenttts("report", db, "--html", html)
    assert told.code == 0 and html.stat().st_size > 0
    assert "retrieve" in told.out and "The bank answered" in told.out
    assert agenttts("report", db, found["run_id"], "--json").json["run_id"] == found["run_id"]

    listed = agenttts("bank", "list", db, "--json").json
    assert sum(row["samples"] for row in listed) == found["cost"]["samples_drawn"]
    bank = tmp_path / "bank.parquet"
    assert agenttts("bank", "export", db, bank, "--json").json == {"samples": found["cost"]["samples_drawn"]}
    other = tmp_path / "other.duckdb"
    Store.open(other).close()
    assert agenttts("bank", "import", other, bank, "--json").json["samples"] > 0
    assert agenttts("bank", "import", other, bank, "--json").json == {"samples": 0}

    inputs = "".join(json.dumps({"question": f"search-{i}"}) + "\n" for i in range(5))
    ran = agenttts("run", small, "--run", "latest", "--db", db, stdin=inputs)
    assert ran.code == 0, ran.err
    outputs = [json.loads(line) for line in ran.out.splitlines()]
    assert [output["status"] for output in outputs] == ["ok"] * 5
    assert len(server.arrived) == requests, "these inputs were in the search: their samples were paid for"

    file = tmp_path / "found.json"
    file.write_text(searched.out)
    repeated = agenttts("run", small, "--allocation", file, "--db", db, "--replay", stdin=inputs)
    assert repeated.out == ran.out


POLICY = """\
rungs:
  - retrieve: {model: small, n_samples: 1}
    answer: {model: small, n_samples: 8, stop: {kind: decided}}
"""


def test_a_policy_runs_on_new_inputs(small: Path, server: ScriptedServer, tmp_path: Path) -> None:
    """Each answer comes with what it took; a policy that does not fit is one line of error."""
    file, db = tmp_path / "policy.yaml", tmp_path / "r.duckdb"
    file.write_text(POLICY)
    server.answer = lambda request, index: "red"
    inputs = "".join(json.dumps({"question": question}) + "\n" for question in ("one", "two"))
    ran = agenttts("run", small, "--policy", file, "--db", db, stdin=inputs)
    assert ran.code == 0, ran.err
    outputs = [json.loads(line) for line in ran.out.splitlines()]
    assert [(o["output"], o["n_samples"], o["n_rungs"], o["confidence"]) for o in outputs] == [
        ("red", 5, 1, None)
    ] * 2
    assert all(isinstance(o["units"], float) and o["stepped_back"] == [] for o in outputs)
    held = agenttts("run", small, "--policy", file, "--mean-units", 50, "--db", db, stdin=inputs)
    assert [json.loads(line)["output"] for line in held.out.splitlines()] == ["red", "red"]
    fixed = tmp_path / "allocation.json"
    fixed.write_text(json.dumps({s: {"model": "small", "n_samples": 1} for s in ("retrieve", "answer")}))
    for wrong, problem in (
        (("--mean-units", 50, "--allocation", fixed), "lowers the thresholds of a policy"),
        (("--policy", file, "--mean-units", -1e9), "is a finite number above 0, got -1000000000.0"),
        (("--policy", file, "--mean-units", "nan"), "is a finite number above 0, got nan"),
    ):
        refused = agenttts("run", small, *wrong, "--db", db, stdin=inputs)
        assert refused.code == 2, refused.err
        assert refused.errors[0].startswith(f"mean_units (--mean-units) {problem}"), refused.err
    file.write_text(POLICY.replace("small", "huge"))
    refused = agenttts("run", small, "--policy", file, "--db", db, stdin=inputs)
    assert refused.code == 2
    assert refused.errors == ["rung 1, stage 'retrieve': may use small, large, got 'huge'"]


def test_an_input_that_fails_is_told_and_the_others_have_their_output(
    small: Path, server: ScriptedServer, tmp_path: Path
) -> None:
    """`run` ends with exit code 1, and names the reason, when an input has no output."""
    file = tmp_path / "allocation.json"
    file.write_text(json.dumps({s: {"model": "small", "n_samples": 1} for s in ("retrieve", "answer")}))
    server.fault = lambda request: "empty" if "bad" in request.prompt else None
    lines = "".join(json.dumps({"question": question}) + "\n" for question in ("good", "bad", "fine"))
    options = ("--allocation", file, "--db", tmp_path / "r.duckdb", "--retry-for", 0.5)
    done = agenttts("run", small, *options, stdin=lines)
    assert done.code == 1 and "1 of 3 inputs have no output" in done.err
    outputs = [json.loads(line) for line in done.out.splitlines()]
    assert [output["status"] for output in outputs] == ["ok", "error", "ok"]
    assert outputs[1]["output"] is None and outputs[1]["reason"]
    assert {outputs[0]["output"], outputs[2]["output"]} <= {"red", "green", "blue"}


def test_serve_prints_the_commands_that_it_would_run(demo: tuple[Path, Done], tmp_path: Path) -> None:
    """`--dry-run` starts nothing; `--run` and `--only` leave out the models that are not needed."""
    every = agenttts("serve", SPEC, "--dry-run", "--device", "cpu", "--json").json
    assert [command["models"] for command in every] == [["small"], ["medium"], ["large"]]
    assert all("--served-model-name" in command["argv"] for command in every)
    folder, done = demo
    rungs = done.json["adaptive"]["choice"]["policy"]["rungs"]
    needed = {plan["model"] for rung in rungs for plan in rung.values()}
    some = agenttts(
        "serve", SPEC, "--run", "latest", "--db", folder / "demo.duckdb", "--dry-run", "--json"
    ).json
    assert {name for command in some for name in command["models"]} == needed
    shell = agenttts("serve", SPEC, "--only", "large", "--dry-run", "--device", "gpu")
    assert re.search(
        r"^HF_HUB_OFFLINE=1 vllm serve \S+/models/large --served-model-name zoo-large",
        shell.out,
        re.MULTILINE,
    )
    assert "zoo-small" not in shell.out


def test_the_schema_accepts_the_zoo_and_refuses_an_unknown_key() -> None:
    """The JSON schema is that of the pipeline file."""
    schema = agenttts("schema").json
    document = YAML(typ="safe", pure=True).load(SPEC.read_text())
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "modles": {}}, schema)


def test_check_names_the_server_that_is_not_up(small: Path, server: ScriptedServer) -> None:
    """Exit code 2 and the address; `--offline` does not ask."""
    server.stop()
    done = agenttts("check", small)
    assert done.code == 2
    assert any(server.base_url.removesuffix("/v1") in line for line in done.errors), done.err
    assert agenttts("check", small, "--offline").code == 0
    told = agenttts("check", small, "--json")
    assert told.code == 2 and told.json["ok"] is False and told.json["findings"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_and_json(command: list[str]) -> None:
    """What the README promises of every command."""
    done = agenttts(*command, "--help")
    assert done.code == 0
    assert "Example: agenttts " + " ".join(command) in " ".join(done.out.split())
    assert "--json" in done.out


BAD_SPECS = {
    "an unknown key": ("metric:", "metrik:", "metrik"),
    "a wrong type": ("max_samples: 8", "max_samples: many", "max_samples"),
    "a duplicate stage": ("name: answer", "name: retrieve", "retrieve"),
    "a template error": ("answer {{ question }}", "answer {{ question", "prompt"),
    "a missing file": ("search.jsonl", "nowhere.jsonl", "nowhere.jsonl"),
    "a field that rows lack": ("label: answer", "label: gold", "gold"),
    "a model that is not there": ("[small, large]", "[small, huge]", "huge"),
    "a budget under the cheapest": ("units: 60", "units: 0.5", "budget"),
    "a model that is not served": ("served_name: large", "served_name: larger", "larger"),
    "a cycle": ("- name: retrieve", "- name: retrieve\n    inputs: [answer]", "answer"),
}


@pytest.mark.parametrize("case", BAD_SPECS)
def test_a_bad_spec_is_refused_before_anything_is_spent(
    case: str, small: Path, server: ScriptedServer, tmp_path: Path
) -> None:
    """One line that names the place, exit code 2, no sample drawn, no run in the database."""
    old, new, named = BAD_SPECS[case]
    text = small.read_text()
    assert old in text
    small.write_text(text.replace(old, new))
    db = tmp_path / "run.duckdb"
    done = agenttts("search", small, "--db", db)
    assert done.code == 2, done.err
    assert done.errors and any(named in line for line in done.errors), done.err
    assert "Traceback" not in done.err
    assert not server.samples
    if db.exists():
        with Store.read(db) as store:
            assert store.runs() == []


def bad_arguments(small: Path, folder: Path) -> dict[str, tuple[list[object], str]]:
    foreign, text = folder / "foreign.duckdb", folder / "list.json"
    foreign.write_bytes(b"not a database" * 1000)
    text.write_text("[]")
    table = folder / "rows.csv"
    table.write_text("a,b\n1,2\n")
    db = folder / "run.duckdb"
    search = ["search", small, "--db", db]
    return {
        "no spec": (["search", folder / "none.yaml"], "none.yaml"),
        "an unknown proposer": ([*search, "--proposer", "oracle"], "oracle"),
        "an agent without endpoint": ([*search, "--proposer", "agent"], "AGENTTTS_AGENT_BASE_URL"),
        "an agent's model without endpoint": ([*search, "--agent-model", "m"], "--agent-base-url"),
        "fresh examples of twice all": (
            [*search, "--fresh", "2"],
            "fresh (--fresh), the share of the search",
        ),
        "an unknown rival": (
            ["compare", "--landscapes", "all", "--proposers", "foo"],
            "one of default, solve, insights, greedy, halving, elimination, random",
        ),
        "a page in no directory": (
            ["report", db, "--html", folder / "none" / "r.html"],
            "none/r.html: its directory does not exist; create it",
        ),
        "a plot in no directory": (
            ["compare", "--landscapes", "all", "--html", folder / "none" / "r.html"],
            "none/r.html: its directory does not exist; create it",
        ),
        "a table for a database": (["report", table], "rows.csv: not a DuckDB database"),
        "an agent at no port": (
            [*search, "--agent-base-url", "http://agents.example:99999/v1", "--agent-model", "m"],
            "a port from 1 to 65535 if any, got 'http://agents.example:99999/v1'",
        ),
        "a cost without quality": ([*search, "--objective", "cost"], "least quality"),
        "an unknown objective": ([*search, "--objective", "speed"], "quality, cost, latency"),
        "a frontier of another's": ([*search, "--frontier", "--proposer", "tpe"], "frontier"),
        "a budget of nothing": ([*search, "--budget", "0"], "budget"),
        "a cap of nothing": ([*search, "--max-tokens", "0"], "tokens"),
        "dollars without prices": ([*search, "--max-usd", "1"], "price"),
        "a foreign database": (["search", small, "--db", foreign], "foreign.duckdb"),
        "replay without a bank": ([*search, "--replay"], "bank"),
        "a bank that is none": ([*search, "--bank", text], "list.json"),
        "asking nobody": ([*search, "--approve"], "--approve"),
        "a report of nothing": (["report", folder / "none.duckdb"], "none.duckdb"),
        "run without allocation": (["run", small], "--allocation"),
        "an allocation that is a list": (["run", small, "--allocation", text], "list.json"),
        "an unknown model to serve": (["serve", small, "--only", "huge", "--dry-run"], "huge"),
        "an unknown device": (["serve", small, "--device", "tpu", "--dry-run"], "tpu"),
        "listing nothing": (["bank", "list", folder / "none.duckdb"], "none.duckdb"),
        "importing nothing": (["bank", "import", db, folder / "none.parquet"], "none.parquet"),
    }


def test_bad_arguments_are_refused_with_one_line(small: Path, server: ScriptedServer, tmp_path: Path) -> None:
    """Exit code 2 and a line that names what is wrong; nothing is drawn, and a foreign file is left alone."""
    for case, (arguments, named) in bad_arguments(small, tmp_path).items():
        done = agenttts(*arguments)
        assert done.code == 2, (case, done.err)
        assert done.errors and named in " ".join(done.errors), (case, done.err)
        assert "Traceback" not in done.err and not done.out, case
        assert not server.samples, case
    assert (tmp_path / "foreign.duckdb").read_bytes() == b"not a database" * 1000


def test_no_database_is_left_where_nothing_began(small: Path, server: ScriptedServer, tmp_path: Path) -> None:
    """A search that its own check refuses leaves no new database behind, and one that was there as it was."""
    new, old = tmp_path / "new.duckdb", tmp_path / "old.duckdb"
    Store.open(old).close()
    server.models = {"other": 4096}
    for db, is_kept in ((new, False), (old, True)):
        done = agenttts("search", small, "--db", db)
        assert done.code == 2 and "served_name" in done.err and db.exists() == is_kept
    assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize("budget", ["inf", "nan"])
def test_a_budget_is_finite(small: Path, budget: str) -> None:
    """As in the pipeline file; a plan of an endless budget would say nothing."""
    for option in ("--budget", "--budget-usd"):
        done = agenttts("plan", small, option, budget)
        assert done.errors == [f"a budget must be a finite number, got {budget}; give one, as the file's is"]
        assert done.code == 2


def test_prices_and_keys_are_missed_with_their_line(small: Path) -> None:
    """A model without a price, or whose key's variable is not set, is named with file and line."""
    text = small.read_text().replace(
        "active_params: 4.0e+6}", "active_params: 4.0e+6, api_key_env: NO_SUCH_KEY}"
    )
    small.write_text(text)
    (price,) = agenttts("check", small, "--offline", "--budget-usd", "1").errors
    assert price.startswith(f"{small}:3: models.small.price: a budget in US dollars needs the price")
    (key,) = agenttts("check", small).errors
    assert key == f"{small}:4: models.large.api_key_env: NO_SUCH_KEY is not set; export it"


def test_a_second_writer_is_refused_at_once(small: Path, tmp_path: Path) -> None:
    """One writer per database, said with the file's name."""
    db = tmp_path / "run.duckdb"
    with Store.open(db):
        done = agenttts("search", small, "--db", db)
    assert done.code == 2 and "one writer per database" in done.err


def test_ctrl_c_while_the_program_is_imported(tmp_path: Path) -> None:
    """Exit code 130 without a traceback, however early it is pressed."""
    (tmp_path / "typer.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)\n")
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[3]}"}
    command = [sys.executable, "-m", "agenttts", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
