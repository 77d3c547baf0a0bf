"""The GPUs of a machine: as stated, or as nvidia-smi or torch lists them."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agenttts.errors import UserError

GB = 1e9
_MIB = 2**20
_QUERY_S = 60.0
_SMI = ("nvidia-smi", "--query-gpu=index,uuid,memory.total,memory.free", "--format=csv,noheader,nounits")
_TORCH = """
import json, torch
n = torch.cuda.device_count()
print(json.dumps([torch.cuda.mem_get_info(i) for i in range(n)]))
"""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        device: What CUDA_VISIBLE_DEVICES names it: its number in nvidia-smi, or its UUID.
        memory_bytes: Its memory.
        free_bytes: What nobody uses of it now.
        node: The machine of a cluster that it is in; empty for one machine.
    """

    device: str
    memory_bytes: float
    free_bytes: float
    node: str = ""


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Read a machine as a person states it: 4x80, or 2x80,1x24 for GPUs of different sizes, in GB.

    Args:
        text: The number of GPUs, x, and the memory of each in 1e9 bytes.

    Raises:
        UserError: The text is not of that form.
    """
    sizes: list[float] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*[xX×]\s*(\d+(?:\.\d+)?)\s*", part)
        if match is None or not int(match[1]) or not float(match[2]):
            raise UserError(
                f"--gpus is a number of GPUs and the GB of each, such as 4x80 or 2x80,1x24, got {text!r}"
            )
        sizes += int(match[1]) * [float(match[2]) * GB]
    return tuple(Gpu(device=str(i), memory_bytes=size, free_bytes=size) for i, size in enumerate(sizes))


def machine_text(gpus: Sequence[Gpu]) -> str:
    """Return what `parse_gpus` reads, with sizes to the GB.

    Args:
        gpus: The GPUs.
    """
    counts: dict[str, int] = {}
    for gpu in gpus:
        size = f"{gpu.memory_bytes / GB:.0f}"
        counts[size] = counts.get(size, 0) + 1
    return ",".join(f"{n}x{size}" for size, n in counts.items())


def detect_gpus(environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs of this machine that CUDA_VISIBLE_DEVICES lets a program see; none where none is read.

    Args:
        environ: The environment variables.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    names = None if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
    return _by_smi(names, environ) or _by_torch(names, environ)


def _by_smi(names: Sequence[str] | None, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    listing = _output(_SMI, environ)
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(listing.splitlines()) if row]
        listed = [
            (number, uuid, Gpu(device=number, memory_bytes=float(all_) * _MIB, free_bytes=float(free) * _MIB))
            for number, uuid, all_, free in rows
        ]
    except ValueError:  # such as [N/A] for a part of a GPU
        return ()
    if names is None:
        return tuple(gpu for _, _, gpu in listed)
    chosen = [
        next((gpu for number, uuid, gpu in listed if name == number or _is_uuid(name, uuid)), None)
        for name in names
    ]
    return tuple(gpu for gpu in chosen if gpu is not None) if all(chosen) else ()


def _is_uuid(name: str, uuid: str) -> bool:
    """Whether a name is a GPU's UUID or the beginning of it."""
    return name.startswith("GPU-") and uuid.startswith(name)


def _by_torch(names: Sequence[str] | None, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """By torch in a process of its own, because listing takes memory on each GPU while it lasts."""
    if importlib.util.find_spec("torch") is None:
        return ()
    ordered = {**environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    try:
        read = json.loads(_output((sys.executable, "-c", _TORCH), ordered) or "[]")
        pairs = [(float(free), float(all_)) for free, all_ in read]
    except (ValueError, TypeError):
        return ()
    devices = names if names is not None and len(names) == len(pairs) else [str(i) for i in range(len(pairs))]
    return tuple(
        Gpu(device=device, memory_bytes=all_, free_bytes=free)
        for device, (free, all_) in zip(devices, pairs, strict=True)
    )


def _output(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """What a command prints; nothing where it is missing, fails or takes too long."""
    try:
        done = subprocess.run(
            command, env=dict(environ), capture_output=True, text=True, timeout=_QUERY_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
