"""What every eviction policy is, and the queue that most of them keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from cacheserver.store.eviction.slots import FIRST_SLOT, TRANSIT, Slots

QUEUE: Final = 1
"""The queue of a policy that has one only."""

MOST_STEPS: Final = 1024
"""Entries that a policy looks at before it takes the next that comes. Only where so many in a row
were hit does it matter; then it bounds how long the stripe's lock is held."""

SAME_MARKS: Final = bytes(FIRST_SLOT)
"""The head of a policy that wants no marks: a hit leaves none."""


class Policy(ABC):
    """An order in which the entries of one stripe go.

    All methods need the stripe's lock. A slot is added once it is allocated, and removed, by `remove`
    or `victim`, before it is released; no victim is asked for between allocation and addition.

    A hit is marked by its thread alone, as `m[slot] = m[m[slot]]` in that thread's marks: the first
    bytes of these are the policy's `head`, which says what a mark becomes. Where several threads have
    marked a slot the policy takes all their marks together. Two things are left to chance: a mark made
    while it is being cleared may be lost or stay, and one made for an entry that has just gone may
    count for the next in its slot.

    Links are changed by the compiled `Slots` alone. For the rest these methods fetch what they need into locals:
    on a free-threaded 3.13 an attribute costs more than an array's item.
    """

    name: ClassVar[str]
    needs_marks: ClassVar[bool] = True
    queues: ClassVar[tuple[int, ...]] = (QUEUE,)
    """The queues in use, those that go first first."""

    head: bytes
    """What a hit makes of a mark: FIRST_SLOT bytes, each below FIRST_SLOT."""

    def __init__(self, slots: Slots[Any]) -> None:
        self._slots = slots

    @abstractmethod
    def add(self, slot: int) -> None:
        """Take in an entry that is new."""

    @abstractmethod
    def remove(self, slot: int) -> None:
        """Forget an entry that goes for another reason."""

    @abstractmethod
    def victim(self) -> int:
        """Return the slot of the entry that has to go, and forget it; 0 where none may go."""

    def restore(self, slot: int) -> None:
        """Take in again a victim that has to stay. Of several, the last one chosen comes first."""
        self.add(slot)

    def touched(self, slot: int) -> None:  # noqa: B027 (most have nothing to do)
        """An entry was written anew in its place: that is a hit."""

    def adopt(self, old: Policy) -> None:
        """Take over all entries of the policy that was in charge: this one has none yet.

        They keep their order where this policy has one too, and a hit that was marked stays one hit.
        However many they are, it takes a few steps and one pass over the marks.
        """
        slots = self._slots
        slots.join(old.order(), TRANSIT)
        slots.join((TRANSIT,), self._home())
        slots.set_heads(self.head)
        slots.translate_marks(b"\0" + self.head[:1] * 255)

    def order(self) -> tuple[int, ...]:
        """Return the queues in use, those that go first first."""
        return self.queues

    def _home(self) -> int:
        """Return the queue for entries taken over."""
        return QUEUE

    def __iter__(self) -> Iterator[int]:
        """Go through all slots, roughly in the order in which they would go without further hits."""
        for queue in self.order():
            yield from self._slots.walk(queue)


class OneQueue(Policy):
    """A policy that keeps its entries in the order in which they came."""

    needs_marks = False
    head = SAME_MARKS

    def add(self, slot: int) -> None:
        """Put the entry at the newest end."""
        self._slots.push(slot, QUEUE)

    def remove(self, slot: int) -> None:
        """Take the entry out of the queue."""
        self._slots.unlink(slot)
