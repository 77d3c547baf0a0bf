"""How long a server is waited for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from pipelines.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long an answer, a fault and an outage are waited for, in seconds.

    Attributes:
        timeout_s: For a whole answer, beside 0.05 s for each token that a sample may have, 600 s at most.
        retry_s: How long a request that fails is tried again while its server answers others; then its
            example is missing. 0: not at all.
        longest_outage_s: How long a server that answers nothing is waited for before the run stops. 0: not at
            all, once several requests in a row have failed.

    Raises:
        ConfigurationError: A number is not finite, the timeout not above 0, or another below 0.
    """

    timeout_s: float = 120.0
    retry_s: float = 30.0
    longest_outage_s: float = 600.0

    def __post_init__(self) -> None:
        for name in (part.name for part in fields(self)):
            seconds, above = getattr(self, name), name == "timeout_s"
            if not math.isfinite(seconds) or seconds < 0 or (above and not seconds):
                law = "above 0" if above else "0 or more"
                option = name.removesuffix("_s").replace("_", "-").replace("retry", "retry-for")
                raise ConfigurationError(f"{name} (--{option}) is a number of seconds, {law}, got {seconds}")
