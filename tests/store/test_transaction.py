"""Several keys at one instant: all or nothing, seen by nobody in between, without deadlock."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cacheserver.errors import InvalidTTL, NamespaceGone, NeverFits, StoreFull
from cacheserver.store.entry import (
    CONTENT_TYPE,
    DEADLINE,
    DEFAULT_CONTENT_TYPE,
    KEEP,
    NEVER,
    VALUE,
    VERSION,
    Entry,
)
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
from cacheserver.store.striped import StripedDict
from tests.conftest import Maker
from tests.support.clock import ManualClock
from tests.support.inside import keys_of_stripe, locks_of, stripes_of, turnstile_of
from tests.support.linearizability import DELETED, Operation, Recorder, check_linearizable
from tests.support.outcomes import written
from tests.support.threads import (
    Gate,
    Running,
    call_before,
    eventually,
    frequent_switches,
    run_threads,
    start,
)

type Dict = StripedDict[Any, Any]


@pytest.fixture
def entries(make: Maker, stripes: int) -> Dict:
    """An empty dict, once with one stripe and once with many."""
    return make.striped(stripes)


@pytest.fixture
def keys(make: Maker) -> list[str]:
    """Of a dict with eight stripes a key of each, in the stripes' order."""
    return [keys_of_stripe(make.striped(8), number, 1)[0] for number in range(8)]


def entry_of(entries: Dict, key: object) -> Entry[Any]:
    entry = entries.read(key)
    assert entry is not None
    return entry


# What it does


def test_transaction_writes_and_deletes(entries: Dict, clock: ManualClock) -> None:
    """Each key gets its outcome, as if written or deleted alone, with a version of its own."""
    old = {key: written(entries.put(key, "old")).version for key in range(10)}
    outcome = entries.transaction(
        {
            **{key: Put(f"new {key}") for key in range(5)},
            **dict.fromkeys(range(5, 10)),
            "mortal": Put("m", 5, "text/plain"),
            "made": Put("made"),
            "missing": None,
        }
    )
    assert isinstance(outcome, dict)
    assert outcome.pop("missing") == Missing()
    for key in range(5):
        assert outcome.pop(key) == Written(entry_of(entries, key)[VERSION], False)
        assert entry_of(entries, key)[VERSION] > old[key]
        assert entries[key] == f"new {key}"
    for key in range(5, 10):
        deleted = outcome.pop(key)
        assert isinstance(deleted, Deleted)
        assert deleted.version > old[key]
        assert key not in entries
    assert outcome == {
        "mortal": Written(entry_of(entries, "mortal")[VERSION], True),
        "made": Written(entry_of(entries, "made")[VERSION], True),
    }
    mortal, made = entry_of(entries, "mortal"), entry_of(entries, "made")
    assert (mortal[DEADLINE], mortal[CONTENT_TYPE]) == (clock.monotonic() + 5, "text/plain")
    assert (made[DEADLINE], made[CONTENT_TYPE]) == (NEVER, DEFAULT_CONTENT_TYPE)
    clock.advance(5)
    assert set(entries) == {*range(5), "made"}
    clock.advance(1)
    sum(entries.sweep())
    assert entries.statistics().expirations == 1


def test_transaction_of_nothing_does_nothing(entries: Dict) -> None:
    """Without keys there is nothing to do; with conditions alone it tells whether they hold."""
    assert entries.transaction({}) == {}
    assert entries.transaction({}, {"k": Condition.version(0)}) == {}
    version = written(entries.put("k", 1)).version
    assert entries.transaction({}, {"k": Condition.version(version)}) == {}
    assert entries.transaction({}, {"k": Condition.version(0)}) == Refused(
        {"k": entry_of(entries, "k")}
    )


