"""The way to a key: what one read, write, delete or touch of one key executes.

Guarantees: those of `StripedDict`, whose other half is Python: `shared.py` where all stripes are
meant, `room.py` where there is no room, `stripe.py` and `eviction/` where entries go.

How it is safe without the GIL:
- A key is read by `PyDict_GetItemRef`, which returns a reference of one's own. A record never
  changes.
- A way finds its stripes and dicts in a `Bound`, which never changes but for one flag and is
  exchanged as a whole. It is the only item of a list, because a list gives and takes items
  atomically; who works holds a reference to the `Bound`, and that to all that is in it, so that
  nothing else counts references to what threads share.
- What a stripe holds is replaced by who has its latch only. So who has it reads it as it is;
  anybody else reads a property, which takes a second lock for the instant in which it counts a
  reference.
- Numbers are written by who has the latch, and read by anybody whole.
- What takes memory is freed when the latch is released.
"""

import time
import types

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.object cimport PyObject, PyObject_Hash
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cacheserver.store.atomic cimport (
    clock_ns,
    fence,
    flag_get,
    flag_set,
    mark_get,
    mark_set,
    mutex_lock,
    mutex_unlock,
    number_add,
    number_get,
    number_set,
    tuple_of,
    type_of,
)
from cacheserver.store.budget cimport Quota, Short
from cacheserver.store.counts cimport Counts
from cacheserver.store.eviction.slots cimport Slots
from cacheserver.store.expiry cimport Deadlines
from cacheserver.store.record cimport (
    Fields,
    content_type_of,
    entry_of,
    growth_of,
    packed,
    put_item,
    read_fields,
    whole,
)
from cacheserver.store.sampler cimport Sampler

from cacheserver.store.budget import REASONS
from cacheserver.store.entry import DEFAULT_CONTENT_TYPE, KEEP
from cacheserver.store.eviction.slots import NO_MARKS
from cacheserver.store.names import check_ttl
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Touched, Written
from cacheserver.store.record import growth as native_growth

cdef extern from "Python.h":
    PyObject* PyTuple_GET_ITEM(PyObject* items, Py_ssize_t at)
    int PyDict_GetItemRef(PyObject* items, PyObject* key, PyObject** item) except -1
    int PyDict_SetItem(PyObject* items, PyObject* key, PyObject* item) except -1
    int PyDict_DelItem(PyObject* items, PyObject* key) except -1
    object PyList_GetItemRef(PyObject* items, Py_ssize_t at)
    int PySequence_Contains(object items, object item) except -1
    void Py_DECREF(PyObject* thing)

MAX_STRIPES = 4096
cdef enum:
    STRIPE_SHIFT = 52  # 64 less the bits of MAX_STRIPES
    HITS = 0
    MISSES = 1

cdef tuple _reasons = (None, *REASONS)
# These live as long as the module. As pointers they are compared without counting references.
cdef PyObject* _none = <PyObject*>None
cdef PyObject* _condition_type = <PyObject*>Condition
cdef PyObject* _written_type = <PyObject*>Written
cdef PyObject* _conflict_type = <PyObject*>Conflict
cdef PyObject* _missing_type = <PyObject*>Missing
_types = (Condition, Written, Conflict, Missing)


cdef Py_ssize_t place(object key, uint64_t mask) except -1:
    """Return the number of a key's stripe, of `mask` + 1.

    From the upper bits of a product, which depend on all bits of the hash. The hash itself won't
    do: its upper bits are the same for all small integers, and its lower ones serve the dict.
    """
    return (<uint64_t>PyObject_Hash(key) * <uint64_t>0x9E3779B97F4A7C15) >> STRIPE_SHIFT & mask


def stripe_number(key, mask):
    """Return the number of a key's stripe, of `mask` + 1."""
    return place(key, mask)


cdef object written(uint64_t version, bint created):
    """Return a `Written`, in half of the time that calling it takes."""
    made = tuple_of(_written_type, 2)
    put_item(made, 0, version)
    put_item(made, 1, True if created else False)
    return made


