"""Numbers as people and models write them, compared as numbers."""

from __future__ import annotations

import math
import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from pipelines.jsonvalues import JSON
from pipelines.reading.folding import fold

RELATIVE = Fraction(1, 10**9)
"""The tolerance where none is given and one of two numbers is not whole."""

_LARGEST_EXPONENT = 400
_LONGEST = 400  # characters
_LATEX_FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{\s*(-?[0-9.]+)\s*\}|([0-9]))\s*(?:\{\s*(-?[0-9.]+)\s*\}|([0-9]))"
)
_LATEX_SPACE = re.compile(r"\\[,;:! ]|\{,\}|\\left|\\right|~")
_POWER = re.compile(r"\s*(?:\\times|\\cdot|[x×*·⋅])\s*10\s*(?:\^|\*\*)\s*\{?\s*\(?([-+]?[0-9]+)\)?\s*\}?$")
_POWER_ALONE = re.compile(r"^10\s*(?:\^|\*\*)\s*\{?\s*\(?([-+]?[0-9]+)\)?\s*\}?$")
_GROUPED = re.compile(r"^[1-9][0-9]{0,2}(?:([,' _])[0-9]{3})(?:\1[0-9]{3})*(?:\.[0-9]+)?$")
_GROUPED_INDIAN = re.compile(r"^[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]+)?$")
_GROUPED_BY_POINTS = re.compile(r"^[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+$|^[0-9]{1,3}(?:\.[0-9]{3}){2,}$")
_DECIMAL_COMMA = re.compile(r"^[0-9]+,(?:[0-9]{1,2}|[0-9]{4,})$|^0,[0-9]+$")
_PLAIN = re.compile(r"^(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]{1,4})?$")
_CURRENCY = re.compile(r"^\s*([-\u2212+]?)\s*(?:\\?[$€£¥₹]\s*([^$€£¥₹]+)|([^$€£¥₹]+?)\s*\\?[$€£¥₹])\s*$")
_NAMED = re.compile(r"^\s*[A-Za-z]\s*=\s*")
_RATIO = re.compile(r"^(?:([0-9]+)\s+)?([0-9.,]+)\s*/\s*([0-9.,]+)$")


def number_of(value: JSON, *, unit: str | None = None, beside: bool = False) -> Fraction | None:
    """Read a value that is one number and nothing else.

    Read are signs (also U+2212), thousands separators (1,234 and 1 234 and 1'234 and 12,34,567), a decimal
    comma where it can be nothing else (3,14 and 1.234,5), 1.5e-3, 1.5×10^3, 10³, 3/4, 1 3/4, ½,
    \\frac{3}{4}, 50% (which is 1/2) and a pair of dollar signs as LaTeX has them. A comma before three digits
    separates thousands.

    Args:
        value: A number, or a text.
        unit: What may stand before or after the number and is left out, such as `$`, `km` or `%`; None
            leaves nothing out, so that "5 km" and "$5" are no numbers.
        beside: Whether a sign of a currency beside the number, and `x =` before it, are left out.

    Returns:
        The exact number; None for true and false, for what is not finite and for any other text.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Fraction(value)
    if isinstance(value, float):
        return Fraction(repr(value)) if math.isfinite(value) else None
    if not isinstance(value, str) or len(value) > _LONGEST:
        return None
    text = fold(value).strip()
    if len(text) > 2 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    if unit:
        text = _without_unit(text, fold(unit))
    percent = 100 if text.endswith(("%", "\\%")) else 1
    number = _read(_LATEX_SPACE.sub("", text.rstrip("%").rstrip("\\")).strip())
    if number is None and beside:
        return number_of(_CURRENCY.sub(r"\1\2\3", _NAMED.sub("", value.strip().strip("$"))), unit=unit)
    return None if number is None else number / percent


def same_number(
    first: JSON,
    second: JSON,
    *,
    relative: float | None = None,
    absolute: float | None = None,
    unit: str | None = None,
    beside: bool = False,
) -> bool:
    """Whether two values are the same number within a tolerance.

    Args:
        first: A number, or a text that is one (see `number_of`).
        second: Another.
        relative: Largest difference as a share of the larger number.
        absolute: Largest difference. Where neither tolerance is given, whole numbers must be the same and
            others within a share of 1e-9.
        unit: What may stand beside either number.
        beside: As in `number_of`, of either number.

    Returns:
        False where either value is no number.
    """
    one, other = (number_of(value, unit=unit, beside=beside) for value in (first, second))
    if one is None or other is None:
        return False
    if one == other:
        return True
    if relative is None and absolute is None:
        share = Fraction(0) if one.denominator == other.denominator == 1 else RELATIVE
    else:
        share = Fraction(relative or 0)
    return abs(one - other) <= max(share * max(abs(one), abs(other)), Fraction(absolute or 0))


def _without_unit(text: str, unit: str) -> str:
    sign = text[:1] if text[:1] in ("-", "+") else ""
    bare = text[len(sign) :]
    return sign + bare.removeprefix(unit).removesuffix(unit).strip()


def _read(text: str) -> Fraction | None:
    sign = -1 if text.startswith("-") else 1
    if text[:1] in ("-", "+"):
        text = text[1:]
    if fraction := _LATEX_FRACTION.search(text):
        above, below = fraction.group(1) or fraction.group(2), fraction.group(3) or fraction.group(4)
        text = f"{text[: fraction.start()]} {above}/{below}{text[fraction.end() :]}".strip()
        if above.startswith("-") and text.startswith("-"):
            sign, text = -sign, text[1:]
    if ratio := _RATIO.match(text):
        whole, above_part, below_part = (_decimal(part or "0") for part in ratio.groups())
        if whole is None or above_part is None or not below_part:
            return None
        return sign * (whole + above_part / below_part)
    exponent = 0
    if power := _POWER_ALONE.match(text):
        text, exponent = "1", int(power.group(1))
    elif power := _POWER.search(text):
        text, exponent = text[: power.start()], int(power.group(1))
    number = _decimal(text) if abs(exponent) <= _LARGEST_EXPONENT else None
    return None if number is None else sign * number * Fraction(10) ** exponent


def _decimal(text: str) -> Fraction | None:
    if _GROUPED.match(text) or _GROUPED_INDIAN.match(text):
        text = re.sub(r"[,' _]", "", text)
    elif _GROUPED_BY_POINTS.match(text):
        text = text.replace(".", "").replace(",", ".")
    elif _DECIMAL_COMMA.match(text):
        text = text.replace(",", ".")
    if not _PLAIN.match(text):
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return Fraction(number) if abs(number.adjusted()) <= _LARGEST_EXPONENT else None
