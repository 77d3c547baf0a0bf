"""Parsers for a list of numbers and for a short answer, lenient about the form in which models write them."""

from __future__ import annotations

import re

from pipelines.examples import Example
from pipelines.reading.readers import UNMARKED, clean, final_answer, required, strip_thinking

_NUMBER = re.compile(r"\d+")
_RANGE = re.compile(r"(\d+)\s*(?:-|–|to)\s*(\d+)")
_LONGEST_RANGE = 20


def numbers(text: str, example: Example) -> list[int]:
    """Parse the numbers of candidates that a text names; a range such as 3-5 names every number in it.

    Args:
        text: What the model wrote.
        example: The example with its `candidates`.

    Returns:
        The distinct numbers, from 1, ascending. Numbers without a candidate are left out. The list is empty
        only if the text says "none".

    Raises:
        ValueError: The text names no candidate and does not say "none".
    """
    return numbers_up_to(len(example["candidates"]), text)


def numbers_up_to(most: int, text: str) -> list[int]:
    """Parse the numbers from 1 to `most` that a text names, as `numbers` does."""
    answer = required(strip_thinking(text))
    named = set[int]()
    for low, high in _RANGE.findall(answer):
        if 0 <= int(high) - int(low) < _LONGEST_RANGE:
            named |= set(range(int(low), int(high) + 1))
    named |= {int(number) for number in _NUMBER.findall(answer) if len(number) < 6}
    valid = sorted(n for n in named if 1 <= n <= most)
    if not valid and "none" not in answer.lower():
        raise ValueError(f"names none of the {most} candidates")
    return valid


def short_answer(text: str, example: Example) -> str:
    """Extract a short answer: the text after "answer:", else the first line, without quotes and full stop.

    Raises:
        ValueError: The answer is empty or cut.
    """
    answer = required(strip_thinking(text))
    marked = final_answer(answer)
    short = clean(answer.strip().partition("\n")[0]) if marked == UNMARKED else required(marked)
    if not short:
        raise ValueError("empty answer")
    return short
