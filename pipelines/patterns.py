"""Regular expressions of users, met by texts of models: no pattern takes longer than a stated time.

A pattern such as `(a+)+$` may take years on one text, and Python's own `re` can't be interrupted. Patterns
are those of `re`, and run by the library `regex`, to which letters' combining marks are word characters too.
"""

from __future__ import annotations

import re
from functools import lru_cache

import regex

LIMIT_S = 0.5
"""The longest that a pattern may take on one text, in seconds of the process's processor time."""

_PARTS = re.compile(
    r"\\N\{[^}]*\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(?P<quantifier>\{\d+(?:,\d*)?\}|\{,\d*\})|(?P<literal>\{)",
    re.DOTALL,
)


class PatternTooSlow(ValueError):
    """A pattern took longer than `LIMIT_S` on a text."""


@lru_cache(maxsize=256)
def compiled(pattern: str) -> regex.Pattern[str]:
    """Compile a pattern.

    Args:
        pattern: In the syntax of Python's `re`.

    Raises:
        ValueError: It is no regular expression.
    """
    try:
        re.compile(pattern)
        return regex.compile(_PARTS.sub(_without_fuzziness, pattern), regex.VERSION0)
    except (re.error, regex.error) as error:
        raise ValueError(f"must be a regular expression: {error}") from None


def first_match(pattern: str, text: str) -> regex.Match[str] | None:
    """Search a text for a pattern.

    Args:
        pattern: The pattern.
        text: The text.

    Returns:
        The first match; None when there is none.

    Raises:
        ValueError: The pattern is no regular expression.
        PatternTooSlow: It took too long.
    """
    try:
        return compiled(pattern).search(text, timeout=LIMIT_S)
    except TimeoutError:
        raise PatternTooSlow(
            f"the pattern took longer than {LIMIT_S:g} s on a text of {len(text):,} characters"
        ) from None


def _without_fuzziness(part: re.Match[str]) -> str:
    """A brace that `re` takes as it stands begins a fuzzy match to `regex`; it is escaped."""
    return r"\{" if part["literal"] else part[0]