cdef object _conflict(object current):
    """Return a `Conflict` likewise."""
    made = tuple_of(_conflict_type, 1)
    put_item(made, 0, current)
    return made


cdef bint _holds(object condition, uint64_t current) except -1:
    """Tell whether a condition holds for this version, 0 where the key is not there."""
    cdef PyObject* match
    cdef object number
    if type_of(<PyObject*>condition) != _condition_type:
        return condition.holds(current)
    # As Condition.holds has it.
    match = PyTuple_GET_ITEM(<PyObject*>condition, 0)
    if not current:
        return match == _none and not <object>PyTuple_GET_ITEM(<PyObject*>condition, 2)
    if <object>PyTuple_GET_ITEM(<PyObject*>condition, 3):
        return False
    number = current
    if PySequence_Contains(<object>PyTuple_GET_ITEM(<PyObject*>condition, 1), number):
        return False
    return match == _none or PySequence_Contains(<object>match, number)


cdef class StripeBase(Latch):
    """One dict and its lock, as far as every write needs them."""

    __class_getitem__ = classmethod(types.GenericAlias)

    @property
    def number(self):
        """Its place among the stripes."""
        return self._number

    @number.setter
    def number(self, int64_t number):
        self._number = number

    @property
    def version(self):
        """The version of the last write to any key here."""
        return number_get(&self._version)

    @version.setter
    def version(self, int64_t version):
        number_set(&self._version, version)

    @property
    def bytes(self):
        """What the entries take in memory."""
        return number_get(&self._bytes)

    @bytes.setter
    def bytes(self, int64_t size):
        number_set(&self._bytes, size)

    @property
    def expirations(self):
        """Entries that went because their time was up."""
        return number_get(&self._expirations)

    @expirations.setter
    def expirations(self, int64_t number):
        number_set(&self._expirations, number)

    @property
    def data(self):
        """The records by key; None where the stripe is retired, its entries elsewhere or gone."""
        mutex_lock(&self.observers)
        data = self._data
        mutex_unlock(&self.observers)
        return data

    @data.setter
    def data(self, data):
        mutex_lock(&self.observers)
        _old, self._data = self._data, data
        mutex_unlock(&self.observers)

    @property
    def slots(self):
        """The places of the entries."""
        mutex_lock(&self.observers)
        slots = self._slots
        mutex_unlock(&self.observers)
        return slots

    @slots.setter
    def slots(self, Slots slots):
        mutex_lock(&self.observers)
        _old, self._slots = self._slots, slots
        mutex_unlock(&self.observers)

    @property
    def deadlines(self):
        """When which entries are due."""
        mutex_lock(&self.observers)
        deadlines = self._deadlines
        mutex_unlock(&self.observers)
        return deadlines

    @deadlines.setter
    def deadlines(self, Deadlines deadlines):
        mutex_lock(&self.observers)
        _old, self._deadlines = self._deadlines, deadlines
        mutex_unlock(&self.observers)

    @property
    def policy(self):
        """What goes where there is no room."""
        mutex_lock(&self.observers)
        policy = self._policy
        mutex_unlock(&self.observers)
        return policy

    @policy.setter
    def policy(self, policy):
        mutex_lock(&self.observers)
        _old, self._policy = self._policy, policy
        mutex_unlock(&self.observers)

    def draw_on(self, Quota quota):
        """Take what is written from this quota from now on; None: without limit. Needs the lock."""
        self._quota = quota


cdef class Bound:
    """The stripes that a way leads to, and the dicts in which it looks keys up."""


