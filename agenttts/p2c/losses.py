"""The terms of prefer-to-classify's loss (Kim, Shin and Kang, ICML 2023, arXiv 2306.04925), on torch tensors.

Shapes: B pairs, C classes, K preference heads. A preference is 1 where the first text is preferred, 0 where
the second is, 0.5 for a tie. Every term is a mean over the pairs, in nats or probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def preference_log_probs(first: Tensor, second: Tensor) -> Tensor:
    """log p_k(x1 ≻ x2) and log p_k(x2 ≻ x1) from the heads' scores (B, K) of the two texts: (B, K, 2)."""
    return torch.stack([first, second], dim=-1).log_softmax(-1)


def classification_loss(
    first: Tensor,
    second: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    other_labels: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the labels (B,) under both texts' logits (B, C), mean over the two.

    other_labels: of the second texts, where they are not the same.
    """
    others = labels if other_labels is None else other_labels
    one = F.cross_entropy(first, labels, weight=class_weights)
    return (one + F.cross_entropy(second, others, weight=class_weights)) / 2


def preference_loss(first: Tensor, second: Tensor, preferred: Tensor) -> Tensor:
    """Cross-entropy of each head's preference (scores B, K) with the target (p, 1 − p), mean over heads."""
    target = torch.stack([preferred, 1 - preferred], dim=-1)[:, None, :]
    return -(target * preference_log_probs(first, second)).sum(-1).mean()


def consistency_terms(q_first: Tensor, q_second: Tensor, preferred: Tensor) -> Tensor:
    """For each pair, by how much the task head contradicts the preference; q: probability of the label (B,).

    max(0, q(x2) − q(x1)) where x1 is preferred, the reverse where x2 is, |q(x1) − q(x2)| for a tie.
    """
    gap = q_second - q_first
    tie = preferred == 0.5
    signed = torch.where(preferred > 0.5, gap, -gap).clamp(min=0)
    return torch.where(tie, gap.abs(), signed)


def annotated_consistency_terms(
    probs_first: Tensor, probs_second: Tensor, soft_first: Tensor, soft_second: Tensor
) -> Tensor:
    """The same with annotation records (B, C): Σ_c max(0, Δs_c − Δq_c), turned by the sign of Δs_c."""
    wanted, given = soft_first - soft_second, probs_first - probs_second
    return (wanted.sign() * (wanted - given)).clamp(min=0).sum(-1)


def diversity(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy between the heads' preferences (scores B, K), mean over ordered pairs of heads.

    The first of a pair is detached. To be maximised, so that heads stay different. 0 with a single head.
    """
    log_probs = preference_log_probs(first, second)
    n_heads = log_probs.shape[1]
    if n_heads < 2:
        return log_probs.sum() * 0
    crossed = -torch.einsum("bkp,blp->bkl", log_probs.exp().detach(), log_probs)
    off = ~torch.eye(n_heads, dtype=torch.bool, device=crossed.device)
    return crossed[:, off].mean()


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    """How far the heads are apart on each pair: the standard deviation of p_k(x1 ≻ x2) over heads, (B,)."""
    return preference_log_probs(first, second)[..., 0].exp().std(-1, correction=0)


def soft_cross_entropy(logits: Tensor, soft: Tensor) -> Tensor:
    """Cross-entropy with a distribution over classes (B, C) as target."""
    return -(soft * logits.log_softmax(-1)).sum(-1).mean()


def entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions: the confidence penalty takes it off the loss (Pereyra et al. 2017)."""
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1).mean()


def class_wise_distillation(logits: Tensor, partner: Tensor, temperature: float = 4.0) -> Tensor:
    """KL of a same-class partner's softened prediction, detached, from one's own: CS-KD (Yun et al. 2020)."""
    target = (partner / temperature).softmax(-1).detach()
    own = (logits / temperature).log_softmax(-1)
    return F.kl_div(own, target, reduction="batchmean") * temperature**2
