"""Keys and their numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from datastore.keynumbers import KeyNumbers


@given(st.lists(st.text(st.characters(), max_size=3), max_size=400))
def test_a_key_keeps_the_number_of_its_first_time(keys: list[str]) -> None:
    """Keys are numbered in the order in which they come, and others have no number."""
    numbers, wanted = KeyNumbers(), dict[str, int]()
    for key in keys:
        assert numbers.find(key) == wanted.get(key)
        assert numbers.add(key) == wanted.setdefault(key, len(wanted))
    assert len(numbers) == len(wanted)
    assert [numbers.find(key) for key in wanted] == list(wanted.values())
