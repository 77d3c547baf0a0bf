"""Whether two values are the same, for votes and scores alike.

`equal` and `vote_key` agree: values are equal if and only if they have the same key. Nothing equals nothing:
a missing value, or a text of white space alone, has no key. Official scorers, such as SQuAD's, are metrics of
their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from pipelines.jsonvalues import JSON
from pipelines.reading.folding import answer_form, fold

_LONGEST_NUMBER = 300  # characters; longer texts of digits are compared as texts


def vote_key(value: JSON, *, case: bool = False) -> str | None:
    """Give the key that equal values share.

    Texts are compared in the form of `folding.fold`, so that case, spacing and code points do not matter.
    A number equals the text that writes it as JSON or Python would: 5, 5.0, "5" and "5.0" have one key,
    "5.00" and "05" are other texts. true equals the text "true", not 1. Lists and objects are equal when
    their items are, lists in order.

    Args:
        value: A parsed value.
        case: Whether the case of letters matters.

    Returns:
        The key; None for a value that is missing, blank or not finite, which has no vote and equals nothing.
    """
    if isinstance(value, str):
        folded = fold(value, case=case)
        return _text_key(folded) if folded else None
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return _inner_key(value, case)


def equal(first: JSON, second: JSON, *, case: bool = False) -> bool:
    """Whether two values are the same.

    Args:
        first: A value.
        second: Another.
        case: Whether the case of letters matters.

    Returns:
        True if and only if both have a `vote_key` and it is the same.
    """
    key = vote_key(first, case=case)
    return key is not None and key == vote_key(second, case=case)


def same_answer(first: JSON, second: JSON) -> bool:
    """Whether two short answers are the same but for articles, punctuation and what `fold` evens out.

    Args:
        first: An answer; a list is read as its items with spaces between.
        second: Another.

    Returns:
        False where either holds nothing. "the" is not "A", "-" is not "+", "3.14" is not "314".
    """
    form = answer_form(as_text(first))
    return bool(form) and form == answer_form(as_text(second))


def as_text(value: JSON) -> str:
    """Write a value as a table or a label has it.

    Args:
        value: Any value.

    Returns:
        A text as it stands, true and false as JSON has them, a whole number without a point, a list as its
        items with spaces between, an object as JSON; "" for None.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return " ".join(as_text(item) for item in value) if isinstance(value, Sequence) else str(value)


def _inner_key(value: JSON, case: bool) -> str:
    """Give the key of a number, of true or false, of a list or of an object."""
    keyed = _keyed(value, case)
    if isinstance(keyed, str):
        return keyed
    return json.dumps(keyed, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _keyed(value: JSON, case: bool) -> JSON:
    """Write a value with the keys of its texts and numbers in their place; a blank text has one here."""
    if isinstance(value, str):
        return _text_key(fold(value, case=case))
    if value is None:
        return None
    if isinstance(value, bool):
        return '"true' if value else '"false'
    if isinstance(value, int | float):
        return _number_key(value)
    if isinstance(value, Mapping):
        return {key: _keyed(item, case) for key, item in value.items()}
    return [_keyed(item, case) for item in value]


def _text_key(folded: str) -> str:
    if folded[-1:].isdigit() and len(folded) <= _LONGEST_NUMBER and folded[0] in "-0123456789":
        try:
            number = float(folded)
            whole = int(number) if "." in folded and number.is_integer() else None
            if folded in (repr(number), f"{whole}.0"):
                return _number_key(number)
            if folded == str(int(folded)):
                return _number_key(int(folded))
        except (ValueError, OverflowError):
            pass
    return f'"{folded}'


def _number_key(value: float) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"#{value!r}"
    return f"#{int(value)}"
