"""What models write in place of a list of numbers, and of a short answer."""

from __future__ import annotations

import re

from pipelines.examples import Example

_NUMBER = re.compile(r"\d+")
_RANGE = re.compile(r"(\d+)\s*(?:-|–|to)\s*(\d+)")
_ANSWER = re.compile(r"(?:the\s+)?(?:final\s+)?answer\s*(?:is|:)\s*[:\-]?\s*(.+)", re.IGNORECASE)
_LONGEST_RANGE = 20


def numbers(text: str, example: Example) -> list[int]:
    """The numbers of candidates that a text names, each once, ascending; ranges are spelt out.

    Numbers without a candidate are left out. ValueError where nothing is left, unless the text says "none".
    """
    found = set[int]()
    for low, high in _RANGE.findall(text):
        if 0 <= int(high) - int(low) < _LONGEST_RANGE:
            found |= set(range(int(low), int(high) + 1))
    found |= {int(number) for number in _NUMBER.findall(text) if len(number) < 6}
    kept = sorted(n for n in found if 1 <= n <= len(example["candidates"]))
    if not kept and "none" not in text.lower():
        raise ValueError(f"names none of the {len(example['candidates'])} candidates")
    return kept


def short_answer(text: str, example: Example) -> str:
    """The answer alone: what follows "answer:", else the first line, without quotes and a final full stop."""
    match = _ANSWER.search(text)
    lines = (match.group(1) if match else text).strip().splitlines()
    answer = lines[0].strip().strip("\"'`*“”").strip() if lines else ""
    answer = answer[:-1] if answer.endswith(".") and not re.search(r"\b\w\.$", answer) else answer
    if not answer:
        raise ValueError("empty answer")
    return answer
