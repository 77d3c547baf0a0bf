"""Numbers for text keys, in a few bytes each: what is known of many prompts stands in columns by number."""

from __future__ import annotations

import struct
from array import array
from hashlib import blake2b

_TWO_WORDS = struct.Struct("<QQ")
_FEWEST_SLOTS = 64


class KeyNumbers:
    """Numbers keys from 0 in the order in which they are added, and forgets their texts.

    A key takes 24 to 32 bytes, an eighth of what a dict of texts takes: 128 bits of its hash, and its place
    in a hash table with open addressing, which is half full at most.
    """

    def __init__(self) -> None:
        self._hashes = array("Q")  # two words for each key
        self._slots = array("I", bytes(4 * _FEWEST_SLOTS))  # number + 1; 0: free

    def __len__(self) -> int:
        return len(self._hashes) // 2

    def find(self, key: str) -> int | None:
        """Return the number of a key; None when it was not added. Other threads may ask while one adds."""
        number = self._place(self._slots, *_hash(key))[1]
        return number - 1 if number else None

    def add(self, key: str) -> int:
        """Return the number of a key, which is added when it is new."""
        low, high = _hash(key)
        slot, stored = self._place(self._slots, low, high)
        if stored:
            return stored - 1
        number = len(self)
        self._hashes.extend((low, high))
        self._slots[slot] = number + 1
        if 2 * len(self) > len(self._slots):
            self._slots = self._grown()
        return number

    def _place(self, slots: array[int], low: int, high: int) -> tuple[int, int]:
        """The slot of a hash, or the free one where it belongs, and what the slot holds."""
        hashes, mask = self._hashes, len(slots) - 1
        slot = low & mask
        while number := slots[slot]:
            at = 2 * number - 2
            if hashes[at] == low and hashes[at + 1] == high:
                break
            slot = (slot + 1) & mask
        return slot, number

    def _grown(self) -> array[int]:
        """A table of twice the size. The old one stands until the new one is filled, for those who ask."""
        n_slots = 2 * len(self._slots)
        slots = array("I", bytes(4 * n_slots))
        for number, low in enumerate(self._hashes[::2], 1):
            slot = low & (n_slots - 1)
            while slots[slot]:
                slot = (slot + 1) & (n_slots - 1)
            slots[slot] = number
        return slots


def _hash(key: str) -> tuple[int, int]:
    low, high = _TWO_WORDS.unpack(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest())
    return low, high
