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
every operation costs them an atomic reference count. What an operation on one key executes is compiled, in
`way.pyx`; here is what is done seldom. Where the dicts of the stripes are exchanged
(`clear`, `reshape`), and while several keys change at once (`transaction`), readers are first diverted to
the locks: one that began before may still return what was there then, one that begins later waits
and sees what is there after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Self, overload

from cacheserver.clock import Clock
from cacheserver.store.budget import Budget
from cacheserver.store.counts import Counts
from cacheserver.store.entry import VALUE, VERSION, Entry, Record
from cacheserver.store.heat import Sampler
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Put, Refused, Written
from cacheserver.store.record import deadline_of, unpack
from cacheserver.store.room import Neighbour, Room
from cacheserver.store.shared import Bury, Shared, StripedPulse, StripedStatistics, StripeWaits
from cacheserver.store.stripe import Contents, Growth, Stripe
from cacheserver.store.transaction import transact
from cacheserver.store.way import Way

DEFAULT_STRIPES: Final = 64

_ABSENT: Final = object()


def _growth_by[K, V](cost: Callable[[K, Entry[V]], int]) -> Growth[K, V]:
    def growth(key: K, old: Record[V] | None, new: Record[V] | None) -> int:
        return (cost(key, unpack(new)) if new else 0) - (cost(key, unpack(old)) if old else 0)

    return growth


class StripedDict[K, V](Way[K, V]):
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

    __slots__ = ("__weakref__",)

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
        self._lead(shared, Counts(2), Sampler())

    def view(self, counts: Counts | None = None, sampler: Sampler | None = None) -> Self:
        """Return the same dict through objects of its own: make one in each busy thread.

        Reads through it that find the key are added to `counts[0]`, others to `counts[1]`. `sampler` is told
        of those that are due, and of waits.
        """
        cls = type(self)
        view = cls.__new__(cls)
        view._lead(self._shared, Counts(2) if counts is None else counts, sampler or Sampler())
        return view

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

    # Writing: the lock of one stripe. `put`, `delete` and `touch` are those of `Way`.

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
        return transact(self._shared, self._sampler, writes, conditions or {})

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
        for stripe in self._shared.table.stripes:
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
