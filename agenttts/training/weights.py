"""What a tuned model is on disk: a peft adapter or a whole checkpoint, with `tuning.json` beside the weights.

Read without torch: identity (digest), size, and whether vLLM will load it. The rules are vLLM's: the rank is
among those it allows, no `modules_to_save`, no bias, no DoRA.
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

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from agenttts.errors import UserError
from datastore.records import ModelRecord, Tuning
from datastore.store import Store
from pipelines.jsonvalues import JSON

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank; an adapter needs the next one that is at least its own."""
ADAPTER_CONFIG = "adapter_config.json"
CARD = "tuning.json"
_LONGEST_HEADER = 1 << 30  # bytes
_WIDTHS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes of a value, of the types of safetensors that take whole bytes."""
_EXPONENTS = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""Of the types of weights that know NaN: an integer as wide, and the bits of the exponent."""
_AT_ONCE = 1 << 24  # values


class CurvePoint(BaseModel):
    """The figures that a training logged at one step.

    Attributes:
        step: The number of optimiser steps that were done.
        epoch: The number of epochs that were done.
        loss: The mean training loss since the last report, in nats.
        eval_loss: The loss on the evaluation split, in nats.
        score: The mean score of the sub-tasks on the evaluation split, from 0 to 1.
    """

    model_config = ConfigDict(frozen=True)

    step: int
    epoch: float
    loss: float | None = None
    eval_loss: float | None = None
    score: float | None = None


class BeforeAfter(BaseModel):
    """The mean score of each sub-task on the evaluation split, from 0 to 1.

    Attributes:
        before: The scores of the base model.
        after: The scores of the tuned model.
    """

    model_config = ConfigDict(frozen=True)

    before: dict[str, float] = {}
    after: dict[str, float] = {}