def test_refused_transaction_tells_each_conflict_and_changes_nothing(
    entries: Dict, clock: ManualClock
) -> None:
    """Of the conditions those that failed are told with what is there; the others aren't."""
    versions = {key: written(entries.put(key, "v")).version for key in "abcd"}
    entries.put("expired", "v", ttl=5)
    clock.advance(5)
    before = (entries.snapshot(), entries.totals())
    outcome = entries.transaction(
        {"a": Put("w"), "b": None, "x": Put("w"), "expired": Put("w")},
        {
            "a": Condition.version(versions["a"]),
            "b": Condition.version(versions["b"] + 1),
            "c": Condition(must_be_absent=True),
            "d": Condition(must_exist=True),
            "x": Condition(must_exist=True),
            "y": Condition.version(0),
            "expired": Condition.version(7),
        },
    )
    assert outcome == Refused(
        {
            "b": entry_of(entries, "b"),
            "c": entry_of(entries, "c"),
            "x": None,
            "expired": None,
        }
    )
    assert (entries.snapshot(), (len(entries), 0)) == (before[0], (4, 0))


@pytest.mark.parametrize("ttl", [-1.0, float("nan"), 1e12])
def test_bad_ttl_is_refused_before_anything_changes(entries: Dict, ttl: float) -> None:
    """One wish with a ttl that is none spoils the whole."""
    with pytest.raises(InvalidTTL):
        entries.transaction({"a": Put(1), "b": Put(1, ttl)})
    assert not entries


def test_key_whose_hash_fails_is_refused_before_anything_changes(entries: Dict) -> None:
    """What a key's `__hash__` raises goes out, with no lock held and nothing written."""

    class Rude:
        rude = False

        def __hash__(self) -> int:
            if self.rude:
                raise ZeroDivisionError
            return 7

    key = Rude()
    writes: dict[Any, Put[Any] | None] = {"a": Put(1), key: Put(1), "b": Put(1)}
    key.rude = True
    with pytest.raises(ZeroDivisionError):
        entries.transaction(writes)
    assert not entries


def test_failing_cost_changes_nothing(make: Maker, stripes: int) -> None:
    """What the cost function raises for one key goes out, with all keys as they were."""

    def cost(_key: object, entry: Entry[int]) -> int:
        if entry[VALUE] < 0:
            raise ZeroDivisionError
        return entry[VALUE]

    entries = make.striped(stripes, cost=cost, max_bytes=1_000, policy="fifo")
    entries["a"] = 5
    before = (entries.snapshot(), entries.totals(), entries.highest_version())
    with pytest.raises(ZeroDivisionError):
        entries.transaction({"a": Put(6), "b": Put(7), "c": Put(-1), "d": Put(8)})
    assert (entries.snapshot(), entries.totals(), entries.highest_version()) == before


def test_transaction_that_only_its_own_keys_leave_no_room_for_is_refused(
    make: Maker, stripes: int
) -> None:
    """Where what its conditions are on holds the room, to try again is no use, and it says so."""
    entries = make.striped(
        stripes, cost=lambda _key, entry: entry[VALUE], max_bytes=20, policy="sieve"
    )
    entries["a"] = 14
    with pytest.raises((StoreFull, NeverFits)):
        entries.transaction({"b": Put(7)}, {"a": Condition(must_exist=True)})
    assert entries.totals() == (1, 14)
    assert isinstance(entries.transaction({"b": Put(6)}, {"a": Condition(must_exist=True)}), dict)


def test_kept_deadlines(entries: Dict, clock: ManualClock) -> None:
    """KEEP leaves what has a deadline that one, and what has none, or isn't there, none."""
    for key, ttl in (("mortal", 10), ("immortal", 0), ("expired", 1)):
        entries.put(key, "old", ttl=ttl)
    deadline = clock.monotonic() + 10
    clock.advance(5)
    names = ["mortal", "immortal", "expired", "new"]
    assert isinstance(entries.transaction({name: Put("t", KEEP) for name in names}), dict)
    assert [entry_of(entries, name)[DEADLINE] for name in names] == [deadline, 0, 0, 0]
    for name in names:
        entries.put(name, "p", ttl=KEEP)
    assert [entry_of(entries, name)[DEADLINE] for name in names] == [deadline, 0, 0, 0]
    clock.set(deadline)
    assert "mortal" not in entries
    assert written(entries.put("mortal", "p", ttl=KEEP)).created
    assert entry_of(entries, "mortal")[DEADLINE] == NEVER


