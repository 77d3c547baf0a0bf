"""The exact commands that start a vLLM server for each model of a spec, on a CPU or a GPU.

vLLM is spoken to by its command line only and never imported, so that the core installs without it. Starting
the commands is left to `serving`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from pipelines.errors import MissingDependency, SpecError
from pipelines.extras import install_command
from pipelines.spec.pipeline import ModelSpec, PipelineSpec

Device = Literal["auto", "cpu", "gpu"]
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1"})
GPU_MEMORY_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """How one server is started. `models`: the keys in the spec that it answers for, its own first.

    env: what is set beside the environment that is there.
    """

    models: tuple[str, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    health_url: str

    @property
    def model(self) -> str:
        return self.models[0]


def commands(
    spec: PipelineSpec,
    models: Iterable[str] | None = None,
    *,
    device: Device = "auto",
    python: str = sys.executable,
) -> list[ServeCommand]:
    """The servers for these models (None: all of the spec): one each, but an adapter is its parent's affair.

    device: auto is the GPU where there is one. On a CPU the servers share the cores, on a GPU its memory.
    SpecError when a model can't be served from here: an address elsewhere or without a port, one port twice.
    """
    named = spec.models if models is None else (name for key in models for name in _variants(spec, key))
    wanted = list(dict.fromkeys(named))
    for name in wanted:
        if name not in spec.models:
            raise SpecError(f"no such model, got {name!r}", remedy=f"the models are {', '.join(spec.models)}")
    gpu = device == "gpu" or (device == "auto" and has_gpu())
    same: dict[tuple[object, ...], list[str]] = {}
    for name in dict.fromkeys(spec.models[name].parent or name for name in wanted):
        same.setdefault(_server_of(spec, name), []).append(name)
    bases = [names[0] for names in same.values()]
    served: list[ServeCommand] = []
    for base, *twins in same.values():
        adapters = [name for name in wanted if spec.models[name].parent in (base, *twins)]
        place = _local(spec, base, adapters)
        if any(urlsplit(other.health_url).port == place.port for other in served):
            raise spec.error_at(
                f"models.{base}.base_url", f"port {place.port} is another model's too; choose one"
            )
        argv = _argv(spec, base, adapters, place, gpu=gpu, python=python, n_servers=len(bases))
        env = _env(spec, base, adapters, gpu=gpu, n_servers=len(bases))
        url = f"http://127.0.0.1:{place.port}/health"
        served.append(ServeCommand(models=(base, *twins, *adapters), argv=argv, env=env, health_url=url))
    return served


def _variants(spec: PipelineSpec, key: str) -> list[str]:
    """The variants of a model that a file gives variants; else its key alone."""
    return [name for name in spec.models if name.startswith(f"{key}/") and key not in spec.models] or [key]


def _server_of(spec: PipelineSpec, name: str) -> tuple[object, ...]:
    """What entries share that are configurations of one served model."""
    model = spec.models[name]
    return model.served_name or name, model.revision, model.base_url, model.path, model.serve_args


def has_gpu() -> bool:
    """Whether this machine has an accelerator that vLLM's default build uses."""
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd"))


def n_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_vllm() -> None:
    """MissingDependency when vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise MissingDependency(
            f"serving needs vLLM, which is not installed; run: {install_command('serve')}"
        )


def _local(spec: PipelineSpec, base: str, adapters: Sequence[str]) -> SplitResult:
    url = urlsplit(spec.models[base].base_url)
    field = f"models.{base}.base_url"
    if url.hostname not in LOCAL_HOSTS:
        raise spec.error_at(field, f"a server started here has a local address, got {url.geturl()!r}")
    if url.port is None or url.scheme != "http" or url.path.rstrip("/") != "/v1":
        raise spec.error_at(field, f"a server started here is at http://HOST:PORT/v1, got {url.geturl()!r}")
    for name in adapters:
        if spec.models[name].base_url != spec.models[base].base_url:
            law = f"an adapter has its parent's base_url, {url.geturl()}, got {spec.models[name].base_url!r}"
            raise spec.error_at(f"models.{name}.base_url", law)
    return url


def _argv(
    spec: PipelineSpec,
    base: str,
    adapters: Sequence[str],
    place: SplitResult,
    *,
    gpu: bool,
    python: str,
    n_servers: int,
) -> tuple[str, ...]:
    model = spec.models[base]
    weights = _weights(spec, base)
    host = place.hostname if place.hostname not in ("localhost", None) else "127.0.0.1"
    # the CPU build's `vllm` command looks for a distribution of that name and fails without
    by_module = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", weights]
    argv = ["vllm", "serve", weights] if gpu else by_module
    argv += ["--served-model-name", model.served_name or base, "--host", str(host), "--port", str(place.port)]
    if model.context_length is not None:
        argv += ["--max-model-len", str(model.context_length)]
    if model.revision is not None and _directory(spec, base) is None:
        argv += ["--revision", model.revision]
    if not gpu:
        argv += ["--dtype", "float32", "--enforce-eager"]
    elif n_servers > 1:
        argv += ["--gpu-memory-utilization", f"{GPU_MEMORY_SHARE / n_servers:.2f}"]
    if adapters:
        named = [f"{spec.models[name].served_name or name}={_weights(spec, name)}" for name in adapters]
        rank = max(_rank(spec, name) for name in adapters)
        argv += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(len(adapters))]
        argv += ["--lora-modules", *named]
    if base in spec.verifiers:
        argv += ["--runner", "pooling"]
    return (*argv, *model.serve_args)


def _env(
    spec: PipelineSpec, base: str, adapters: Sequence[str], *, gpu: bool, n_servers: int
) -> dict[str, str]:
    env = {}
    if not gpu:
        threads = max(1, n_cores() // n_servers)
        env = {
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads),
        }
    if all(_directory(spec, name) for name in (base, *adapters)):
        env["HF_HUB_OFFLINE"] = "1"
    return env


def _directory(spec: PipelineSpec, name: str) -> Path | None:
    """Where a model's weights lie; None when they come from the hub."""
    path = spec.models[name].path
    if path is None:
        return None
    directory = (spec.root / Path(path).expanduser()).resolve()
    return directory if directory.is_dir() else None


def _weights(spec: PipelineSpec, name: str) -> str:
    model: ModelSpec = spec.models[name]
    directory = _directory(spec, name)
    if directory is not None:
        return str(directory)
    if model.path is not None and model.path.startswith((".", "/", "~")):
        raise spec.error_at(f"models.{name}.path", f"no such directory, got {model.path!r}")
    return model.path or model.served_name or name


def _rank(spec: PipelineSpec, name: str) -> int:
    """The smallest rank vLLM allows that holds the adapter's; 16 when it can't be read here."""
    directory = _directory(spec, name)
    try:
        config = json.loads((directory / "adapter_config.json").read_text()) if directory else {}
        rank = int(config.get("r", 16))
    except (OSError, ValueError, TypeError):
        rank = 16
    return next((allowed for allowed in (8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank), rank)
