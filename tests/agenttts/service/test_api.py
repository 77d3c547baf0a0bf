"""What a client of OpenAI's protocol sees of a run's choice."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import openai
import pytest

from agenttts import load_run, search
from agenttts.results.served import load_served
from datastore import Store
from tests.agenttts.service.conftest import SENTENCE, Found, ServiceProcess, StartService


def test_the_client_of_openai_gets_the_answer_and_what_it_cost(service: ServiceProcess) -> None:
    """The last stage's output, tokens, and cost and trace in headers; a repeated request costs nothing."""
    ask = service.client().chat.completions.with_raw_response.create
    messages = [{"role": "system", "content": "ignored"}, {"role": "user", "content": "q1"}]
    raw = ask(model="colours", messages=messages)  # type: ignore[call-overload]
    completion = raw.parse()
    assert completion.choices[0].message.content == f"{SENTENCE} q1"
    usage = completion.usage
    assert usage is not None and usage.prompt_tokens > 0 and usage.completion_tokens > 20
    assert completion.agenttts["stages"] == {"find": "q1", "answer": f"{SENTENCE} q1"}
    assert raw.headers["x-agenttts-samples-drawn"] == "2" and float(raw.headers["x-agenttts-cost-usd"]) > 0
    assert float(raw.headers["x-agenttts-cost-units"]) > 0
    assert completion.id == f"chatcmpl-{raw.headers['x-agenttts-trace-id']}"
    again = ask(model="colours", messages=messages)  # type: ignore[call-overload]
    assert again.headers["x-agenttts-samples-drawn"] == "0"
    assert again.headers["x-agenttts-cost-usd"] == raw.headers["x-agenttts-cost-usd"]


def test_a_last_stage_of_one_sample_is_streamed(service: ServiceProcess) -> None:
    """Its text comes in pieces, then cost and tokens; from the bank it comes at once."""
    for question, least in (("streamed", 5), ("streamed", 1)):
        chunks = list(
            service.client().chat.completions.create(
                model="colours",
                messages=[{"role": "user", "content": question}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        texts = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
        assert "".join(texts) == f"{SENTENCE} {question}" and len(texts) >= least
        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 20
        last = chunks[-2]
        assert last.choices[0].finish_reason == "stop"
        assert last.agenttts["cost"]["samples_drawn"] == (2 if least > 1 else 0)


def test_thinking_that_nothing_opened_ends_streaming(found: Found, start_service: StartService) -> None:
    """The first such answer fails, as its thinking was given out; from then on answers come whole."""
    service = start_service(found.db)

    def pieces(question: str) -> list[str]:
        messages = [{"role": "user", "content": question}]
        ask = service.client().chat.completions.create
        chunks = list(ask(model="colours", messages=messages, stream=True))  # type: ignore[call-overload]
        return [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]

    with pytest.raises(openai.APIError, match="from now on it comes whole"):
        pieces("thought1")
    for question in ("thought1", "thought2", "plain"):
        assert pieces(question) == [f"{SENTENCE} {question}"]


FUNCTIONS = """\
def lookup(question, index="public"):
    if question == "raise":
        raise RuntimeError("/etc/secret")
    return f"{index}: {question}"
"""


@pytest.fixture
def of_functions(found: Found, tmp_path: Path) -> Path:
    """The database of a run whose one stage is a function with a parameter that has a default."""
    (tmp_path / "searching.py").write_text(FUNCTIONS)
    for split in ("search", "test"):
        rows = [{"question": f"{split}{i}", "gold": f"public: {split}{i}"} for i in range(8)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "name": "functions",
        "models": {"small": {"base_url": found.server.base_url, "active_params": 1e6}},
        "stages": [{"name": "find", "python": "searching:lookup"}],
        "metric": {"kind": "exact_match", "label": "gold"},
        "dataset": {"search": "search.jsonl", "test": "test.jsonl"},
        "budget": {"units": 60},
    }
    (tmp_path / "functions.yaml").write_text(json.dumps(spec))
    search(tmp_path / "functions.yaml", trials=1, db=tmp_path / "functions.duckdb")
    return tmp_path / "functions.duckdb"


def test_a_request_sets_no_defaulted_parameter_and_hears_nothing_of_a_functions_error(
    of_functions: Path, start_service: StartService
) -> None:
    """What a function's owner left to its default stays so; what it raises is for the log."""
    service = start_service(of_functions)
    assert service.post("/run", {"question": "q", "more": 1})[2]["output"] == "public: q"
    status, _, reply = service.post("/run", {"question": "q", "index": "/etc/passwd"})
    assert (status, reply["error"]["param"]) == (400, "index"), reply
    status, _, reply = service.post("/run", {"question": "raise"})
    assert (status, reply["error"]["code"]) == (500, "function_failed")
    assert "secret" not in reply["error"]["message"]
    service.process.send_signal(signal.SIGINT)
    assert service.process.stderr is not None and "/etc/secret" in service.process.stderr.read()


def test_run_takes_the_fields_and_returns_the_stages_on_request(service: ServiceProcess) -> None:
    """The body is the example; its own id comes back."""
    status, response, reply = service.post("/run?stages=true", {"question": "q2", "id": 7})
    assert (status, reply["id"], reply["output"]) == (200, "7", f"{SENTENCE} q2")
    assert reply["stages"]["find"] == "q2" and response.headers["x-agenttts-calls"] == "2"
    assert "stages" not in service.post("/run", {"question": "q2"})[2]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"question": "a", "question": "b"}', "a key must stand once in an object, got 'question' twice"),
        (b"{}", "field 'question' is missing (the row has no fields)"),
    ],
)
def test_run_says_what_is_wrong_with_the_fields(service: ServiceProcess, body: bytes, message: str) -> None:
    """A key that stands twice is refused, where the last would win in silence; so is an input of no field."""
    status, _, reply = service.send("POST", "/run", body)
    assert (status, reply["error"]["code"]) == (400, "invalid_input")
    assert message in reply["error"]["message"]