def test_touch_changes_the_deadline_alone(entries: Dict, clock: ManualClock) -> None:
    """The version stays, and value and content type; what isn't there, or not so, is told."""
    first = written(entries.put("k", "v", content_type="text/plain"))
    assert entries.touch("k", 10) == Touched(first.version)
    assert entry_of(entries, "k")[:4] == ("v", first.version, clock.monotonic() + 10, "text/plain")
    assert entries.touch("k", 20, condition=Condition.version(first.version)) == Touched(
        first.version
    )
    conflict = entries.touch("k", 1, condition=Condition.version(first.version + 1))
    assert conflict == Conflict(entry_of(entries, "k"))
    clock.advance(19)
    assert "k" in entries
    assert entries.touch("k", 0) == Touched(first.version)
    clock.advance(1e6)
    assert entry_of(entries, "k")[DEADLINE] == NEVER
    entries.touch("k", 5)
    clock.advance(5)
    assert entries.touch("k", 5) == Missing()
    assert entries.touch("k", 5, condition=Condition(must_exist=True)) == Conflict(None)
    assert entries.touch("never", 5) == Missing()
    for ttl in (-1, float("nan"), 1e12):
        with pytest.raises(InvalidTTL):
            entries.touch("k", ttl)
    assert entries.statistics().expirations == 1


class Watchful:
    """A value that, when it is freed, tells which locks of its dict are held."""

    def __init__(self, entries: Dict, freed: list[list[str]]) -> None:
        self.entries = entries
        self.freed = freed

    def __del__(self) -> None:
        self.freed.append([n for n, locked in locks_of(self.entries).items() if locked()])


@pytest.mark.parametrize("what", ["overwritten", "deleted", "expired", "refused", "kept"])
def test_values_are_freed_outside_the_locks(entries: Dict, clock: ManualClock, what: str) -> None:
    """What a transaction replaces, removes, finds expired or doesn't write is freed without a lock."""
    freed: list[list[str]] = []
    ttl = 5 if what in {"expired", "kept"} else 0
    entries.put("k", Watchful(entries, freed), ttl=ttl)
    clock.advance(5 if what == "expired" else 0)
    match what:
        case "deleted":
            entries.transaction({"k": None, "l": Put(1)})
        case "refused":
            entries.transaction({"k": Put(Watchful(entries, freed))}, {"k": Condition.version(7)})
            entries.clear()
        case "kept":
            entries.transaction({"k": Put(1, KEEP)})
        case _:
            entries.transaction({"k": Put(1), "l": Put(1)})
    gc.collect()
    assert freed == [[]] * (2 if what == "refused" else 1)


def test_namespace_counts_what_a_transaction_did(make: Maker) -> None:
    """Each key written or deleted is a write, each that failed its condition a conflict."""
    things = make.namespace()
    things.transaction({"a": Put(b"1"), "b": Put(b"2"), "none": None})
    things.transaction({"a": Put(b"1"), "b": None}, {"a": Condition.version(1), "b": Condition()})
    things.transaction({"a": None, "b": None})
    now = things.statistics()
    assert (now.writes, now.cas_conflicts) == (4, 1)


# Seen by nobody in between


def test_half_of_a_transaction_is_seen_by_nobody(make: Maker, keys: list[str]) -> None:
    """While it has written one key and others not, no reader shows new and old side by side."""
    entries = make.striped(8)
    writing = Recorder(entries.view())
    writing.transaction(dict.fromkeys(keys, "old"))
    with Gate() as gate:
        call_before(stripes_of(entries)[4], "put", gate)
        running = start(lambda: writing.transaction(dict.fromkeys(keys, "new")))
        gate.arrived()
        readers = [Recorder(entries.view()) for _ in range(3)]

        def read(recorder: Recorder, order: list[str]) -> None:
            for key in order:
                recorder.read(key)

        orders = [keys, keys[::-1], keys[4:] + keys[:4]]
        reading = [
            start(lambda r=r, o=o: read(r, o))  # type: ignore[misc]
            for r, o in zip(readers, orders, strict=True)
        ]
        late = entries.view()  # made in the middle
        lately = start(lambda: [late.get(key) for key in keys])
        snapshot = start(entries.snapshot)
        eventually(lambda: turnstile_of(entries).taken(), "the snapshot wants the whole")
        assert not any(one.done for one in (*reading, lately, snapshot))
    running.result()
    for one in reading:
        one.result()
    assert lately.result() == ["new"] * 8
    assert {entry[VALUE] for entry in snapshot.result().values()} == {"new"}
    check_linearizable(o for r in (writing, *readers) for o in r.operations)


