"""The exact commands that start a vLLM server for each model of a spec, on a CPU or a GPU.

vLLM is spoken to by its command line only and never imported, so that the core installs without it. Starting
the commands is left to `group`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from pipelines.errors import MissingDependency
from pipelines.extras import install_command
from pipelines.servers.hosted import Hosted, hosted_models, weights_directory, weights_name
from pipelines.spec.pipeline import PipelineSpec

Device = Literal["auto", "cpu", "gpu"]
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1"})
GPU_MEMORY_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Where a server runs on a machine with GPUs.

    Attributes:
        devices: The GPUs, as CUDA_VISIBLE_DEVICES names them; as many as the model's tensors are split over.
        share: The share of each GPU's memory that the server may take.
    """

    devices: tuple[str, ...]
    share: float


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """How one server is started.

    Attributes:
        models: The keys in the spec that it answers for, its own first.
        argv: The command.
        env: What is set beside the environment that is there.
        health_url: Answers once the server is ready.
        devices: The GPUs that it uses. Servers that share one are not to start at the same time, since each
            takes what another allocates meanwhile for its own. Empty: it may start at any time.
    """

    models: tuple[str, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    health_url: str
    devices: frozenset[str] = frozenset()

    @property
    def model(self) -> str:
        return self.models[0]


def commands(
    spec: PipelineSpec,
    models: Iterable[str] | None = None,
    *,
    device: Device = "auto",
    python: str = sys.executable,
    seats: Mapping[str, Seat] | None = None,
) -> list[ServeCommand]:
    """Return the commands of the servers for models.

    Args:
        spec: The spec.
        models: Their keys; None for all of the spec.
        device: auto is the GPU where there is one. On a CPU the servers share the cores.
        python: The interpreter that runs vLLM on a CPU.
        seats: On GPUs, where the server of each base model runs. None: all on the first GPU, with equal
            shares of its memory.

    Raises:
        SpecError: A model can't be served from here: an address elsewhere or without a port, one port twice.
    """
    gpu = device == "gpu" or (device == "auto" and has_gpu())
    hosted = hosted_models(spec, models)
    served: list[ServeCommand] = []
    for one in hosted:
        place = _local(spec, one)
        if any(urlsplit(other.health_url).port == place.port for other in served):
            raise spec.error_at(
                f"models.{one.base}.base_url", f"port {place.port} is another model's too; choose one"
            )
        seat = seats[one.base] if seats is not None and gpu else None
        device_args = _gpu_args(seat, len(hosted)) if gpu else ("--dtype", "float32", "--enforce-eager")
        served.append(
            ServeCommand(
                models=one.models,
                argv=_argv(spec, one, place, device_args, gpu=gpu, python=python),
                env=_env(spec, one, seat, gpu=gpu, n_servers=len(hosted)),
                health_url=f"http://127.0.0.1:{place.port}/health",
                devices=frozenset(seat.devices if seat else ()),
            )
        )
    return served


def moved(command: ServeCommand, host: str, port: int, devices: Mapping[str, str]) -> ServeCommand:
    """Return the same server at another address and on other GPUs.

    Args:
        command: The command, of a server that has a seat.
        host: The address to listen at.
        port: The port.
        devices: The new name of each of its GPUs.
    """
    argv = list(command.argv)
    for option, value in (("--host", host), ("--port", str(port))):
        argv[argv.index(option) + 1] = value
    names = [devices[name] for name in command.env["CUDA_VISIBLE_DEVICES"].split(",")]
    return replace(
        command,
        argv=tuple(argv),
        env={**command.env, "CUDA_VISIBLE_DEVICES": ",".join(names)},
        health_url=f"http://{host}:{port}/health",
        devices=frozenset(names),
    )


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


def _local(spec: PipelineSpec, hosted: Hosted) -> SplitResult:
    url = urlsplit(spec.models[hosted.base].base_url)
    field = f"models.{hosted.base}.base_url"
    if url.hostname not in LOCAL_HOSTS:
        raise spec.error_at(field, f"a server started here has a local address, got {url.geturl()!r}")
    if url.port is None or url.scheme != "http" or url.path.rstrip("/") != "/v1":
        raise spec.error_at(field, f"a server started here is at http://HOST:PORT/v1, got {url.geturl()!r}")
    for name in hosted.adapters:
        if spec.models[name].base_url != spec.models[hosted.base].base_url:
            law = f"an adapter has its parent's base_url, {url.geturl()}, got {spec.models[name].base_url!r}"
            raise spec.error_at(f"models.{name}.base_url", law)
    return url


def _argv(
    spec: PipelineSpec,
    hosted: Hosted,
    place: SplitResult,
    device_args: Iterable[str],
    *,
    gpu: bool,
    python: str,
) -> tuple[str, ...]:
    base, adapters = hosted.base, hosted.adapters
    model = spec.models[base]
    weights = weights_name(spec, base)
    host = place.hostname if place.hostname not in ("localhost", None) else "127.0.0.1"
    # the CPU build's `vllm` command looks for a distribution of that name and fails without
    by_module = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", weights]
    argv = ["vllm", "serve", weights] if gpu else by_module
    argv += ["--served-model-name", model.served_name or base, "--host", str(host), "--port", str(place.port)]
    if model.context_length is not None:
        argv += ["--max-model-len", str(model.context_length)]
    if model.revision is not None and weights_directory(spec, base) is None:
        argv += ["--revision", model.revision]
    argv += device_args
    if adapters:
        named = [f"{spec.models[name].served_name or name}={weights_name(spec, name)}" for name in adapters]
        rank = max(_rank(spec, name) for name in adapters)
        argv += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(len(adapters))]
        argv += ["--lora-modules", *named]
    if base in spec.verifiers:
        argv += ["--runner", "pooling"]
    return (*argv, *model.serve_args)


def _gpu_args(seat: Seat | None, n_servers: int) -> tuple[str, ...]:
    """How much of which GPUs a server takes; what the spec's own arguments say comes later and wins."""
    if seat is not None:
        split = ("--tensor-parallel-size", str(len(seat.devices))) if len(seat.devices) > 1 else ()
        return (*split, "--gpu-memory-utilization", f"{seat.share:g}")
    return ("--gpu-memory-utilization", f"{GPU_MEMORY_SHARE / n_servers:.2f}") if n_servers > 1 else ()


def _env(
    spec: PipelineSpec, hosted: Hosted, seat: Seat | None, *, gpu: bool, n_servers: int
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
    elif seat is not None:  # numbered as nvidia-smi does, which is not CUDA's own order
        env = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(seat.devices)}
    if all(weights_directory(spec, name) for name in (hosted.base, *hosted.adapters)):
        env["HF_HUB_OFFLINE"] = "1"
    return env


def _rank(spec: PipelineSpec, name: str) -> int:
    """The smallest rank vLLM allows that holds the adapter's; 16 when it can't be read here."""
    directory = weights_directory(spec, name)
    try:
        config = json.loads((directory / "adapter_config.json").read_text()) if directory else {}
        rank = int(config.get("r", 16))
    except (OSError, ValueError, TypeError):
        rank = 16
    return next((allowed for allowed in (8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank), rank)
