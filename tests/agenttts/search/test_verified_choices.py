"""A stage with verifiers: each model is a choice with the vote, and another with a verifier that picks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agenttts.proposers.agent_answer import Answer, read_answer
from agenttts.proposers.agent_form import answer_schema
from agenttts.space.space import SearchSpace
from datastore import Store
from pipelines.allocation import Allocation, StageChoice, StageOption
from pipelines.spec.files import dump_spec, load_spec, restore_spec, spec_digest
from tests.agenttts.choosing import view_of
from tests.agenttts.commands import agenttts
from tests.agenttts.small_specs import write_pipeline
from tests.servers import Request, ScriptedServer

COLOURS = ("red", "green", "blue")


def answered(request: Request, index: int) -> str:
    """Right in one sample of four, else mostly one wrong colour: a vote is wrong however many there are."""
    gold = int(request.prompt.split("-")[1].split()[0]) % 3
    return COLOURS[gold if index % 4 == 1 else (gold + 1 + (index % 4 == 3)) % 3]


def judged(request: Request) -> list[float]:
    """Sees the right colour."""
    gold = int(request.text.split("-")[1].split()[0]) % 3
    right = 0.9 if request.text.split()[-1] == COLOURS[gold] else 0.2
    return [1 - right, right]


@pytest.fixture
def pipeline(tmp_path: Path, make_server: Callable[..., ScriptedServer]) -> tuple[Path, ScriptedServer]:
    """A pipeline of two stages, the second with a verifier."""
    server = make_server(
        models={"small": 4096, "large": 4096, "judge": 4096}, answer=answered, classify=judged
    )
    file = write_pipeline(tmp_path, server.base_url)
    text = file.read_text()
    judge = f'  judge: {{base_url: "{server.base_url}", path: verifier, active_params: 1.0e+6}}\n'
    text = text.replace("stages:\n", judge + "stages:\n")
    head, answer = text.split("  - name: answer\n")
    file.write_text(f"{head}  - name: answer\n    verifiers: [judge]\n{answer}")
    return file, server


def test_the_search_finds_that_picking_beats_voting(
    pipeline: tuple[Path, ScriptedServer], tmp_path: Path
) -> None:
    """It compares both on the same samples, ends with the verifier, resumes and replays without a call."""
    file, server = pipeline
    db = tmp_path / "run.duckdb"
    assert agenttts("check", file).code == 0
    done = agenttts("search", file, "--trials", 10, "--db", db, "--json")
    assert done.code == 0, done.err
    best = done.json["best"]
    assert best["allocation"]["answer"]["verifier"] == "judge"
    assert best["allocation"]["answer"]["model"] in ("small", "large")
    assert best["test_score"] == 1.0
    assert {trial["allocation"]["answer"]["model"] for trial in done.json["trials"]} >= {"small", "large"}
    assert server.classified
    assert agenttts("search", file, "--trials", 10, "--db", db, "--resume", "--json").json == done.json
    asked = len(server.classified)
    replayed = agenttts("search", file, "--trials", 10, "--db", db, "--replay", "--json").json
    assert [t["score"] for t in replayed["trials"]] == [t["score"] for t in done.json["trials"]]
    assert replayed["cost"]["calls"] == 0 and len(server.classified) == asked
    with Store.read(db) as store:
        served = {row.name for row in store.models()}
        assert served == {"small", "large", "judge"}, "a choice is no model of its own"
    place = server.base_url
    for port in (8101, 8102, 8103):
        file.write_text(file.read_text().replace(place, f"http://127.0.0.1:{port}/v1", 1))
    needed = agenttts("serve", file, "--run", "latest", "--db", db, "--dry-run", "--device", "cpu", "--json")
    assert needed.code == 0, needed.err
    pooling = [command["models"] for command in needed.json if "pooling" in command["argv"]]
    assert pooling == [["judge"]]
    html = tmp_path / "report.html"
    assert agenttts("report", db, "--html", html).code == 0
    assert "@judge" in html.read_text()


def test_an_llm_may_write_the_verifier_apart_or_in_one_word(pipeline: tuple[Path, ScriptedServer]) -> None:
    """Both are the same allocation; a verifier that the stage lacks is refused, and nothing raises."""
    space = SearchSpace(load_spec(pipeline[0]), 60.0)
    view = view_of(space)
    wanted = Allocation({"retrieve": StageChoice("small", 1), "answer": StageChoice("small", 2, "judge")})

    def read(**answer: object) -> Answer:
        allocation = {"retrieve": {"model": "small", "n_samples": 1}, "answer": {"n_samples": 2, **answer}}
        return read_answer(json.dumps({"proposals": [{"allocation": allocation, "reason": "so"}]}), view, 1)

    for answer in ({"model": "small", "verifier": "judge"}, {"model": "small@judge"}):
        assert [s.allocation for s in read(**answer).suggestions] == [wanted]
    plain = read(model="small", verifier=None).suggestions[0].allocation
    assert plain["answer"] == StageChoice("small", 2)
    for verifier in ("jury", 3):
        answer_read = read(model="small", verifier=verifier)
        assert not answer_read.suggestions and len(answer_read.rejected) == 1
    stage = json.dumps(answer_schema(space, 1))
    assert '"verifier": {"type": ["string", "null"], "enum": [null, "judge"]}' in stage


def test_what_a_choice_costs(pipeline: tuple[Path, ScriptedServer]) -> None:
    """The samples of its model, and one reading of prompt and sample for each."""
    spec = load_spec(pipeline[0])
    space = SearchSpace(spec, 60.0)
    voted, picked = (
        space.stage_units("answer", StageChoice("small", 4, verifier)) for verifier in (None, "judge")
    )
    reference = spec.budget.reference
    read = 4 * (spec.stage("answer").prompt_tokens + 2) / reference.generated_tokens
    assert picked == pytest.approx(voted + read)
    assert space.active_params(StageOption("large", "judge")) == 5e6
    options = len(list(space.enumerate()))
    assert space.size == options
    assert (
        Allocation({"retrieve": StageChoice("small", 1), "answer": StageChoice("small", 1, "judge")}) in space
    )


def test_defaults_are_plain_models(pipeline: tuple[Path, ScriptedServer]) -> None:
    """What a person tries without a search asks no verifier."""
    defaults = SearchSpace(load_spec(pipeline[0]), 60.0).defaults()
    options = {str(choice.option) for allocation in defaults for choice in allocation.values()}
    assert options <= {"small", "large"}


def test_verifiers_are_part_of_what_a_run_was(pipeline: tuple[Path, ScriptedServer]) -> None:
    """They survive the store, and a spec with them is another spec."""
    spec = load_spec(pipeline[0])
    options = restore_spec(dump_spec(spec)).stage("answer").options
    assert [str(option) for option in options] == ["small", "large", "small@judge", "large@judge"]
    file = pipeline[0]
    file.write_text(file.read_text().replace("    verifiers: [judge]\n", ""))
    assert spec_digest(load_spec(file)) != spec_digest(spec)


def test_an_allocation_by_hand_names_the_verifier(
    pipeline: tuple[Path, ScriptedServer], tmp_path: Path
) -> None:
    """`run` takes it in either form; an unknown one is refused with those there are."""
    file, _ = pipeline
    inputs = '{"question": "search-1"}\n'
    chosen = Allocation({"retrieve": StageChoice("small", 1), "answer": StageChoice("large", 4, "judge")})
    named = tmp_path / "allocation.json"
    in_one_word = {
        "retrieve": {"model": "small", "n_samples": 1},
        "answer": {"model": "large@judge", "n_samples": 4},
    }
    for written in (chosen.to_dict(), in_one_word):
        named.write_text(json.dumps(written))
        ran = agenttts("run", file, "--allocation", named, "--db", tmp_path / "r.duckdb", stdin=inputs)
        assert ran.code == 0, ran.err
        assert '"green"' in ran.out
    wrong = Allocation({"retrieve": StageChoice("small", 1), "answer": StageChoice("large", 4, "jury")})
    named.write_text(wrong.to_json())
    refused = agenttts("run", file, "--allocation", named, "--db", tmp_path / "r.duckdb", stdin=inputs)
    assert refused.code == 2
    assert "small, large, small@judge, large@judge" in refused.err


def test_a_text_too_long_for_the_verifier_is_a_missing_value(
    pipeline: tuple[Path, ScriptedServer], tmp_path: Path
) -> None:
    """A server that refuses it stops no search; the example says why it has no score."""
    file, server = pipeline
    server.models["judge"], server.refuses = 3, frozenset({"truncate_prompt_tokens"})
    chosen = tmp_path / "allocation.json"
    allocation = Allocation({"retrieve": StageChoice("small", 1), "answer": StageChoice("small", 2, "judge")})
    chosen.write_text(allocation.to_json())
    ran = agenttts(
        "run", file, "--allocation", chosen, "--db", tmp_path / "r.duckdb", stdin='{"question": "search-1"}\n'
    )
    assert ran.code == 1
    assert "too long for its verifier" in ran.out
    assert "Traceback" not in ran.err


def test_names_are_told_apart(pipeline: tuple[Path, ScriptedServer]) -> None:
    """A verifier with @ in its name is one; a model that is named as a choice is refused."""
    file, _ = pipeline
    text = file.read_text()
    file.write_text(text.replace("judge", "judge@v2"))
    spec = load_spec(file)
    stage = spec.stage("answer")
    assert [str(option) for option in stage.options] == ["small", "large", "small@judge@v2", "large@judge@v2"]
    assert stage.option("small@judge@v2") == StageOption("small", "judge@v2")
    with pytest.raises(KeyError):
        stage.option("small@judge")
    assert SearchSpace(spec, 60.0).size == len(list(SearchSpace(spec, 60.0).enumerate()))
    for wrong, law in (
        (text.replace("large", "small@judge"), "must be told apart"),
        (text.replace("verifiers: [judge]", "verifiers: [judge, judge]"), "must be named once"),
        (text.replace("max_samples: 8", "max_samples: 1"), "nothing to pick from"),
    ):
        file.write_text(wrong)
        done = agenttts("check", file)
        assert done.code == 2
        assert law in done.err, done.err


def test_a_run_of_another_pipeline_is_not_served(
    pipeline: tuple[Path, ScriptedServer], tmp_path: Path
) -> None:
    """Its best allocation names a choice that the file no longer has."""
    file, _ = pipeline
    db = tmp_path / "run.duckdb"
    done = agenttts("search", file, "--trials", 6, "--db", db, "--json")
    assert done.json["best"]["allocation"]["answer"]["verifier"] == "judge"
    file.write_text(file.read_text().replace("    verifiers: [judge]\n", ""))
    served = agenttts("serve", file, "--run", "latest", "--db", db, "--dry-run")
    assert served.code == 2
    assert "may use small, large; got" in served.err


def test_a_bank_without_the_verifier_is_refused_for_comparing(
    pipeline: tuple[Path, ScriptedServer], tmp_path: Path
) -> None:
    """One line that names the choice, before any trial is wasted on it."""
    file, _ = pipeline
    text = file.read_text()
    file.write_text(text.replace("    verifiers: [judge]\n", ""))
    db, bank = tmp_path / "run.duckdb", tmp_path / "bank.parquet"
    assert agenttts("search", file, "--trials", 4, "--db", db, "--json").code == 0
    assert agenttts("bank", "export", db, bank).code == 0
    file.write_text(text)
    done = agenttts("compare", file, "--bank", bank, "--proposers", "random", "--seeds", 1, "--trials", 2)
    assert done.code == 2
    assert "the bank has nothing of" in done.err and "@judge" in done.err
