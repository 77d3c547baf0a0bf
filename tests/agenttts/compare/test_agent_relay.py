"""The relay of `benchmarks`: a person, or a program, answers an agent's questions over real HTTP."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import httpx2

from benchmarks.agent_relay import Relay, serve


def test_a_question_waits_for_its_file_and_is_answered_once(tmp_path: Path) -> None:
    """The request is written as text, the answer is read from a file, and the same question is not written
    again; what a program answers needs no file.
    """
    relay = Relay(tmp_path, lambda messages: "by program" if messages[0]["content"] == "easy" else None)
    server = serve(relay, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(text: str) -> str:
        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        url = f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
        answer = httpx2.post(url, json=body, timeout=30.0).json()
        assert answer["usage"]["prompt_tokens"] >= 1
        return str(answer["choices"][0]["message"]["content"])

    def reply() -> None:
        while not (questions := list(tmp_path.glob("*.request.md"))):
            time.sleep(0.05)
        (question,) = questions
        assert "hard" in question.read_text()
        question.with_name(question.name.replace("request.md", "answer.json")).write_text(
            json.dumps({"a": 1})
        )
        question.unlink()

    person = threading.Thread(target=reply)
    person.start()
    assert ask("hard") == '{"a": 1}'
    person.join()
    assert ask("hard") == '{"a": 1}' and not list(tmp_path.glob("*.request.md"))
    assert ask("easy") == "by program"
    server.shutdown()
    server.server_close()
