"""The orders in which a prompt's recorded samples are read.

Samples are exchangeable, so that a policy's score averaged over several orders of them is a steadier estimate
of the same mean than the score in the order in which they happened to be drawn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def sample_order(prompt_key: str, order: int, n_samples: int) -> npt.NDArray[np.int64]:
    """Give an order of a prompt's samples.

    Args:
        prompt_key: The key of the prompt. Its order depends on nothing else that was recorded.
        order: The number of the order; 0 is the order in which the samples were drawn.
        n_samples: How many samples the prompt has.

    Returns:
        The indices of the samples, of shape [n_samples].
    """
    if order == 0:
        return np.arange(n_samples)
    return np.random.default_rng([order, int(prompt_key[:16], 16)]).permutation(n_samples)
