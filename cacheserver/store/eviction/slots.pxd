from cpython cimport array
from libc.stdint cimport int64_t

cdef class Slots:
    cdef readonly list keys
    cdef readonly array.array newer
    cdef readonly array.array older
    cdef readonly bytearray places
    cdef public list reach
    cdef int64_t _count
    cdef public unsigned int end
    cdef public unsigned int _free
    cdef public object _own_marks
    cpdef unsigned int allocate(self, key) except 0
    cpdef unsigned int next_free(self) noexcept
    cpdef int release(self, unsigned int slot) except -1
    cpdef int push(self, unsigned int slot, unsigned int after) except -1
    cpdef int unlink(self, unsigned int slot) except -1
    cdef int _check(self, unsigned int slot) except -1
