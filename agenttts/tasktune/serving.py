"""Having tuned models served: in a vLLM that runs, else in one started for them. Each is asked once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from agenttts.errors import UserError
from pipelines.servecommand import commands, require_vllm
from pipelines.serving import ServerGroup
from pipelines.spec import PipelineSpec

_CLIENT_S = 60.0


@contextmanager
def served(spec: PipelineSpec, models: Sequence[str], *, log_dir: Path) -> Iterator[None]:
    """These models of the spec answer within the block.

    Adapters are loaded into the server of their base where one runs (it needs --enable-lora and
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True); what does not run is started, and stopped at the end. Each is
    asked for one completion. UserError when a running server refuses an adapter.
    """
    bases = list(dict.fromkeys(spec.models[name].parent or name for name in models))
    running = [base for base in bases if is_up(spec.models[base].base_url)]
    for name in models:
        model = spec.models[name]
        if model.parent in running and model.path is not None:
            load_adapter(model.base_url, spec.served_name(name), (spec.root / model.path).resolve())
    absent = [name for name in models if (spec.models[name].parent or name) not in running]
    if not absent:
        ask_each(spec, models)
        yield
        return
    require_vllm()
    with ServerGroup(commands(spec, absent), log_dir=log_dir):
        ask_each(spec, models)
        yield


def is_up(base_url: str) -> bool:
    """Whether a server answers at the address, be it that it wants a key."""
    try:
        return _get(f"{base_url.rstrip('/')}/models").status_code < 500
    except httpx2.HTTPError:
        return False


def load_adapter(base_url: str, name: str, path: Path) -> None:
    """Load an adapter into a vLLM that runs, in the place of one so named. UserError when it refuses."""
    base_url = base_url.rstrip("/")
    body: dict[str, Any] = {"lora_name": name, "lora_path": str(path)}
    try:
        known = _get(f"{base_url}/models")
        if known.status_code == 200 and name in {entry.get("id") for entry in known.json().get("data", [])}:
            body["load_inplace"] = True
        answer = httpx2.post(f"{base_url}/load_lora_adapter", json=body, timeout=_CLIENT_S, trust_env=False)
    except (httpx2.HTTPError, ValueError) as error:
        raise UserError(f"{base_url}: the adapter {name} can't be loaded: {error}") from None
    if answer.status_code != 200:
        raise UserError(
            f"{base_url}: refuses the adapter {name} ({answer.status_code}: {_reason(answer)}); it needs "
            "--enable-lora, --max-lora-rank of at least its rank, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
        )


def ask_each(spec: PipelineSpec, models: Sequence[str], environ: Mapping[str, str] = os.environ) -> None:
    """One token of each model; of a classifier its classes. UserError when one does not answer."""
    for name in models:
        model = spec.models[name]
        key = environ.get(model.api_key_env) if model.api_key_env else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        root = model.base_url.rstrip("/")
        url, body = (
            f"{root}/chat/completions",
            {
                "model": spec.served_name(name),
                "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": 1,
            },
        )
        if name in spec.verifiers:
            url = f"{root.removesuffix('/v1')}/classify"
            body = {"model": spec.served_name(name), "input": ["Hello"]}
        try:
            answer = httpx2.post(url, json=body, headers=headers, timeout=_CLIENT_S, trust_env=False)
        except httpx2.HTTPError as error:
            raise UserError(f"{model.base_url}: {name} does not answer: {error}") from None
        if answer.status_code != 200:
            raise UserError(f"{model.base_url}: {name} gives no completion: {_reason(answer)}")


def _get(url: str) -> httpx2.Response:
    return httpx2.get(url, timeout=5.0, trust_env=False)


def _reason(answer: httpx2.Response) -> str:
    try:
        found: Any = answer.json()
        error = found.get("error", found) if isinstance(found, dict) else found
        return str(error.get("message", error) if isinstance(error, dict) else error)[:200]
    except ValueError:
        return answer.text[:200]
