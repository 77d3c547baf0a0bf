"""An OpenAI-compatible endpoint without a model: a person, or another program, answers from files.

Each question is written to `DIR/<key>.request.md`, with its messages as text; whoever answers writes the text
of the answer to `DIR/<key>.answer.json`. The same question has the same key, so that it is answered once.
With `--program FILE` questions without an answer go to the function `answer(messages)` of that file, which
returns a text, or None to leave the question to a person.

    python benchmarks/agent_relay.py /tmp/relay --port 8765 &
    agenttts compare pipelines/zoo/pipeline.yaml --budget 150 --proposers agent,agent-renamed,default \\
        --agent-base-url http://127.0.0.1:8765/v1 --agent-model by-hand --agent-timeout 3600
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Messages = Sequence[Mapping[str, str]]
Program = Callable[[Messages], str | None]
_LOOK_EVERY_S = 0.2
_CHARACTERS_PER_TOKEN = 4


class Relay:
    """Answers questions from files.

    Args:
        folder: Where questions and answers lie.
        program: Answers what no file does; None where nothing but files does.
    """

    def __init__(self, folder: Path, program: Program | None = None) -> None:
        self._folder = folder
        self._program = program
        folder.mkdir(parents=True, exist_ok=True)

    def answer(self, messages: Messages) -> str:
        """Write the question, wait for its answer and return it."""
        text = "\n\n".join(f"## {message['role']}\n\n{message['content']}" for message in messages)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        answer = self._folder / f"{key}.answer.json"
        if not answer.is_file():
            (self._folder / f"{key}.request.md").write_text(text, encoding="utf-8")
            by_program = None if self._program is None else self._program(messages)
            if by_program is not None:
                return by_program
        while not answer.is_file():
            time.sleep(_LOOK_EVERY_S)
        return answer.read_text(encoding="utf-8")


def serve(relay: Relay, port: int) -> ThreadingHTTPServer:
    """Return a server of the relay; `serve_forever` runs it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = relay.answer(body["messages"])
            read = sum(len(message["content"]) for message in body["messages"])
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            usage = {
                "prompt_tokens": read // _CHARACTERS_PER_TOKEN,
                "completion_tokens": max(1, len(text) // _CHARACTERS_PER_TOKEN),
            }
            self._send({"id": "relay", "model": body["model"], "choices": [choice], "usage": usage})

        def _send(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def _program(file: Path) -> Program:
    spec = importlib.util.spec_from_file_location("answering", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    program: Program = module.answer
    return program


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--program", type=Path)
    options = parser.parse_args()
    program = None if options.program is None else _program(options.program)
    serve(Relay(options.folder, program), options.port).serve_forever()
