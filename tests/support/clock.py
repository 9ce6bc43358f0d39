"""A clock that stands still until a test moves it."""

from __future__ import annotations

from typing import Final

from cacheserver.clock import Clock

MONOTONIC: Final = 1_000.0
WALL: Final = 1_700_000_000.0
"""Where both hands stand at first. Short binary fractions added to them give exact sums."""


class ManualClock(Clock):
    """A `Clock` whose time is set by hand: by any thread, and all threads see it at once."""

    def __init__(self, monotonic: float = MONOTONIC, wall: float = WALL) -> None:
        hands = [(monotonic, wall)]  # replaced as a whole
        super().__init__(monotonic=lambda: hands[0][0], wall=lambda: hands[0][1])
        object.__setattr__(self, "_hands", hands)  # a Clock is frozen

    _hands: list[tuple[float, float]]

    def advance(self, seconds: float) -> None:
        """Move both hands. One thread at a time."""
        monotonic, wall = self._hands[0]
        self._hands[0] = (monotonic + seconds, wall + seconds)

    def set(self, monotonic: float) -> None:
        """Set the hand that decides what has expired. One thread at a time."""
        self._hands[0] = (monotonic, self._hands[0][1])
