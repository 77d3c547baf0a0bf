"""The memory that each server of a pipeline needs on each of its GPUs: weights, KV cache, and its own.

Own is what vLLM takes beside both: the tensors of a batch and of the logits, CUDA graphs and communication.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agenttts.errors import UserError
from agenttts.serving.machine import Gpu
from agenttts.serving.weights import ModelSize, adapter_bytes, model_size
from pipelines.servers.hosted import Hosted, hosted_models, weights_directory
from pipelines.spec.pipeline import PipelineSpec

_GRAPHS_BYTES = 1.5e9  # CUDA graphs, and buffers of communication and of attention
_GIB = 2**30
_BATCHES = ((160 * _GIB, 16384, 1024), (70 * _GIB, 8192, 1024), (0, 2048, 256))
"""vLLM's defaults by a GPU's memory: tokens of a batch, and sequences (engine/arg_utils.py of 0.32)."""
_TYPICAL_TOKENS = 2048  # of a sequence of a model that only fuses or judges samples
_SUFFIXES = {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}


@dataclass(frozen=True, kw_only=True)
class GpuBytes:
    """What a server needs on each of its GPUs.

    Attributes:
        weights: Weights, adapters included.
        cache: The KV cache of the sequences at once, and at least of one that is as long as the context.
        own: What vLLM takes beside them.
    """

    weights: float
    cache: float
    own: float

    @property
    def total(self) -> float:
        """All three."""
        return self.weights + self.cache + self.own


@dataclass(frozen=True, kw_only=True)
class Need:
    """One server.

    Attributes:
        hosted: The models that it answers for.
        size: The base model's size.
        adapters_bytes: The adapters, which every GPU of a split model keeps whole.
        context_tokens: The longest sequence that the server accepts.
        sequence_tokens: A sequence as the stages expect it.
        number_bytes: Bytes of a number in the KV cache.
        splits: The numbers of GPUs that it may be split over.
        fixed_share: The share of a GPU that its own arguments give it; None where they do not.
    """

    hosted: Hosted
    size: ModelSize
    adapters_bytes: float
    context_tokens: int
    sequence_tokens: int
    number_bytes: float
    splits: tuple[int, ...]
    fixed_share: float | None = None

    @property
    def name(self) -> str:
        """The key of the base model."""
        return self.hosted.base

    def gpu_bytes(self, gpu: Gpu, split: int, n_sequences: int) -> GpuBytes:
        """Return what the server needs on each of its GPUs.

        Args:
            gpu: One of them; all have the same memory.
            split: Their number.
            n_sequences: Sequences at once that are to have room in the KV cache.
        """
        weights = self.size.weights_bytes / split + self.adapters_bytes
        cache = max(
            self.cache_bytes(self.context_tokens, split),
            n_sequences * self.cache_bytes(self.sequence_tokens, split),
        )
        own = self._own_bytes(gpu, split)
        if self.fixed_share is not None:  # whoever fixed it knows better what is needed beside the weights
            own = min(own, max(0.0, self.fixed_share * gpu.memory_bytes - weights))
            cache = max(0.0, self.fixed_share * gpu.memory_bytes - weights - own)
        return GpuBytes(weights=weights, cache=cache, own=own)

    def cache_bytes(self, tokens: int, split: int) -> float:
        """Return the KV cache of one sequence on each GPU.

        Args:
            tokens: Its tokens.
            split: The GPUs that the model is split over.
        """
        return self.size.architecture.kv_bytes(tokens, self.number_bytes, split)

    def _own_bytes(self, gpu: Gpu, split: int) -> float:
        batch, sequences = next((b, n) for least, b, n in _BATCHES if gpu.memory_bytes >= least)
        sizes = self.size.architecture
        intermediate = sizes.intermediate or 4 * sizes.hidden
        activations = batch * (2 * intermediate / split + 4 * sizes.hidden) * 2
        logits = sequences * sizes.vocabulary * 4 * 3  # 32 bits: the logits, sorted, and their softmax
        return _GRAPHS_BYTES + activations + logits


def server_needs(spec: PipelineSpec, models: Iterable[str] | None = None) -> list[Need]:
    """Return what the servers of models need.

    Args:
        spec: The spec.
        models: Keys of the models; None for all of the spec.

    Raises:
        SpecError: The size of a model can't be read.
        UserError: The arguments of a model's server can't be planned.
    """
    return [_need(spec, hosted) for hosted in hosted_models(spec, models)]


def _need(spec: PipelineSpec, hosted: Hosted) -> Need:
    model = spec.models[hosted.base]
    args = model.serve_args
    for name in ("--pipeline-parallel-size", "--data-parallel-size"):
        if _argument(args, name) not in (None, "1"):
            raise UserError(f"models.{hosted.base}.serve_args: {name} can't be planned; leave it out")
    bits_32 = _argument(args, "--dtype") in ("float32", "float")
    size = model_size(spec, hosted.base, bits_32=bits_32)
    quantisation = _argument(args, "--quantization", "-q")
    if quantisation is not None and quantisation.startswith("fp8") and not size.is_quantised:
        size = replace(size, weights_bytes=size.weights_bytes / 2, is_quantised=True)
    context = _tokens(_argument(args, "--max-model-len")) or model.context_length
    context = context or size.architecture.context_length
    if context is None:
        raise spec.error_at(
            f"models.{hosted.base}", "needs context_length, from which its KV cache is planned"
        )
    eight_bits = (_argument(args, "--kv-cache-dtype") or "").startswith("fp8")
    adapters = [adapter_bytes(weights_directory(spec, name)) for name in hosted.adapters]
    return Need(
        hosted=hosted,
        size=size,
        adapters_bytes=len(adapters) * max(adapters, default=0.0),  # vLLM's slots are all of the largest rank
        context_tokens=context,
        sequence_tokens=min(context, _sequence_tokens(spec, hosted)),
        number_bytes=1.0 if eight_bits else 4.0 if bits_32 else 2.0,
        splits=_splits(hosted.base, size, _argument(args, "--tensor-parallel-size", "-tp")),
        fixed_share=_fixed_share(hosted.base, _argument(args, "--gpu-memory-utilization")),
    )


def _fixed_share(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    if re.fullmatch(r"0?\.\d+|1(\.0*)?", text) is None or not float(text):
        raise UserError(
            f"models.{name}.serve_args: --gpu-memory-utilization is above 0 and at most 1, got {text!r}"
        )
    return float(text)


def _splits(name: str, size: ModelSize, fixed: str | None) -> tuple[int, ...]:
    allowed = size.architecture.splits
    if fixed is None:
        return allowed
    if not fixed.isdecimal() or int(fixed) not in allowed:
        raise UserError(
            f"models.{name}.serve_args: --tensor-parallel-size divides its {size.architecture.heads} heads "
            f"({', '.join(map(str, allowed))}), got {fixed}"
        )
    return (int(fixed),)


def _sequence_tokens(spec: PipelineSpec, hosted: Hosted) -> int:
    """The tokens of a prompt and one sample, at the stage where the models' are longest."""
    longest = [
        sum(stage.lengths_of(option))
        for stage in spec.stages
        if stage.python is None
        for option in stage.options
        if option.model in hosted.models
    ]
    return int(max(longest, default=_TYPICAL_TOKENS))


def _argument(args: Sequence[str], *names: str) -> str | None:
    """The value of the last of these arguments, given as `--name value` or `--name=value`."""
    value = None
    for position, arg in enumerate(args):
        name, equals, rest = arg.partition("=")
        if name.replace("_", "-") in names:
            value = rest if equals else next(iter(args[position + 1 :]), None)
    return value


def _tokens(text: str | None) -> int | None:
    """A number of tokens as vLLM reads it, such as 8192, 8k and 8K; None where it says none."""
    match = re.fullmatch(r"(\d+)([kKmM]?)", text or "")
    return int(match[1]) * _SUFFIXES.get(match[2], 1) if match else None