def test_readers_go_on_without_locks_afterwards(make: Maker, keys: list[str]) -> None:
    """When two transactions at once have ended readers take no lock any more, and not before."""
    entries = make.striped(8)
    first, second = Gate(), Gate()
    with first, second:
        call_before(stripes_of(entries)[0], "put", first)
        call_before(stripes_of(entries)[7], "put", second)
        one = start(lambda: entries.transaction({keys[0]: Put(1)}))
        other = start(lambda: entries.transaction({keys[7]: Put(1)}))
        first.arrived()
        second.arrived()
        first.open()
        one.result()
        reader = start(lambda: entries.view().get(keys[7]))
        other_keys = start(lambda: entries.view().get(keys[3]))
        assert other_keys.result() is None
        assert not reader.done, "it has to wait for the second one"
    other.result()
    assert reader.result() == 1
    before = entries.statistics().stripe_lock.acquisitions
    assert entries.get(keys[0]) == entries.view().get(keys[7]) == 1
    assert entries.statistics().stripe_lock.acquisitions == before


def test_reader_that_began_before_may_see_what_was_there(make: Maker, keys: list[str]) -> None:
    """A read that overlaps a transaction gives the old or the new, whichever explains all reads."""
    entries = make.striped(8)
    writing, early, late = (Recorder(entries.view()) for _ in range(3))
    writing.transaction({keys[1]: "old", keys[6]: "old"})
    with Gate() as gate:

        class SlowKey(str):
            """Its hash, computed when the reader has chosen how to read, stops at the gate."""

            __slots__ = ()

            def __hash__(self) -> int:
                gate.wait()
                return str.__hash__(self)

            __eq__ = str.__eq__

        def read() -> None:
            early._entries.read(keys[0])
            early.read(SlowKey(keys[6]))
            early.read(keys[1])

        reader = start(read)
        gate.arrived()
        writing.transaction({keys[1]: "new", keys[6]: "new"})
        late.read(keys[1])
        late.read(keys[6])
    reader.result()
    assert early.operations[-1].result[0] == "new"
    gate.open()
    check_linearizable(o for r in (writing, early, late) for o in r.operations)


def test_transfer_keeps_the_sum(make: Maker, stripes: int) -> None:
    """Amounts moved from key to key by many threads add up whenever somebody looks at all of them."""
    entries = make.striped(stripes)
    accounts = list(range(6))
    for account in accounts:
        entries[account] = 100
    stop = threading.Event()

    def move(number: int) -> int:
        view = entries.view()
        chance = random.Random(number)
        moved = 0
        while moved < 120:
            one, other = chance.sample(accounts, 2)
            here, there = entry_of(view, one), entry_of(view, other)
            outcome = view.transaction(
                {one: Put(here[VALUE] - 1), other: Put(there[VALUE] + 1)},
                {one: Condition.version(here[VERSION]), other: Condition.version(there[VERSION])},
            )
            moved += isinstance(outcome, dict)
        return moved

    def watch() -> None:
        view = entries.view()
        while not stop.is_set():
            assert sum(entry[VALUE] for entry in view.snapshot().values()) == 600
            seen = {account: entry_of(view, account) for account in accounts}
            same = view.transaction(
                {}, {key: Condition.version(entry[VERSION]) for key, entry in seen.items()}
            )
            if same == {}:
                assert sum(entry[VALUE] for entry in seen.values()) == 600

    def work() -> None:
        try:
            run_threads([lambda n=n: move(n) for n in range(3)])  # type: ignore[misc]
        finally:
            stop.set()

    with frequent_switches():
        run_threads([work, watch])
    assert sum(entries[account] for account in accounts) == 600


def test_pairs_are_equal_for_every_reader(make: Maker) -> None:
    """Of two keys that are always written together a reader never sees the second one behind the first.

    It reads the one that changes first, then the other: that is as new, or newer.
    """
    entries = make.striped(64)
    stop = threading.Event()
    entries.transaction({"a": Put(0), "b": Put(0)})

    def write() -> None:
        try:
            view = entries.view()
            for number in range(1, 600):
                view.transaction({"a": Put(number), "b": Put(number)})
        finally:
            stop.set()

    def read(first: str, second: str) -> None:
        view = entries.view()
        while not stop.is_set():
            one = view[first]
            assert view[second] >= one

    with frequent_switches():
        run_threads([write, lambda: read("a", "b"), lambda: read("b", "a")])


