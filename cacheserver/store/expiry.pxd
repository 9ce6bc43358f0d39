from cpython cimport array
from libc.stdint cimport int64_t

cdef class Deadlines:
    cdef object _deadline_of
    cdef readonly dict _buckets
    cdef readonly list _ends
    cdef readonly array.array _noted
    cdef readonly Py_ssize_t _notes
    cdef Py_ssize_t _next_to_clean
    cdef int64_t _first  # of the ends, which others read without the lock
    cpdef int add(self, unsigned int slot, double deadline, double ttl) except -1
    cdef int _note(self, unsigned int slot, double deadline, double ttl) except -1
    cdef int _tell_first(self) except -1
