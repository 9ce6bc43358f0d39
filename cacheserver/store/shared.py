"""What all views of one StripedDict share: the stripes, and what concerns all of them at once.

Whoever has the gate has the lock of every stripe. Where the dicts of the stripes are exchanged, and while
several keys change at once, readers without locks are first diverted to the locks: one that began before may
still return what was there then, one that begins later waits and sees what is there after.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from time import perf_counter_ns
from typing import Any, Final, NamedTuple

from cacheserver.clock import Clock
from cacheserver.errors import NamespaceGone
from cacheserver.store.budget import REASONS, Budget, Reason
from cacheserver.store.entry import DEADLINE, Entry, Record
from cacheserver.store.eviction.policy import check_policy, make_policy
from cacheserver.store.heat import Sampler
from cacheserver.store.locks import LockStatistics, Slot, WriteGate
from cacheserver.store.record import deadline_of, pack, slot_of, unpack, with_slot
from cacheserver.store.room import Neighbour, Room
from cacheserver.store.stripe import NO_EVICTIONS, Contents, Growth, Stripe
from cacheserver.store.way import MAX_STRIPES, Way, stripe_number

type Bury = Callable[[list[Contents[Any, Any]], bool], None]
"""Has what nobody needs freed; told whether the entries were moved elsewhere."""


def check_stripes(stripes: int) -> None:
    """Raise ValueError unless `stripes` is a power of two from 1 to MAX_STRIPES."""
    if not 1 <= stripes <= MAX_STRIPES or stripes & (stripes - 1):
        raise ValueError(f"stripes must be a power of two from 1 to {MAX_STRIPES}, not {stripes}")


@dataclass(frozen=True, slots=True)
class StripedStatistics:
    """Numbers of a StripedDict: each stripe's as of one instant, not all of the same one."""

    entries: int
    bytes: int
    expirations: int
    evictions: dict[Reason, int]
    """Entries that went to make room, by the limit that was in the way."""
    stripe_lock: LockStatistics
    namespace_read: LockStatistics
    namespace_write: LockStatistics


class StripeWaits(NamedTuple):
    """How often a stripe's lock was taken, and what writers waited for one another."""

    stripe: int
    acquisitions: int
    contended: int
    nanoseconds: int


class StripedPulse(NamedTuple):
    """The sums in `StripedStatistics`, for who asks often. Waits and holds in nanoseconds."""

    evictions: int
    expirations: int
    entries: int
    bytes: int
    acquisitions: int
    """Of stripes' locks."""
    stripe_contended: int
    stripe_ns: int
    read_contended: int
    """Of those acquisitions, the ones that waited for whoever held the whole."""
    read_ns: int
    write_contended: int
    """Of who wanted the whole."""
    write_ns: int
    write_holds: int
    """How often the whole was held."""
    write_hold_ns: int


class _Past(NamedTuple):
    """What stripes have counted."""

    expirations: int
    evictions: dict[Reason, int]
    stripe_lock: LockStatistics
    namespace_read: LockStatistics


class _Table[K, V](NamedTuple):
    """The stripes, and what a key's hash is cut with to find its own."""

    stripes: tuple[Stripe[K, V], ...]
    mask: int
    past: _Past
    """What stripes that were retired long ago had counted."""
    before: tuple[tuple[Stripe[K, V], ...], ...]
    """The stripes before these, and those before: some may still wait for their locks, and count that."""


_NONE: Final = _Past(0, dict.fromkeys(REASONS, 0), LockStatistics(), LockStatistics())


def _count(tables: Iterable[Iterable[Stripe[Any, Any]]], before: _Past) -> _Past:
    """Add up what stripes have counted, and what others had before."""
    stripes = Slot.used(chain.from_iterable(tables))
    evictions = _evictions(stripes)
    stripe_lock, namespace_read = Slot.totals(stripes)
    return _Past(
        before.expirations + sum([stripe.expirations for stripe in stripes]),
        {
            reason: before.evictions[reason] + sum(map(itemgetter(reason), evictions))
            for reason in REASONS
        },
        before.stripe_lock + stripe_lock,
        before.namespace_read + namespace_read,
    )


def _evictions(stripes: Iterable[Stripe[Any, Any]]) -> list[Mapping[Reason, int]]:
    return [each for stripe in stripes if (each := stripe.evictions) is not NO_EVICTIONS]