cdef class Way:
    """One thread's way to the keys of a striped dict. Any thread may use it, at some cost."""

    __class_getitem__ = classmethod(types.GenericAlias)

    def _lead(self, shared, Counts counts not None, Sampler sampler not None):
        """Lead to these stripes. To be called once, before anybody knows this way."""
        clock = shared.clock
        if counts.width < 2:
            raise ValueError(f"hits and misses are two numbers, not {counts.width}")
        self._shared = shared
        self._room = shared.room
        self._growth = shared.room.growth
        self._monotonic = clock.monotonic
        self._sampler = sampler
        self._counts = counts
        self._due = sampler.due
        self._packs = shared.packed
        self._grows_natively = self._growth is native_growth
        self._has_clock = clock.monotonic is not time.monotonic
        self._bound = [None]
        shared.attach(self)

    # For who exchanges dicts, and holds the lock of the views.

    def bind(self, marks):
        """Read from the dicts that there are now, and mark hits in these marks, None: new ones."""
        cdef Bound bound = Bound.__new__(Bound)
        stripes = self._shared.table.stripes
        bound.stripes = (*stripes,)  # a tuple of this way's own
        bound.dicts = tuple([stripe.entries() for stripe in stripes])
        bound.marks = [NO_MARKS] * len(stripes) if marks is None else marks
        bound.mask = len(stripes) - 1
        bound.marking = stripes[0].policy.needs_marks
        bound.free = not self._shared.diverted
        self._bound[0] = bound

    def read_freely(self):
        """Read without locks, unless somebody wants otherwise."""
        flag_set(&self.bound().free, not self._shared.diverted)

    def divert(self):
        """Read under the locks from now on, until `read_freely`."""
        flag_set(&self.bound().free, False)

    def reads_freely(self):
        """Tell whether reads take no locks."""
        return bool(flag_get(&self.bound().free))

    @property
    def marks(self):
        """The marks of hits, by stripe."""
        return self.bound().marks

    def leads_to(self):
        """Return the stripes, and the dicts in which keys are looked up."""
        cdef Bound bound = self.bound()
        return bound.stripes, bound.dicts

    # Reading.

    def read(self, key):
        """Return the key's entry, None where there is none or its time is up."""
        record = self.find(key)
        return None if record is None else entry_of(record)

    cdef object find(self, object key):
        """Return the key's record, None where there is none or its time is up."""
        cdef Bound bound = self.bound()
        cdef Py_ssize_t at
        cdef PyObject* found = NULL
        cdef Fields fields
        cdef int64_t count
        if not flag_get(&bound.free):
            return self.find_locked(key)
        at = place(key, bound.mask)
        PyDict_GetItemRef(PyTuple_GET_ITEM(<PyObject*>bound.dicts, at), <PyObject*>key, &found)
        if found == NULL:
            # What comes next must not be read before this: see flag_set.
            fence()
            # metering: begin
            count = number_add(&self._counts.numbers[MISSES], 1)
            if count >= number_get(&self._due.numbers[MISSES]):
                self._sampler.read(key, MISSES)
            # metering: end
            return None
        record = <object>found
        Py_DECREF(found)
        read_fields(record, &fields)
        if fields.deadline and fields.deadline <= self.now():
            # Since it was found another may have been written.
            return self.find_locked(key)
        if bound.marking:
            self._mark(bound, at, fields.slot)
        # metering: begin
        count = number_add(&self._counts.numbers[HITS], 1)
        if count >= number_get(&self._due.numbers[HITS]):
            self._sampler.read(key, HITS)
        # metering: end
        return record

    cdef object find_locked(self, object key):
        """The same as of an instant at which the stripe's lock is held."""
        entry = self._shared.read_locked(key, self._sampler)
        cdef int missed = entry is None
        if number_add(&self._counts.numbers[missed], 1) >= number_get(&self._due.numbers[missed]):
            self._sampler.read(key, missed)
        return entry

    # Writing.

    def put(self, key, value, *, ttl=0, content_type=DEFAULT_CONTENT_TYPE, condition=None):
        """Write the key if `condition` holds; it is gone again after `ttl` seconds, 0: never.

        KEEP leaves it the deadline that it has. A `Conflict` says what is there instead.
        `StoreFull` and `NeverFits` where a limit is in the way, `InvalidTTL` where `ttl` is no
        length of time up to ten years.
        """
        cdef Done done
        cdef bint keep = ttl is KEEP
        if ttl and not keep:
            check_ttl(ttl)
        conflict = self.write(
            key, value, 0 if keep else ttl, keep, content_type, condition, &done
        )
        return written(done.version, done.created) if conflict is None else conflict

    def delete(self, key, *, condition=None):
        """Delete the key if it is there and `condition` holds."""
        cdef Done done
        refusal = self.remove(key, condition, &done)
        return Deleted(done.version) if refusal is None else refusal

    def touch(self, key, ttl, *, condition=None):
        """Have the key gone after `ttl` seconds from now, 0: never. Its version stays.

        `InvalidTTL` as for `put`.
        """
        cdef Done done
        check_ttl(ttl)
        refusal = self.renew(key, ttl, condition, &done)
        return Touched(done.version) if refusal is None else refusal

    cdef object write(
        self, object key, object value, double ttl, bint keep, object content_type,
        object condition, Done* done
    ):
        """The one way in which a single key is written. Returns None, or the Conflict."""
        cdef Bound bound
        cdef Py_ssize_t at
        cdef list garbage = []  # freed when no lock is held
        tries = 0  # to find room, without success
        while True:
            bound = self.bound()
            at = place(key, bound.mask)
            outcome = self._write_in(
                <StripeBase>PyTuple_GET_ITEM(<PyObject*>bound.stripes, at),
                key, value, ttl, keep, content_type, condition, tries > 0, done, garbage
            )
            if outcome is None:
                if bound.marking and not done.created:
                    self._mark(bound, at, done.slot)
                return None
            if outcome is False:
                self._shared.check_there()
            elif type_of(<PyObject*>outcome) == _conflict_type:
                return outcome
            else:
                tries = self._room.make(outcome, tries, (key,))
                garbage.clear()

    cdef object _write_in(
        self, StripeBase stripe, object key, object value, double ttl, bint keep,
        object content_type, object condition, bint thorough, Done* done, list garbage
    ):
        """Write the key in its stripe. Returns also False where that is retired, and Full."""
        cdef int64_t waited = stripe.enter()
        try:
            return self._write_locked(
                stripe, key, value, ttl, keep, content_type, condition, thorough, done, garbage
            )
        finally:
            stripe.leave()
            if waited:
                self._waited(key, waited)

    cdef object _write_locked(
        self, StripeBase stripe, object key, object value, double ttl, bint keep,
        object content_type, object condition, bint thorough, Done* done, list garbage
    ):
        cdef Fields fields
        cdef double now = -1
        cdef double deadline = 0
        cdef int64_t more
        cdef uint64_t version
        cdef uint32_t slot
        cdef bint created
        cdef Short short
        if <PyObject*>stripe._data == _none:
            return False
        current = self._live_locked(stripe, key, &now, garbage)
        created = current is None
        if not created:
            read_fields(current, &fields)
            if keep:
                deadline = fields.deadline
        if ttl:
            if now < 0:
                now = self.now()
            deadline = now + ttl
        if condition is not None and not _holds(condition, 0 if created else fields.version):
            return _conflict(None if created else entry_of(current))
        if created:
            if key is None:  # as a free slot has
                raise TypeError("None is no key")
            slot = stripe._slots.next_free()
        else:
            slot = fields.slot
        version = stripe._version + 1
        record = self._record(value, version, deadline, content_type, slot)
        more = self._more(key, current, record)
        if <PyObject*>stripe._quota != _none and (more or created):
            short = stripe._quota.draw(more, created, stripe._number, thorough)
            if short:
                self._room.check_fits(more if created else self._more(key, None, record), 1)
                full = self._room.evict_own(
                    stripe, key, more, created, _reasons[short], garbage
                )
                if full is not None:
                    return full
                version = stripe._version + 1
                if created:
                    slot = stripe._slots.next_free()
                record = self._record(value, version, deadline, content_type, slot)
        if created:
            stripe._slots.allocate(key)
        try:
            PyDict_SetItem(<PyObject*>stripe._data, <PyObject*>key, <PyObject*>record)
        except BaseException:  # no memory, or a key's own __eq__
            if created:
                stripe._slots.release(slot)
            if <PyObject*>stripe._quota != _none:
                stripe._quota.draw(-more, -<int64_t>created, stripe._number, True)
            raise
        number_add(&stripe._bytes, more)
        number_set(&stripe._version, version)
        if created:
            stripe._policy.add(slot)
        if deadline:
            stripe._deadlines.add(slot, deadline, deadline - now)
        done.version, done.created, done.slot = version, created, slot
        return None

    cdef object remove(self, object key, object condition, Done* done):
        """Delete the key. Returns None where it was, or the Conflict, or Missing."""
        cdef Bound bound
        cdef PyObject* stripe
        cdef list garbage = []
        cdef int64_t waited
        while True:
            bound = self.bound()
            stripe = PyTuple_GET_ITEM(<PyObject*>bound.stripes, place(key, bound.mask))
            waited = (<StripeBase>stripe).enter()
            try:
                outcome = self._remove_locked(<StripeBase>stripe, key, condition, done, garbage)
            finally:
                (<StripeBase>stripe).leave()
                if waited:
                    self._waited(key, waited)
            if outcome is not False:
                return outcome
            self._shared.check_there()

    cdef object _remove_locked(
        self, StripeBase stripe, object key, object condition, Done* done, list garbage
    ):
        cdef Fields fields
        cdef double now = -1
        cdef int64_t less
        if <PyObject*>stripe._data == _none:
            return False
        current = self._live_locked(stripe, key, &now, garbage)
        if current is not None:
            read_fields(current, &fields)
        if condition is not None and not _holds(
            condition, 0 if current is None else fields.version
        ):
            return _conflict(None if current is None else entry_of(current))
        if current is None:
            return Missing()
        less = self._more(key, current, None)
        PyDict_DelItem(<PyObject*>stripe._data, <PyObject*>key)
        number_add(&stripe._bytes, less)
        done.version = number_add(&stripe._version, 1)
        stripe._policy.remove(fields.slot)
        stripe._slots.release(fields.slot)
        if <PyObject*>stripe._quota != _none:
            stripe._quota.draw(less, -1, stripe._number, True)
        return None

    cdef object renew(self, object key, double ttl, object condition, Done* done):
        """Give the key another deadline. Returns None, or the Conflict, or Missing."""
        cdef Bound bound
        cdef PyObject* stripe
        cdef list garbage = []
        cdef int64_t waited
        tries = 0  # to find room, without success
        while True:
            bound = self.bound()
            stripe = PyTuple_GET_ITEM(<PyObject*>bound.stripes, place(key, bound.mask))
            waited = (<StripeBase>stripe).enter()
            try:
                outcome = self._renew_locked(
                    <StripeBase>stripe, key, ttl, condition, tries > 0, done, garbage
                )
            finally:
                (<StripeBase>stripe).leave()
                if waited:
                    self._waited(key, waited)
            if outcome is False:
                self._shared.check_there()
            elif outcome is None or type_of(<PyObject*>outcome) in (_conflict_type, _missing_type):
                return outcome
            else:
                tries = self._room.make(outcome, tries, (key,))
                garbage.clear()

    cdef object _renew_locked(
        self, StripeBase stripe, object key, double ttl, object condition, bint thorough,
        Done* done, list garbage
    ):
        cdef Fields fields
        cdef double now = -1
        cdef double deadline = 0
        cdef int64_t more
        cdef Short short
        if <PyObject*>stripe._data == _none:
            return False
        current = self._live_locked(stripe, key, &now, garbage)
        if current is not None:
            read_fields(current, &fields)
        if condition is not None and not _holds(
            condition, 0 if current is None else fields.version
        ):
            return _conflict(None if current is None else entry_of(current))
        if current is None:
            return Missing()
        if ttl:
            if now < 0:
                now = self.now()
            deadline = now + ttl
        record = self._record(
            entry_of(current)[0], fields.version, deadline, content_type_of(current), fields.slot
        )
        more = self._more(key, current, record)
        if more and <PyObject*>stripe._quota != _none:
            short = stripe._quota.draw(more, 0, stripe._number, thorough)
            if short:  # a deadline takes a few bytes, too
                self._room.check_fits(self._more(key, None, record), 1)
                return self._room.full(_reasons[short], more, 0, stripe._number)
        try:
            PyDict_SetItem(<PyObject*>stripe._data, <PyObject*>key, <PyObject*>record)
        except BaseException:  # no memory, or a key's own __eq__
            if <PyObject*>stripe._quota != _none:
                stripe._quota.draw(-more, 0, stripe._number, True)
            raise
        number_add(&stripe._bytes, more)
        if deadline:
            stripe._deadlines.add(fields.slot, deadline, ttl)
        done.version = fields.version
        return None

    # Inside.

    cdef Bound bound(self):
        """Return what this way leads to now."""
        return <Bound>PyList_GetItemRef(<PyObject*>self._bound, 0)

    cdef double now(self) except -1:
        """Return the monotonic second."""
        return self._monotonic() if self._has_clock else clock_ns() / 1e9

    cdef object _live_locked(self, StripeBase stripe, object key, double* now, list garbage):
        """Return the key's record, None where there is none. One whose time is up is removed.

        Tells in `now` what time it is, where it had to know.
        """
        cdef PyObject* found = NULL
        cdef Fields fields
        PyDict_GetItemRef(<PyObject*>stripe._data, <PyObject*>key, &found)
        if found == NULL:
            return None
        record = <object>found
        Py_DECREF(found)
        garbage.append(record)
        read_fields(record, &fields)
        if not fields.deadline:
            return record
        now[0] = self.now()
        if fields.deadline > now[0]:
            return record
        stripe.expire(key, record, self._growth, stripe._quota)
        return None

    cdef object _record(
        self, object value, uint64_t version, double deadline, object content_type, uint32_t slot
    ):
        if self._packs:
            return packed(value, version, deadline, content_type, slot)
        return whole(value, version, deadline, content_type, slot)

    cdef int64_t _more(self, object key, object old, object new) except? -1:
        """Return by how many bytes it grows to have the second record in the place of the first."""
        if self._grows_natively:
            return growth_of(key, old, new)
        return 0 if self._growth is None else self._growth(key, old, new)

    cdef int _mark(self, Bound bound, Py_ssize_t at, uint32_t slot) except -1:
        """Mark a hit."""
        mine = PyList_GetItemRef(<PyObject*>bound.marks, at)
        cdef Py_ssize_t size = PyByteArray_GET_SIZE(mine)
        cdef char* marks = PyByteArray_AS_STRING(mine)
        cdef unsigned char mark
        if slot >= size:
            self._mark_first(at, slot)
            return 0
        mark = mark_get(marks + slot)
        if mark < size:
            mark_set(marks + slot, mark_get(marks + mark))
        return 0

    def _mark_first(self, at, slot):
        """Note a hit for which there is no place yet, if that needs no wait."""
        cdef Bound bound = self.bound()
        stripe = bound.stripes[at] if at < len(bound.stripes) else None
        if stripe is None or not stripe.try_acquire():
            return
        try:
            slots = stripe.slots
            if stripe.data is bound.dicts[at]:  # or else the dicts were exchanged
                head, old = stripe.policy.head, bound.marks[at]
                mine = slots.replace_marks(old, head) if old else slots.new_marks(head)
                if slot < len(mine):
                    mine[slot] = mine[mine[slot]]
                bound.marks[at] = mine
        finally:
            stripe.release()

    cdef int _waited(self, object key, int64_t nanoseconds) except -1:
        self._sampler.waited(key, nanoseconds)
        return 0
