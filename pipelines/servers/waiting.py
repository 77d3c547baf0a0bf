"""How long a server asks to be left alone, in the headers that servers use for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_EPOCH_S = 1e9  # a larger number of seconds is a point in time


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the next request may start; None when no header says so, or says nonsense.

    Looked at, in this order: `retry-after-ms`, `Retry-After` (seconds, or a date, which is compared with the
    answer's own `Date`), `x-ratelimit-reset-requests` and `-tokens` (durations such as 6m0s; those whose
    remaining count is 0, else the shorter), `x-ratelimit-reset` and `ratelimit-reset` (seconds, or a time).

    Args:
        now: Unix seconds.
    """
    own = _date(headers.get("Date"))
    now = now if own is None else own
    millis = _number(headers.get("retry-after-ms"))
    if millis is not None:
        return millis / 1000
    retry_after = headers.get("Retry-After")
    seconds = _seconds(retry_after, now)
    if seconds is not None:
        return seconds
    date = _date(retry_after)
    if date is not None:
        return max(0.0, date - now)
    resets = {
        kind: reset
        for kind in ("requests", "tokens")
        if (reset := _seconds(headers.get(f"x-ratelimit-reset-{kind}"), now)) is not None
    }
    spent = [reset for kind, reset in resets.items() if headers.get(f"x-ratelimit-remaining-{kind}") == "0"]
    if resets:
        return max(spent) if spent else min(resets.values())
    for name in ("x-ratelimit-reset", "ratelimit-reset"):
        reset = _seconds(headers.get(name), now)
        if reset is not None:
            return reset
    return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _seconds(text: str | None, now: float) -> float | None:
    """A number of seconds, a duration such as 1m30s, or a Unix time in seconds or milliseconds."""
    number = _number(text)
    if number is not None:
        if number > _EPOCH_S * 1000:
            return max(0.0, number / 1000 - now)
        return max(0.0, number - now) if number > _EPOCH_S else number
    text = (text or "").strip()
    if _DURATION.sub("", text) or not text:
        return None
    return sum(float(count) * _UNITS[unit] for count, unit in _DURATION.findall(text))


def _date(text: str | None) -> float | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, TypeError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
