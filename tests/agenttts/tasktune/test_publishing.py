"""`agenttts tune push` and `gguf`: what reaches a hub that speaks its protocol, and llama.cpp's converter."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agenttts.errors import UserError
from agenttts.tasktune.publishing import push, to_gguf
from agenttts.training.checkpoints import save_json
from tests.agenttts.commands import agenttts
from tests.agenttts.tasktune.museum import ZOO

TOKEN = "hf_" + "x" * 20


class _Hub(ThreadingHTTPServer):
    """A hub that takes what is committed; it knows one token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.visibility: str | None = None
        self.files: dict[str, bytes] = {}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: _Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self.server.visibility = json.loads(body)["visibility"]
            self._answer(200, {"url": f"{self.server.endpoint}/me/small"})
        elif self.path == "/api/validate-yaml":  # the head of the card
            self._answer(200, {"errors": [], "warnings": []})
        elif self.path == "/api/models/me/small/preupload/main":
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self._answer(200, {"files": modes})
        else:
            assert self.path == "/api/models/me/small/commit/main"
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.endpoint}/me/small/commit/0"
            self._answer(200, {"commitUrl": url, "commitOid": "0" * 40, "pullRequestUrl": None})

    def _answer(self, status: int, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tuning_libraries: None) -> Iterator[_Hub]:
    """A hub that runs until the test ends."""
    with _Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def adapter(tuning_libraries: None, tmp_path: Path) -> Path:
    """An adapter of the zoo's small model, with a card."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(ZOO / "models/small")
    path = tmp_path / "small-rulings"
    get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(str(path))
    scores = {"before": {"outcome": 0.25}, "after": {"outcome": 0.75}}
    save_json(
        path / "tuning.json",
        {"base": str(ZOO / "models/small"), "tasks": ["outcome"], "rows": 80, "steps": 5, "metrics": scores},
    )
    return path


def test_what_reaches_the_hub(hub: _Hub, adapter: Path) -> None:
    """Weights, tokenizer, a configuration that names the base as the hub does, and a card; no other file."""
    for private in (".env", "train.jsonl", "training_args.bin", "optimizer.pt", "vocab.json.bak"):
        (adapter / private).write_text("secret")
    (adapter / "tokenizer.json").write_text("{}")
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    environ = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
    assert push(adapter, "me/small", base="me/base", environ=environ) == f"{hub.endpoint}/me/small"
    assert hub.visibility == "private"
    assert set(hub.files) == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
        "tokenizer.json",
        "chat_template.jinja",
    }
    assert hub.files["adapter_model.safetensors"] == (adapter / "adapter_model.safetensors").read_bytes()
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    card = hub.files["README.md"].decode()
    assert "base_model: me/base" in card
    assert "| outcome | 0.250 | 0.750 |" in card
    assert "Tuned on 80 rows in 5 steps" in card
    assert not [name for name, content in hub.files.items() if str(ZOO).encode() in content]


def test_what_can_not_be_pushed(hub: _Hub, adapter: Path) -> None:
    """A base that others do not have, a wrong token or name, no hub: one line, and nothing is sent."""
    environ = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
    for base in (None, "work/models/base", "./base", "~/base", str(ZOO / "models/small")):
        with pytest.raises(
            UserError, match=r"must be NAME or OWNER/NAME .*; name it as the hub does by --base"
        ):
            push(adapter, "me/small", base=base, environ=environ)
    config = json.loads((adapter / "adapter_config.json").read_text())
    save_json(adapter / "adapter_config.json", {**config, "base_model_name_or_path": "models/gone"})
    save_json(adapter / "tuning.json", {"base": "models/gone", "base_digest": "0" * 64})
    with pytest.raises(UserError, match="must be NAME or OWNER/NAME on the hub, got models/gone"):
        push(adapter, "me/small", environ=environ)  # its base lay in a directory
    with pytest.raises(UserError, match=r"me/small: can't be pushed: .*401"):
        push(adapter, "me/small", base="me/base", environ={**environ, "HF_TOKEN": "hf_wrong"})
    with pytest.raises(UserError, match="me/a/b: can't be pushed"):
        push(adapter, "me/a/b", base="me/base", environ=environ)
    with pytest.raises(UserError, match=r"me/small: can't be pushed: .*Connection refused"):
        push(adapter, "me/small", base="me/base", environ={**environ, "HF_ENDPOINT": "http://127.0.0.1:1"})
    assert not hub.files


def test_gguf_by_the_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's converter gets checkpoint, file and type; a file of a failed conversion does not stay."""
    converter = tmp_path / "convert_hf_to_gguf.py"
    converter.write_text(
        "import sys\n"
        "checkpoint, _, out, _, kind = sys.argv[1:]\n"
        "open(out, 'w').write(f'GGUF {checkpoint} {kind}')\n"
        "sys.exit('no such type' if kind == 'q9' else 0)\n"
    )
    environ = {"LLAMA_CPP": str(tmp_path)}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="name its directory in LLAMA_CPP"):  # not the working directory
        to_gguf(ZOO / "models/small", tmp_path / "x.gguf", environ={"LLAMA_CPP": "", "PATH": ""})
    small, out = ZOO / "models/small", tmp_path / "small.gguf"
    to_gguf(small, out, kind="q8_0", environ=environ)
    assert out.read_text() == f"GGUF {small} q8_0"
    with pytest.raises(UserError, match=r"convert_hf_to_gguf.py failed: no such type"):
        to_gguf(small, tmp_path / "other.gguf", kind="q9", environ=environ)
    assert sorted(file.name for file in tmp_path.glob("*.gguf*")) == ["small.gguf"]
    with pytest.raises(UserError, match="must be free"):
        to_gguf(small, out, environ=environ)


def test_the_commands(tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a converter, of an adapter, or without its base's name: exit code 2, and what to do."""
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for command, reason in (
        (("gguf", ZOO / "models/small", "--out", tmp_path / "a.gguf"), "name its directory in LLAMA_CPP"),
        (("gguf", adapter, "--out", tmp_path / "a.gguf"), "is an adapter; first `agenttts tune merge"),
        (("push", adapter, "me/small"), "name it as the hub does by --base"),
    ):
        done = agenttts("tune", *command)
        assert done.code == 2
        assert reason in done.err
