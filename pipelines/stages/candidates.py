"""One sample of a stage as its aggregator sees it."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from pipelines.jsonvalues import JSON

_BANKED = struct.Struct("f")  # banks hold mean log-probabilities in single precision


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sample of a stage.

    Attributes:
        index: The position of the draw, from 0.
        text: What the model wrote.
        value: The parsed value; None when the text did not parse.
        mean_logprob: Mean natural log-probability of its tokens; None when the server returns none.
        generated_tokens: How many tokens the model generated, those that ended the text included.
    """

    index: int
    text: str
    value: JSON
    mean_logprob: float | None = None
    generated_tokens: int = 0

    @property
    def logprob_sum(self) -> float | None:
        """The natural log-probability of the whole text, at most 0; None when the server returned none.

        The mean is taken in the precision of banks, so that a sample weighs the same live and recorded.
        """
        if self.mean_logprob is None or not math.isfinite(self.mean_logprob):
            return None
        (mean,) = _BANKED.unpack(_BANKED.pack(self.mean_logprob))
        return min(0.0, float(mean) * self.generated_tokens)
