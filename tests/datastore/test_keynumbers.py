"""Keys and their numbers."""

from __future__ import annotations

import sys
import threading

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


def test_one_thread_asks_while_another_adds() -> None:
    """Keys that were added are found by other threads while the table grows, each under its number."""
    numbers, done = KeyNumbers(), threading.Event()
    wrong: list[tuple[str, int | None]] = []
    for i in range(64):
        numbers.add(str(i))

    def ask() -> None:
        while not done.is_set():
            for i in range(64):
                if (found := numbers.find(str(i))) != i:
                    wrong.append((str(i), found))

    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for i in range(64, 70_000):
            numbers.add(str(i))
    finally:
        done.set()
        asking.join()
        sys.setswitchinterval(switching)
    assert wrong == []
