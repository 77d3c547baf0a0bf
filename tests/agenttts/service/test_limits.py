"""Who may ask the service, how much, and what becomes of requests when servers, clients or it fail."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import openai
import pytest

from agenttts import load_run
from agenttts.results.served import load_served
from datastore import Store
from tests.agenttts.commands import agenttts
from tests.agenttts.service.conftest import SENTENCE, Found, ServiceProcess, StartService


def test_the_key_opens_it_and_nothing_else_does(found: Found, start_service: StartService) -> None:
    """Health needs none; a wrong one, a longer one and none are 401 in OpenAI's form."""
    service = start_service(found.db, key="secret-ä")
    assert (
        service.post(
            "/run", {"question": "q"}, {"Authorization": "Bearer secret-ä".encode().decode("latin-1")}
        )[0]
        == 200
    )
    lower = {"Authorization": "bearer secret-ä".encode().decode("latin-1")}
    assert service.post("/run", {"question": "q"}, lower)[0] == 200
    for wrong in ("Bearer secret", "Bearer secret-ä2", "secret-ä", "Basic c2VjcmV0", ""):
        status, _, reply = service.post(
            "/run", {"question": "q"}, {"Authorization": wrong.encode().decode("latin-1")}
        )
        assert (status, reply["error"]["code"]) == (401, "invalid_api_key")
    stranger = openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="x", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    assert service.send("GET", "/health", headers={"Authorization": ""})[0] == 200


def test_without_a_key_only_this_machine_can_ask(service: ServiceProcess, found: Found) -> None:
    """Another address is refused at the start; other host names and pages of other sites at each request."""
    done = agenttts("serve", "--api", "--run", "latest", "--db", found.db, "--host", "0.0.0.0", "--port", 0)
    assert done.code == 2 and "needs a key" in done.errors[0], done.err
    foreign_part = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    for headers in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        foreign_part,
    ):
        status, _, reply = service.post("/run", {"question": "q"}, headers)
        assert status == 403, (headers, reply)


@pytest.mark.parametrize(
    ("option", "law"),
    [
        (("--key-env", "NO_SUCH_KEY"), "--key-env NO_SUCH_KEY: the variable is not set"),
        (("--dry-run",), "--dry-run does not go with --api"),
        (("--json",), "--json does not go with --api"),
    ],
)
def test_an_option_that_would_be_passed_over_is_an_error(
    found: Found, option: tuple[str, ...], law: str
) -> None:
    """Nothing is served then, and the error is one line."""
    done = agenttts("serve", "--api", "--run", "latest", "--db", found.db, "--port", 0, *option)
    assert done.code == 2 and len(done.errors) == 1 and law in done.errors[0], done.err


def test_the_options_of_the_service_need_api(found: Found) -> None:
    """Else no service would start, and model servers would in its place."""
    done = agenttts("serve", found.db.with_name("pipeline.yaml"), "--port", 8081, "--dry-run")
    assert done.code == 2 and "--port goes only with --api" in done.errors[0], done.err


def test_its_own_address_answers_whatever_it_is(found: Found, start_service: StartService) -> None:
    """Another one of this machine needs no key, and neither its name nor the usual ones are refused."""
    service = start_service(found.db, "--host", "127.0.0.2")
    body = json.dumps({"question": "q"})
    for name in ("127.0.0.2", "localhost"):
        connection = HTTPConnection("127.0.0.2", service.port, timeout=60)
        connection.request("POST", "/run", body, {"Host": f"{name}:{service.port}"})
        assert connection.getresponse().status == 200
        connection.close()


def test_more_requests_than_it_takes_are_told_to_wait(found: Found, start_service: StartService) -> None:
    """429 with Retry-After, and those under way are answered."""
    service = start_service(found.db, "--max-requests", 2)
    found.server.latency_s = 0.5
    try:
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda i: service.post("/run", {"question": f"many{i}"}), range(8)))
    finally:
        found.server.latency_s = 0.0
    statuses = sorted(status for status, _, _ in replies)
    assert statuses == [200] * 2 + [429] * 6
    refused = next(response for status, response, _ in replies if status == 429)
    assert refused.headers["retry-after"] == "1"
    assert service.post("/run", {"question": "after"})[0] == 200


def test_a_long_body_is_refused_before_it_is_read(service: ServiceProcess) -> None:
    """By its stated length, and by what comes where none is stated; a client of OpenAI's sees the 413."""
    with pytest.raises(openai.APIStatusError, match="at most 1,000,000 bytes") as refused:
        service.client().chat.completions.create(
            model="colours", messages=[{"role": "user", "content": "x" * 2_000_000}]
        )
    assert refused.value.status_code == 413
    for head in (b"content-length: 999999999999\r\n", b"transfer-encoding: chunked\r\n"):
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
            host = f"host: 127.0.0.1:{service.port}\r\n".encode()
            connection.sendall(b"POST /run HTTP/1.1\r\n" + host + head + b"\r\n")
            if b"chunked" in head:
                piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
                with pytest.raises(OSError):
                    for _ in range(100_000):
                        connection.sendall(piece)
            else:
                assert b" 413 " in connection.recv(4096).splitlines()[0]
    assert service.post("/run", {"question": "after"})[0] == 200


