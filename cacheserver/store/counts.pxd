from libc.stdint cimport int64_t

cdef class Counts:
    cdef int64_t* numbers  # never moved or freed while the object lives
    cdef Py_ssize_t width
    cdef Py_ssize_t place(self, Py_ssize_t at) except -1
