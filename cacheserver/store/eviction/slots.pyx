"""The places of a stripe's entries: what every eviction policy keeps its order and its marks by.

An entry has a slot, a small number that stays the same while the entry lives. Arrays by slot hold
what a policy needs to know, so that no object for each entry is needed: a few bytes each, nothing
for the garbage collector to visit.

Queues are rings of slots, linked both ways, around a sentinel that is no entry. All policies share
the links, and every entry is in exactly one queue under each of them: to change the policy is to
join a few rings.

Guarantees:
- All methods need the lock of the stripe; the marks alone are written without it, by the one thread
  that each of them belongs to.
- A marks array never changes its length: threads write into it while others look.

Assumes of the interpreter: reading or writing one item of a bytearray is atomic, and so is each
byte of a slice that is replaced by another of the same length.
"""

from array import array
from types import GenericAlias

cimport cython
from cpython.list cimport PyList_GET_SIZE

from cacheserver.store.atomic cimport number_add, number_get

FIRST_SLOT = 64
"""Slots below it are no entries: queues' sentinels here, and the head of a marks array there."""

TRANSIT = 0
"""The queue in which entries are gathered while they go from one policy to another."""

NO_MARKS = bytearray()
"""The marks of a thread that has none yet: they have no place for any slot."""


cdef enum:
    FIRST = 64


@cython.final
cdef class Slots:
    """Which key is where, what is linked to what, and which hits the threads have marked.

    `keys`, by slot, is None where the slot is free. `newer` and `older` link a slot to its
    neighbours in its queue; of a sentinel they are the oldest and the newest entry of the queue, or
    the sentinel itself where the queue is empty. `places` belongs to the policy: which of its
    queues a slot is in, where it has several. `reach` has the marks of each thread that has read
    here, with their length: FIRST_SLOT and one for each slot that there was when they were made, so
    they may end before `keys` do.
    """

    __class_getitem__ = classmethod(GenericAlias)

    def __init__(self):
        self.keys = [None] * FIRST
        self.newer = array("I", range(FIRST))
        self.older = array("I", range(FIRST))
        self.places = bytearray(FIRST)
        self.reach = []
        self._count = 0
        self.end = FIRST  # no slot from here on was ever in use
        self._free = 0  # the first of the slots that were given back; `newer` leads to the next
        self._own_marks = None  # of hits that the lock's holders mark

    @property
    def count(self):
        """How many entries there are. Who only wants to draw a stripe asks without its lock."""
        return number_get(&self._count)

    cpdef unsigned int allocate(self, key) except 0:
        """Return a slot for the key, without marks. A policy gets it next, by `add`."""
        cdef unsigned int slot = self._free
        if slot:
            self._free = self.newer.data.as_uints[slot]
        else:
            slot = self.end
            if slot == PyList_GET_SIZE(self.keys):
                self._grow()
            self.end = slot + 1
        self.keys[slot] = key
        number_add(&self._count, 1)
        for length, marks in self.reach:
            if slot < <Py_ssize_t>length:
                marks[slot] = 0
        return slot

    cpdef unsigned int next_free(self) noexcept:
        """Return the slot that `allocate` will return."""
        return self._free or self.end

    cpdef int release(self, unsigned int slot) except -1:
        """Take back a slot that the policy has forgotten."""
        self._check(slot)
        self.keys[slot] = None
        self.newer.data.as_uints[slot] = self._free
        self._free = slot
        number_add(&self._count, -1)
        return 0

    def _grow(self):
        # By a quarter: what lies idle is never much, and there are few occasions to copy.
        # The keys come last, as all that is linked is held against their number; each is made as
        # long as it should be, so that what had no memory goes on where it stopped.
        size = len(self.keys) + max(FIRST, len(self.keys) // 4)
        for links in (self.newer, self.older):
            links.frombytes(bytes((size - len(links)) * links.itemsize))
        self.places.extend(bytes(size - len(self.places)))
        self.keys.extend([None] * (size - len(self.keys)))

    # Marks.

    @property
    def marks(self):
        """The marks of all threads."""
        return [marks for _, marks in self.reach]

    def new_marks(self, head):
        """Return marks for a thread that had none, which count from now on."""
        marks = self._made_marks(head, b"")
        self.reach = [*self.reach, (len(marks), marks)]
        return marks

    def replace_marks(self, old, head):
        """Return longer marks for the thread that `old` belongs to, with all that it has marked."""
        self.drop_marks(old)
        marks = self._made_marks(head, old[FIRST_SLOT:])
        self.reach = [*self.reach, (len(marks), marks)]
        return marks

    def drop_marks(self, old):
        """Forget the marks of a thread that has ended."""
        self.reach = [each for each in self.reach if each[1] is not old]

    def mark(self, slot, head):
        """Mark a hit as a reader does, for whoever holds the lock."""
        marks = next((marks for length, marks in self.reach if slot < length), None)
        if marks is None:
            own = self._own_marks
            marks = self.new_marks(head) if own is None else self.replace_marks(own, head)
            self._own_marks = marks
        marks[slot] = marks[marks[slot]]

    def set_heads(self, head):
        """Change what a hit does to a mark, for all threads."""
        for _, marks in self.reach:
            marks[:FIRST_SLOT] = head

    def translate_marks(self, table):
        """Put `table[mark]` in the place of every mark. A hit at that very instant may be lost."""
        for _, marks in self.reach:
            marks[FIRST_SLOT:] = marks[FIRST_SLOT:].translate(table)

    def _made_marks(self, head, body):
        return bytearray(head + body + bytes(len(self.keys) - len(head) - len(body)))

    # Queues.

    cpdef int push(self, unsigned int slot, unsigned int after) except -1:
        """Put a slot that is in no queue before `after`, a sentinel: at its queue's newest end."""
        cdef unsigned int* newer = self.newer.data.as_uints
        cdef unsigned int* older = self.older.data.as_uints
        cdef unsigned int before
        self._check(slot)
        self._check(after)
        before = older[after]
        newer[before] = slot
        older[after] = slot
        older[slot] = before
        newer[slot] = after
        return 0

    cpdef int unlink(self, unsigned int slot) except -1:
        """Take a slot out of its queue."""
        cdef unsigned int* newer = self.newer.data.as_uints
        cdef unsigned int* older = self.older.data.as_uints
        cdef unsigned int before
        cdef unsigned int after
        self._check(slot)
        before, after = older[slot], newer[slot]
        newer[before] = after
        older[after] = before
        return 0

    cdef int _check(self, unsigned int slot) except -1:
        """Raise IndexError for a slot that there is not: no link leads out of bounds."""
        if slot >= PyList_GET_SIZE(self.keys):
            raise IndexError(f"there is no slot {slot}")
        return 0

    def join(self, queues, target):
        """Put all that is in `queues` behind what is in `target`, in that order."""
        newer, older = self.newer, self.older
        for queue in queues:
            first, last = newer[queue], older[queue]
            if first != queue and queue != target:
                end = older[target]
                newer[end], older[first] = first, end
                newer[last], older[target] = target, last
                newer[queue] = older[queue] = queue

    def walk(self, queue):
        """Go through a queue, the oldest slot first."""
        slot = self.newer[queue]
        while slot != queue:
            yield slot
            slot = self.newer[slot]