class TuningCard(BaseModel):
    """How a model was tuned: the content of `tuning.json`. Further keys of the file are preserved.

    Attributes:
        fingerprint: The digest of everything that decided the training.
        base: The directory or hub name of the model that was tuned.
        base_digest: The digest of the base's weights; None where they were not in a directory.
        base_params: The number of parameters of the base.
        dataset: The directory of the dataset.
        dataset_digest: The digest of its rows.
        tasks: The names of the sub-tasks that were learnt.
        settings: The configuration of the training or of the merge.
        curve: The logged figures, by step.
        metrics: Scores before and after.
        rows: The number of training rows.
        rows_too_long: The number of training records that were left out because they were too long.
        eval_rows_too_long: The number of rows to score on that were left out because they were too long.
        steps: The number of optimiser steps.
        seconds: How long it took.
        peak_bytes: The most memory that was in use.
        versions: The versions of the libraries, by name.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    fingerprint: str | None = None
    base: str | None = None
    base_digest: str | None = None
    base_params: int | None = None
    dataset: str | None = None
    dataset_digest: str = ""
    tasks: tuple[str, ...] = ()
    settings: dict[str, JsonValue] = {}
    curve: tuple[CurvePoint, ...] = ()
    metrics: BeforeAfter = BeforeAfter()
    rows: int = 0
    rows_too_long: int = 0
    eval_rows_too_long: int = 0
    steps: int = 0
    seconds: float | None = None
    peak_bytes: int | None = None
    versions: dict[str, str] = {}

    def to_json_dict(self) -> dict[str, JSON]:
        """The keys that were set, JSON-able."""
        return self.model_dump(mode="json", exclude_unset=True)


@dataclass(frozen=True, kw_only=True)
class TunedModel:
    """A directory with weights.

    Attributes:
        path: The directory.
        base: Of an adapter the directory or hub name of its base; None for a whole checkpoint.
        rank: Of an adapter its rank; None for a whole checkpoint.
        n_params: The number of parameters in the directory.
        digest: SHA-256, in hex, of the weights and of what says how to apply them.
        card: How it was tuned; empty where the directory does not say.
    """

    path: Path
    base: str | None
    rank: int | None
    n_params: int
    digest: str
    card: TuningCard

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are an adapter, not a whole checkpoint."""
        return self.base is not None

    @property
    def is_tuned(self) -> bool:
        """Whether the directory says how the model was tuned."""
        return bool(self.card.model_fields_set)


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One tensor of a safetensors file.

    Attributes:
        dtype: The type of its values, such as BF16.
        shape: The size of each dimension.
        start: The position of its first byte in the file.
        end: The position after its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_tuned(path: Path | str) -> TunedModel:
    """Read the adapter or checkpoint in a directory.

    Args:
        path: The directory.

    Raises:
        UserError: The directory has no weights, or a file in it can't be read.
    """
    path = Path(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if not files:
        raise UserError(
            f"{path}: must be a directory with an adapter or a checkpoint, it has no .safetensors"
        )
    config = _read_json(path / ADAPTER_CONFIG)
    base = None if config is None else str(config.get("base_model_name_or_path") or "")
    return TunedModel(
        path=path,
        base=base,
        rank=None if config is None else _rank(path, config),
        n_params=sum(count_parameters(file) for file in files),
        digest=weights_digest(path),
        card=_read_card(path / CARD),
    )


def count_parameters(file: Path) -> int:
    """The number of parameters in a safetensors file, from its header alone.

    Args:
        file: The file.

    Raises:
        UserError: It is no safetensors file, or it is cut short.
    """
    return sum(math.prod(tensor.shape) for tensor in tensors(file).values())


def tensors(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name, from its header alone.

    Args:
        file: The file.

    Raises:
        UserError: It is no safetensors file, it is cut short, or a tensor's shape does not take its bytes.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _LONGEST_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        places = {name: [8 + length + int(n) for n in header[name]["data_offsets"]] for name in header}
        entries = {
            name: TensorInfo(
                dtype=str(entry["dtype"]),
                shape=tuple(map(int, entry["shape"])),
                start=places[name][0],
                end=places[name][1],
            )
            for name, entry in header.items()
        }
        if any(tensor.start < 8 + length for tensor in entries.values()):
            raise ValueError("a tensor begins inside its header")
    except (
        OSError,
        ValueError,
        OverflowError,
        LookupError,
        TypeError,
        AttributeError,
        struct.error,
        RecursionError,
        MemoryError,
    ) as error:
        raise UserError(f"{file}: must be a safetensors file: {error}") from None
    size = max((tensor.end for tensor in entries.values()), default=8 + length)
    if file.stat().st_size < size:
        raise UserError(f"{file}: is cut short, {file.stat().st_size} bytes of {size}")
    for name, tensor in entries.items():
        width, n_bytes = _WIDTHS.get(tensor.dtype), tensor.end - tensor.start
        if width is not None and n_bytes != math.prod(tensor.shape) * width:
            raise UserError(
                f"{file}: {name} must take the {math.prod(tensor.shape) * width} bytes of {tensor.dtype} "
                f"{list(tensor.shape)}, got {n_bytes}; save the weights again"
            )
    return entries


def weights_digest(path: Path) -> str:
    """SHA-256, in hex, of the weights and of what says how to apply them: part of each sample's identity.

    Args:
        path: The directory of an adapter or a checkpoint. Where an adapter's base lies does not count.

    Raises:
        UserError: The adapter's configuration can't be read.
    """
    digest = hashlib.sha256()
    config = _read_json(path / ADAPTER_CONFIG)
    if config is not None:
        config.pop("base_model_name_or_path", None)
        digest.update(json.dumps(config, sort_keys=True).encode())
    for file in sorted(path.glob("*.safetensors")):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def base_digest(base: str) -> str | None:
    """The digest of a base model's weights; None for a hub name, where they are not in a directory."""
    return weights_digest(Path(base)) if Path(base).is_dir() else None


def require_servable(path: Path) -> None:
    """Check that vLLM would load what is in a directory, and that all of its weights are finite.

    Args:
        path: The directory of an adapter or a checkpoint.

    Raises:
        UserError: A rule of vLLM's is broken, or weights are malformed, cut short or not finite.
    """
    config = _read_json(path / ADAPTER_CONFIG)
    if config is not None and (problem := _servable_problem(config)):
        raise UserError(f"{path / ADAPTER_CONFIG}: {problem}")
    weights = {file: tensors(file) for file in sorted(path.glob("*.safetensors"))}
    names = [name for entries in weights.values() for name in entries]
    if config is not None and (others := [name for name in names if ".lora_" not in name]):
        raise UserError(f"{path}: an adapter holds LoRA weights only, got {others[0]}")
    if config is not None and (heads := [name for name in names if ".lm_head." in name]):
        raise UserError(
            f"{path}: an adapter must leave lm_head alone, got {heads[0]}: vLLM would let it answer for its "
            "base too; merge it instead (agenttts tune merge --method base)"
        )
    for file, entries in weights.items():
        _require_finite(file, entries)


def require_base(adapter: TunedModel, base: Path) -> None:
    """Check that an adapter was tuned on the weights of a directory.

    Args:
        adapter: The adapter. Without the digest of its base on its card nothing is checked.
        base: The directory of the weights that it is to be applied to.

    Raises:
        UserError: It was tuned on other weights.
    """
    tuned_on = adapter.card.base_digest
    if tuned_on is not None and tuned_on != weights_digest(base):
        raise UserError(
            f"{adapter.path}: was tuned on {adapter.card.base} (digest {tuned_on[:12]}), not on {base} "
            f"(digest {weights_digest(base)[:12]}); name its own base"
        )


def context_length(path: Path) -> int | None:
    """The context length in tokens that a checkpoint's configuration names; None when it names none.

    Args:
        path: The checkpoint's directory.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def register(
    store: Store, name: str, tuned: TunedModel, *, at: float, served_length: int | None = None
) -> None:
    """Put a tuned model, and how it was tuned, into the store. An adapter runs its base and itself.

    Args:
        store: Where it goes.
        name: What the model is called.
        tuned: The model.
        at: The time of the registration, in Unix seconds.
        served_length: The context length in tokens that it is served with. None: the checkpoint's own.
    """
    base = Path(tuned.base) if tuned.base else tuned.path
    card, revision = tuned.card, tuned.digest[:16]
    base_params = float(card.base_params or (read_tuned(base).n_params if base.is_dir() else 0))
    plain = card.model_dump(mode="json", exclude_unset=True)
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
        base=card.base or tuned.base or "",
        path=str(tuned.path.resolve()),
        dataset_digest=card.dataset_digest,
        tasks=json.dumps(list(card.tasks)),
        settings=json.dumps(card.settings),
        curve=json.dumps(plain.get("curve", [])),
        metrics=json.dumps(plain.get("metrics", {})),
        seconds=card.seconds or 0.0,
        peak_bytes=card.peak_bytes or 0,
        created_at=at,
    )
    store.put_models([model])
    store.put_tunings([tuning])


def _require_finite(file: Path, entries: Mapping[str, TensorInfo]) -> None:
    """UserError when a weight of a safetensors file is NaN or infinite. Types without either are passed over.

    Such a number has all bits of its exponent set, which is seen without a library that knows the type.
    """
    for name, tensor in entries.items():
        if tensor.dtype not in _EXPONENTS or tensor.start == tensor.end:
            continue
        dtype, exponent = _EXPONENTS[tensor.dtype]
        bits = np.memmap(file, dtype, mode="r", offset=tensor.start, shape=(math.prod(tensor.shape),))
        n_broken = sum(
            int(np.count_nonzero((bits[i : i + _AT_ONCE] & exponent) == exponent))
            for i in range(0, len(bits), _AT_ONCE)
        )
        if n_broken:
            raise UserError(
                f"{file}: weights must be finite, {n_broken} of {len(bits)} values of {name} are not; train "
                "again with a lower learning_rate"
            )


def _servable_problem(config: Mapping[str, Any]) -> str | None:
    """Why vLLM would refuse an adapter of this configuration; None when it takes it."""
    if config.get("modules_to_save"):
        return f"modules_to_save must be empty, got {config['modules_to_save']}; vLLM loads LoRA weights only"
    if config.get("use_dora"):
        return "use_dora must be off: vLLM has no DoRA; merge the adapter instead (merge: true)"
    if config.get("bias", "none") != "none":
        return f"bias must be none, got {config['bias']!r}"
    rank = config.get("r", 0)
    if not isinstance(rank, int) or not 1 <= rank <= RANKS[-1]:
        return f"rank must be from 1 to {RANKS[-1]}, the largest that vLLM serves, got {rank}"
    return None


def _rank(path: Path, config: Mapping[str, Any]) -> int:
    rank = config.get("r", 0)
    if not isinstance(rank, int) or isinstance(rank, bool):
        raise UserError(
            f"{path / ADAPTER_CONFIG}: r must be an integer, the adapter's rank, got {rank!r:.60}"
        )
    return rank


def _read_card(file: Path) -> TuningCard:
    try:
        return TuningCard.model_validate(_read_json(file) or {})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: {place}: {first['msg']}, got {first['input']!r:.40}") from None


def _read_json(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when there is no such file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: can't be read: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: must be a JSON object")
    return value
