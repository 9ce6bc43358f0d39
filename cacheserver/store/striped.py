"""StripedDict: many dicts, each with a lock of its own, and a version for every value.

Guarantees:
- Every operation on one key is linearizable: it happens at one instant between call and return.
- Reads take no lock. Writes take the lock of one stripe, so that writers of other stripes go on.
- A key never has the same version twice: not after a delete, an expiry, an eviction or a clear either.
  Versions of a key only rise. (Versions of different keys may be equal.)
- A key is gone from the instant its deadline passes, whoever looks and whoever cleans up.
- `clear`, `snapshot`, `transaction` and a change of stripes happen at one instant for all keys, for
  readers without locks too.
- Limits hold at every instant: room is made before a write, by evicting what the policy chooses.

Assumes of the interpreter: reading, setting and deleting one item of a dict is atomic for keys
whose `__hash__` and `__eq__` are builtin (str, bytes, int, tuples of those), and so is reading or
replacing one attribute or one item of a list or a bytearray. Keys of other types work, but their `__eq__`
may run under a stripe's lock.

How it is laid out: what threads share is stripes, and each thread reaches them through objects of
its own (`view`), since on a free-threaded interpreter every shared object that all threads touch in
every operation costs them an atomic reference count. Where the dicts of the stripes are exchanged
(`clear`, `reshape`), and while several keys change at once (`transaction`), readers are first diverted to
the locks: one that began before may still return what was there then, one that begins later waits
and sees what is there after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Self, overload

from cacheserver.clock import Clock
from cacheserver.errors import NamespaceGone
from cacheserver.store.budget import Budget
from cacheserver.store.entry import (
    DEFAULT_CONTENT_TYPE,
    KEEP,
    VALUE,
    VERSION,
    Entry,
    Keep,
    Record,
    deadline_of,
    unpack,
    version_of,
)
from cacheserver.store.eviction.slots import NO_MARKS
from cacheserver.store.heat import Sampler
from cacheserver.store.names import check_ttl
from cacheserver.store.outcomes import (
    Condition,
    Conflict,
    Deleted,
    Missing,
    Put,
    Refused,
    Touched,
    Written,
)
from cacheserver.store.readers import SHIFT, make_locked_read, make_overwrite, make_read
from cacheserver.store.room import Full, Neighbour, Room
from cacheserver.store.shared import Bury, Shared, StripedPulse, StripedStatistics, StripeWaits
from cacheserver.store.stripe import Contents, Growth, Stripe
from cacheserver.store.transaction import transact

DEFAULT_STRIPES: Final = 64

_ABSENT: Final = object()


def _growth_by[K, V](cost: Callable[[K, Entry[V]], int]) -> Growth[K, V]:
    def growth(key: K, old: Record[V] | None, new: Record[V] | None) -> int:
        return (cost(key, unpack(new)) if new else 0) - (cost(key, unpack(old)) if old else 0)

    return growth


class StripedDict[K, V]:
    """A dict for many threads, in stripes, with versions, deadlines and compare-and-set.

    It reads like a dict (`d[key]`, `d[key] = value`, `del d[key]`, `key in d`, `len(d)`, iteration)
    and offers more by name. `stripes` is a power of two up to 4,096: more than enough is four for
    each thread that writes.

    `max_entries`, `max_bytes` and a `budget` shared with other dicts bound what is kept. A write that
    finds no room evicts what the policy chooses (docs/eviction.md has them all); where that is
    `none`, it raises `StoreFull`, and `NeverFits` where it would be too large for an empty dict: nothing is
    changed then. To count bytes it needs `cost(key, entry)`, which gives an entry's; it runs under a lock, so it
    must be quick and take no lock, and always give the same for the same. ValueError for what can't be.

    Any thread may use any instance. A thread that does millions of operations gets its own way in
    with `view()`.
    """

    __slots__ = (
        "__weakref__",
        "_counts",
        "_free_read",
        "_growth",
        "_monotonic",
        "_pack",
        "_room",
        "_sampler",
        "_shared",
        "_table",
        "locked_read",
        "marks",
        "overwrite",
        "read",
    )

    read: Callable[[K], Entry[V] | None]
    """Return the key's entry, None where there is none or its time is up. It changes: don't keep it."""

    def __init__(
        self,
        stripes: int = DEFAULT_STRIPES,
        *,
        clock: Clock | None = None,
        cost: Callable[[K, Entry[V]], int] | None = None,
        growth: Growth[K, V] | None = None,
        budget: Budget | None = None,
        max_bytes: int | None = None,
        max_entries: int | None = None,
        policy: str = "none",
        first_version: int = 0,
        packed: bool = False,
        neighbour: Neighbour | None = None,
        bury: Bury | None = None,
    ) -> None:
        """Make it.

        `growth(key, old, new)` may be given instead of `cost`: the difference of two records' costs,
        None being no record. `packed`: all values are bytes, and small ones are kept packed
        (`cacheserver.store.entry`). `neighbour` names the dict that is to make room in the budget; `bury`
        gets what was cleared, to free it.
        """
        if cost is not None and growth is not None:
            raise ValueError("give cost or growth: one follows from the other")
        if cost is not None:
            growth = _growth_by(cost)
        if growth is None and budget is not None:
            raise ValueError("a limit on bytes needs a cost function, or nothing would be counted")
        shared = Shared(
            stripes,
            clock=clock or Clock(),
            growth=growth,
            budget=budget,
            max_bytes=max_bytes,
            max_entries=max_entries,
            policy=policy,
            first_version=first_version,
            packed=packed,
            neighbour=neighbour,
            bury=bury,
        )
        self._attach(shared, [0, 0], Sampler())

    def _attach(self, shared: Shared[K, V], counts: list[int], sampler: Sampler) -> None:
        self._table: tuple[tuple[Stripe[K, V], ...], int]
        self._shared = shared
        self._room = shared.room
        self._counts = counts
        self._sampler = sampler
        self._monotonic = shared.clock.monotonic
        self._growth = shared.room.growth
        self._pack = shared.make_pack()
        self.locked_read = make_locked_read(shared.read_locked, counts, sampler)
        shared.attach(self)

    def view(self, counts: list[int] | None = None, sampler: Sampler | None = None) -> Self:
        """Return the same dict through objects of its own: make one in each busy thread.

        Reads through it that find the key are added to `counts[0]`, others to `counts[1]`. `sampler` is told
        of those that are due, and of waits.
        """
        view = object.__new__(type(self))
        view._attach(self._shared, [0, 0] if counts is None else counts, sampler or Sampler())
        return view

    def bind(self, marks: list[bytearray] | None) -> None:
        """Read from the dicts that there are now: for the dict itself, when they change."""
        table = self._shared.table
        stripes = (*table.stripes,)  # a tuple of this view's own
        self._table = stripes, table.mask
        self.marks = [NO_MARKS] * len(stripes) if marks is None else marks
        marking = stripes[0].policy.needs_marks
        self._free_read = make_read(
            self._shared.read_locked,
            stripes,
            self._counts,
            self._sampler,
            self.marks,
            self._monotonic,
            marking,
        )
        self.overwrite = make_overwrite(stripes, self._sampler, self.marks, marking)
        self.read_freely()

    def read_freely(self) -> None:
        """Read without locks, unless somebody wants otherwise: for the dict itself."""
        self.read = self.locked_read if self._shared.diverted else self._free_read

    # Reading: no lock.

    def get[D](self, key: K, default: D | None = None) -> V | D | None:
        """Return the key's value, or `default`."""
        entry = self.read(key)
        return default if entry is None else entry[VALUE]

    def __getitem__(self, key: K) -> V:
        entry = self.read(key)
        if entry is None:
            raise KeyError(key)
        return entry[VALUE]

    def __contains__(self, key: K) -> bool:
        return self.read(key) is not None

    def __len__(self) -> int:
        """How many entries are kept, those counted whose time is up but that nobody met since."""
        return sum(map(len, self._dicts()))

    def __bool__(self) -> bool:
        return any(self._dicts())

    def __iter__(self) -> Iterator[K]:
        """Go through the keys, stripe by stripe.

        A key that is there throughout comes exactly once; one written or deleted meanwhile may or
        may not come. `snapshot` gives all of one instant.
        """
        for data in self._dicts():
            now = self._monotonic()
            for key, record in data.copy().items():
                deadline = deadline_of(record)
                if not deadline or deadline > now:
                    yield key

    def _dicts(self) -> list[dict[K, Record[V]]]:
        """Return the stripes' dicts, all of one table, without the lock."""
        while True:
            self._shared.check_there()
            stripes = self._shared.table.stripes
            dicts = [data for stripe in stripes if (data := stripe.data) is not None]
            if len(dicts) == len(stripes):
                return dicts

    def items(self) -> Iterator[tuple[K, V]]:
        """Go through keys and values, as `iter` goes through keys."""
        for key in self:
            entry = self.read(key)
            if entry is not None:
                yield key, entry[VALUE]

    # Writing: the lock of one stripe.

    def put(
        self,
        key: K,
        value: V,
        *,
        ttl: float | Keep = 0,
        content_type: str = DEFAULT_CONTENT_TYPE,
        condition: Condition | None = None,
    ) -> Written | Conflict[V]:
        """Write the key if `condition` holds; it is gone again after `ttl` seconds, 0: never.

        KEEP leaves it the deadline that it has. A `Conflict` says what is there instead. `StoreFull`
        and `NeverFits` where a limit is in the way, `InvalidTTL` where `ttl` is no length of time up to ten
        years.
        """
        if ttl and ttl is not KEEP:
            check_ttl(ttl)
        full: Full | None = None
        tries = 0  # to find room, without success
        freed: list[Record[V]] | None = None  # what went for this, to be freed without a lock
        while True:
            if full is not None:
                tries = self._room.make(full, tries, (key,))
                full = freed = current = found = None
            stripes, mask = self._table
            stripe = stripes[hash((key,)) >> SHIFT & mask]
            waited = stripe.take()
            try:
                data = stripe.data
                if data is None:
                    self._shared.check_there()
                    continue
                now = 0.0
                current = found = data[key] if key in data else None  # noqa: SIM401 (see docs/free-threading.md)
                deadline: float = 0
                packed = type(found) is bytes
                if ttl or (found and (found[4] >= 64 if packed else found[2])):
                    now = self._monotonic()
                    old_deadline = deadline_of(found) if found else 0
                    if found and old_deadline and old_deadline <= now:
                        stripe.expire(key, found, self._growth, self._room.quota)
                        current = None
                    elif ttl is KEEP:
                        deadline = old_deadline
                    if ttl and ttl is not KEEP:
                        deadline = now + ttl
                if condition is not None and not condition.holds(
                    version_of(current) if current else 0
                ):
                    return Conflict(unpack(current) if current else None)
                created = current is None
                if created:
                    if key is None:  # as a free slot has
                        raise TypeError("None is no key")
                    slot = stripe.slots.next_free()
                elif packed:
                    slot = int.from_bytes(current[:4], "little")  # type: ignore[index, arg-type]
                else:
                    slot = current[4]  # type: ignore[index]
                version = stripe.version + 1
                record = self._pack(value, version, deadline, content_type, slot)
                growth = self._growth
                more = growth(key, current, record) if growth is not None else 0
                quota = self._room.quota
                if quota is not None and (more or created):
                    reason = quota.take(more, created, stripe.number, tries > 0)
                    if reason is not None:
                        whole = more if created or growth is None else growth(key, None, record)
                        self._room.check_fits(whole, 1)
                        freed = []
                        full = self._room.evict_own(stripe, key, more, created, reason, freed)
                        if full is not None:
                            continue
                        version = stripe.version + 1
                        slot = stripe.slots.next_free() if created else slot
                        record = self._pack(value, version, deadline, content_type, slot)
                if created:
                    stripe.slots.allocate(key)
                stripe.put(key, record, slot, created, more)
                if deadline:
                    stripe.deadlines.add(slot, deadline, deadline - now)
                return tuple.__new__(Written, (version, created))  # half of Written()'s time
            finally:
                stripe.release()
                if waited:
                    self._sampler.waited(key, waited)

    def delete(
        self, key: K, *, condition: Condition | None = None
    ) -> Deleted | Missing | Conflict[V]:
        """Delete the key if it is there and `condition` holds."""
        stripe, waited = self._lock_stripe(key)
        try:
            current, _expired = self._live_locked(stripe, key, self._monotonic())
            if condition is not None and not condition.holds(current[VERSION] if current else 0):
                return Conflict(current)
            if current is None:
                return Missing()
            self._remove_locked(stripe, key, current[4])  # SLOT
            return Deleted(stripe.version)
        finally:
            stripe.release()
            if waited:
                self._sampler.waited(key, waited)

    def touch(
        self, key: K, ttl: float, *, condition: Condition | None = None
    ) -> Touched | Missing | Conflict[V]:
        """Have the key gone after `ttl` seconds from now, 0: never. Its version stays.

        `InvalidTTL` as for `put`.
        """
        check_ttl(ttl)
        full: Full | None = None
        tries = 0  # to find room, without success
        while True:
            if full is not None:
                tries = self._room.make(full, tries, (key,))
                full = current = None
            stripe, waited = self._lock_stripe(key)
            try:
                now = self._monotonic()
                current, _expired = self._live_locked(stripe, key, now)
                if condition is not None and not condition.holds(
                    current[VERSION] if current else 0
                ):
                    return Conflict(current)
                if current is None:
                    return Missing()
                value, version, _deadline, content_type, slot = current
                deadline = now + ttl if ttl else 0
                record = self._pack(value, version, deadline, content_type, slot)
                old = stripe.entries()[key]
                more = self._growth(key, old, record) if self._growth is not None else 0
                quota = self._room.quota
                if more and quota is not None:
                    reason = quota.take(more, 0, stripe.number, tries > 0)
                    if reason is not None:  # a deadline takes a few bytes, too
                        self._room.check_fits(self._growth(key, None, record), 1)  # type: ignore[misc]
                        full = self._room.full(reason, more, 0, stripe.number)
                        continue
                stripe.replace(key, record, more)
                if ttl:
                    stripe.deadlines.add(slot, deadline, ttl)
                return Touched(version)
            finally:
                stripe.release()
                if waited:
                    self._sampler.waited(key, waited)

    def compare_and_set(
        self, key: K, expected_version: int, value: V, *, ttl: float = 0
    ) -> Written | Conflict[V]:
        """Write the key if it has the expected version, or, for 0, if it is not there."""
        return self.put(key, value, ttl=ttl, condition=Condition.version(expected_version))

    def setdefault(self, key: K, default: V) -> V:
        """Return the key's value, which becomes `default` if it is not there."""
        entry = self.read(key)
        while entry is None:
            outcome = self.put(key, default, condition=Condition.version(0))
            if isinstance(outcome, Written):
                return default
            entry = outcome.current
        return entry[VALUE]

    @overload
    def pop(self, key: K) -> V: ...
    @overload
    def pop[D](self, key: K, default: D) -> V | D: ...
    def pop(self, key: K, default: object = _ABSENT) -> object:
        """Delete the key and return the value that it had: of several callers one gets it."""
        while (entry := self.read(key)) is not None:
            outcome = self.delete(key, condition=Condition.version(entry[VERSION]))
            if isinstance(outcome, Deleted):
                return entry[VALUE]
        if default is _ABSENT:
            raise KeyError(key)
        return default

    def __setitem__(self, key: K, value: V) -> None:
        self.put(key, value)

    def __delitem__(self, key: K) -> None:
        if isinstance(self.delete(key), Missing):
            raise KeyError(key)

    # Several keys at one instant: the locks of their stripes, in ascending order.

    def transaction(
        self,
        writes: Mapping[K, Put[V] | None],
        conditions: Mapping[K, Condition] | None = None,
    ) -> dict[K, Written | Deleted | Missing] | Refused[K, V]:
        """Write and delete several keys at one instant, if every condition holds.

        None in `writes` deletes the key. A condition may be on a key that isn't written. Nobody, readers
        without locks included, sees some of it and not the rest. Raises what `put` raises; then, and
        where it is refused, nothing is changed.
        """
        return transact(self._shared, self._pack, self._sampler, writes, conditions or {})

    # The whole: all locks, in ascending order.

    def clear(self) -> int:
        """Delete everything at one instant. Returns how many entries went."""
        return self._shared.clear()

    def drop(self) -> list[Contents[K, V]]:
        """Delete everything and be no more: from now on every operation raises NamespaceGone.

        Returns what was there, for the caller to let go of. For a dict that is looked up by a name, which now means nothing, or
        another one.
        """
        return self._shared.drop()

    def reshape(self, stripes: int) -> None:
        """Spread the entries over this many stripes. Writers wait meanwhile, readers don't.

        The policy starts with the entries in the order in which they came, and knows which were hit.
        """
        self._shared.reshape(stripes)

    def set_policy(self, policy: str) -> None:
        """Evict by this policy from now on. The entries stay, in the order of the one before."""
        self._shared.set_policy(policy)

    def set_limits(self, *, max_bytes: int | None, max_entries: int | None) -> None:
        """Keep at most so many bytes and entries from now on, None: as many as there is memory for.

        What is too much is evicted before this returns; where the policy is `none` it stays, and
        nothing is added until there is room. ValueError for limits that are none.
        """
        self._shared.set_limits(max_bytes, max_entries)

    def sweep(self) -> Iterator[int]:
        """Remove what has expired in small steps: each yields how many entries went.

        Nothing depends on it but memory. A stripe where nothing is due costs a look; in a step its lock is
        held for at most 64 entries.
        """
        for stripe in self._table[0]:
            while stripe.data is not None and stripe.deadlines.has_due(self._monotonic()):
                gone = self._sweep_step(stripe)
                yield len(gone)
                del gone

    def _sweep_step(self, stripe: Stripe[K, V]) -> list[Record[V]]:
        with stripe.held_for("sweep"):
            return stripe.expire_due(self._monotonic(), self._growth, self._room.quota)

    def snapshot(self) -> Mapping[K, Entry[V]]:
        """Return all entries of one instant. Writers wait while the stripes' dicts are copied."""
        return self._shared.snapshot()

    def totals(self) -> tuple[int, int]:
        """Return the number of entries and their bytes, both of one instant."""
        return self._shared.totals()

    def statistics(self) -> StripedStatistics:
        """Return the numbers that are kept anyway. Takes no lock."""
        return self._shared.statistics()

    def pulse(self) -> StripedPulse:
        """Return sums of those numbers, for who asks often. Takes no lock."""
        return self._shared.pulse()

    def stripe_waits(self) -> list[StripeWaits]:
        """Return the waits of each stripe that there is now. Takes no lock."""
        return self._shared.stripe_waits()

    def last_waits(self) -> list[tuple[int, int, float]]:
        """Return stripe, nanoseconds and time since 1970 of the latest wait of each that had one. Takes no lock."""
        return self._shared.last_waits()

    def holds(self) -> dict[str, tuple[int, int]]:
        """Return how often the whole was held, and how many nanoseconds, by what for. Takes no lock."""
        return self._shared.gate.purposes()

    @property
    def room(self) -> Room[K, V]:
        """The limits, and who makes room: for dicts that share a budget."""
        return self._room

    def highest_version(self) -> int:
        """Return a version that no key here was ever above."""
        return self._shared.highest_version()

    def remade(self) -> int:
        """Return how often the dicts were exchanged, by `clear` and `reshape`."""
        return self._shared.remade

    def is_gone(self) -> bool:
        """Tell whether it was dropped."""
        return self._shared.gone

    # Inside.

    def _lock_stripe(self, key: K) -> tuple[Stripe[K, V], int]:
        """Return the key's stripe, locked, and the nanoseconds that this caller waited for locks."""
        waited = 0
        while True:
            stripes, mask = self._table
            stripe = stripes[hash((key,)) >> SHIFT & mask]
            waited += stripe.take()
            if stripe.data is not None:
                return stripe, waited
            stripe.release()
            try:
                self._shared.check_there()
            except NamespaceGone:
                if waited:
                    self._sampler.waited(key, waited)
                raise

    def _live_locked(
        self, stripe: Stripe[K, V], key: K, now: float
    ) -> tuple[Entry[V] | None, Entry[V] | None]:
        """Return the key's entry, and the one that was removed because its time is up.

        The caller keeps the latter until the lock is released: freeing a large value takes time.
        """
        return stripe.live(key, now, self._growth, self._room.quota)

    def _remove_locked(self, stripe: Stripe[K, V], key: K, slot: int) -> None:
        less = 0
        if self._growth is not None:
            less = self._growth(key, stripe.entries()[key], None)
        stripe.remove(key, slot, less)
        quota = self._room.quota
        if quota is not None:
            quota.take(less, -1, stripe.number, True)
