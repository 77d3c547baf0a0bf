"""What a stage's samples cost: FLOPs by the law of the budget, and money where models have prices.

Realised costs only, from counted tokens. The planned budget of an allocation is the search's affair.
"""

from __future__ import annotations

from pipelines.spec.fields import ModelSpec, SamplingSpec

UNLIMITED_TOKENS = 32_768
"""What a sample is taken to need at most where neither max_tokens nor a context length limits it."""


def stage_flops(active_params: float, prompt_tokens: int, generated_tokens_total: int) -> float:
    """2·P·(prompt tokens + all generated tokens); the prompt is read once, however many samples follow.

    AgentTTS (arXiv 2508.00890), with the lengths that were drawn instead of expected ones.
    """
    return 2.0 * active_params * (prompt_tokens + generated_tokens_total)


def stage_cost_usd(model: ModelSpec, prompt_tokens: int, generated_tokens_total: int) -> float | None:
    """US dollars for the same; None when the model has no price."""
    if model.price is None:
        return None
    prompt_usd = prompt_tokens * model.price.prompt_usd_per_million
    return (prompt_usd + generated_tokens_total * model.price.generated_usd_per_million) / 1e6


def prompt_tokens_bound(content: str, context_length: int | None) -> int:
    """More tokens than the prompt can have: one for each byte of its JSON, and some for a chat template.

    context_length: tokens; no prompt is longer. None when unknown.
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
    """A guess for servers that count nothing: one token for every four characters, at least one."""
    return max(1, len(text) // 4)
