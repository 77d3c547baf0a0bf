"""Numbers are read as people write them and compared as numbers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reading.numeric import number_of, same_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,250", 1250),
        ("1 250", 1250),
        ("1\u202f250,5", None),
        ("1'250.5", Fraction("1250.5")),
        ("12,34,567", 1234567),
        ("3,14", Fraction("3.14")),
        ("0,125", Fraction(1, 8)),
        ("1.250,5", Fraction("1250.5")),
        ("1.234.567", 1234567),
        ("1.250", Fraction("1.25")),
        ("-5", -5),
        ("−5", -5),
        ("+5", 5),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("1.5e-3", Fraction("0.0015")),
        ("1.5×10^3", 1500),
        (r"1.5 \times 10^{-3}", Fraction("0.0015")),
        ("10³", 1000),
        ("-10^3", -1000),
        ("+10^{-3}", Fraction("0.001")),
        ("3/4", Fraction(3, 4)),
        ("-1 3/4", Fraction(-7, 4)),
        ("2½", Fraction(5, 2)),
        (r"\dfrac{3}{4}", Fraction(3, 4)),
        (r"-\frac12", Fraction(-1, 2)),
        ("50%", Fraction(1, 2)),
        (r"50\%", Fraction(1, 2)),
        ("$7$", 7),
        ("５", 5),
        (7, 7),
        (0.1, Fraction(1, 10)),
        (2**100, 2**100),
        (str(2**100), 2**100),
    ],
)
def test_numbers_are_read_exactly(text: Any, number: Any) -> None:
    """Separators, signs, fractions, powers and percent."""
    assert number_of(text) == number


@pytest.mark.parametrize(
    "text",
    [
        None,
        True,
        "",
        "five",
        "5 km",
        "$5",
        "€5",
        "1,2,3",
        "1/0",
        "--5",
        "--10^3",
        "+-10^3",
        "3.14.15",
        "1e999999",
        "10^99999",
    ],
)
def test_other_texts_are_no_numbers(text: Any) -> None:
    """Currency and units are left alone unless they are stated."""
    assert number_of(text) is None and not same_number(text, text)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "nan", "2^3", "5 6 7", [5], "1_0", "9" * 1000])
def test_nor_are_these(value: Any) -> None:
    """What is not finite, sums, lists, and texts too long to be one."""
    assert number_of(value) is None


def test_units_that_are_stated_are_left_out() -> None:
    """Before or after the number, on either side."""
    assert same_number("$1,250", "1250", unit="$") and same_number("-$5", -5, unit="$")
    assert same_number("7 km", 7, unit="km") and same_number("50%", 50, unit="%")
    assert not same_number("7 km", 7, unit="m") and not same_number("50%", 50)


@pytest.mark.parametrize(
    ("first", "second", "tolerance", "same"),
    [
        ("-5", "5", {}, False),
        ("3.14", "314", {}, False),
        ("0.1", 0.1, {}, True),
        (0.1 + 0.2, 0.3, {}, True),
        ("1/3", 0.333, {}, False),
        ("1/3", 0.333, {"relative": 0.01}, True),
        (10_000_000_001, 10_000_000_002, {}, False),
        (99, 100, {"absolute": 1}, True),
        (98.9, 100, {"absolute": 1}, False),
        (100, 101, {"relative": 0.01}, True),
        (0, 1e-12, {"absolute": 1e-9}, True),
        (None, None, {"absolute": 1}, False),
    ],
)
def test_tolerance(first: Any, second: Any, tolerance: dict[str, float], same: bool) -> None:
    """Whole numbers are exact unless a tolerance is given; signs and points always count."""
    assert same_number(first, second, **tolerance) is same
    assert same_number(second, first, **tolerance) is same


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_its_text(value: float) -> None:
    """However Python writes it; integers also with separators."""
    assert number_of(repr(value)) in (
        number_of(value),
        None if abs(value) > 1e300 or 0 < abs(value) < 1e-300 else 0,
    )
    if isinstance(value, int) and len(str(value)) < 100:
        assert same_number(f"{value:,}", value)
