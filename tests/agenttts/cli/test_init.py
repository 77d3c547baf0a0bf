"""`agenttts init`: what it writes passes the check, and a search runs on it as it stands."""

from __future__ import annotations

import json
from inspect import getsourcefile
from pathlib import Path

import pytest

from agenttts.cli.starter import families
from pipelines import load_spec
from tests.agenttts.commands import agenttts
from tests.servers import ScriptedServer


def rows(folder: Path, count: int = 12) -> Path:
    file = folder / "rows.jsonl"
    made = [{"id": i, "question": f"is it {i}?", "note": "so", "answer": "red"} for i in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    return file


def test_what_is_written_passes_the_check_and_is_searched(tmp_path: Path) -> None:
    """From flags alone, with a server that answers: its context length is filled in."""
    with ScriptedServer() as server:
        model = f"small={server.base_url},1e9"
        flags = ["--data", str(rows(tmp_path)), "--model", model, "--stage", "think", "--stage", "reply"]
        done = agenttts("init", str(tmp_path / "mine"), *flags, "--budget", "30")
        assert done.code == 0, done.err
        spec = tmp_path / "mine/pipeline.yaml"
        made = load_spec(spec)
        assert [stage.name for stage in made.stages] == ["think", "reply"] and made.name == "mine"
        assert "note: {{ note }}" in (made.stages[0].prompt or "") and "{{ think }}" in (
            made.stages[1].prompt or ""
        )
        assert made.dataset.search == 6 and made.dataset.test == 6 and made.dataset.id_field == "id"
        assert "is there already" in agenttts("init", str(tmp_path / "mine"), *flags).err
        checked = agenttts("check", str(spec))
        assert checked.code == 0, checked.err
        found = agenttts("search", str(spec), "--trials", "3", "--db", str(tmp_path / "m.duckdb"), "--json")
        assert found.code == 0, found.err
        assert found.json["n_search"] == 6


def test_two_models_that_are_one_on_their_servers(tmp_path: Path) -> None:
    """With different parameters they are refused before a file is written, as no pipeline may have them."""
    with ScriptedServer(models={"alone": 4096}) as server:
        flags = ["--data", str(rows(tmp_path)), "--model", f"small={server.base_url},1e9"]
        done = agenttts("init", str(tmp_path / "new"), *flags, "--model", f"big={server.base_url},7e9")
        assert (done.code, len(done.err.splitlines())) == (2, 1) and not (tmp_path / "new").exists()
        assert "small and big: both are 'alone' by what the servers list" in done.err
        assert "got 1e+09 and 7e+09; state the same, or name the server of another model" in done.err
        done = agenttts("init", str(tmp_path / "new"), *flags, "--model", f"big={server.base_url},1e9")
        assert (
            done.code == 0 and load_spec(tmp_path / "new/pipeline.yaml").models["big"].served_name == "alone"
        )


@pytest.mark.parametrize("family", families())
def test_every_family_can_be_copied(family: str, tmp_path: Path) -> None:
    """The copy is a spec that loads from where it lies, with its own prompts and functions of stages."""
    done = agenttts("init", str(tmp_path / "copy"), "--from", family)
    assert done.code == 0, done.err
    made = load_spec(tmp_path / "copy/pipeline.yaml")
    assert made.name == family and all(
        (tmp_path / "copy") in Path(s.template_file or getsourcefile(s.python) or "").parents
        for s in made.stages
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--data is needed"),
        (["--data", "nowhere.jsonl"], "must be a file that exists"),
        (["--from", "nothing"], "--from is one of 2wiki-rag, 2wikimultihopqa, cwq"),
        (["--data", "ROWS", "--label", "gold"], "field 'gold' must be in every row"),
        (["--data", "ROWS", "--input", "title"], "field 'title' must be in every row"),
        (["--data", "ROWS", "--model", "small"], "--model is NAME=URL,PARAMS"),
        (["--data", "ROWS", "--model", "s=http://x/v1,-3"], "active parameters, a number above 0; got"),
        (["--data", "ROWS", "--model", "s=http://x/v1,inf"], "active parameters, a number above 0; got"),
        (["--data", "ROWS", "--model", "s=http://x/v1,none"], "--model is NAME=URL,PARAMS"),
        (
            ["--data", "ROWS", "--model", "s=http://x/v1,1", "--model", "s=http://x/v1,2"],
            "got 's' twice; rename one",
        ),
        (["--data", "ROWS", "--metric", "bleu"], "--metric is one of exact_match, token_f1"),
        (["--data", "ROWS", "--stage", "two words"], "stages have names of their own"),
        (["--data", "FEW"], "needs 4 rows or more, got 2"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(flags: list[str], said: str, tmp_path: Path) -> None:
    """Exit code 2, no traceback, nothing written."""
    few = tmp_path / "few.jsonl"
    few.write_text('{"q": "1", "answer": "2"}\n' * 2)
    named = {"ROWS": str(rows(tmp_path)), "FEW": str(few)}
    done = agenttts("init", str(tmp_path / "new"), *(named.get(flag, flag) for flag in flags))
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert len(done.err.splitlines()) == 1 and not (tmp_path / "new").exists()


def written(folder: Path, rows: list[dict[str, object]], *flags: str) -> tuple[str, str, str]:
    """The spec, the first prompt and what was told, of a new pipeline on these rows."""
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = agenttts("init", str(folder / "new"), "--data", str(data), *flags)
    assert done.code == 0, done.err
    spec, prompt = (folder / "new" / name for name in ("pipeline.yaml", "prompts/draft.j2"))
    return spec.read_text(), prompt.read_text(), done.err


def test_fields_that_give_the_answer_away_stay_out_of_the_prompts(tmp_path: Path) -> None:
    """Aliases that hold the label, fields named like labels, and what the user names; it is told."""
    rows: list[dict[str, object]] = [
        {
            "question": f"q{i}",
            "answer": f"a{i}",
            "aliases": [f"a{i}", "x"],
            "gold": i,
            "proof": "p",
            "hint": "h",
        }
        for i in range(24)
    ]
    _, prompt, told = written(tmp_path, rows, "--gold", "proof", "--label", "answer")
    assert "question" in prompt and "hint" in prompt
    assert not any(name in prompt for name in ("aliases", "gold", "proof"))
    assert "may give the answer away: aliases, gold, proof" in told


def test_classes_that_agree_by_chance_hide_no_field(tmp_path: Path) -> None:
    """A field with the same few values as the label is an input; one that repeats the label is not."""
    rows: list[dict[str, object]] = [
        {"text": f"t{i}", "polite": i % 3 == 0, "short": i % 2 == 0, "copy": i % 3 == 0} for i in range(40)
    ]
    _, prompt, _ = written(tmp_path, rows, "--label", "polite")
    assert "short" in prompt and "copy" not in prompt


def test_the_prompt_of_the_only_stage_asks_for_the_answer(tmp_path: Path) -> None:
    """There is no later stage to give it, so that it is not asked for steps alone."""
    rows: list[dict[str, object]] = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(24)]
    _, prompt, _ = written(tmp_path, rows, "--stage", "draft")
    assert prompt.endswith("Reply with the answer alone.\n") and "step by step" not in prompt


def test_a_pipeline_without_a_safe_field_is_refused(tmp_path: Path) -> None:
    """One line says which flag to give."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"answer": "a", "gold": "b"}\n' * 8)
    done = agenttts("init", str(tmp_path / "new"), "--data", str(data))
    assert done.code == 2 and "--input is needed" in done.err


@pytest.mark.parametrize(
    ("labels", "metric"),
    [
        ([f"answer {i}" for i in range(24)], "exact_match"),
        ([["red", f"{i}"] for i in range(24)], "set_f1"),
        ([i % 2 == 0 for i in range(24)], "accuracy"),
        ([("joy", "fear", "none")[i % 3] for i in range(24)], "accuracy"),
        ([f"{i:05}" for i in range(990, 1014)], "exact_match"),
        ([str(i % 5 + 1) for i in range(24)], "accuracy"),
        ([f"{i},000" for i in range(1, 25)], "number"),
        ([f"a sentence of more than six words, number {i}" for i in range(24)], "token_f1"),
    ],
)
def test_the_metric_suits_the_type_of_the_label(labels: list[object], metric: str, tmp_path: Path) -> None:
    """Unless a flag names one; editors find the schema of the file."""
    rows: list[dict[str, object]] = [{"question": f"q{i}", "answer": label} for i, label in enumerate(labels)]
    spec, _, _ = written(tmp_path, rows)
    assert f"metric: {{kind: {metric}," in spec
    assert ("    parser: {kind: answer}" in spec) == (metric in ("exact_match", "number", "accuracy"))
    assert spec.startswith("# yaml-language-server: $schema=pipeline.schema.json\n")
    schema = json.loads((tmp_path / "new/pipeline.schema.json").read_text())
    assert {"stages", "models", "metric"} <= set(schema["properties"])


def test_units_are_samples_of_the_smallest_model_at_the_lengths_of_the_rows(tmp_path: Path) -> None:
    """Prompts are planned by the rows, and no allocation is far below 0, as by the default reference."""
    flags = [
        "--data",
        str(rows(tmp_path)),
        "--model",
        "big=http://x/v1,4e9",
        "--model",
        "tiny=http://x/v1,5e8",
    ]
    assert agenttts("init", str(tmp_path / "mine"), *flags).code == 0
    file = tmp_path / "mine/pipeline.yaml"
    made = load_spec(file)
    draft, final = made.stages
    assert 15 < draft.prompt_tokens < 40
    assert final.prompt_tokens > draft.prompt_tokens + draft.generated_tokens - 20
    reference = made.budget.reference
    assert (reference.active_params, reference.prompt_tokens) == (5e8, draft.prompt_tokens)
    assert agenttts("check", str(file), "--offline").err.count("budget.reference") == 0
    file.write_text(file.read_text().partition("  reference:")[0])
    checked = agenttts("check", str(file), "--offline")
    assert checked.code == 0 and "budget.reference" in checked.err and "takes -" in checked.err


def test_the_budget_holds_samples_of_the_largest_model(tmp_path: Path) -> None:
    """Where none is given; with a model that is many times the smallest and long rows."""
    file = tmp_path / "rows.jsonl"
    texts = [f"{i} " + "word " * 800 for i in range(12)]
    file.write_text("".join(json.dumps({"text": text, "answer": "red"}) + "\n" for text in texts))
    models = ["--model", "tiny=http://x/v1,1e9", "--model", "huge=http://x/v1,70e9"]
    assert agenttts("init", str(tmp_path / "mine"), "--data", str(file), *models).code == 0
    checked = agenttts("check", str(tmp_path / "mine/pipeline.yaml"), "--offline")
    assert checked.code == 0 and "never tried" not in checked.err
    given = agenttts("init", str(tmp_path / "own"), "--data", str(file), *models, "--budget", "30")
    assert given.code == 0 and load_spec(tmp_path / "own/pipeline.yaml").budget.units == 30


@pytest.mark.parametrize("name", ["a-b", "q.text", "user question", "1st", "a|b", "x.__class__", "{% raw %}"])
def test_a_field_of_any_name_is_data(name: str, tmp_path: Path) -> None:
    """Nothing of a data file is run as a template; what a prompt can't name, the check tells."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"id": i, name: "x", "answer": "red"}) + "\n" for i in range(8)))
    done = agenttts("init", str(tmp_path / "mine"), "--data", str(file), "--label", "answer", "--yes")
    assert done.code == 0 and "Traceback" not in done.err
    assert agenttts("check", str(tmp_path / "mine/pipeline.yaml"), "--offline").code == 2
