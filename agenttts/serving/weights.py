"""How many bytes a model's weights take on a GPU, from the headers of its safetensors files.

A file begins with the length of its header, 8 bytes, and the header, JSON that has type, shape and place of
each tensor (https://huggingface.co/docs/safetensors). No tensor is read. Of a model on the hub the same
headers are fetched by ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttts.serving.architecture import Architecture, read_architecture, stated_architecture
from agenttts.serving.machine import GB
from pipelines.errors import MissingDependency
from pipelines.extras import library
from pipelines.jsonvalues import JSON, read_json
from pipelines.servers.hosted import weights_directory, weights_name
from pipelines.spec.pipeline import PipelineSpec

_HEADER_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself allows
_INDEX = "model.safetensors.index.json"
_REMEDY = (
    "download it, or give path a directory that has its config.json, or state models.{name}.memory: "
    "{{weights_gb, layers, heads, kv_heads, head_dim}} from its card and its config.json"
)


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What a model takes.

    Attributes:
        weights_bytes: All weights, as a GPU has them: vLLM casts 32 bits to 16.
        architecture: What decides the KV cache and how the model may be split.
        is_estimated: Whether the weights are estimated from the sizes in config.json.
        is_quantised: Whether the weights have less than 16 bits already.
    """

    weights_bytes: float
    architecture: Architecture
    is_estimated: bool = False
    is_quantised: bool = False


def model_size(spec: PipelineSpec, name: str, *, bits_32: bool = False) -> ModelSize:
    """Return the size of a base model: as its spec states it, else from its directory, else from the hub.

    Args:
        spec: The spec.
        name: The model's key.
        bits_32: Whether the server keeps weights of 32 bits as they are.

    Raises:
        SpecError: The size can't be read; the message has the remedy.
        MissingDependency: huggingface_hub is needed and not installed.
    """
    stated = spec.models[name].memory
    if stated is not None:
        return ModelSize(weights_bytes=stated.weights_gb * GB, architecture=stated_architecture(stated))
    directory, source = weights_directory(spec, name), weights_name(spec, name)
    try:
        if directory is None:
            return _hub_size(source, spec.models[name].revision, bits_32)
        return _directory_size(directory, bits_32)
    except MissingDependency:
        raise
    except Exception as error:  # of the hub's client: many kinds, none of which it promises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        field = f"models.{name}.path"
        raise spec.error_at(
            field, f"the size of {source} can't be read: {reason}", remedy=_REMEDY.format(name=name)
        ) from None


def adapter_bytes(directory: Path | None) -> float:
    """Return the bytes of an adapter's weights; 0 where they are not on this machine.

    Args:
        directory: The adapter's directory; None where it has none here.
    """
    file = directory / "adapter_model.safetensors" if directory else None
    return _tensor_bytes(_header(file), bits_32=False) if file is not None and file.exists() else 0.0


def _directory_size(directory: Path, bits_32: bool) -> ModelSize:
    return _size(_config(directory / "config.json"), _weights_bytes(directory, bits_32), bits_32)


def _size(config: Mapping[str, JSON], weights_bytes: float | None, bits_32: bool) -> ModelSize:
    architecture = read_architecture(config)
    is_estimated = weights_bytes is None
    if weights_bytes is None:
        if architecture.n_params is None:
            raise ValueError(
                "there are no weights, and config.json does not say how many parameters there are"
            )
        weights_bytes = architecture.n_params * (4.0 if bits_32 else 2.0)
    return ModelSize(
        weights_bytes=weights_bytes,
        architecture=architecture,
        is_estimated=is_estimated,
        is_quantised="quantization_config" in config or "compression_config" in config,
    )


def _weights_bytes(directory: Path, bits_32: bool) -> float | None:
    """The bytes of the weights in a directory; None when there are none."""
    index = directory / _INDEX
    if index.exists():
        listing = _config(index)
        shards = listing.get("weight_map")
        names = sorted({str(file) for file in shards.values()}) if isinstance(shards, Mapping) else []
        missing = [name for name in names if not (directory / name).exists()]
        if missing:
            raise ValueError(f"{_INDEX} names {missing[0]}, which is missing")
        files = [directory / name for name in names]
    else:
        files = sorted(directory.glob("model*.safetensors"))
    if files:
        return sum(_tensor_bytes(_header(file), bits_32=bits_32) for file in files)
    pickled = [file.stat().st_size for file in directory.glob("pytorch_model*.bin")]
    return float(sum(pickled)) if pickled else None


def _header(file: Path) -> Mapping[str, JSON]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_HEADER_LENGTH_BYTES), "little")
        if not 0 < length <= _LONGEST_HEADER:
            raise ValueError(f"{file} is no safetensors file")
        return _mapping(read_json(opened.read(length)), file)


def _tensor_bytes(header: Mapping[str, JSON], *, bits_32: bool) -> float:
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
    return sum(_bytes_of(tensor, bits_32) for tensor in tensors if isinstance(tensor, Mapping))


def _bytes_of(tensor: Mapping[str, JSON], bits_32: bool) -> float:
    match tensor.get("data_offsets"):
        case [int(begin), int(end)]:
            return (end - begin) * _factor(str(tensor.get("dtype")), bits_32)
    raise ValueError("its safetensors header has a tensor without data_offsets")


def _factor(dtype: str, bits_32: bool) -> float:
    return 0.5 if dtype == "F32" and not bits_32 else 1.0


def _config(file: Path) -> Mapping[str, JSON]:
    return _mapping(read_json(file.read_bytes()), file)


def _mapping(value: JSON, file: Path) -> Mapping[str, JSON]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{file} is no JSON object")
    return value


def _hub_size(name: str, revision: str | None, bits_32: bool) -> ModelSize:
    """By what was downloaded before, else by the headers of the files on the hub."""
    hub: Any = library("huggingface_hub", "the size of a model on the hub", extra="serve")
    cached = hub.try_to_load_from_cache(name, "config.json", revision=revision)
    if isinstance(cached, str):
        weights = _cached_bytes(Path(cached).parent, bits_32)
        if weights is not None:
            return _size(_config(Path(cached)), weights, bits_32)
    config = _config(Path(hub.hf_hub_download(name, "config.json", revision=revision)))
    files: Iterable[Any] = hub.get_safetensors_metadata(name, revision=revision).files_metadata.values()
    tensors = [tensor for file in files for tensor in file.tensors.values()]
    spans = [(t.data_offsets[1] - t.data_offsets[0]) * _factor(t.dtype, bits_32) for t in tensors]
    return _size(config, sum(spans), bits_32)


def _cached_bytes(snapshot: Path, bits_32: bool) -> float | None:
    """The bytes of weights in the cache of the hub's client, which may have a part of the files only."""
    try:
        return _weights_bytes(snapshot, bits_32)
    except (OSError, ValueError):
        return None
