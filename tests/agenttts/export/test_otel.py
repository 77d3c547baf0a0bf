"""Spans of searches and of a service, sent to a collector that speaks real HTTP, and written to a file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agenttts import load_run
from datastore import Store
from tests.agenttts.commands import agenttts
from tests.agenttts.service.conftest import SENTENCE, Found, StartService
from tests.agenttts.service.conftest import found as found  # a fixture
from tests.agenttts.service.conftest import start_service as start_service

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the spans need the extra otel")


def spans_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """(address, the spans that came): a collector of OTLP over HTTP."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    came: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            request = ExportTraceServiceRequest.FromString(body)
            came.extend(s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces", came
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_search_is_a_trace_of_trials_and_stage_calls(
    searched: Path, collector: tuple[str, list[Any]], tmp_path: Path
) -> None:
    """By the conventions, without content, and with the same ids a second time."""
    endpoint, came = collector
    done = agenttts("export", "otel", searched, "--endpoint", endpoint)
    assert done.code == 0 and f"{len(came):,} spans of 1 runs sent" in done.err, done.err
    result = load_run(searched)
    (root,) = (span for span in came if not span.parent_span_id)
    trials = [span for span in came if span.parent_span_id == root.span_id]
    calls = [span for span in came if span.parent_span_id not in (b"", root.span_id)]
    assert root.name == "search recorded" and len(trials) == len([*result.trials, *result.confirmation])
    assert {span.trace_id for span in came} == {root.trace_id}
    own = {a.key: a.value for a in calls[0].attributes}
    assert calls[0].name.startswith("chat ") and own["gen_ai.operation.name"].string_value == "chat"
    assert own["gen_ai.usage.input_tokens"].int_value > 0 and own["gen_ai.request.model"].string_value
    hidden = ("messages", "example_id")
    assert not any(name in a.key for span in came for a in span.attributes for name in hidden)
    ids = {span.span_id for span in came}
    assert len(ids) == len(came)
    agenttts("export", "otel", searched, "--endpoint", endpoint)
    assert {span.span_id for span in came} == ids, "the same spans again, not others"
    few = agenttts("export", "otel", searched, "--no-stages", "--out", tmp_path / "s.jsonl", "--json")
    assert few.json == {"spans": len(trials) + 1, "runs": 1}


def test_a_request_of_a_service_is_a_workflow_under_its_client(
    found: Found, start_service: StartService, tmp_path: Path
) -> None:
    """Its trace and parent are the client's; each stage is a call with model, tokens, cost and its time."""
    service = start_service(found.db)
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    service.post("/run", {"question": "traced"}, {"traceparent": f"00-{trace}-{span}-01"})
    out = tmp_path / "spans.jsonl"
    arguments = ("export", "otel", found.db, "--samples", service.samples, "--out", out)
    early = agenttts(*arguments, "--content")
    assert early.code == 2 and "or leave --content out" in early.errors[0] and len(early.errors) == 1, (
        early.err
    )
    service.end()
    assert agenttts(*arguments).code == 0
    workflow, find, answer = spans_in(out)
    assert workflow["name"] == "invoke_workflow colours" and workflow["kind"] == "SpanKind.SERVER"
    assert workflow["context"]["trace_id"] == f"0x{trace}" and workflow["parent_id"] == f"0x{span}"
    assert workflow["start_time"] <= find["start_time"] < find["end_time"] <= answer["start_time"]
    own = answer["attributes"]
    assert (own["gen_ai.request.model"], own["gen_ai.request.max_tokens"]) == ("small", 64)
    assert own["gen_ai.usage.output_tokens"] > 20 and own["agenttts.cost.usd"] > 0
    assert own["server.address"] == "127.0.0.1" and answer["kind"] == "SpanKind.CLIENT"
    assert "traced" not in out.read_text() and "agenttts.example_id" not in workflow["attributes"]
    assert agenttts(*arguments, "--content").code == 0
    workflow, _, answer = spans_in(out)
    own = answer["attributes"]
    assert "agenttts.example_id" in workflow["attributes"]
    (message,) = json.loads(own["gen_ai.input.messages"])
    assert message == {"role": "user", "parts": [{"type": "text", "content": "answer traced with traced"}]}
    (reply,) = json.loads(own["gen_ai.output.messages"])
    assert reply["parts"][0]["content"] == f"{SENTENCE} traced" and reply["finish_reason"] == "stop"


def test_a_collector_that_is_not_there_is_one_line(searched: Path, tmp_path: Path) -> None:
    """Exit code 2, with the remedy; so is a database without a run."""
    done = agenttts("export", "otel", searched, "--no-stages", "--endpoint", "http://127.0.0.1:9/v1/traces")
    assert done.code == 2 and "takes no spans" in done.errors[0] and len(done.errors) == 1, done.err
    Store.open(tmp_path / "empty.duckdb").close()
    done = agenttts("export", "otel", tmp_path / "empty.duckdb", "--out", tmp_path / "s.jsonl")
    assert done.code == 2 and "has no run yet" in done.errors[0]
    done = agenttts("export", "otel", searched, "--out", tmp_path / "none" / "s.jsonl")
    assert done.code == 2 and "can't be written" in done.errors[0]
