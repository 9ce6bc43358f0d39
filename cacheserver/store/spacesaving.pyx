"""SpaceSaving: the heaviest of many items, in bounded memory.

Guarantees: it keeps `capacity` items, whatever comes. For each of them count - overcount <= true
sum <= count, and whatever isn't kept has a true sum of `floor` at most; also after merging. One
thread adds; any may read at any time, and then sees numbers for which that holds.

The sketch is that of A. Metwally, D. Agrawal, A. El Abbadi: Efficient Computation of Frequent and
Top-k Elements in Data Streams (ICDT 2005); merging as in P. K. Agarwal et al.: Mergeable Summaries
(PODS 2012). The least item is found by looking at all counts, which lie side by side: for some
hundred that is quicker than keeping a heap.
"""

from types import GenericAlias

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from cacheserver.store.atomic cimport number_add, number_get, number_set

cdef extern from "Python.h":
    int PyDict_GetItemRef(PyObject* items, PyObject* key, PyObject** item) except -1
    void Py_DECREF(PyObject* thing)


cdef class Sums:
    """What is kept of one item, which others may read."""


cdef class SpaceSaving:
    """The heaviest of many items, in room for `capacity` of them."""

    __class_getitem__ = classmethod(GenericAlias)

    def __cinit__(self, Py_ssize_t capacity):
        if capacity < 1:
            raise ValueError(f"a sketch keeps one item at least, not {capacity}")
        self.capacity = capacity
        self._kept = {}  # items to their Sums; never replaced, so others may copy it
        self._items = []  # by place, as the counts are; for who adds only
        self._counts = <int64_t*>PyMem_Calloc(capacity, sizeof(int64_t))
        self._turns = <int64_t*>PyMem_Calloc(capacity, sizeof(int64_t))
        if not self._counts or not self._turns:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self._counts)
        PyMem_Free(self._turns)

    @property
    def total(self):
        """The sum of all weights, of what is no more kept, too."""
        return number_get(&self._total)

    @property
    def floor(self):
        """What is not kept had at most so much."""
        return number_get(&self._floor)

    cpdef int add(self, item, int64_t weight=1) except -1:
        """Add `weight`, 1 or more, to an item's sum."""
        cdef PyObject* found = NULL
        cdef Py_ssize_t place
        cdef int64_t count
        # First, so that nobody sees an item with more than all have together.
        number_add(&self._total, weight)
        PyDict_GetItemRef(<PyObject*>self._kept, <PyObject*>item, &found)
        if found != NULL:
            place = (<Sums>found).place
            self._counts[place] = number_add(&(<Sums>found).count, weight)
            Py_DECREF(found)
            return 0
        if len(self._items) < self.capacity:
            self._items.append(item)
            return self._keep(item, len(self._items) - 1, self._floor + weight, self._floor)
        place = self._least()
        count = self._counts[place]
        gone = self._items[place]
        # Put in before the other goes, so that nobody ever sees neither of them.
        self._keep(item, place, count + weight, count)
        number_set(&self._floor, count)
        self._items[place] = item
        del self._kept[gone]
        return 0

    cdef int _keep(self, object item, Py_ssize_t place, int64_t count, int64_t over) except -1:
        cdef Sums sums = Sums.__new__(Sums)
        sums.count = count
        sums.over = over
        sums.place = place
        self._turn += 1
        self._counts[place] = count
        self._turns[place] = self._turn
        self._kept[item] = sums
        return 0

    cdef Py_ssize_t _least(self) noexcept:
        """Return the place with the lowest count; of several the one that was filled first."""
        cdef Py_ssize_t place
        cdef Py_ssize_t least = 0
        for place in range(1, self.capacity):
            if self._counts[place] < self._counts[least] or (
                self._counts[place] == self._counts[least]
                and self._turns[place] < self._turns[least]
            ):
                least = place
        return least

    def counts(self):
        """Return items with count and overcount, the heaviest first."""
        return sorted(self._copy(), key=_by_count)

    def _copy(self):
        cdef Sums sums
        copy = []
        for item, sums in self._kept.copy().items():
            copy.append((item, number_get(&sums.count), sums.over))
        return copy

    @staticmethod
    def merged(sketches, Py_ssize_t capacity):
        """Return a sketch of all that these have seen, which they may go on to see."""
        cdef SpaceSaving merged = SpaceSaving(capacity)
        # First what is kept, then the bound of what is not, and the sum: those only rise.
        parts = [(sketch._copy(), sketch.floor, sketch.total) for sketch in sketches]
        floors = sum([floor for _, floor, _ in parts])
        sums = {}
        for kept, floor, _ in parts:
            for item, count, overcount in kept:
                before = sums[item] if item in sums else (floors, floors)
                sums[item] = before[0] + count - floor, before[1] + overcount - floor
        heaviest = sorted([(item, *both) for item, both in sums.items()], key=_by_count)
        for item, count, overcount in heaviest[:capacity]:
            merged._items.append(item)
            merged._keep(item, len(merged._items) - 1, count, overcount)
        merged._floor = max(floors, heaviest[capacity][1]) if len(heaviest) > capacity else floors
        merged._total = sum([total for _, _, total in parts])
        return merged


def _by_count(each):
    return -each[1]
