"""AtomicCounter: an integer of 64 bits, on the processor's own operations (C11 atomics).

Guarantees:
- Every method happens at one instant between call and return, as all others see it.
- Nobody ever waits: `add` tries again only where another thread has changed the number meanwhile,
  so of those who add at once one always gets on.
- What does not fit into 64 bits is an `OverflowError`, and changes nothing.

Relies on no lock and no atomicity of the interpreter: the number is no Python object.
"""

from libc.stdint cimport int64_t


cdef extern from "Python.h":
    # Takes what has __index__; TypeError for anything else, OverflowError beyond 64 bits.
    long long PyLong_AsLongLong(object number) except? -1


cdef extern from *:
    """
    #include <stdatomic.h>
    #include <stdint.h>

    typedef _Atomic(int64_t) atomic_number;

    /* False where the sum doesn't fit. An unconditional addition would show a wrong one first. */
    static inline int atomic_number_add(atomic_number *number, int64_t amount, int64_t *sum)
    {
        int64_t seen = atomic_load(number);
        do {
            if (__builtin_add_overflow(seen, amount, sum))
                return 0;
        } while (!atomic_compare_exchange_weak(number, &seen, *sum));
        return 1;
    }

    static inline int atomic_number_replace(atomic_number *number, int64_t seen, int64_t value)
    {
        return atomic_compare_exchange_strong(number, &seen, value);
    }
    """
    ctypedef int64_t atomic_number
    bint atomic_number_add(atomic_number *number, int64_t amount, int64_t *sum) noexcept
    bint atomic_number_replace(atomic_number *number, int64_t seen, int64_t value) noexcept
    int64_t atomic_load(atomic_number *number) noexcept
    int64_t atomic_exchange(atomic_number *number, int64_t value) noexcept
    void atomic_store(atomic_number *number, int64_t value) noexcept


cdef class AtomicCounter:
    """An integer of 64 bits, with the processor's own operations. Nobody ever waits.

    Whoever adds learns the sum. `OverflowError` where the result does not fit; nothing is changed.
    """

    cdef atomic_number _number

    def __init__(self, value=0):
        atomic_store(&self._number, PyLong_AsLongLong(value))

    @property
    def value(self):
        """The number."""
        return atomic_load(&self._number)

    def add(self, amount=1):
        """Add `amount`, negative ones too, and return the sum."""
        cdef int64_t total = 0
        if not atomic_number_add(&self._number, PyLong_AsLongLong(amount), &total):
            raise OverflowError("the sum does not fit into 64 bits")
        return total

    def exchange(self, value):
        """Set the number and return the one that was there."""
        return atomic_exchange(&self._number, PyLong_AsLongLong(value))

    def compare_and_set(self, expected, value):
        """Set the number if it is `expected`; return whether it was."""
        return atomic_number_replace(
            &self._number, PyLong_AsLongLong(expected), PyLong_AsLongLong(value)
        )
