"""Files that are nested too deep, hold huge numbers or what they should not: one line, exit code 2."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from agenttts import UserError, read_tuned
from agenttts.training.weights import require_servable
from tests.agenttts.commands import Done, agenttts
from tests.agenttts.small_specs import write_pipeline

DEEP = "[" * 100_000
DIGITS = "9" * 5000
PASSWORD = "hunter2"


def one_line(done: Done, named: str) -> str:
    """The error: exit code 2, each line of stderr an error that names the file."""
    assert done.code == 2 and not done.out and "Traceback" not in done.err, done.err[-2000:]
    lines = [line for line in done.err.splitlines() if line]
    assert lines and all(line.startswith("error: ") for line in lines), done.err[-2000:]
    assert named in lines[0], lines[0]
    return lines[0]


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A pipeline that no server need answer."""
    return write_pipeline(tmp_path, "http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    "content",
    [
        f"name: {DEEP}",
        "name:\n" + "".join("  " * i + "- \n" for i in range(1, 1500)),
        f"seed: {DIGITS}",
        f"name: small\nmodels: {DIGITS}",
        '{"a":' * 50_000,
        "\x00\x01",
        "name: \ud7ff\x07",
    ],
    ids=["brackets", "lists", "digits", "a number for models", "braces", "zeros", "control characters"],
)
@pytest.mark.parametrize("what", ["spec", "policy"])
def test_a_yaml_file_that_is_hostile(spec: Path, tmp_path: Path, what: str, content: str) -> None:
    """As a pipeline or as a policy."""
    file = tmp_path / "hostile.yaml"
    file.write_text(content)
    if what == "spec":
        one_line(agenttts("plan", file), "hostile.yaml")
    else:
        one_line(agenttts("run", spec, "--policy", file, "--db", tmp_path / "r.duckdb"), "hostile.yaml")


@pytest.mark.parametrize(
    "content",
    [DEEP, DIGITS, '{"retrieve": ' + DEEP, "null", '{"retrieve": 3}', '{"answer": {"n_samples": 1e999}}'],
)
def test_an_allocation_that_is_hostile(spec: Path, tmp_path: Path, content: str) -> None:
    """A JSON file of another form."""
    file = tmp_path / "hostile.json"
    file.write_text(content)
    one_line(agenttts("run", spec, "--allocation", file, "--db", tmp_path / "r.duckdb"), "hostile.json")


@pytest.mark.parametrize(
    "content", [DEEP, DIGITS, '{"question": ' + DEEP, '{"question": ' + "[" * 900 + "]" * 900 + "}"]
)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_rows_that_are_hostile(spec: Path, suffix: str, content: str) -> None:
    """In a file of any kind that is read."""
    rows = spec.parent / f"hostile.{suffix}"
    rows.write_text(content)
    spec.write_text(spec.read_text().replace("search.jsonl", rows.name))
    one_line(agenttts("plan", spec), "hostile")


NUMBERS = (
    "max_samples: 8",
    "max_tokens: 8",
    "prompt_tokens: 8",
    "generated_tokens: 2",
    "active_params: 1.0e+6",
    "units: 60",
)


@pytest.mark.parametrize("number", ["1" + "0" * 30, "1e400", "-1", ".nan", DIGITS])
@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_that_is_out_of_all_bounds(spec: Path, field: str, number: str) -> None:
    """In any field of a pipeline: refused by its rule, or planned with; never a traceback."""
    name = field.split(":")[0]
    spec.write_text(spec.read_text().replace(field, f"{name}: {number}", 1))
    done = agenttts("plan", spec)
    assert "Traceback" not in done.err and done.code in (0, 2)
    if done.code == 2:
        one_line(done, "")


