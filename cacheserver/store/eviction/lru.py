"""LRU, to within an epoch: a hit marks when it was with one byte.

Time is cut into epochs, and each has a queue. A new entry goes into the queue of the epoch that it
is; a hit marks the entry with the epoch's number and leaves it where it is. The victim comes from the
queue of the oldest epoch. Where that entry was hit since, it moves to the queue of the epoch in which
it was hit last, and the next one is looked at.

So the order is that of LRU but for entries of one epoch. There those that were hit, found one by one
when older queues are emptied, go partly before those that came and partly after: as many as keep both
kinds equally old on average. An epoch is a number of insertions, so chosen that nearly all queues are
in use: what goes was last used some fifty epochs ago.
"""

from __future__ import annotations

from typing import Any, Final

from cacheserver.store.eviction.base import MOST_STEPS, Policy
from cacheserver.store.eviction.slots import FIRST_SLOT, Slots

EPOCHS: Final = FIRST_SLOT - 1
"""Numbers of epochs are 1 to EPOCHS, round and round; 0 is no mark, and the queue in transit."""
WANTED: Final = EPOCHS - 9
"""Queues to have in use: a few less than there are, lest there be none for the next epoch."""


class Lru(Policy):
    """The entry that was used least recently, to within an epoch."""

    name = "lru"

    def __init__(self, slots: Slots[Any]) -> None:
        super().__init__(slots)
        self._oldest = 1  # the first epoch whose queue may have entries
        self._epoch = 1  # that it is now
        self._length = 1.0  # of an epoch, in insertions
        self._left = 1.0  # insertions until the next one begins
        self._early = 0.0  # the share of entries hit that go before those that came in their epoch
        self._balance = 0.0  # the sum of such shares: for each whole one an entry goes before
        self.head = bytes((1,)) * FIRST_SLOT

    def add(self, slot: int) -> None:
        """Put the entry at the newest end of this epoch's queue."""
        self._left = left = self._left - 1.0
        if left < 0.0:
            self._advance()
        self._slots.push(slot, self._epoch)

    def remove(self, slot: int) -> None:
        """Take the entry out of its queue."""
        self._slots.unlink(slot)

    def victim(self) -> int:
        """Take the oldest entry of the oldest queue that was not hit since it came into it."""
        slots = self._slots
        newer, reach = slots.newer, slots.reach
        oldest, epoch = self._oldest, self._epoch
        moved, slot = 0, newer[oldest]
        for _ in range(MOST_STEPS):
            while slot == oldest:
                if oldest == epoch:
                    return 0
                self._oldest = oldest = oldest % EPOCHS + 1
                slot = newer[oldest]
            hit = 0
            for length, marks in reach:
                if slot < length and marks[slot]:
                    mark, marks[slot] = marks[slot], 0
                    if not hit or (epoch - mark) % EPOCHS < (epoch - hit) % EPOCHS:
                        hit = mark
            slots.unlink(slot)
            if not hit:
                return slot
            if (epoch - hit) % EPOCHS > (epoch - oldest) % EPOCHS:
                hit = epoch  # marked by a thread that had slept for all epochs
            self._balance = balance = self._balance + self._early
            if balance < 1.0:
                slots.push(slot, hit)
            else:
                self._balance = balance - 1.0
                slots.push(slot, newer[hit])
            moved, slot = slot, newer[oldest]
        self.remove(moved)
        return moved

    def touched(self, slot: int) -> None:
        """Mark the entry as its readers do."""
        self._slots.mark(slot, self.head)

    def order(self) -> tuple[int, ...]:
        """Return the queues from the oldest epoch to this one."""
        span = (self._epoch - self._oldest) % EPOCHS + 1
        return tuple((self._oldest - 1 + age) % EPOCHS + 1 for age in range(span))

    def adopt(self, old: Policy) -> None:
        """Take over all entries as those of one epoch, which ends now; hits belong to the next."""
        self._length = max(1.0, self._slots.count / WANTED)
        self._begin(2)
        super().adopt(old)

    def _advance(self) -> None:
        """Begin the next epoch, a little shorter than this one if many queues are idle, or longer."""
        newer, oldest, epoch = self._slots.newer, self._oldest, self._epoch
        while newer[oldest] == oldest and oldest != epoch:
            oldest = oldest % EPOCHS + 1
        self._oldest = oldest
        used = (epoch - oldest) % EPOCHS + 1
        if used == EPOCHS:
            self._merge()
        else:
            self._length = max(1.0, self._length * (0.97 if used < WANTED else 1.03))
        self._begin(self._epoch % EPOCHS + 1)

    def _begin(self, epoch: int) -> None:
        self._epoch = epoch
        length = self._length
        self._left = length - 1.0  # the insertion with which it begins
        self._early = 0.5 - 0.5 / length  # none before that first insertion
        self.head = bytes((epoch,)) * FIRST_SLOT
        self._slots.set_heads(self.head)

    def _merge(self) -> None:
        """Make one of every two epochs, so that half of the queues are free again."""
        slots, queues = self._slots, self.order()
        table = bytearray(range(256))
        for age, queue in enumerate(queues):
            target = queues[age // 2]
            slots.join((queue,), target)
            table[queue] = target
        slots.translate_marks(bytes(table))
        self._epoch = queues[(len(queues) - 1) // 2]
        self._length *= 2.0