# Locks


def test_opposite_orders_do_not_deadlock(make: Maker, stripes: int) -> None:
    """Threads that name the same keys in opposite orders all come to an end."""
    entries = make.striped(stripes)
    keys = list(range(12))

    def work(number: int) -> None:
        view = entries.view()
        for turn in range(80):
            order = keys if number % 2 else keys[::-1]
            view.transaction({key: Put((number, turn)) for key in order})
            if number == 3 and turn % 20 == 0:
                view.snapshot()

    with frequent_switches():
        run_threads([lambda n=n: work(n) for n in range(4)])  # type: ignore[misc]
    assert len({entries[key] for key in keys}) == 1


@pytest.mark.parametrize("whole", ["snapshot", "clear", "reshape", "totals", "set_policy"])
def test_who_wants_the_whole_waits_for_a_transaction_that_has_a_part(
    make: Maker, keys: list[str], whole: str
) -> None:
    """A transaction that has one lock gets the others, though somebody who wants all is before them."""
    calls: dict[str, Callable[[Dict], object]] = {
        "snapshot": lambda entries: entries.snapshot(),
        "clear": lambda entries: entries.clear(),
        "reshape": lambda entries: entries.reshape(16),
        "totals": lambda entries: entries.totals(),
        "set_policy": lambda entries: entries.set_policy("lru"),
    }
    entries = make.striped(8)
    with Gate() as gate:
        call_before(stripes_of(entries)[5], "acquire_next", gate)
        transaction = start(
            lambda: entries.view().transaction({keys[0]: Put("t"), keys[5]: Put("t")})
        )
        gate.arrived()
        wanting = start(lambda: calls[whole](entries))
        eventually(lambda: turnstile_of(entries).taken(), "it waits for the first stripe")
        writer = start(lambda: entries.view().put(keys[5], "w"))
        eventually(lambda: turnstile_of(entries).waiting() == 1, "a writer queues behind it")
    assert isinstance(transaction.result(), dict)
    seen = wanting.result()
    writer.result()
    if whole == "snapshot":
        assert {key: entry[VALUE] for key, entry in seen.items()} == {  # type: ignore[attr-defined]
            keys[0]: "t",
            keys[5]: "t",
        }
    assert entries.get(keys[0]) == (None if whole == "clear" else "t")
    assert entries[keys[5]] == "w"


@pytest.mark.parametrize("many", [1, 2, 16])
def test_transaction_that_waits_for_a_change_of_stripes_goes_on_in_the_new_ones(
    make: Maker, keys: list[str], many: int
) -> None:
    """It finds its stripes retired, begins anew, and nothing of it is lost."""
    gate = Gate()

    def cost(_key: object, _entry: object) -> int:
        if threading.current_thread().name == "reshape":
            gate.wait()
        return 1

    entries = make.striped(8, cost=cost)
    view = entries.view()
    entries[keys[3]] = "old"
    with gate:
        changing = start(lambda: entries.reshape(many), "reshape")
        gate.arrived()
        transaction = start(lambda: view.transaction({key: Put("t") for key in keys}))
        eventually(lambda: turnstile_of(entries).waiting() == 1, "it queues")
    changing.result()
    outcome = transaction.result()
    assert isinstance(outcome, dict)
    created = [outcome[key].created for key in keys]  # type: ignore[union-attr]
    assert created == [key != keys[3] for key in keys]
    assert [entries[key] for key in keys] == ["t"] * 8


def test_transaction_of_a_dropped_dict_raises(make: Maker, keys: list[str]) -> None:
    """One that waits while the dict is dropped, and any later one, finds that it is gone."""
    entries = make.striped(8)
    view = entries.view()
    with Gate() as gate:
        call_before(stripes_of(entries)[7], "contents", gate)
        dropping = start(entries.drop)
        gate.arrived()
        waiting = start(lambda: view.transaction({key: Put("t") for key in keys}))
        eventually(lambda: turnstile_of(entries).waiting() == 1, "it queues")
    dropping.result()
    with pytest.raises(NamespaceGone):
        waiting.result()
    with pytest.raises(NamespaceGone):
        view.transaction({"k": None})