@pytest.mark.parametrize(
    "place", ["user:hunter2@127.0.0.1:9", "hunter2@127.0.0.1:9", "a:b:hunter2@host", "u:hunter2@[::1]:9"]
)
def test_a_password_in_an_address_is_refused(spec: Path, tmp_path: Path, place: str) -> None:
    """With the remedy, without the password, and nothing is stored."""
    spec.write_text(spec.read_text().replace("127.0.0.1:9", place))
    db = tmp_path / "run.duckdb"
    line = one_line(agenttts("search", spec, "--db", db), "models.small.base_url")
    assert "api_key_env" in line and PASSWORD not in line and not db.exists()
    spec.write_text(spec.read_text().replace(place, "127.0.0.1:9"))
    done = agenttts(
        "search", spec, "--agent-base-url", f"http://{place}/v1", "--agent-model", "m", "--db", db
    )
    assert done.code == 2 and PASSWORD not in done.err and "no user name and no password" in done.err


@pytest.mark.parametrize(
    "query",
    [
        "key=hunter2",
        "api-version=1&api_key=hunter2",
        "sig=hunter2",
        "Token=hunter2",
        "X-Amz-Signature=hunter2",
    ],
)
def test_a_secret_in_an_address_is_refused(spec: Path, tmp_path: Path, query: str) -> None:
    """By the parameter's name, which is told; other parameters pass."""
    text, db = spec.read_text(), tmp_path / "run.duckdb"
    spec.write_text(text.replace("127.0.0.1:9/v1", f"127.0.0.1:9/v1?{query}"))
    line = one_line(agenttts("search", spec, "--db", db), "models.small.base_url")
    assert "no secret in its query" in line and "api_key_env" in line and not db.exists()
    assert PASSWORD not in line
    spec.write_text(
        text.replace("127.0.0.1:9/v1", "127.0.0.1:9/v1?api-version=1&partition_key=a&max_tokens=5")
    )
    assert agenttts("check", spec, "--offline").code == 0
    assert not db.exists()


def safetensors(header: bytes, body: bytes = b"\x00" * 4, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def entry(**changes: object) -> bytes:
    return json.dumps(
        {"a.lora_A": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}
    ).encode()


WEIGHTS: dict[str, bytes] = {
    "empty": b"",
    "a header of no length": safetensors(b"", b"", 1 << 62),
    "a header that is cut": safetensors(entry(), b"", 10_000),
    "a header that is a list": safetensors(b"[1]"),
    "a header that is deep": safetensors(DEEP.encode()),
    "a number of 5,000 digits": safetensors(b'{"a": ' + DIGITS.encode() + b"}"),
    "offsets beyond the file": safetensors(entry(data_offsets=[0, 1 << 60], shape=[1 << 58])),
    "offsets that are negative": safetensors(entry(data_offsets=[-8, -4])),
    "offsets that are none": safetensors(entry(data_offsets=[])),
    "a shape without end": safetensors(entry(shape=[1 << 62] * 8)),
    "a shape that is negative": safetensors(entry(shape=[-1])),
    "a shape of texts": safetensors(entry(shape=["x"])),
    "an infinite shape": safetensors(entry().replace(b"[1]", b"[1e999]")),
    "no type": safetensors(b'{"a": {"shape": [1], "data_offsets": [0, 4]}}'),
}
CONFIGS = {
    "a list": "[]",
    "deep": DEEP,
    "a rank of text": '{"r": "x"}',
    "a rank of none": '{"r": null}',
    "an infinite rank": '{"r": 1e999}',
    "a rank of 5,000 digits": '{"r": ' + DIGITS + "}",
    "a huge rank": '{"r": 1000000000000000000000000}',
    "a negative rank": '{"r": -4}',
    "a true rank": '{"r": true}',
}


def _read(folder: Path) -> None:
    read_tuned(folder)
    require_servable(folder)


def _refused(read: Callable[[Path], None], folder: Path) -> None:
    with pytest.raises(UserError) as refused:
        read(folder)
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("case", WEIGHTS)
def test_an_adapter_with_malformed_weights(tmp_path: Path, case: str) -> None:
    """One line that names the file."""
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "base_model_name_or_path": "b"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(WEIGHTS[case])
    _refused(_read, tmp_path)


@pytest.mark.parametrize("case", CONFIGS)
def test_an_adapter_with_a_malformed_configuration(tmp_path: Path, case: str) -> None:
    """One line that names the file."""
    (tmp_path / "adapter_config.json").write_text(CONFIGS[case])
    (tmp_path / "adapter_model.safetensors").write_bytes(safetensors(entry()))
    _refused(_read, tmp_path)
