from libc.stdint cimport int64_t

cdef class Sums:
    cdef int64_t count
    cdef int64_t over
    cdef Py_ssize_t place

cdef class SpaceSaving:
    cdef readonly Py_ssize_t capacity
    cdef int64_t _total
    cdef int64_t _floor
    cdef dict _kept
    cdef list _items
    cdef int64_t* _counts
    cdef int64_t* _turns
    cdef int64_t _turn
    cpdef int add(self, item, int64_t weight=*) except -1
    cdef int _keep(self, object item, Py_ssize_t place, int64_t count, int64_t over) except -1
    cdef Py_ssize_t _least(self) noexcept
