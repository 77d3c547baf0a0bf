"""Serve tuned models: by a running vLLM, else by one started for them. Each answers one test request."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2

from agenttts.errors import UserError
from agenttts.serving.servers import planned_servers
from agenttts.training.weights import RANKS
from pipelines.jsonvalues import JSON
from pipelines.servers.commands import ServeCommand, require_vllm
from pipelines.servers.group import ServerGroup
from pipelines.servers.keys import key_in
from pipelines.spec.pipeline import PipelineSpec

_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 5.0


@contextmanager
def served(spec: PipelineSpec, models: Sequence[str], *, log_dir: Path) -> Iterator[None]:
    """Have models of a spec answer within the block.

    An adapter is loaded into the server of its base where one runs; that server needs --enable-lora and
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True. Servers that do not run are started, and stopped at the end. Each
    model is asked for one completion.

    Args:
        spec: The spec.
        models: The names of the models.
        log_dir: The directory of the servers' logs.

    Raises:
        UserError: A running server refuses an adapter, or a model gives no completion.
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
    with ServerGroup(planned_servers(spec, absent).commands, log_dir=log_dir):
        ask_each(spec, models)
        yield


def is_up(base_url: str) -> bool:
    """Whether a server answers at an address, even if it wants a key.

    Args:
        base_url: The address, usually ending in /v1.
    """
    try:
        return _get(f"{base_url.rstrip('/')}/models").status_code < 500
    except httpx2.HTTPError:
        return False


def load_adapter(base_url: str, name: str, path: Path) -> None:
    """Load an adapter into a vLLM that runs, in the place of one of the same name.

    Args:
        base_url: The server's address, usually ending in /v1.
        name: What the adapter is served as.
        path: The adapter's directory, as the server sees it.

    Raises:
        UserError: The server refuses the adapter or does not answer.
    """
    base_url = base_url.rstrip("/")
    body: dict[str, JSON] = {"lora_name": name, "lora_path": str(path)}
    try:
        models = _get(f"{base_url}/models")
        if models.status_code == 200 and name in {entry.get("id") for entry in models.json().get("data", [])}:
            body["load_inplace"] = True
        answer = httpx2.post(f"{base_url}/load_lora_adapter", json=body, timeout=_TIMEOUT_S, trust_env=False)
    except (httpx2.HTTPError, ValueError) as error:
        raise UserError(f"{base_url}: the adapter {name} can't be loaded: {error}") from None
    if answer.status_code != 200:
        raise UserError(
            f"{base_url}: refuses the adapter {name} ({answer.status_code}: {_reason(answer)}); it needs "
            "--enable-lora, --max-lora-rank of at least its rank, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, "
            "as `agenttts tune serve --max-lora-rank` sets them"
        )


def adaptable(command: ServeCommand, max_lora_rank: int | None = None) -> ServeCommand:
    """Have a server take adapters while it runs, as `load_adapter` needs it.

    Args:
        command: How the server is started.
        max_lora_rank: The largest rank of an adapter that it takes. None: what the command says; a command
            without adapters stays as it is then.

    Raises:
        UserError: vLLM knows no such rank.
    """
    argv = command.argv
    if max_lora_rank is not None:
        if max_lora_rank not in RANKS:
            raise UserError(f"--max-lora-rank is one of {', '.join(map(str, RANKS))}, got {max_lora_rank}")
        if "--enable-lora" in argv:
            max_lora_rank = max(max_lora_rank, int(argv[argv.index("--max-lora-rank") + 1]))
        else:
            argv = (*argv, "--enable-lora")
        argv = (*argv, "--max-lora-rank", str(max_lora_rank))  # of two, the last one counts
    elif "--enable-lora" not in argv:
        return command
    return replace(command, argv=argv, env={**command.env, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"})


def ask_each(spec: PipelineSpec, models: Sequence[str], environ: Mapping[str, str] = os.environ) -> None:
    """Ask each model for one token; a classifier for its classes.

    Args:
        spec: The spec of the models.
        models: Their names.
        environ: The environment variables, for keys of servers.

    Raises:
        UserError: A model does not answer.
    """
    for name in models:
        model = spec.models[name]
        key = key_in(environ, model.api_key_env) if model.api_key_env else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        root = model.base_url.rstrip("/")
        body: dict[str, JSON] = {"model": spec.served_name(name)}
        if name in spec.verifiers:
            url = f"{root.removesuffix('/v1')}/classify"
            body["input"] = ["Hello"]
        else:
            url = f"{root}/chat/completions"
            body |= {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        try:
            answer = httpx2.post(url, json=body, headers=headers, timeout=_TIMEOUT_S, trust_env=False)
        except httpx2.HTTPError as error:
            raise UserError(f"{model.base_url}: {name} does not answer: {error}") from None
        if answer.status_code != 200:
            raise UserError(f"{model.base_url}: {name} gives no completion: {_reason(answer)}")


def _get(url: str) -> httpx2.Response:
    return httpx2.get(url, timeout=_PROBE_TIMEOUT_S, trust_env=False)


def _reason(answer: httpx2.Response) -> str:
    """The first 200 characters of what a server says of an error."""
    try:
        content = answer.json()
    except ValueError:
        return answer.text[:200]
    error = content.get("error", content) if isinstance(content, dict) else content
    return str(error.get("message", error) if isinstance(error, dict) else error)[:200]
