"""NamespaceView: one thread's way into a namespace, which counts what is done."""

from libc.stdint cimport int64_t

from cacheserver.store.atomic cimport flag_get, flag_set, number_add, number_get, real_get, real_set
from cacheserver.store.counts cimport Counts
from cacheserver.store.record cimport entry_of
from cacheserver.store.sampler cimport Sampler
from cacheserver.store.way cimport Done, Way, written

from cacheserver.errors import ConditionRequired
from cacheserver.store.entry import KEEP
from cacheserver.store.names import check_ttl
from cacheserver.store.outcomes import Conflict, Deleted, Missing, Refused, Touched

cdef enum:
    WRITES = 2
    CONFLICTS = 3


cdef class NamespaceView:
    """One thread's way into a namespace: nothing in it is shared with another thread.

    `entries` is the dict. `counts` are hits, misses, writes and conflicts.
    """

    def __init__(
        self, Way entries not None, Counts counts not None, Sampler sampler not None, config
    ):
        if counts.width < 4:
            raise ValueError(f"a view has four counts, not {counts.width}")
        self.entries = entries
        self._counts = counts
        self._sampler = sampler
        self._due = sampler.due
        self.obey(config)

    def obey(self, config):
        """Behave like this from now on. Any thread may say so."""
        real_set(&self._default_ttl, config.default_ttl)
        flag_set(&self._require_cas, config.require_cas)

    cpdef check_condition(self, condition):
        """Raise ConditionRequired where there is no condition, and has to be one."""
        if condition is None and flag_get(&self._require_cas):
            self.entries._shared.check_there()  # one that was dropped requires nothing any more
            raise ConditionRequired(
                "this namespace takes no write without a condition: send If-Match with the version "
                "that you have read, or If-None-Match: * for a key that is not there"
            )

    def read(self, key):
        """Return the key's entry, None where there is none, and count a hit or a miss."""
        record = self.entries.find(key)
        return None if record is None else entry_of(record)

    cdef object find(self, str key):
        """Return the key's record, None where there is none, and count a hit or a miss."""
        return self.entries.find(key)

    def put(self, key, value, ttl, content_type, condition):
        """Write the key if `condition` holds, and count a write or a conflict.

        `ttl` is in seconds, None: the namespace's default, KEEP: as it is.
        """
        cdef Done done
        if type(value) is not bytes:
            value = _as_bytes(value)
        conflict = self.write(key, value, ttl, content_type, condition, &done)
        return written(done.version, done.created) if conflict is None else conflict

    cdef object write(
        self, str key, bytes value, object ttl, str content_type, object condition, Done* done
    ):
        """Write the key as `put` does. Returns None where it was written, or else the Conflict."""
        cdef double seconds = 0
        cdef bint keep = False
        if ttl is None:
            seconds = real_get(&self._default_ttl)
        elif ttl is KEEP:
            keep = True
        elif ttl:
            check_ttl(ttl)
            seconds = ttl
        if condition is None and flag_get(&self._require_cas):
            self.check_condition(None)
        conflict = self.entries.write(key, value, seconds, keep, content_type, condition, done)
        if conflict is None:
            self._wrote(key)
        else:
            self._refused(key)
        return conflict

    cpdef delete(self, key, condition):
        """Delete the key if it is there and `condition` holds; a missing key counts for nothing."""
        cdef Done done
        self.check_condition(condition)
        refusal = self.entries.remove(key, condition, &done)
        if refusal is None:
            self._wrote(key)
            return Deleted(done.version)
        if type(refusal) is Conflict:
            self._refused(key)
        return refusal

    cpdef touch(self, key, ttl, condition):
        """Give the key another deadline, None: the default's; nothing is written that counts."""
        cdef Done done
        if ttl is None:
            ttl = real_get(&self._default_ttl)
        check_ttl(ttl)
        refusal = self.entries.renew(key, ttl, condition, &done)
        if refusal is None:
            return Touched(done.version)
        if type(refusal) is Conflict:
            self._refused(key)
        return refusal

    def transaction(self, writes, conditions):
        """Write and delete several keys at one instant, and count what was done."""
        for key, wish in writes.items():
            self.check_condition(conditions.get(key))
            if wish is not None and type(wish.value) is not bytes:
                raise TypeError(f"a value is bytes, not {type(wish.value).__name__}")
        outcome = self.entries.transaction(writes, conditions)
        if isinstance(outcome, Refused):
            for key in outcome.conflicts:
                self._refused(key)
        else:
            for key, each in outcome.items():
                if type(each) is not Missing:
                    self._wrote(key)
        return outcome

    cdef int _wrote(self, object key) except -1:
        # metering: begin
        cdef int64_t writes = number_add(&self._counts.numbers[WRITES], 1)
        if writes >= number_get(&self._due.numbers[WRITES]):
            self._sampler.wrote(key)
        # metering: end
        return 0

    cdef int _refused(self, object key) except -1:
        # metering: begin
        number_add(&self._counts.numbers[CONFLICTS], 1)
        self._sampler.conflict(key)
        # metering: end
        return 0


def _as_bytes(value):
    """Return what is kept, a copy of what may still change. TypeError for what isn't like bytes."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"a value is bytes, not {type(value).__name__}: encode it")
