"""Keys that went lately, by their hashes: eight to sixteen bytes each, and no objects."""

from __future__ import annotations

from array import array
from typing import Final

NUMBERS: Final = (1 << 32) - 1
"""The lower half of an item: the running number of the entry. The upper half is the hash's."""
FINGERPRINT: Final = NUMBERS << 32
SMALLEST: Final = 64


class Ghosts:
    """Which keys are among the last so many that were put in: nearly always right.

    A key has two places in a table, neighbours that its hash names, and takes the one whose content is
    older. So it may be forgotten early, where two others want its places too; and a key may be taken for
    another one: with 64 stripes, whose keys agree in 6 bits of 32, one in some thirty million.
    """

    __slots__ = ("_entered", "_mask", "_table")

    def __init__(self) -> None:
        self._entered = 0
        self._mask = SMALLEST - 1
        self._table = array("Q", bytes(8 * SMALLEST))

    def put(self, hashed: int, limit: int) -> None:
        """Put a key in, of which the last `limit` are of interest."""
        while self._mask < limit:
            self._table += self._table  # whichever half a key looks in now, it finds itself
            self._mask = 2 * self._mask + 1
        table = self._table
        self._entered = number = self._entered + 1 & NUMBERS
        place = hashed & self._mask
        if number - table[place ^ 1] & NUMBERS > number - table[place] & NUMBERS:
            place ^= 1
        table[place] = hashed & FINGERPRINT | number

    def take(self, hashed: int, limit: int) -> bool:
        """Whether the key is among the last `limit`. If so it is no more."""
        table, place = self._table, hashed & self._mask
        for candidate in (place, place ^ 1):
            item = table[candidate]
            if not (item ^ hashed) & FINGERPRINT and self._entered - item & NUMBERS < limit:
                table[candidate] = 0
                return True
        return False
