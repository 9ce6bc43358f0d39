"""Counts: a few numbers that one thread adds to while others read them.

Guarantees: a number is read whole, as it was at one instant. Only one thread may write a number, or
whoever holds the lock that guards it: nothing here makes an addition atomic.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t

from cacheserver.store.atomic cimport number_get, number_set


cdef class Counts:
    """So many numbers of 64 bits, signed, zeros at first. A sequence: `counts[k] += n`."""

    def __cinit__(self, Py_ssize_t width):
        if width < 0:
            raise ValueError(f"a width is 0 or more, not {width}")
        self.numbers = <int64_t*>PyMem_Calloc(max(width, 1), sizeof(int64_t))
        if not self.numbers:
            raise MemoryError
        self.width = width

    def __dealloc__(self):
        PyMem_Free(self.numbers)

    def __len__(self):
        return self.width

    def __getitem__(self, Py_ssize_t at):
        return number_get(&self.numbers[self.place(at)])

    def __setitem__(self, Py_ssize_t at, int64_t value):
        number_set(&self.numbers[self.place(at)], value)

    def __iter__(self):
        return iter([number_get(&self.numbers[at]) for at in range(self.width)])

    def __repr__(self):
        return f"Counts({list(self)})"

    cdef Py_ssize_t place(self, Py_ssize_t at) except -1:
        if not 0 <= at < self.width:
            raise IndexError(f"there are {self.width} numbers, and no number {at}")
        return at
