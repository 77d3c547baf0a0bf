"""The realised cost of samples, from counted tokens: FLOPs, and US dollars for models with a price.

`agenttts.space.units` computes the planned cost of an allocation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pipelines.spec.models import ModelSpec, SamplingSpec

UNLIMITED_TOKENS = 32_768
"""What a sample is taken to need at most where neither max_tokens nor a context length limits it."""


def stage_flops(active_params: float, prompt_tokens: float, generated_tokens_total: float) -> float:
    """Compute the FLOPs of the samples for one prompt: 2·P·(prompt tokens + all generated tokens).

    This is the cost model of AgentTTS (arXiv 2508.00890) with realised instead of expected lengths. The
    prompt counts once, however many samples are drawn.

    Args:
        active_params: Active parameters of the model, P.
        prompt_tokens: Length of the prompt, in tokens.
        generated_tokens_total: Length of all samples together, in tokens.
    """
    return 2.0 * active_params * (prompt_tokens + generated_tokens_total)


def model_flops(model: ModelSpec, prompt_tokens: float, generated_tokens_total: float) -> float | None:
    """Compute the FLOPs of samples of a model, as `stage_flops` does.

    Args:
        model: The model.
        prompt_tokens: Tokens read.
        generated_tokens_total: Tokens generated.

    Returns:
        The FLOPs; None when the model's active parameters are not known.
    """
    if model.active_params is None:
        return None
    return stage_flops(model.active_params, prompt_tokens, generated_tokens_total)


def n_requests(model: ModelSpec, n_samples: int) -> int:
    """Return how many requests draw n samples of one prompt, each of which is billed the prompt.

    Args:
        model: The model, with the most samples that one request may ask for.
        n_samples: The number of samples.
    """
    return 1 if model.max_n is None else -(-n_samples // model.max_n)


def chunk_requests(model: ModelSpec, chunks: Sequence[int]) -> int:
    """Return how many requests draw the samples of one prompt in chunks.

    Args:
        model: The model.
        chunks: How many samples there are after each draw, ascending; no sample counts as one request.
    """
    before = (0, *chunks)
    return sum(n_requests(model, max(1, n - first)) for first, n in zip(before, chunks, strict=False))


def known_sum(amounts: Iterable[float | None]) -> float | None:
    """Add amounts up, to the same number in any order; None when one of them is not known.

    Args:
        amounts: The amounts.
    """
    known = list[float]()
    for amount in amounts:
        if amount is None:
            return None
        known.append(amount)
    return math.fsum(known)


def stage_cost_usd(model: ModelSpec, prompt_tokens: float, generated_tokens_total: float) -> float | None:
    """Compute the price of the samples for one prompt.

    Args:
        model: The model with its price.
        prompt_tokens: Tokens of the prompt, once for each request that is billed it.
        generated_tokens_total: Length of all samples together, in tokens.

    Returns:
        US dollars; None when the model has no price.
    """
    if model.price is None:
        return None
    prompt_usd = prompt_tokens * model.price.prompt_usd_per_million
    return (prompt_usd + generated_tokens_total * model.price.generated_usd_per_million) / 1e6


def prompt_tokens_bound(content: str, context_length: int | None) -> int:
    """Bound the length of a prompt from above: one token per byte of its JSON, and 64 for a chat template.

    Args:
        content: The content of the request as JSON.
        context_length: Context length of the model in tokens, which no prompt exceeds; None when unknown.

    Returns:
        The bound, in tokens.
    """
    bound = len(content.encode()) + 64
    return bound if context_length is None else min(bound, context_length)


def generated_tokens_bound(sampling: SamplingSpec, context_length: int | None) -> int:
    """The most tokens that a sample can have.

    Args:
        context_length: Tokens; None when unknown.
    """
    return sampling.max_tokens or context_length or UNLIMITED_TOKENS


def estimated_tokens(text: str) -> int:
    """Estimate the number of tokens for servers that report none: one per four characters, at least 1."""
    return max(1, len(text) // 4)
