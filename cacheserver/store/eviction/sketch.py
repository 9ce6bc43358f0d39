"""How often keys came lately, roughly: a count-min sketch in which counts fade."""

from __future__ import annotations

from typing import Final

SMALLEST: Final = 64
MOST: Final = 255
PLACES: Final = 4
"""Places in a row for each key, at least."""
SAMPLE: Final = 24
"""Additions for each key, after which all counts are halved."""
SHIFTS: Final = (0, 13, 26, 39)
"""Each row looks at other bits of the hash, none at the uppermost: those of a stripe's keys agree.
The methods have them as literals: they run in every insertion."""
FADED: Final = bytes(count >> 1 for count in range(256))


class Sketch:
    """Counts of keys, too large where keys share all their places, and fading.

    Each key has a place in each of four rows, and its count is the smallest of the four. Adding changes
    no more of them than it has to ("conservative update"). `keys` is for how many keys it is made; after
    SAMPLE times as many additions all counts are halved.
    """

    __slots__ = ("_additions", "_mask", "_rows", "keys")

    def __init__(self) -> None:
        self.keys = SMALLEST // PLACES
        self._additions = 0
        self._mask = SMALLEST - 1
        self._rows = tuple(bytearray(SMALLEST) for _ in SHIFTS)

    def grow(self, keys: int) -> None:
        """Be for so many keys, more than before. All counts stay."""
        self.keys = keys
        while self._mask < PLACES * keys:
            self._rows = tuple(row + row for row in self._rows)  # in either half a key finds itself
            self._mask = 2 * self._mask + 1

    def add(self, hashed: int, times: int = 1) -> None:
        """Count the key so many times."""
        mask = self._mask
        first, second, third, fourth = self._rows
        i, j, k, m = hashed & mask, hashed >> 13 & mask, hashed >> 26 & mask, hashed >> 39 & mask
        count = min(first[i], second[j], third[k], fourth[m]) + times
        if count > MOST:
            count = MOST
        if first[i] < count:
            first[i] = count
        if second[j] < count:
            second[j] = count
        if third[k] < count:
            third[k] = count
        if fourth[m] < count:
            fourth[m] = count
        self._additions += times
        if self._additions > SAMPLE * self.keys:
            self._fade()

    def estimate(self, hashed: int) -> int:
        """Return how often the key came, roughly."""
        mask = self._mask
        first, second, third, fourth = self._rows
        return min(
            first[hashed & mask],
            second[hashed >> 13 & mask],
            third[hashed >> 26 & mask],
            fourth[hashed >> 39 & mask],
        )

    def _fade(self) -> None:
        self._rows = tuple(row.translate(FADED) for row in self._rows)
        self._additions //= 2
