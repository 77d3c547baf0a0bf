"""Keys of servers, from the environment into a header."""

from __future__ import annotations

import pytest

from pipelines.errors import ConfigurationError
from pipelines.servers.keys import key_in


@pytest.mark.parametrize("value", ["sk-1", "sk-1\n", "sk-1\r\n", "  sk-1 "])
def test_what_stands_around_a_key_is_left_out(value: str) -> None:
    """Such as the line end of the file that it was read from."""
    assert key_in({"KEY": value}, "KEY") == "sk-1"


@pytest.mark.parametrize("value", ["sk\n1", "sk\t1", "sk-\u00e9", "sk\x001"])
def test_a_key_that_no_header_can_hold_is_refused(value: str) -> None:
    """By the name of its variable; the key itself is not told."""
    with pytest.raises(ConfigurationError, match=r"^KEY: a key is printable ASCII") as refused:
        key_in({"KEY": value}, "KEY")
    assert value not in str(refused.value)


def test_a_blank_key_is_none() -> None:
    """As is one that is not set."""
    assert key_in({"KEY": " \n"}, "KEY") is None and key_in({}, "KEY") is None