class Snapshot[K, V](Mapping[K, Entry[V]]):
    """The entries of one instant. It doesn't change; each entry is made when it is asked for."""

    def __init__(self, copies: list[dict[K, Record[V]]], now: float) -> None:
        self._copies = copies
        self._mask = len(copies) - 1
        self._now = now

    def __getitem__(self, key: K) -> Entry[V]:
        entry = unpack(self._copies[stripe_number(key, self._mask)][key])
        if entry[DEADLINE] and entry[DEADLINE] <= self._now:
            raise KeyError(key)
        return entry

    def __iter__(self) -> Iterator[K]:
        now = self._now
        for copy in self._copies:
            for key, record in copy.items():
                deadline = deadline_of(record)
                if not deadline or deadline > now:
                    yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Shared[K, V]:
    """The stripes of one StripedDict. Nothing here is touched to read a key."""

    def __init__(
        self,
        stripes: int,
        *,
        clock: Clock,
        growth: Growth[K, V] | None,
        budget: Budget | None,
        max_bytes: int | None,
        max_entries: int | None,
        policy: str,
        first_version: int,
        packed: bool,
        neighbour: Neighbour | None,
        bury: Bury | None,
    ) -> None:
        check_stripes(stripes)
        check_policy(policy)
        self.gate = WriteGate("namespace_")
        self.clock = clock
        self.packed = packed
        self._bury = bury
        self.room: Room[K, V] = Room(growth, budget, neighbour)
        self.room.limit(max_bytes, max_entries)
        # Replaced by who has the gate:
        self.policy = policy
        self.gone = False
        self.remade = 0  # times that the dicts were exchanged
        version = max(int(clock.wall() * 1e6), first_version)
        self.table = self._new_table(stripes, version, _NONE)
        self.room.stripes = self.table.stripes
        # Guards what follows, and what each view reads with:
        self.views_lock = threading.Lock()
        self.views: list[tuple[weakref.ref[Way[K, V]], list[bytearray]]] = []
        self.dead_marks: list[list[bytearray]] = []  # of views that are no more, to be dropped
        self.diverted = 0  # who wants readers to take the locks now

    def record(self, entry: Entry[V]) -> Record[V]:
        """Return the record of an entry."""
        return pack(*entry) if self.packed else entry

    def check_there(self) -> None:
        """Raise NamespaceGone if the dict was dropped."""
        if self.gone:
            raise NamespaceGone("this dict was dropped")

    def read_locked(self, key: K, sampler: Sampler) -> Entry[V] | None:
        """Return the key's entry, or None, as of an instant at which its stripe's lock is held."""
        while True:
            table = self.table
            stripe = table.stripes[stripe_number(key, table.mask)]
            waited = 0
            try:
                with stripe.held_for("read") as waited:
                    if stripe.data is not None:
                        now = self.clock.monotonic()
                        entry, _expired = stripe.live(key, now, self.room.growth, self.room.quota)
                        return entry
            finally:
                if waited:
                    sampler.waited(key, waited)
            self.check_there()

    # Views

    def attach(self, view: Way[K, V]) -> None:
        """Tell this view from now on when the dicts change."""
        with self.views_lock:
            view.bind(None)
            self._living_views_locked()
            self.views.append((weakref.ref(view), view.marks))
            dead, self.dead_marks = self.dead_marks, []
            stripes = self.table.stripes
        for all_marks in dead:
            for stripe, marks in zip(stripes, all_marks, strict=False):
                if marks:
                    with stripe:
                        stripe.slots.drop_marks(marks)

    def divert(self) -> None:
        """Have all readers take the stripes' locks, until as many call `restore`."""
        with self.views_lock:
            self.diverted += 1
            if self.diverted == 1:
                self._divert_locked()

    def restore(self) -> None:
        """Have readers do without locks again, if nobody else wants otherwise."""
        with self.views_lock:
            self.diverted -= 1
            if not self.diverted:
                for view in self._living_views_locked():
                    view.read_freely()

    def _divert_locked(self) -> None:
        for view in self._living_views_locked():
            view.divert()

    def _bind_locked(self, keep_marks: bool) -> None:
        """Have all views read from the dicts that there are now."""
        views = self._living_views_locked()
        for view in views:
            view.bind(view.marks if keep_marks else None)
        self.views = [(weakref.ref(view), view.marks) for view in views]

    def _living_views_locked(self) -> list[Way[K, V]]:
        living = []
        views, self.views = self.views, []
        for reference, marks in views:
            view = reference()
            if view is None:
                self.dead_marks.append(marks)
            else:
                living.append(view)
                self.views.append((reference, marks))
        return living

    # The whole: all locks, in ascending order.

    def clear(self) -> int:
        """Delete everything at one instant. Returns how many entries went."""
        while True:
            table = self.table
            empty: list[Contents[K, V]] = [Contents(self.policy) for _ in table.stripes]
            old: list[Contents[K, V]] = []
            with self.gate.held_for("clear"):
                self.check_there()
                if table is not self.table or empty[0].policy.name != self.policy:
                    continue
                entries, size = self.room.totals()
                with self.views_lock:
                    self._divert_locked()
                    for stripe, contents in zip(table.stripes, empty, strict=True):
                        old.append(stripe.contents())
                        stripe.fill(contents)
                        stripe.bytes = 0
                    self._bind_locked(keep_marks=False)
                    self.dead_marks.clear()
                    self.remade += 1
                self.room.give_back(size, entries)
            self._let_go(old, moved=False)
            return entries

    def drop(self) -> list[Contents[K, V]]:
        """Delete everything and be no more: from now on every operation raises NamespaceGone.

        Returns what was there, for the caller to let go of.
        """
        with self.gate.held_for("drop"):
            self.check_there()
            entries, size = self.room.totals()
            table = self.table
            stripes = table.stripes
            old = [stripe.contents() for stripe in stripes]
            past = _count((stripes[1:], *table.before), table.past)
            self.gone = True
            with self.views_lock:
                self.diverted += 1  # for ever: under the lock readers find that it is gone
                self._divert_locked()
                nothing: Contents[K, V] = Contents("none")
                highest = self.highest_version()
                for stripe in stripes:
                    stripe.retire(nothing)
                # What still looks at this keeps one stripe only.
                stripes[0].version = highest
                self.table = _Table(stripes[:1], 0, past, ())
                self.room.stripes = self.table.stripes
                self._bind_locked(keep_marks=False)
                self.dead_marks.clear()
            self.room.give_back(size, entries)
        # The stripes know the gate, and it them no more: what refers to itself would have to wait for the
        # garbage collector.
        self.gate.exchange(stripes, ())
        return old

    def reshape(self, stripes: int) -> None:
        """Spread the entries over this many stripes. Writers wait meanwhile, readers don't."""
        check_stripes(stripes)
        garbage: list[Contents[K, V]] = []  # freed when all locks are released
        with self.gate.held_for("reshape"):
            self.check_there()
            old = self.table
            if len(old.stripes) == stripes:
                return
            version = max(stripe.version for stripe in old.stripes)
            past = _count(old.before[1:], old.past)
            before = old.stripes, *old.before[:1]
            new = self._new_table(stripes, version, past, before)
            try:
                self._move(old, new)
            except BaseException:
                self.gate.exchange(new.stripes, ())
                raise
            with self.views_lock:
                self._divert_locked()
                self.table = new
                self.room.stripes = new.stripes
                self._bind_locked(keep_marks=False)
                self.dead_marks.clear()
                self.remade += 1
                nothing: Contents[K, V] = Contents("none")
                for stripe in old.stripes:
                    garbage.append(stripe.contents())
                    stripe.retire(nothing)
            self.gate.exchange(old.stripes, new.stripes)
        self._let_go(garbage, moved=True)

    def set_policy(self, policy: str) -> None:
        """Evict by this policy from now on. The entries stay, in the order of the one before."""
        check_policy(policy)
        with self.gate.held_for("policy"), self.views_lock:
            self.check_there()
            if policy == self.policy:
                return
            self.policy = policy
            for stripe in self.table.stripes:
                new = make_policy(policy, stripe.slots, stripe.deadlines)
                new.adopt(stripe.policy)
                stripe.policy = new
            self._bind_locked(keep_marks=True)

    def set_limits(self, max_bytes: int | None, max_entries: int | None) -> None:
        """Keep at most so many bytes and entries from now on, and evict what is too much."""
        with self.gate.held_for("limits"):
            self.check_there()
            self.room.limit(max_bytes, max_entries)
        self.room.trim()

    def snapshot(self) -> Snapshot[K, V]:
        """Return all entries of one instant. Writers wait while the dicts are copied."""
        with self.gate.held_for("snapshot"):
            self.check_there()
            now = self.clock.monotonic()
            copies = [stripe.entries().copy() for stripe in self.table.stripes]
        return Snapshot(copies, now)

    def totals(self) -> tuple[int, int]:
        """Return the number of entries and their bytes, both of one instant."""
        with self.gate.held_for("totals"):
            return self.room.totals()

    def statistics(self) -> StripedStatistics:
        """Return the numbers that are kept anyway. Takes no lock."""
        table = self.table
        counted = _count((table.stripes, *table.before), table.past)
        entries, size = self.room.totals()
        return StripedStatistics(
            entries=entries,
            bytes=size,
            expirations=counted.expirations,
            evictions=counted.evictions,
            stripe_lock=counted.stripe_lock,
            namespace_read=counted.namespace_read,
            namespace_write=self.gate.statistics(),
        )

    def pulse(self) -> StripedPulse:
        """Return the sums of the numbers that are kept anyway. Takes no lock."""
        table = self.table
        stripes, past = Slot.used(chain(table.stripes, *table.before)), table.past
        evictions = sum([sum(each.values()) for each in _evictions(stripes)])
        acquisitions, waits, nanoseconds, queued, queued_nanoseconds = Slot.sums(stripes)
        return StripedPulse(
            evictions + sum(past.evictions.values()),
            sum([stripe.expirations for stripe in stripes]) + past.expirations,
            *self.room.totals(),
            acquisitions + past.stripe_lock.acquisitions,
            waits + past.stripe_lock.waits.count,
            nanoseconds + round(past.stripe_lock.waits.seconds * 1e9),
            queued + past.namespace_read.waits.count,
            queued_nanoseconds + round(past.namespace_read.waits.seconds * 1e9),
            *self.gate.sums(),
        )

    def stripe_waits(self) -> list[StripeWaits]:
        """Return the waits of each stripe that there is now. Takes no lock."""
        stripes = self.table.stripes
        return [StripeWaits(stripe.number, *Slot.sums((stripe,))[:3]) for stripe in stripes]

    def last_waits(self) -> list[tuple[int, int, float]]:
        """Return stripe, nanoseconds and time since 1970 of each stripe's latest wait. Takes no lock."""
        wall, now = self.clock.wall(), perf_counter_ns()
        waits = [(stripe.number, *stripe.last_wait()) for stripe in self.table.stripes]
        return [
            (number, waited, wall - (now - end) / 1e9) for number, waited, end in waits if waited
        ]

    def highest_version(self) -> int:
        """Return a version that no key here was ever above."""
        return max(stripe.version for stripe in self.table.stripes)

    def _let_go(self, contents: list[Contents[K, V]], moved: bool) -> None:
        """Have contents freed: by somebody else, or else when the caller returns, and so without a lock."""
        if self._bury is not None:
            self._bury(contents, moved)

    def _new_table(
        self,
        stripes: int,
        version: int,
        past: _Past,
        before: tuple[tuple[Stripe[K, V], ...], ...] = (),
    ) -> _Table[K, V]:
        made = (
            Stripe[K, V](self.gate, number, version, Contents(self.policy), self.room.quota)
            for number in range(stripes)
        )
        return _Table(tuple(made), stripes - 1, past, before)

    def _move(self, old: _Table[K, V], new: _Table[K, V]) -> None:
        """Put what these stripes hold into new ones, which nobody else knows yet.

        A loop over all entries, while writers wait: what it needs is in locals.
        """
        mask, growth, now = new.mask, self.room.growth, self.clock.monotonic()
        targets = [
            (to, to.entries(), to.slots.allocate, to.policy.add, to.deadlines.add)
            for to in new.stripes
        ]
        for stripe in old.stripes:
            marks = stripe.slots.marks
            for key, record in stripe.entries().items():
                to, data, allocate, add, note = targets[stripe_number(key, mask)]
                slot = allocate(key)
                old_slot = slot_of(record)
                moved = with_slot(record, slot)
                data[key] = moved
                add(slot)
                if growth is not None:
                    to.bytes += growth(key, None, moved)
                deadline = deadline_of(record)
                if deadline:
                    note(slot, deadline, max(0.0, deadline - now))
                for mark in marks:
                    if old_slot < len(mark) and mark[old_slot]:
                        to.policy.touched(slot)
                        break
