"""Numbers that others read, and a mutex that can be tried: see atomic.h."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t


cdef extern from "atomic.h" nogil:
    ctypedef struct PyMutex:
        pass

    int64_t number_get(const int64_t* number)
    void number_set(int64_t* number, int64_t value)
    int64_t number_add(int64_t* number, int64_t more)
    double real_get(const double* number)
    void real_set(double* number, double value)
    int flag_get(const int* flag)
    void flag_set(int* flag, int value)
    unsigned char mark_get(const char* mark)
    void mark_set(char* mark, unsigned char value)
    int64_t clock_ns()
    void fence()
    int mutex_is_locked(PyMutex* mutex)


cdef extern from "atomic.h":  # with the interpreter's thread state: to wait is to let others run
    int mutex_try(PyMutex* mutex)
    void mutex_lock(PyMutex* mutex)
    void mutex_unlock(PyMutex* mutex)
    object tuple_of(PyObject* type, Py_ssize_t length)
    PyObject* type_of(PyObject* thing)
