"""A searched pipeline of one field whose models are a scripted server, and its service as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from agenttts import search
from tests.servers import Request, ScriptedServer

THINKING = "I think of it for a very long time, and then for some more, as one does before an answer.</think>"
SENTENCE = "It is a very long answer of many words, so that a part of it comes before the end, said of"
SPEC = """\
name: colours
models:
  small:
    base_url: "{base_url}"
    active_params: 1e6
    price: {{prompt_usd_per_million: 1, generated_usd_per_million: 2}}
stages:
  - name: find
    prompt: "find {{{{ question }}}}"
    models: [small]
    max_samples: 1
    sampling: {{max_tokens: 64}}
    prompt_tokens: 8
    generated_tokens: 8
  - name: answer
    prompt: "answer {{{{ question }}}} with {{{{ find }}}}"
    models: [small]
    max_samples: 1
    sampling: {{max_tokens: 64}}
    prompt_tokens: 8
    generated_tokens: 8
metric: {{kind: exact_match, label: gold}}
dataset: {{search: search.jsonl, test: test.jsonl}}
budget: {{units: 60, reference: {{active_params: 1e6, prompt_tokens: 8, generated_tokens: 8}}}}
"""


def answer(request: Request, index: int) -> str:
    """A long sentence that ends with the question; after thinking that nothing opened for some."""
    words = [*request.prompt.split(), "nothing"]
    if words[0] == "answer" and words[1].startswith("thought"):
        return f"{THINKING}\n{SENTENCE} {words[1]}"
    return words[1] if words[0] == "find" else f"{SENTENCE} {words[1]}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A run on a server that goes on answering."""

    db: Path
    server: ScriptedServer


@dataclass(frozen=True, kw_only=True)
class ServiceProcess:
    """`agenttts serve --api` as a process."""

    port: int
    process: subprocess.Popen[str]
    samples: Path
    key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, HTTPResponse, Any]:
        """(status, the response for its headers, the JSON of the body)."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        own = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        connection.request(method, path, body, {**own, **(headers or {})})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, response, json.loads(content)

    def post(self, path: str, value: object, headers: Mapping[str, str] | None = None) -> Any:
        return self.send("POST", path, json.dumps(value).encode(), headers)

    def chat(self, text: str, **further: object) -> Any:
        messages = [{"role": "user", "content": text}]
        return self.post("/v1/chat/completions", {"model": "colours", "messages": messages, **further})

    def client(self) -> OpenAI:
        return OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key=self.key or "none", max_retries=0, timeout=60
        )

    def end(self) -> int:
        """Stop it as Ctrl-C does, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return code


StartService = Callable[..., ServiceProcess]


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    """A finished search of that pipeline; the server is shared, to be left as it is."""
    root = tmp_path_factory.mktemp("found")
    with ScriptedServer(answer=answer, between_s=0.005) as server:
        for split, count in (("search", 12), ("test", 8)):
            rows = [{"question": f"{split}{i}", "gold": f"{SENTENCE} {split}{i}"} for i in range(count)]
            (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (root / "pipeline.yaml").write_text(SPEC.format(base_url=server.base_url))
        search(root / "pipeline.yaml", trials=2, db=root / "run.duckdb")
        yield Found(db=root / "run.duckdb", server=server)


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """`start_service(db, *options, key=None)` starts a service that ends with the test."""
    running: list[ServiceProcess] = []

    def start(
        db: Path, *options: object, key: str | None = None, samples: Path | None = None
    ) -> ServiceProcess:
        samples = samples or tmp_path / f"samples{len(running)}.duckdb"
        command = [sys.executable, "-m", "agenttts", "serve", "--api", "--run", "latest", "--db", db]
        command += ["--port", 0, "--samples", samples, *options]  # type: ignore[list-item]
        environ = os.environ if key is None else {**os.environ, "AGENTTTS_SERVICE_KEY": key}
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environ)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "http://" in line, line + process.stderr.read()
        for _ in range(3):
            process.stderr.readline()
        port = int(line.strip().removesuffix("/v1").rpartition(":")[2])
        running.append(ServiceProcess(port=port, process=process, samples=samples, key=key))
        return running[-1]

    yield start
    for one in running:
        one.end()


@pytest.fixture(scope="module")
def service(found: Found, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One that the tests of a module share."""
    for started in start_service.__wrapped__(tmp_path_factory.mktemp("service")):  # type: ignore[attr-defined]
        yield started(found.db)