def test_a_client_that_leaves_loses_nothing_that_was_paid_for(
    found: Found, start_service: StartService
) -> None:
    """Its request is worked on to the end; who asks the same again pays nothing."""
    service = start_service(found.db)
    found.server.latency_s = 0.4
    try:
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            body = json.dumps({"question": "leaver"}).encode()
            head = (
                f"POST /run HTTP/1.1\r\nhost: 127.0.0.1:{service.port}\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode() + body)
            time.sleep(0.2)
        time.sleep(1.5)
    finally:
        found.server.latency_s = 0.0
    _, response, _ = service.post("/run", {"question": "leaver"})
    assert response.headers["x-agenttts-samples-drawn"] == "0"


def test_a_model_server_that_fails_is_a_502_and_the_next_request_is_answered(
    found: Found, start_service: StartService
) -> None:
    """Refused connections, 500s and broken streams; nothing of it stays when the server is back."""
    service = start_service(found.db, "--retry-for", 0)
    found.server.fault = lambda request: "500"
    try:
        status, _, reply = service.post("/run", {"question": "down"})
        assert (status, reply["error"]["type"]) == (502, "upstream_error"), reply
        with pytest.raises(openai.InternalServerError, match="502 - find: model"):
            service.client().chat.completions.create(
                model="colours", messages=[{"role": "user", "content": "down"}], stream=True
            )
        found.server.fault = lambda request: "truncated" if request.body.get("stream") else None
        with pytest.raises(openai.APIError, match="in the middle of its text"):
            list(
                service.client().chat.completions.create(
                    model="colours", messages=[{"role": "user", "content": "broken"}], stream=True
                )
            )
    finally:
        found.server.fault = None
    found.server.stop()
    try:
        assert service.post("/run", {"question": "down"})[0] == 502
    finally:
        found.server.start()
    assert service.post("/run", {"question": "down"})[2]["output"] == f"{SENTENCE} down"


def test_after_kill_9_what_was_answered_is_there(found: Found, start_service: StartService) -> None:
    """Its samples cost nothing again, its traces can be read, and what was under way is drawn anew."""
    service = start_service(found.db)
    replies = [service.post("/run", {"question": f"kill{i}"}) for i in range(5)]
    found.server.latency_s = 1.0
    try:
        with ThreadPoolExecutor(3) as pool:
            for i in range(3):
                pool.submit(_ignored, service, i)
            time.sleep(0.4)
            service.process.kill()
    finally:
        found.server.latency_s = 0.0
    service.process.wait(30)
    with Store.read(service.samples) as store:
        served = load_served(store, load_run(found.db).run_id)
        assert [one.trace_id for one in served] == [reply["trace_id"] for _, _, reply in replies]
    again = start_service(found.db, samples=service.samples)
    for i in range(5):
        _, response, reply = again.post("/run", {"question": f"kill{i}"})
        assert response.headers["x-agenttts-samples-drawn"] == "0" and reply["output"].endswith(f"kill{i}")
    assert again.post("/run", {"question": "under0"})[0] == 200


def _ignored(service: ServiceProcess, i: int) -> None:
    with contextlib.suppress(OSError):
        service.post("/run", {"question": f"under{i}"})


def test_ctrl_c_answers_what_is_under_way(found: Found, start_service: StartService) -> None:
    """Then the service ends with exit code 0 and its database is closed."""
    service = start_service(found.db)
    found.server.latency_s = 0.5
    try:
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(service.post, "/run", {"question": "last"})
            time.sleep(0.3)
            assert service.end() == 0
            assert coming.result()[0] == 200
    finally:
        found.server.latency_s = 0.0
    Store.open(service.samples, create=False).close()


def test_ctrl_c_awaits_a_stream_whose_client_has_left(found: Found, start_service: StartService) -> None:
    """As it awaits every other request: what was paid for is kept."""
    service = start_service(found.db)
    found.server.between_s = 0.1
    try:
        client = service.client()
        stream = client.chat.completions.create(
            model="colours", messages=[{"role": "user", "content": "left"}], stream=True
        )
        next(stream)
        stream.close()
        client.close()
        assert service.end() == 0
    finally:
        found.server.between_s = 0.005
    with Store.read(service.samples) as store:
        (request,) = load_served(store, load_run(found.db).run_id)
        assert request.status == "ok" and len(request.stages) == 2


def test_a_search_goes_on_in_the_runs_database(found: Found, service: ServiceProcess) -> None:
    """The service reads it once, and writes to its own."""
    with Store.open(found.db, create=False):
        assert service.post("/run", {"question": "beside a search"})[0] == 200
