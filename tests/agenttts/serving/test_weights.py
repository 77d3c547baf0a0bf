"""The size of weights is read from headers, of a directory or of the hub, and else stated or estimated."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agenttts.serving.machine import parse_gpus
from agenttts.serving.servers import placed
from agenttts.serving.weights import model_size
from pipelines.errors import SpecError
from pipelines.spec.files import load_spec, spec_digest
from pipelines.spec.pipeline import PipelineSpec
from pipelines.zoo import SPEC
from tests.agenttts.serving.public_models import config
from tests.agenttts.small_specs import small_spec, write_pipeline

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
STATED = {"weights_gb": 145.4, "layers": 80, "heads": 64, "kv_heads": 8, "head_dim": 128}


def spec_of(path: str, **fields: Any) -> PipelineSpec:
    """A pipeline of one model."""
    model = {"base_url": "http://127.0.0.1:8201/v1", "path": path, "context_length": 8192, **fields}
    return small_spec(params={"one": 1e9}, models={"one": {"active_params": 1e9, **model}})


def write_shards(folder: Path, **shards: dict[str, np.ndarray[Any, Any]]) -> Path:
    """A directory of shards with the index that names them, and a config.json."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(LLAMA)))
    weight_map: dict[str, str] = {}
    for shard, tensors in shards.items():
        save_file(tensors, folder / f"model-{shard}.safetensors", metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, f"model-{shard}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_the_zoos_weights_are_those_of_its_parameters() -> None:
    """vLLM casts 32 bits to 16, unless it is told to keep them."""
    spec = load_spec(SPEC)
    for name, model in spec.models.items():
        assert model_size(spec, name).weights_bytes == pytest.approx(2 * (model.active_params or 0), rel=0.01)
        assert model_size(spec, name, bits_32=True).weights_bytes == 2 * model_size(spec, name).weights_bytes


def test_shards_are_added_up_by_their_index(tmp_path: Path) -> None:
    """What the index does not name is not loaded, and so not counted; a shard that is missing is named."""
    folder = write_shards(tmp_path / "m", a={"x": np.zeros(100, np.float16)}, b={"y": np.zeros(7, np.int8)})
    (folder / "consolidated.safetensors").write_bytes(b"of another format")
    (folder / "model-extra.safetensors").write_bytes(b"left over")
    size = model_size(spec_of(str(folder)), "one")
    assert size.weights_bytes == 207 and not size.is_estimated and not size.is_quantised
    (folder / "model-b.safetensors").unlink()
    with pytest.raises(SpecError, match=r"models.one.path: .*names model-b.safetensors, which is missing"):
        model_size(spec_of(str(folder)), "one")


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 40, (9).to_bytes(8, "little") + b"{"])
def test_a_broken_file_is_named(content: bytes, tmp_path: Path) -> None:
    """With what to do about it, in one line."""
    folder = write_shards(tmp_path / "m", a={"x": np.zeros(1, np.int8)})
    (folder / "model-a.safetensors").write_bytes(content)
    with pytest.raises(SpecError, match=r"^models.one.path: the size of .* can't be read: .*memory") as error:
        model_size(spec_of(str(folder)), "one")
    assert "\n" not in str(error.value)


def test_sizes_that_are_stated_or_estimated(tmp_path: Path) -> None:
    """`memory` wins over what lies on disk; without weights, config.json gives a dense model's parameters."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(LLAMA)))
    assert model_size(spec_of(str(folder)), "one").is_estimated
    assert model_size(spec_of(str(folder)), "one").weights_bytes == pytest.approx(16.06e9, rel=1e-3)
    stated = spec_of(str(folder), memory=STATED)
    assert model_size(stated, "one").weights_bytes == 145.4e9
    assert placed(stated, None, parse_gpus("2x141")).servers[0].share == 0.92
    assert spec_digest(stated) == spec_digest(spec_of(str(folder))), "a run can be resumed"
    (folder / "config.json").write_text(json.dumps(config(LLAMA, num_local_experts=8)))
    with pytest.raises(SpecError, match="does not say how many parameters"):
        model_size(spec_of(str(folder)), "one")
    (folder / "config.json").write_text("{}")
    with pytest.raises(SpecError, match=r"config\.json lacks num_hidden_layers"):
        model_size(spec_of(str(folder)), "one")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """A hub that serves the files of a directory as huggingface.co does, by ranges too; its address."""
    root = tmp_path / "hub"
    write_shards(root / "org/model", a={"x": np.zeros(50, np.float32)}, b={"y": np.zeros(9, np.int8)})

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            file = root / self.path.replace("/resolve/main/", "/").removeprefix("/")
            if not file.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = file.read_bytes()
            span = self.headers.get("Range", "").removeprefix("bytes=")
            first, _, last = span.partition("-")
            part = content[int(first or 0) : int(last) + 1 if last else None]
            self.send_response(206 if span else 200)
            self.send_header("ETag", f'"{file.name}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if with_body:
                self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


READ = """
import json, sys
from agenttts.serving.weights import model_size
from tests.agenttts.serving.test_weights import spec_of
try:
    size = model_size(spec_of(sys.argv[1]), "one")
    print(json.dumps([size.weights_bytes, size.architecture.layers]))
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def read_from(hub: str, name: str, home: Path) -> Any:
    """The size of a model of a hub, read by a program of its own: the hub's address is read at import."""
    env = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "PYTHONPATH": "."}
    done = subprocess.run(
        [sys.executable, "-c", READ, name], env=env, capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout)


def test_the_hub_is_asked_for_headers_only(hub: str, tmp_path: Path) -> None:
    """A model that is not here is sized by the hub's headers; one that is not there either is named."""
    assert read_from(hub, "org/model", tmp_path / "home") == [109.0, 32]
    kind, words = read_from(hub, "org/other", tmp_path / "home")
    assert kind == "SpecError" and "the size of org/other can't be read" in words
    assert "models.one.memory" in words and "\n" not in words


def test_a_hub_that_is_not_there_is_said_with_the_remedy(tmp_path: Path) -> None:
    """Exit code 2 and one line that names the field, the reason and what to state instead."""
    command = [sys.executable, "-m", "agenttts", "serve", str(written(tmp_path)), "--dry-run"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": "."}
    done = subprocess.run([*command, "--gpus", "1x80"], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert "models.small.path: the size of no-such-owner-here/nothing can't be read" in line
    assert "state models.small.memory" in line and "Traceback" not in line


def written(folder: Path) -> Path:
    """A pipeline file with a model of the hub."""
    file = write_pipeline(folder, "http://127.0.0.1:8201/v1")
    text = file.read_text().replace("served_name: small,", "path: no-such-owner-here/nothing,")
    file.write_text("\n".join(line for line in text.splitlines() if not line.startswith("  large:")) + "\n")
    file.write_text(file.read_text().replace("[small, large]", "[small]"))
    return file