def test_a_picture_is_refused_in_plain_words(service: ServiceProcess) -> None:
    """A part of a message that is no text is named by its place, with what is read."""
    parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    body = {"model": "colours", "messages": [{"role": "user", "content": parts}]}
    status, _, reply = service.post("/v1/chat/completions", body)
    assert (status, reply["error"]["param"]) == (400, "messages.0.content")
    assert reply["error"]["message"] == (
        "messages.0.content: must be a text, or a list of parts of the type text: nothing but text is read"
    )


def test_the_models_are_listed_and_others_are_not_there(service: ServiceProcess, found: Found) -> None:
    """One model, named as the pipeline."""
    (model,) = service.client().models.list().data
    assert (model.id, model.owned_by) == ("colours", load_run(found.db).run_id)
    assert service.client().models.retrieve("colours").id == "colours"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-9'"):
        service.client().chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "q"}])
    assert service.send("GET", "/health")[2] == {"status": "ok"}


def test_a_trace_is_the_clients_own_and_stored_with_its_stages(
    found: Found, start_service: StartService
) -> None:
    """Tokens, cost and prompts of each stage lie beside the samples, under the run that chose it."""
    service = start_service(found.db)
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    _, response, reply = service.post("/run", {"question": "q3"}, {"traceparent": f"00-{trace}-{span}-01"})
    assert response.headers["x-agenttts-trace-id"] == trace == reply["trace_id"]
    assert service.post("/run", {"question": "q3"}, {"traceparent": f"00-{'0' * 32}-{span}-01"})[2] != trace
    assert service.end() == 0
    with Store.read(service.samples) as store:
        first, second = load_served(store, load_run(found.db).run_id)
        assert (first.trace_id, first.parent_id, first.status) == (trace, span, "ok")
        assert [stage.stage for stage in first.stages] == ["find", "answer"]
        assert first.cost_usd == pytest.approx(reply["cost"]["usd"])
        assert sum(s.samples_drawn for s in first.stages) == 2 and second.parent_id is None
        keys = [stage.prompt_key for stage in first.stages]
        assert store.sql("select count(*) as n from samples where prompt_key in (?, ?)", keys)["n"][0] == 2