def test_interrupted_transaction_lets_go_of_its_locks(make: Maker, keys: list[str]) -> None:
    """An exception between two locks, as a signal may raise one, leaves none held and nothing written."""
    entries = make.striped(8)

    class Interrupt(BaseException):
        pass

    def interrupt() -> None:
        raise Interrupt

    call_before(stripes_of(entries)[5], "acquire_next", interrupt)
    with pytest.raises(Interrupt):
        entries.transaction({key: Put(1) for key in keys})
    assert not any(locked() for locked in locks_of(entries).values())
    assert not entries


# Histories


def yielding_cost(_key: object, _entry: object) -> int:
    """A cost that lets other threads run while locks are held."""
    time.sleep(0)
    return 1


@pytest.mark.parametrize("threads", [3, 5])
def test_histories_with_transactions_are_serializable(
    make: Maker, stripes: int, threads: int
) -> None:
    """Some order explains what threads saw that read, wrote, transacted and looked at the whole."""
    entries = make.striped(stripes, cost=yielding_cost)
    keys = ["a", "b", "c"]

    def work(recorder: Recorder, chance: random.Random, number: int) -> None:
        for turn in range(8):
            some = chance.sample(keys, chance.randrange(1, 4))
            value = (number, turn)
            match chance.randrange(10):
                case 0 | 1 | 2:
                    for key in some:
                        recorder.read(key)
                case 3:
                    recorder.write(some[0], value)
                case 4:
                    recorder.delete(some[0])
                case 5:
                    recorder.transaction(dict.fromkeys(some, value))
                case 6:
                    recorder.transaction({key: chance.choice([value, DELETED]) for key in some})
                case 7 | 8:
                    seen = {key: recorder.read(key) for key in some}
                    recorder.transaction(
                        {some[0]: value, some[-1]: chance.choice([value, DELETED])},
                        {key: entry[VERSION] if entry else 0 for key, entry in seen.items()},
                    )
                case _ if number == 0:
                    recorder.snapshot()
                case _ if number == 1:
                    recorder.clear()
                case _:
                    recorder.read(some[0])

    def one(number: int, seed: int) -> list[Operation]:
        recorder = Recorder(entries.view())
        work(recorder, random.Random(f"{seed} {number}"), number)
        return recorder.operations

    with frequent_switches():
        for seed in range(20):
            done = run_threads([lambda n=n: one(n, seed) for n in range(threads)])  # type: ignore[misc] # noqa: B023
            check_linearizable(operation for operations in done for operation in operations)
            entries.clear()


def test_histories_with_transactions_and_changes_of_stripes_are_serializable(make: Maker) -> None:
    """The same while somebody changes stripes and policy all the time."""
    entries = make.striped(2, cost=yielding_cost, policy="sieve")
    keys = ["a", "b", "c"]
    stop = threading.Event()

    def change() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            entries.reshape(2 ** (turn % 4))
            entries.set_policy(("sieve", "lru", "s3fifo", "lfu")[turn % 4])

    def one(number: int, seed: int) -> list[Operation]:
        recorder = Recorder(entries.view())
        chance = random.Random(f"{seed} {number}")
        for turn in range(8):
            some = chance.sample(keys, 2)
            match chance.randrange(4):
                case 0:
                    recorder.read(some[0])
                    recorder.read(some[1])
                case 1:
                    recorder.write(some[0], (number, turn))
                case 2:
                    recorder.transaction({some[0]: (number, turn), some[1]: DELETED})
                case _:
                    recorder.transaction(dict.fromkeys(some, (number, turn)))
        return recorder.operations

    changing: Running[None] = start(change)
    try:
        with frequent_switches():
            for seed in range(20):
                done = run_threads([lambda n=n: one(n, seed) for n in range(3)])  # type: ignore[misc] # noqa: B023
                check_linearizable(operation for operations in done for operation in operations)
                entries.clear()
    finally:
        stop.set()
        changing.result()
