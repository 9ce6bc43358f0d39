"""Latch: the lock of a stripe, as far as every write passes it.

Guarantees: it excludes, and it counts every acquisition; who finds it taken or closed waits in
`_wait`, which `locks.Slot` has and which measures that. Where nobody waits, taking it is one
exchange on a byte.

The mutex is CPython's, which lets other threads run while one waits for it. Holding it costs nobody
else anything; none of this relies on the GIL. Numbers are written by who holds the latch and may be
read by anybody at any time.
"""

from libc.stdint cimport int64_t

from cacheserver.store.atomic cimport (
    clock_ns,
    flag_get,
    flag_set,
    mutex_is_locked,
    mutex_lock,
    mutex_try,
    mutex_unlock,
    number_add,
    number_get,
)

SAMPLE_EVERY = 64
"""One in so many holds is timed. A power of two."""
cdef enum:
    SAMPLE_MASK = 63


cdef class Mutex:
    """A lock of one byte, for which who waits lets other threads run. Not re-entrant."""

    @property
    def lock(self):
        """What excludes: `acquire(blocking)`, `release()`, `locked()` as `threading.Lock` has them.

        A test may put a lock of its own here, which sees everything that happens, while nobody uses
        this.
        """
        return _Bare(self) if self.watched is None else self.watched

    @lock.setter
    def lock(self, lock):
        self.watched = None if type(lock) is _Bare and (<_Bare>lock).of is self else lock

    def locked(self):
        """Tell whether anybody holds it right now."""
        return bool(mutex_is_locked(&self.mutex)) if self.watched is None else self.watched.locked()

    cdef int take_if_free(self) except -1:
        """Take it and return 1, or return 0 where somebody has it."""
        if self.watched is None:
            return mutex_try(&self.mutex)
        return 1 if self.watched.acquire(False) else 0

    cdef int wait(self) except -1:
        """Take it once it is free."""
        if self.watched is None:
            mutex_lock(&self.mutex)
        else:
            self.watched.acquire()
        return 0

    cdef int give_back(self) except -1:
        if self.watched is None:
            mutex_unlock(&self.mutex)
        else:
            self.watched.release()
        return 0


cdef class _Bare:
    """The mutex itself, as a lock."""

    cdef Mutex of

    def __cinit__(self, Mutex of):
        self.of = of

    def acquire(self, blocking=True, timeout=-1):
        """Take it. There is no time limit."""
        if blocking:
            mutex_lock(&self.of.mutex)
            return True
        return bool(mutex_try(&self.of.mutex))

    def release(self):
        """Give it back."""
        if not mutex_is_locked(&self.of.mutex):
            raise RuntimeError("nobody holds this lock")
        mutex_unlock(&self.of.mutex)

    def locked(self):
        """Tell whether anybody holds it right now."""
        return bool(mutex_is_locked(&self.of.mutex))


cdef class Latch(Mutex):
    """A reader's place in a big reader lock, as far as it has no need to wait.

    `gate` is the writers' half; `waits`, `queued` and `holds` take lengths of time, by
    `add(nanoseconds)`.
    """

    def __cinit__(self, *_arguments, **_more):
        self._cause = ""

    def _prepare(self, gate, waits, queued, holds, cause):
        """Have these. To be called once, before anybody else knows this latch."""
        self.gate = gate
        self.waits = waits
        self.queued = queued
        self.holds = holds
        self._cause = cause

    @property
    def cause(self):
        """What holds it, or held it last. To be set by who holds it."""
        mutex_lock(&self.observers)
        cause = self._cause
        mutex_unlock(&self.observers)
        return cause

    @cause.setter
    def cause(self, cause):
        mutex_lock(&self.observers)
        _old, self._cause = self._cause, cause
        mutex_unlock(&self.observers)

    @property
    def closed(self):
        """Whether newcomers have to queue at the gate. Set by the gate, under its lock."""
        return bool(flag_get(&self.is_closed))

    @closed.setter
    def closed(self, bint closed):
        flag_set(&self.is_closed, closed)

    @property
    def acquisitions(self):
        """How often it was taken."""
        return number_get(&self.taken)

    def last_wait(self):
        """Return the nanoseconds of the latest wait for who had the same latch, and when it ended.

        The latter by `perf_counter_ns`. Zeros where there was none.
        """
        cdef int64_t waited, end
        mutex_lock(&self.observers)
        waited, end = self.last_waited, self.last_wait_end
        mutex_unlock(&self.observers)
        return waited, end

    def take(self):
        """Take it, after every writer that asked before.

        Returns the nanoseconds that this caller waited, 1 at least where it had to, and else 0.
        """
        return self.enter()

    def release(self):
        """Give it back. RuntimeError where nobody has it."""
        self._check_held()
        self.leave()

    def take_if_open(self):
        """Take it if it is free and not closed. Returns whether that went."""
        return not flag_get(&self.is_closed) and self._try()

    def _try(self):
        if not self.take_if_free():
            return False
        self.count()
        return True

    def _wait_for_it(self):
        """Take it once it is free. Whoever had to wait measures that."""
        self.wait()
        self.count()

    def _note_wait(self, int64_t waited, int64_t end):
        """Note a wait of who holds it now."""
        self.waits.add(waited)
        mutex_lock(&self.observers)
        self.last_waited, self.last_wait_end = waited, end
        mutex_unlock(&self.observers)

    def _take_uncounted(self, blocking):
        """Take it for a writer, who counts for itself. Returns whether it has it."""
        if not blocking:
            return bool(self.take_if_free())
        self.wait()
        return True

    def _release_uncounted(self):
        self._check_held()
        self.give_back()

    cdef int _check_held(self) except -1:
        # To let go of a mutex that nobody has ends the process.
        if self.watched is None and not mutex_is_locked(&self.mutex):
            raise RuntimeError("nobody holds this lock")
        return 0

    cdef int64_t enter(self) except -1:
        if not flag_get(&self.is_closed) and self.take_if_free():
            self.count()
            return 0
        return self._wait()

    cdef int leave(self) except -1:
        cdef int64_t since = self.held_since
        if since:
            self.held_since = 0
            try:
                self.holds.add(clock_ns() - since)
            finally:
                self.give_back()
            return 0
        return self.give_back()

    cdef void count(self) noexcept:
        # metering: begin
        if not number_add(&self.taken, 1) & SAMPLE_MASK:
            self.held_since = clock_ns()
        # metering: instead: pass
        # metering: end


cdef class WaitCount:
    """How many waits somebody had, and their nanoseconds."""
