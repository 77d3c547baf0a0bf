"""Closed fences are found as a pattern over the whole text finds them, in one pass."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reading.fences import closed_fences

OPENING = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n", re.MULTILINE)
SAME = re.compile(
    r"^[ \t]*(?P<fence>(?P<mark>[`~])(?P=mark){2,})(?!(?P=mark))[^\n]*\n(?s:.*?)^[ \t]*(?P=fence)[ \t]*$",
    re.M,
)
SHORTER = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n(?s:.*?)^[ \t]*\1[ \t]*$", re.M)
LINES = st.sampled_from(
    ["```", "````", "~~~", "  ```", "``` ", "```python", "````md", "~~~rust~", "x", "`x`", ""]
)


@given(st.lists(LINES, max_size=12).map("\n".join), st.integers(0, 5))
def test_spans_are_those_of_the_pattern(text: str, start: int) -> None:
    """From an opening to the next fence of its length; to a shorter one only where that is allowed."""
    same = [match.span() for match in SAME.finditer(text, start)]
    assert list(closed_fences(text, OPENING, start)) == same
    shorter = [match.span() for match in SHORTER.finditer(text, start)]
    assert list(closed_fences(text, OPENING, start, shorter=True)) == shorter


@pytest.mark.parametrize("piece", ["```json\n{}\n", "````\n```x\n", "~~~\n```x\n"])
def test_fences_that_stay_open_are_not_searched_from_each(piece: str) -> None:
    """A text of open fences alone is gone through once (the test has a time limit)."""
    assert not [*closed_fences(piece * 200_000, re.compile(r"^(`{3,})[^\n]+\n", re.MULTILINE), shorter=True)]
