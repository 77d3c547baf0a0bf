"""What a tuned model is on disk: a peft adapter or a whole checkpoint, with `tuning.json` beside the weights.

Read without torch: identity (digest), size, and whether vLLM will load it. The laws are vLLM's: rank among
those it allows, no `modules_to_save`, no bias, no DoRA.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttts.errors import UserError
from datastore.records import ModelRecord, Tuning
from datastore.store import Store

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank; an adapter needs the next one that holds its own."""
ADAPTER_CONFIG = "adapter_config.json"
CARD = "tuning.json"


@dataclass(frozen=True, kw_only=True)
class TunedModel:
    """A directory with weights. `base`: of an adapter what it sits on; None for a whole checkpoint."""

    path: Path
    base: str | None
    rank: int | None
    n_params: int
    digest: str
    card: Mapping[str, Any]

    @property
    def is_adapter(self) -> bool:
        return self.base is not None


def read_tuned(path: Path | str) -> TunedModel:
    """The adapter or checkpoint in a directory. UserError when there is none."""
    path = Path(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if not files:
        raise UserError(
            f"{path}: must be a directory with an adapter or a checkpoint, it has no .safetensors"
        )
    config = _json(path / ADAPTER_CONFIG)
    base = None if config is None else str(config.get("base_model_name_or_path") or "")
    return TunedModel(
        path=path,
        base=base,
        rank=None if config is None else int(config.get("r", 0)),
        n_params=sum(count_parameters(file) for file in files),
        digest=weights_digest(path),
        card=_json(path / CARD) or {},
    )


def count_parameters(file: Path) -> int:
    """Parameters in a safetensors file, from its header alone. UserError when it is none."""
    return sum(math.prod(entry["shape"]) for entry in tensors(file).values())


def tensors(file: Path) -> dict[str, dict[str, Any]]:
    """Name → {dtype, shape} of what a safetensors file holds. UserError when it is none, or cut short."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > 1 << 30:
                raise ValueError("its header is too long")
            header: dict[str, Any] = json.loads(stream.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise UserError(f"{file}: must be a safetensors file: {error}") from None
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if file.stat().st_size < 8 + length + end:
        raise UserError(f"{file}: is cut short, {file.stat().st_size} bytes of {8 + length + end}")
    return header


def weights_digest(path: Path) -> str:
    """SHA-256, in hex, of the weights and of what says how to apply them: part of each sample's identity."""
    made = hashlib.sha256()
    config = _json(path / ADAPTER_CONFIG)
    if config is not None:
        config.pop("base_model_name_or_path", None)
        made.update(json.dumps(config, sort_keys=True).encode())
    for file in sorted(path.glob("*.safetensors")):
        made.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                made.update(block)
    return made.hexdigest()


def servable_problem(config: Mapping[str, Any]) -> str | None:
    """Why vLLM would refuse an adapter of this configuration; None when it takes it."""
    if config.get("modules_to_save"):
        return f"modules_to_save must be empty, got {config['modules_to_save']}; vLLM loads LoRA weights only"
    if config.get("use_dora"):
        return "use_dora must be off: vLLM has no DoRA; merge the adapter instead (merge: true)"
    if config.get("bias", "none") != "none":
        return f"bias must be none, got {config['bias']!r}"
    rank = int(config.get("r", 0))
    if not 1 <= rank <= RANKS[-1]:
        return f"rank must be from 1 to {RANKS[-1]}, the largest that vLLM serves, got {rank}"
    return None


def require_servable(path: Path) -> None:
    """UserError when vLLM would not load what is in the directory: laws broken, weights cut short."""
    config = _json(path / ADAPTER_CONFIG)
    if config is not None and (problem := servable_problem(config)):
        raise UserError(f"{path / ADAPTER_CONFIG}: {problem}")
    found = [name for file in path.glob("*.safetensors") for name in tensors(file)]
    if config is not None and (alien := [name for name in found if ".lora_" not in name]):
        raise UserError(f"{path}: an adapter holds LoRA weights only, got {alien[0]}")


def require_base(adapter: TunedModel, base: Path) -> None:
    """UserError when an adapter was tuned on other weights than those of the directory."""
    known = adapter.card.get("base_digest")
    if known is not None and known != weights_digest(base):
        raise UserError(
            f"{adapter.path}: was tuned on {adapter.card.get('base')} (digest {known[:12]}), not on {base} "
            f"(digest {weights_digest(base)[:12]}); name its own base"
        )


def context_length(path: Path) -> int | None:
    """What a checkpoint's configuration says; None when it says nothing."""
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return int(found["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def register(
    store: Store, name: str, tuned: TunedModel, *, at: float, served_length: int | None = None
) -> None:
    """Put a tuned model, and how it was tuned, into the store. An adapter runs its base and itself.

    at: Unix seconds. served_length: the context length it is served with; None: the checkpoint's own.
    """
    base = Path(tuned.base) if tuned.base else tuned.path
    card, revision = tuned.card, tuned.digest[:16]
    base_params = float(card.get("base_params") or (read_tuned(base).n_params if base.is_dir() else 0))
    model = ModelRecord(
        key=f"{name}@{revision}",
        name=name,
        revision=revision,
        active_params=base_params + tuned.n_params if tuned.is_adapter else float(tuned.n_params),
        context_length=served_length or context_length(base),
        parent=tuned.base,
        usd_per_million_prompt_tokens=None,
        usd_per_million_generated_tokens=None,
    )
    tuning = Tuning(
        model_key=model.key,
        base=str(card.get("base") or tuned.base or ""),
        path=str(tuned.path.resolve()),
        dataset_digest=str(card.get("dataset_digest", "")),
        tasks=json.dumps(card.get("tasks", [])),
        settings=json.dumps(card.get("settings", {})),
        curve=json.dumps(card.get("curve", [])),
        metrics=json.dumps(card.get("metrics", {})),
        seconds=float(card.get("seconds", 0.0)),
        peak_bytes=int(card.get("peak_bytes", 0)),
        created_at=at,
    )
    store.put_models([model])
    store.put_tunings([tuning])


def _json(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: can't be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: must be a JSON object")
    return found
