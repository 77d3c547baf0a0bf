"""The terms of prefer-to-classify's loss (Kim, Shin and Kang, ICML 2023, arXiv 2306.04925), on torch tensors.

Shapes: B pairs, C classes, K preference heads. A preference is 1 where the first text is preferred, 0 where
the second is, 0.5 for a tie. Unless a term is documented as a value for each pair, it is a mean over the
pairs, in nats or probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def preference_log_probs(first: Tensor, second: Tensor) -> Tensor:
    """The log probability that each head gives to each order of two texts.

    Args:
        first: The heads' scores of the first texts, shape (B, K).
        second: The heads' scores of the second texts, shape (B, K).

    Returns:
        log p_k(x1 ≻ x2) and log p_k(x2 ≻ x1), shape (B, K, 2).
    """
    return torch.stack([first, second], dim=-1).log_softmax(-1)


def classification_loss(
    first: Tensor,
    second: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    other_labels: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the labels, mean over the two texts of each pair.

    Args:
        first: The task head's logits of the first texts, shape (B, C).
        second: The task head's logits of the second texts, shape (B, C).
        labels: The classes of the first texts, shape (B,).
        class_weights: A weight for each class, shape (C,); None weighs all alike.
        other_labels: The classes of the second texts, shape (B,); None where they are the same.
    """
    others = labels if other_labels is None else other_labels
    of_first = F.cross_entropy(first, labels, weight=class_weights)
    return (of_first + F.cross_entropy(second, others, weight=class_weights)) / 2


def preference_loss(first: Tensor, second: Tensor, preferred: Tensor) -> Tensor:
    """Cross-entropy of each head's preference with the target (p, 1 − p), mean over heads too.

    Args:
        first: The heads' scores of the first texts, shape (B, K).
        second: The heads' scores of the second texts, shape (B, K).
        preferred: The preferences p, shape (B,).
    """
    target = torch.stack([preferred, 1 - preferred], dim=-1)[:, None, :]
    return -(target * preference_log_probs(first, second)).sum(-1).mean()


def consistency_terms(q_first: Tensor, q_second: Tensor, preferred: Tensor) -> Tensor:
    """By how much the task head contradicts the preference.

    Args:
        q_first: The probability of the label for the first texts, shape (B,).
        q_second: The probability of the label for the second texts, shape (B,).
        preferred: The preferences, shape (B,).

    Returns:
        For each pair max(0, q(x2) − q(x1)) where x1 is preferred, max(0, q(x1) − q(x2)) where x2 is, and
        |q(x1) − q(x2)| for a tie, shape (B,).
    """
    gap = q_second - q_first
    tie = preferred == 0.5
    signed = torch.where(preferred > 0.5, gap, -gap).clamp(min=0)
    return torch.where(tie, gap.abs(), signed)


def annotated_consistency_terms(
    probs_first: Tensor, probs_second: Tensor, soft_first: Tensor, soft_second: Tensor
) -> Tensor:
    """By how much the task head contradicts the difference of two texts' votes.

    Args:
        probs_first: The class probabilities of the first texts, shape (B, C).
        probs_second: The class probabilities of the second texts, shape (B, C).
        soft_first: The shares of votes of the first texts, shape (B, C).
        soft_second: The shares of votes of the second texts, shape (B, C).

    Returns:
        For each pair Σ_c max(0, Δs_c − Δq_c), turned by the sign of Δs_c, shape (B,). A class with Δs_c = 0
        adds nothing.
    """
    wanted, given = soft_first - soft_second, probs_first - probs_second
    return (wanted.sign() * (wanted - given)).clamp(min=0).sum(-1)


def diversity(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy between the heads' preferences, mean over ordered pairs of heads; to be maximised.

    The first head of a pair is detached, so that a head learns from the pairs in which it is the second.

    Args:
        first: The heads' scores of the first texts, shape (B, K).
        second: The heads' scores of the second texts, shape (B, K).

    Returns:
        A scalar; 0 with a single head.
    """
    log_probs = preference_log_probs(first, second)
    n_heads = log_probs.shape[1]
    if n_heads < 2:
        return log_probs.sum() * 0
    crossed = -torch.einsum("bkp,blp->bkl", log_probs.exp().detach(), log_probs)
    off = ~torch.eye(n_heads, dtype=torch.bool, device=crossed.device)
    return crossed[:, off].mean()


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    """Count the pairs of heads that order two texts differently; a head that scores both alike has a tie.

    Args:
        first: The heads' scores of the first texts, shape (B, K).
        second: The heads' scores of the second texts, shape (B, K).

    Returns:
        A count for each pair of texts, shape (B,).
    """
    order = (first - second).sign()
    return (order[:, :, None] != order[:, None, :]).sum((1, 2)) // 2


def soft_cross_entropy(logits: Tensor, soft: Tensor) -> Tensor:
    """Cross-entropy with a distribution over classes as target.

    Args:
        logits: The task head's logits, shape (B, C).
        soft: The target distributions, shape (B, C).
    """
    return -(soft * logits.log_softmax(-1)).sum(-1).mean()


def entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions, which the confidence penalty rewards (Pereyra et al. 2017).

    Args:
        logits: The task head's logits, shape (B, C).
    """
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1).mean()


def class_wise_distillation(logits: Tensor, partner: Tensor, temperature: float = 4.0) -> Tensor:
    """KL divergence from a same-class partner's softened prediction to a text's own (CS-KD, Yun et al. 2020).

    Args:
        logits: The logits of the texts, shape (B, C).
        partner: The logits of their partners, shape (B, C); no gradient flows into them.
        temperature: Both are divided by it before the softmax.
    """
    target = (partner / temperature).softmax(-1).detach()
    log_probs = (logits / temperature).log_softmax(-1)
    return F.kl_div(log_probs, target, reduction="batchmean") * temperature**2
