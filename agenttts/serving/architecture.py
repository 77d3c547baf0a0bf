"""What a model's config.json says of the memory of its server: the KV cache, and how tensors may be split.

A token's keys and values take 2 · layers · kv_heads · head_dim · bytes, as in vLLM's paper (arXiv 2309.06180,
section 3). Layers of a sliding window keep the window only, linear ones nothing that grows; latent attention
(MLA, arXiv 2405.04434) keeps kv_lora_rank + qk_rope_head_dim numbers for all heads together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.jsonvalues import JSON
from pipelines.spec.models import MemorySpec

_LARGEST_SPLIT = 64


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of a transformer.

    Attributes:
        layers: Layers whose attention sees all tokens.
        window_layers: Layers whose attention sees a window.
        window: The tokens of the window.
        heads: Attention heads.
        kv_heads: Heads of keys and values.
        numbers_per_token: Numbers that one head of one layer keeps of a token, keys and values together; of
            latent attention, the numbers of all heads.
        is_latent: Whether attention is latent, so that a split model keeps all of it on each GPU.
        hidden: The hidden size; 0 where it is not known.
        intermediate: The inner size of a dense layer, 0 where it is not known.
        vocabulary: Tokens of the vocabulary; 0 where it is not known.
        context_length: The most tokens that the model takes; None where it is not known.
        n_params: Parameters, as estimated from the sizes; None where these do not say, as for mixtures of
            experts.
    """

    layers: int
    window_layers: int = 0
    window: int = 0
    heads: int
    kv_heads: int
    numbers_per_token: int
    is_latent: bool = False
    hidden: int = 0
    intermediate: int = 0
    vocabulary: int = 0
    context_length: int | None = None
    n_params: int | None = None

    def kv_bytes(self, tokens: int, bytes_per_number: float, split: int = 1) -> float:
        """Return the KV cache of one sequence on each GPU.

        Args:
            tokens: Tokens of the sequence.
            bytes_per_number: 2 for 16 bits.
            split: The GPUs that the model is split over. With more GPUs than heads of keys and values, these
                are repeated.
        """
        heads = 1 if self.is_latent else max(1.0, self.kv_heads / split)
        cached = self.layers * tokens + self.window_layers * min(tokens, self.window)
        return cached * heads * self.numbers_per_token * bytes_per_number

    @property
    def splits(self) -> tuple[int, ...]:
        """The numbers of GPUs that the model may be split over: powers of two that divide its heads."""
        powers = [2**i for i in range(_LARGEST_SPLIT.bit_length())]
        return tuple(n for n in powers if self.heads % n == 0 and self._divides_kv_heads(n))

    def _divides_kv_heads(self, n: int) -> bool:
        return self.is_latent or self.kv_heads % n == 0 or n % self.kv_heads == 0


def stated_architecture(memory: MemorySpec) -> Architecture:
    """Return the architecture that a spec states.

    Args:
        memory: The model's `memory`.
    """
    return Architecture(
        layers=memory.layers,
        heads=memory.heads,
        kv_heads=memory.kv_heads,
        numbers_per_token=2 * memory.head_dim,
        hidden=memory.heads * memory.head_dim,
    )


def read_architecture(config: Mapping[str, JSON]) -> Architecture:
    """Read a model's config.json, of a model with images too: its part for text.

    Args:
        config: The file.

    Raises:
        ValueError: It lacks a number that is needed; the message names it.
    """
    nested = config.get("text_config")
    if isinstance(nested, Mapping):
        config = {**config, **nested}
    n_layers = _needed(config, "num_hidden_layers", "n_layer", "n_layers")
    heads = _needed(config, "num_attention_heads", "n_head", "n_heads")
    hidden = _needed(config, "hidden_size", "n_embd", "d_model")
    kv_heads = _whole(config, "num_key_value_heads", "num_kv_heads", "n_head_kv") or heads
    head_dim = _whole(config, "head_dim") or hidden // heads
    latent = _whole(config, "kv_lora_rank")
    full, windowed, window = _attention_layers(config, n_layers)
    return Architecture(
        layers=full,
        window_layers=windowed,
        window=window,
        heads=heads,
        kv_heads=kv_heads,
        numbers_per_token=2 * head_dim if not latent else latent + (_whole(config, "qk_rope_head_dim") or 0),
        is_latent=bool(latent),
        hidden=hidden,
        intermediate=_whole(config, "intermediate_size", "n_inner") or 0,
        vocabulary=_whole(config, "vocab_size") or 0,
        context_length=_whole(config, "max_position_embeddings"),
        n_params=None
        if latent
        else _n_params(config, n_layers, hidden, heads * head_dim, kv_heads * head_dim),
    )


def _attention_layers(config: Mapping[str, JSON], n_layers: int) -> tuple[int, int, int]:
    """Layers that see everything, layers that see a window, and its tokens."""
    window = _whole(config, "sliding_window") or 0
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == n_layers:
        windowed = sum(kind == "sliding_attention" for kind in kinds) if window else 0
        endless = sum(kind in ("linear_attention", "mamba", "conv") for kind in kinds)
        return n_layers - windowed - endless, windowed, window
    if window and config.get("use_sliding_window", True) and config.get("model_type") == "mistral":
        return 0, n_layers, window
    return n_layers, 0, 0


def _n_params(config: Mapping[str, JSON], layers: int, hidden: int, queries: int, keys: int) -> int | None:
    """The parameters of a dense model with gated layers, such as Llama's and Qwen's."""
    experts = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    intermediate, vocabulary = _whole(config, "intermediate_size"), _whole(config, "vocab_size")
    if intermediate is None or vocabulary is None or _whole(config, *experts):
        return None
    layer = 2 * hidden * (queries + keys) + 3 * hidden * intermediate
    return layers * layer + vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)


def _needed(config: Mapping[str, JSON], *names: str) -> int:
    value = _whole(config, *names)
    if not value:
        raise ValueError(f"config.json lacks {names[0]}")
    return value


def _whole(config: Mapping[str, JSON], *names: str) -> int | None:
    """The first of the names that has a whole number."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
