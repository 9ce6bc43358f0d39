"""The places of a stripe's entries: what every eviction policy keeps its order and its marks by.

An entry has a slot, a small number that stays the same while the entry lives. Arrays by slot hold
what a policy needs to know, so that no object an entry is needed: a few bytes each, nothing for the
garbage collector to visit.

Queues are rings of slots, linked both ways, around a sentinel that is no entry. All policies share
the links, and every entry is in exactly one queue under each of them: to change the policy is to
join a few rings.

Guarantees:
- All methods need the lock of the stripe; the marks alone are written without it, by the one thread
  that each of them belongs to.
- A marks array never changes its length: threads write into it while others look.

Assumes of the interpreter: reading or writing one item of a bytearray is atomic, and so is each byte
of a slice that is replaced by another of the same length.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Final

FIRST_SLOT: Final = 64
"""Slots below it are no entries: queues' sentinels here, and the head of a marks array there."""

TRANSIT: Final = 0
"""The queue in which entries are gathered while they go from one policy to another."""

NO_MARKS: Final = bytearray()
"""The marks of a thread that has none yet: whatever slot it marks, it gets an IndexError."""


class Slots[K]:
    """Which key is where, what is linked to what, and which hits the threads have marked.

    `keys`, by slot, is None where the slot is free. `newer` and `older` link a slot to its neighbours
    in its queue; of a sentinel they are the oldest and the newest entry of the queue, or the sentinel
    itself where the queue is empty. `places` belongs to the policy: which of its queues a slot is
    in, where it has several. `reach` has the marks of each thread that has read here, with their
    length: FIRST_SLOT and one for each slot that there was when they were made, so they may end before
    `keys` do.
    """

    __slots__ = ("_free", "_own_marks", "count", "end", "keys", "newer", "older", "places", "reach")

    def __init__(self) -> None:
        self.keys: list[K | None] = [None] * FIRST_SLOT
        self.newer = array("I", range(FIRST_SLOT))
        self.older = array("I", range(FIRST_SLOT))
        self.places = bytearray(FIRST_SLOT)
        self.reach: list[tuple[int, bytearray]] = []
        self.count = 0
        self.end = FIRST_SLOT  # no slot from here on was ever in use
        self._free = 0  # the first of the slots that were given back; `newer` leads to the next
        self._own_marks: bytearray | None = None  # of hits that the lock's holders mark

    def allocate(self, key: K) -> int:
        """Return a slot for the key, without marks. A policy gets it next, by `add`."""
        slot = self._free
        if slot:
            self._free = self.newer[slot]
        else:
            slot = self.end
            if slot == len(self.keys):
                self._grow()
            self.end = slot + 1
        self.keys[slot] = key
        self.count += 1
        for length, marks in self.reach:
            if slot < length:
                marks[slot] = 0
        return slot

    def next_free(self) -> int:
        """Return the slot that `allocate` will return."""
        return self._free or self.end

    def release(self, slot: int) -> None:
        """Take back a slot that the policy has forgotten."""
        self.keys[slot] = None
        self.newer[slot] = self._free
        self._free = slot
        self.count -= 1

    def _grow(self) -> None:
        # By a quarter: what lies idle is never much, and there are few occasions to copy.
        more = max(FIRST_SLOT, len(self.keys) // 4)
        self.keys.extend([None] * more)
        self.newer.frombytes(bytes(more * self.newer.itemsize))
        self.older.frombytes(bytes(more * self.older.itemsize))
        self.places.extend(bytes(more))

    # Marks.

    @property
    def marks(self) -> list[bytearray]:
        """The marks of all threads."""
        return [marks for _, marks in self.reach]

    def new_marks(self, head: bytes) -> bytearray:
        """Return marks for a thread that had none, which count from now on."""
        marks = self._made_marks(head, b"")
        self.reach = [*self.reach, (len(marks), marks)]
        return marks

    def replace_marks(self, old: bytearray, head: bytes) -> bytearray:
        """Return longer marks for the thread that `old` belongs to, with all that it has marked."""
        self.drop_marks(old)
        marks = self._made_marks(head, old[FIRST_SLOT:])
        self.reach = [*self.reach, (len(marks), marks)]
        return marks

    def drop_marks(self, old: bytearray) -> None:
        """Forget the marks of a thread that has ended."""
        self.reach = [each for each in self.reach if each[1] is not old]

    def mark(self, slot: int, head: bytes) -> None:
        """Mark a hit as a reader does, for whoever holds the lock."""
        marks = next((marks for length, marks in self.reach if slot < length), None)
        if marks is None:
            own = self._own_marks
            marks = self.new_marks(head) if own is None else self.replace_marks(own, head)
            self._own_marks = marks
        marks[slot] = marks[marks[slot]]

    def set_heads(self, head: bytes) -> None:
        """Change what a hit does to a mark, for all threads."""
        for _, marks in self.reach:
            marks[:FIRST_SLOT] = head

    def translate_marks(self, table: bytes) -> None:
        """Put `table[mark]` in the place of every mark. A hit at that very instant may be lost."""
        for _, marks in self.reach:
            marks[FIRST_SLOT:] = marks[FIRST_SLOT:].translate(table)

    def _made_marks(self, head: bytes, body: bytes | bytearray) -> bytearray:
        return bytearray(head + body + bytes(len(self.keys) - len(head) - len(body)))

    # Queues.

    def join(self, queues: Iterable[int], target: int) -> None:
        """Put all that is in `queues` behind what is in `target`, in that order."""
        newer, older = self.newer, self.older
        for queue in queues:
            first, last = newer[queue], older[queue]
            if first != queue and queue != target:
                end = older[target]
                newer[end], older[first] = first, end
                newer[last], older[target] = target, last
                newer[queue] = older[queue] = queue

    def walk(self, queue: int) -> Iterator[int]:
        """Go through a queue, the oldest slot first."""
        slot = self.newer[queue]
        while slot != queue:
            yield slot
            slot = self.newer[slot]