def test_several_fields_come_as_json_or_beside_the_messages(
    searched: Path, start_service: StartService
) -> None:
    """A policy on a recorded bank: the object in the message, or `fields` in the body, are the example."""
    run = load_run(searched)
    with (run.spec.root / "test.jsonl").open() as lines:
        row = json.loads(next(lines))
    fields = {name: row[name] for name in ("question", "values")}
    service = start_service(searched, "--replay")
    wanted = run.run([fields], db=service.samples.with_name("own.duckdb"))
    expected = wanted[0]["output"]
    client, asked = service.client(), json.dumps(fields)
    one = client.chat.completions.create(model="recorded", messages=[{"role": "user", "content": asked}])
    assert one.choices[0].message.content == expected
    beside = client.chat.completions.create(
        model="recorded", messages=[{"role": "user", "content": "-"}], extra_body={"fields": fields}
    )
    assert beside.choices[0].message.content == expected
    with pytest.raises(
        openai.BadRequestError, match="reads the fields question, values; send them as a JSON"
    ):
        client.chat.completions.create(model="recorded", messages=[{"role": "user", "content": "what"}])
    with pytest.raises(openai.BadRequestError, match="field 'values' is missing"):
        client.chat.completions.create(
            model="recorded", messages=[{"role": "user", "content": '{"question": 1}'}]
        )
    with pytest.raises(openai.UnprocessableEntityError, match="bank has 0 of"):
        unknown = json.dumps({**fields, "question": "never"})
        client.chat.completions.create(model="recorded", messages=[{"role": "user", "content": unknown}])
    fixed = service.post("/run", fields)[2]
    assert (fixed["n_rungs"] if run.adaptive and run.adaptive.tested else 1) >= 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "not_json"),
        (b"\xff\xfe", 400, "not_json"),
        (b"[" * 100_000, 400, "not_json"),
        (b"[]", 400, "invalid_request"),
        (b'{"model": "colours", "messages": []}', 400, "invalid_request"),
        (b'{"model": "colours", "messages": [{"role": "system", "content": "x"}]}', 400, "no_message"),
        (b'{"model": "colours", "messages": [{"role": "user", "content": "x"}], "n": 2}', 400, "one_answer"),
        (
            b'{"model": "colours", "messages": [{"role": "user", "content": "x"}], "tools": [{}]}',
            400,
            "no_tools",
        ),
        (
            b'{"model": "colours", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            400,
            "invalid_request",
        ),
        (
            b'{"model": "colours", "messages": [{"role": "user", "content": "x"}], "fields": {}}',
            400,
            "invalid_input",
        ),
    ],
)
def test_what_is_no_request_is_an_error_in_openais_form(
    service: ServiceProcess, body: bytes, status: int, code: str
) -> None:
    """A status, a code and one line; never a traceback."""
    got, response, reply = service.send("POST", "/v1/chat/completions", body)
    assert (got, reply["error"]["code"]) == (status, code), reply
    assert reply["error"]["type"] == "invalid_request_error" and "\n" not in reply["error"]["message"]
    assert response.headers["x-agenttts-trace-id"]


def test_wrong_paths_and_methods_are_errors_in_the_same_form(service: ServiceProcess) -> None:
    """404 and 405."""
    assert service.send("GET", "/nowhere")[2]["error"]["code"] == "not_found"
    status, _, reply = service.send("GET", "/v1/chat/completions")
    assert status == 405 and reply["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "text", ["naïve 日本 🙂 \u202e", "{{ question }} {% raw %}", "x\x00y", "\ud800 lone", ""]
)
def test_any_text_is_a_text(service: ServiceProcess, text: str) -> None:
    """Unicode, templates, NUL, half a character, nothing: an answer, never a failure of the service."""
    status, _, reply = service.chat(text)
    assert status in (200, 400), reply
    for fields in ({text: 1}, {"question": "q", text: 1}, {"question": "q", "id": text}):
        status, _, reply = service.post("/run", fields)
        assert status in (200, 400), reply
        assert service.chat("-", fields=fields)[0] in (200, 400)
    assert service.chat("after")[0] == 200
