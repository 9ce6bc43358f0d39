"""The policies that ask nothing of the readers: fifo, random, ttl and none."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final, Protocol

from cacheserver.store.eviction.base import QUEUE, OneQueue
from cacheserver.store.eviction.slots import FIRST_SLOT, Slots

MOST_DRAWS: Final = 64
"""Slots drawn in search of one in use: only in a stripe that is nearly empty are so many not enough."""


class Deadlines(Protocol):
    """Knows which entry's time is up first."""

    def soonest(self) -> int:
        """Return its slot, 0 where no entry has a deadline."""


class Fifo(OneQueue):
    """The oldest entry goes, whatever was hit."""

    name = "fifo"

    def victim(self) -> int:
        """Return the oldest."""
        slots = self._slots
        slot = slots.newer[QUEUE]
        if slot == QUEUE:
            return 0
        slots.unlink(slot)
        return slot

    def restore(self, slot: int) -> None:
        """Put the entry back where it was, at the oldest end."""
        slots = self._slots
        slots.push(slot, slots.newer[QUEUE])


class RandomChoice(OneQueue):
    """Any entry goes. `draw` returns numbers from 0 to below 1."""

    name = "random"

    def __init__(self, slots: Slots[Any], draw: Callable[[], float] | None = None) -> None:
        super().__init__(slots)
        self._draw = draw or Random().random  # noqa: S311 (chance, not a secret)

    def victim(self) -> int:
        """Draw slots until one is in use."""
        slots = self._slots
        slot = slots.newer[QUEUE]
        if slot == QUEUE:
            return 0
        keys, draw = slots.keys, self._draw
        used = slots.end - FIRST_SLOT
        for _ in range(MOST_DRAWS):
            drawn = FIRST_SLOT + int(draw() * used)
            if keys[drawn] is not None:
                slot = drawn
                break
        self.remove(slot)
        return slot


class Ttl(OneQueue):
    """The entry goes whose time is up first; where none has a deadline, the oldest."""

    name = "ttl"

    def __init__(self, slots: Slots[Any], deadlines: Deadlines) -> None:
        super().__init__(slots)
        self._deadlines = deadlines

    def victim(self) -> int:
        """Return the one with the soonest deadline, else the oldest."""
        slot = self._deadlines.soonest() or self._slots.newer[QUEUE]
        if slot == QUEUE:
            return 0
        self.remove(slot)
        return slot


class NoEviction(OneQueue):
    """Nothing goes: what finds no room is refused."""

    name = "none"

    def victim(self) -> int:
        """Return 0: no entry may go."""
        return 0
