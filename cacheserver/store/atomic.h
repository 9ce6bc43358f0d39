/* Numbers that one thread writes and others read, and a mutex that can be tried.

   A relaxed load or store of an aligned number is never torn, and costs what a plain one does. Who adds
   to such a number is its only writer, or holds the lock that guards it, so adding needs no exchange. */

#ifndef CACHESERVER_ATOMIC_H
#define CACHESERVER_ATOMIC_H

#include <Python.h>
#include <stdint.h>

static inline int64_t number_get(const int64_t *number) {
    return __atomic_load_n(number, __ATOMIC_RELAXED);
}

static inline void number_set(int64_t *number, int64_t value) {
    __atomic_store_n(number, value, __ATOMIC_RELAXED);
}

static inline int64_t number_add(int64_t *number, int64_t more) {
    int64_t sum = __atomic_load_n(number, __ATOMIC_RELAXED) + more;
    __atomic_store_n(number, sum, __ATOMIC_RELAXED);
    return sum;
}

static inline double real_get(const double *number) {
    double value;
    __atomic_load(number, &value, __ATOMIC_RELAXED);
    return value;
}

static inline void real_set(double *number, double value) {
    __atomic_store(number, &value, __ATOMIC_RELAXED);
}

/* A flag by which one thread tells others what they must know before they go on. */
static inline int flag_get(const int *flag) { return __atomic_load_n(flag, __ATOMIC_ACQUIRE); }
static inline void flag_set(int *flag, int value) { __atomic_store_n(flag, value, __ATOMIC_SEQ_CST); }

/* Keep what is read after this from being read before what was read before it. */
static inline void fence(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }

/* One mark of a hit, which others may clear meanwhile: either may be lost, as slots.pyx allows. */
static inline unsigned char mark_get(const char *mark) {
    return __atomic_load_n((const unsigned char *)mark, __ATOMIC_RELAXED);
}
static inline void mark_set(char *mark, unsigned char value) {
    __atomic_store_n((unsigned char *)mark, value, __ATOMIC_RELAXED);
}

/* Take the mutex if it is free. PyMutex has no public try. This is the exchange with which
   PyMutex_Lock itself begins, in the header that every extension compiles in: the values of a mutex
   are fixed for each version of the interpreter that this is built for. */
static inline int mutex_try(PyMutex *mutex) {
    uint8_t expected = 0; /* unlocked, and nobody is parked */
    return _Py_atomic_compare_exchange_uint8(&mutex->_bits, &expected, 1);
}

static inline void mutex_lock(PyMutex *mutex) { PyMutex_Lock(mutex); }
static inline void mutex_unlock(PyMutex *mutex) { PyMutex_Unlock(mutex); }

static inline int mutex_is_locked(PyMutex *mutex) {
    return _Py_atomic_load_uint8(&mutex->_bits) & 1;
}

/* Nanoseconds on the clock of time.monotonic. */
static inline int64_t clock_ns(void) {
    PyTime_t now = 0;
    (void)PyTime_MonotonicRaw(&now); /* fails on no system that CPython starts on */
    return now;
}

/* The type of an object, without a reference to it. */
static inline PyObject *type_of(PyObject *thing) { return (PyObject *)Py_TYPE(thing); }

/* A new tuple of a class derived from tuple, whose items are to be set at once. */
static inline PyObject *tuple_of(PyObject *type, Py_ssize_t length) {
    PyObject *made = ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, length);
#if PY_VERSION_HEX >= 0x030E0000 /* tuples keep their hash from 3.14 on, -1 until it is known */
    if (made != NULL)
        ((PyTupleObject *)made)->ob_hash = -1;
#endif
    return made;
}

#endif
