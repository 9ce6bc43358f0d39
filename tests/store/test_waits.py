"""Who waits for a lock learns how long, for which and why, and so do the lock's numbers and the hot keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, copy_context
from typing import Any

import pytest

from cacheserver.clock import Clock
from cacheserver.errors import NamespaceGone
from cacheserver.store.locks import (
    WAITS,
    RWLock,
    Slot,
    TimedLock,
    Wait,
    WaitLog,
    WriteGate,
)
from cacheserver.store.namespace import Namespace, Pulse
from cacheserver.store.outcomes import Condition, Put
from cacheserver.store.store import Store
from cacheserver.store.stripe import Stripe
from cacheserver.store.view import NamespaceView
from tests.conftest import Maker
from tests.support.clock import ManualClock
from tests.support.inside import (
    dicts_of,
    keys_of_stripe,
    read_under_the_lock,
    stripe_of,
    stripes_of,
    turnstile_of,
)
from tests.support.locks import WatchedLock
from tests.support.threads import Gate, Running, call_before, eventually, in_thread, start


def logged(work: Callable[[], object]) -> WaitLog:
    """Do this in a context of its own and return what it waited for."""
    log = WaitLog()

    def run() -> None:
        WAITS.set(log)
        work()

    copy_context().run(run)
    return log


def watch(lock: TimedLock | Slot) -> WatchedLock:
    """Have a lock tell when somebody begins to wait for it."""
    watched = WatchedLock()
    lock.lock = watched
    return watched


@contextmanager
def queueing(things: Namespace) -> Iterator[Callable[[], None]]:
    """Give a function that returns when somebody queues at a namespace's gate."""
    (entries,) = dicts_of(things)
    turnstile = turnstile_of(entries)
    yield lambda: eventually(lambda: turnstile.waiting() >= 1, "somebody queues at the gate")


def stripe_with(things: Namespace, key: str) -> Stripe[Any, Any]:
    (entries,) = dicts_of(things)
    return stripes_of(entries)[stripe_of(entries, key)]


# The log


def test_log_keeps_the_sum_of_all_waits_and_the_last_sixteen() -> None:
    """However many there are; and nothing after it was cleared."""
    log = WaitLog()
    for number in range(100):
        log.add("stripe", number, 3, "write")
    assert (log.nanoseconds, log.count) == (sum(range(100)), 100)
    assert log.waits == [Wait("stripe", number, 3, "write") for number in range(84, 100)]
    log.clear()
    assert (log.nanoseconds, log.count, log.waits) == (0, 0, [])


def test_nobody_asks_by_default() -> None:
    """Without a log in the context a wait is counted by the lock alone."""
    assert WAITS.get() is None
    lock = TimedLock()
    waiting = hold_and_wait(lock, lock, lambda: waits_for(lock))
    assert waiting.result() is None
    assert lock.statistics().contended == 1


def waits_for(lock: AbstractContextManager[Any]) -> None:
    with lock:
        pass


def hold_and_wait[T](
    hold: AbstractContextManager[Any], lock: TimedLock | Slot, work: Callable[[], T]
) -> Running[T]:
    """Have work wait for a lock until it stands there; it gets it when this returns."""
    watched = watch(lock)
    with hold:
        waiting = start(work)
        watched.wait_for_a_waiter()
    return waiting


def test_bare_lock_tells_its_waits() -> None:
    """A TimedLock is named as such; what held it is not known."""
    lock = TimedLock()
    log = hold_and_wait(lock, lock, lambda: logged(lambda: waits_for(lock))).result()
    (wait,) = log.waits
    assert wait == Wait("lock", log.nanoseconds, -1, "")
    assert log.nanoseconds == pytest.approx(lock.statistics().waits.seconds * 1e9)


def test_acquisition_without_a_wait_is_not_in_the_log() -> None:
    """Nor is a try that fails, or one whose time is over."""
    lock = TimedLock()

    def work() -> None:
        with lock:
            pass

    assert logged(work).count == 0
    with lock:
        log = in_thread(lambda: logged(lambda: (lock.acquire(False), lock.acquire(timeout=0.01))))
    assert (log.count, log.nanoseconds) == (0, 0)


def test_slot_returns_how_long_was_waited() -> None:
    """Nothing where there was no wait; else at least a nanosecond, and what its numbers say."""
    slot = Slot(WriteGate())
    assert slot.take() == 0
    slot.release()

    def take() -> int:
        waited = slot.take()
        slot.release()
        return waited

    waited = hold_and_wait(slot, slot, take).result()
    assert waited >= 1
    assert waited == pytest.approx(slot.statistics().waits.seconds * 1e9)


def test_read_write_lock_tells_its_waits() -> None:
    """A reader waits for `read`, a writer for `write`; each is told by what it was held."""
    lock = RWLock()
    turnstile = lock._gate.turnstile
    with lock.write():
        reader = start(lambda: logged(lambda: waits_for(lock.read())))
        eventually(lambda: turnstile.waiting() == 1, "the reader queues")
        writer = start(lambda: logged(lambda: waits_for(lock.write())))
        eventually(lambda: turnstile.waiting() == 2, "the writer queues")
    (read,), (write,) = reader.result().waits, writer.result().waits
    assert (read.lock, read.stripe, read.cause) == ("read", -1, "write")
    assert (write.lock, write.stripe, write.cause) == ("write", -1, "write")
    with Gate() as gate:

        def stay() -> None:
            with lock.read():
                gate.wait()

        inside = start(stay)
        gate.arrived()
        writer = start(lambda: logged(lambda: waits_for(lock.write())))
        eventually(turnstile.taken, "the writer waits for the reader")
        eventually(lambda: writing_waits(lock), "the writer waits for the slot")
    inside.result()
    (write,) = writer.result().waits
    assert (write.lock, write.cause) == ("write", "read")


def writing_waits(lock: RWLock) -> bool:
    return any(slot.closed for slot in lock._gate.slots())


# Waits for a stripe

type Work = Callable[[NamespaceView, str], object]

WORK: dict[str, Work] = {
    "overwrite": lambda view, key: view.put(key, b"w", None, "text/plain", None),
    "put": lambda view, key: view.put(key, b"longer", None, "text/plain", None),
    "put with a time to live": lambda view, key: view.put(key, b"w", 5, "text/plain", None),
    "compare and set": lambda view, key: view.put(
        key, b"w", None, "text/plain", Condition.version(1)
    ),
    "delete": lambda view, key: view.delete(key, None),
    "touch": lambda view, key: view.touch(key, 5, None),
    "transaction": lambda view, key: view.transaction({key: Put(b"w")}, {}),
    "read under the lock": lambda view, key: read_under_the_lock(view.entries, key),
}


@pytest.mark.parametrize("way", WORK)
def test_wait_for_a_stripe_is_told_to_who_waits_and_of_the_key(make: Maker, way: str) -> None:
    """Its log, the stripe's numbers and the hot keys say the same; other threads' logs say nothing."""
    store = make.store(stripes=8)
    things = store.namespace("things")
    things.put("k", b"v", content_type="text/plain")
    stripe = stripe_with(things, "k")

    def work() -> WaitLog:
        view = things.view()
        return logged(lambda: WORK[way](view, "k"))

    def elsewhere() -> WaitLog:
        (entries,) = dicts_of(things)
        (other,) = keys_of_stripe(entries, (stripe.number + 1) % 8, 1)
        return logged(lambda: things.put(other, b"v"))

    watched = watch(stripe)
    with stripe:
        waiting = start(work)
        watched.wait_for_a_waiter()
        bystander = in_thread(elsewhere)
    log = waiting.result()
    assert (bystander.count, bystander.waits) == (0, [])
    assert log.count == 1
    assert log.waits == [Wait("stripe", log.nanoseconds, stripe.number, "write")]
    locks = things.statistics().locks
    assert locks["stripe"].contended == 1
    assert locks["stripe"].waits.seconds * 1e9 == pytest.approx(log.nanoseconds)
    found = store.hot_keys()
    (hot,) = found.kinds["waits"]
    assert (hot.namespace, hot.key, hot.count) == ("things", "k", log.nanoseconds)
    assert (hot.share, hot.overcount, hot.margin) == (1, 0, 0)
    assert found.totals["waits"] == log.nanoseconds
    waits = [each for each in things.stripe_waits() if each.contended]
    assert waits == [(stripe.number, waits[0].acquisitions, 1, log.nanoseconds)]


def test_waits_for_several_stripes_of_a_transaction_are_told_of_each(make: Maker) -> None:
    """Each for a key of its stripe, when all locks are released."""
    store = make.store(stripes=4)
    things = store.namespace("things")
    (entries,) = dicts_of(things)
    keys = [keys_of_stripe(entries, number, 1)[0] for number in range(4)]
    first, last = stripes_of(entries)[0], stripes_of(entries)[3]
    watched, watched_too = watch(first), watch(last)
    with last:
        with first:
            waiting = start(
                lambda: logged(lambda: things.transaction(dict.fromkeys(keys, Put(b"v"))))
            )
            watched.wait_for_a_waiter()
        watched_too.wait_for_a_waiter()
    log = waiting.result()
    assert [(wait.lock, wait.stripe) for wait in log.waits] == [("stripe", 0), ("stripe", 3)]
    waits = {each.key: each.count for each in store.hot_keys().kinds["waits"]}
    assert waits == {keys[0]: log.waits[0].nanoseconds, keys[3]: log.waits[1].nanoseconds}


def test_contexts_of_one_thread_keep_their_waits_apart(make: Maker) -> None:
    """As tasks of an event loop have them: what one waited for the other doesn't see."""
    things = make.namespace(stripes=1)
    things.put("k", b"v")
    (stripe,) = stripes_of(dicts_of(things)[0])
    watched = watch(stripe)

    def work() -> tuple[WaitLog, WaitLog]:
        logs, contexts = (WaitLog(), WaitLog()), (Context(), Context())
        for context, log in zip(contexts, logs, strict=True):
            context.run(WAITS.set, log)
        contexts[0].run(things.put, "k", b"waits")
        contexts[1].run(things.put, "k", b"waits for nobody")
        assert WAITS.get() is None
        return logs

    with stripe:
        waiting = start(work)
        watched.wait_for_a_waiter()
    one, other = waiting.result()
    assert (one.count, other.count) == (1, 0)


# What held the lock


def test_wait_for_a_transaction_says_so(make: Maker) -> None:
    """Also for a stripe of it that is none of the first."""
    things = make.namespace(stripes=8)
    (entries,) = dicts_of(things)
    keys = [keys_of_stripe(entries, number, 2) for number in (2, 5)]
    with Gate() as gate:
        call_before(stripes_of(entries)[2], "put", gate)
        writing = start(lambda: things.transaction({each[0]: Put(b"v") for each in keys}))
        gate.arrived()
        watched = watch_held(stripes_of(entries)[5])
        waiting = start(lambda: logged(lambda: things.put(keys[1][1], b"v")))
        watched.wait_for_a_waiter()
    writing.result()
    (wait,) = waiting.result().waits
    assert (wait.lock, wait.stripe, wait.cause) == ("stripe", 5, "transaction")
    assert_nothing_holds(things)


class HeldLock(WatchedLock):
    """Takes the place of a lock that somebody holds."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self._lock = held


def watch_held(lock: TimedLock | Slot) -> WatchedLock:
    """As `watch`, for a lock that somebody holds already."""
    watched = HeldLock(lock.lock)
    lock.lock = watched
    return watched


def assert_nothing_holds(things: Namespace) -> None:
    (entries,) = dicts_of(things)
    assert {stripe.cause for stripe in stripes_of(entries)} == {"write"}


def test_wait_for_a_sweep_says_so(make: Maker, clock: ManualClock) -> None:
    """The sweeper holds a stripe for some entries at a time."""
    things = make.namespace(stripes=1)
    things.put("k", b"v", ttl=1)
    clock.advance(100)
    assert_cause(things, "expire_due", lambda: list(things.sweep()), "sweep")


def test_wait_for_an_eviction_for_others_says_so(make: Maker) -> None:
    """Where room is made in another stripe, who comes to that one waits for it."""
    things = make.namespace(stripes=1, policy="lru")
    for number in range(20):
        things.put(f"{number}", b"v")
    assert_cause(things, "evict", lambda: things.change(max_entries=5), "evict")


def test_wait_for_a_reader_under_the_lock_says_so(make: Maker) -> None:
    """One that found what has expired, or was sent there, holds the lock like others."""
    things = make.namespace(stripes=1)
    things.put("k", b"v")
    assert_cause(things, "live", lambda: read_under_the_lock(things.view().entries, "k"), "read")


def assert_cause(things: Namespace, method: str, work: Callable[[], object], cause: str) -> None:
    """Fail unless who waits for the only stripe, while this work is in that method, learns the cause."""
    (stripe,) = stripes_of(dicts_of(things)[0])
    with Gate() as gate:
        call_before(stripe, method, gate)
        working = start(work)
        gate.arrived()
        watched = watch_held(stripe)
        waiting = start(lambda: logged(lambda: things.put("other", b"v")))
        watched.wait_for_a_waiter()
    working.result()
    (wait,) = waiting.result().waits
    assert (wait.lock, wait.stripe, wait.cause) == ("stripe", 0, cause)
    assert_nothing_holds(things)


type Whole = tuple[Callable[[Namespace], object], Callable[[Namespace], Any], str]
"""What takes the whole, and an object's method that is called by it inside."""

WHOLE: dict[str, Whole] = {
    "clear": (lambda things: things.clear(), lambda things: stripe_of_last(things), "contents"),
    "reshape": (
        lambda things: things.change(stripes=4),
        lambda things: stripe_of_last(things),
        "contents",
    ),
    "policy": (
        lambda things: things.change(policy="lru"),
        lambda things: dicts_of(things)[0],
        "bind",
    ),
    "limits": (lambda things: things.change(max_entries=9), lambda things: things.room, "limit"),
    "snapshot": (
        lambda things: things.snapshot(),
        lambda things: stripe_of_last(things),
        "entries",
    ),
    "totals": (lambda things: things.totals(), lambda things: things.room, "totals"),
}


def stripe_of_last(things: Namespace) -> Stripe[Any, Any]:
    return stripes_of(dicts_of(things)[0])[-1]


def test_wait_for_a_drop_says_so(make: Maker) -> None:
    """Who writes a key meanwhile waits for it, and finds the namespace gone."""
    things = make.namespace(stripes=8)
    view = dicts_of(things)[0].view()

    def write() -> None:
        with pytest.raises(NamespaceGone):
            view.put("k", b"w")

    with Gate() as gate, queueing(things) as somebody_queues:
        call_before(stripe_of_last(things), "contents", gate)
        dropping = start(things.drop)
        gate.arrived()
        waiting = start(lambda: logged(write))
        somebody_queues()
    dropping.result()
    (wait,) = waiting.result().waits
    assert (wait.lock, wait.stripe, wait.cause) == ("namespace_read", -1, "drop")


@pytest.mark.parametrize("verb", ["put", "delete", "touch"])
def test_key_that_waited_for_a_drop_is_hot(make: Maker, verb: str) -> None:
    """Whatever was to be done to it, and although nothing could be any more."""
    store = make.store(stripes=8)
    things = store.namespace("things")
    view = things.view()
    arguments = {"put": (b"w", None, "text/plain", None), "delete": (None,), "touch": (1.0, None)}

    def change() -> None:
        with pytest.raises(NamespaceGone):
            getattr(view, verb)("k", *arguments[verb])

    with Gate() as gate, queueing(things) as somebody_queues:
        call_before(stripe_of_last(things), "contents", gate)
        dropping = start(lambda: store.drop("things"))
        gate.arrived()
        waiting = start(change)
        somebody_queues()
    dropping.result()
    waiting.result()
    (hot,) = store.hot_keys().kinds["waits"]
    assert (hot.namespace, hot.key) == ("things", "k")


@pytest.mark.parametrize("purpose", WHOLE)
def test_wait_for_the_whole_says_what_it_is_held_for(make: Maker, purpose: str) -> None:
    """Who writes a key, and who wants the whole too, learns what its holder does; both are counted."""
    things = make.namespace(stripes=8)
    things.put("k", b"v")
    view = dicts_of(things)[0].view()
    work, where, method = WHOLE[purpose]
    (entries,) = dicts_of(things)
    turnstile = turnstile_of(entries)

    def write() -> None:
        view.put("k", b"w")

    def totals() -> None:
        things.totals()

    with Gate() as gate:
        call_before(where(things), method, gate)
        holding = start(lambda: work(things))
        gate.arrived()
        waiting = start(lambda: logged(write))
        eventually(lambda: turnstile.waiting() == 1, "the writer queues")
        whole = start(lambda: logged(totals))
        eventually(lambda: turnstile.waiting() == 2, "who wants the whole queues")
    holding.result()
    (wait,) = waiting.result().waits
    assert (wait.lock, wait.stripe, wait.cause) == ("namespace_read", -1, purpose)
    (wait_too,) = whole.result().waits
    assert (wait_too.lock, wait_too.stripe, wait_too.cause) == ("namespace_write", -1, purpose)
    holds = things.holds()
    assert holds[purpose][0] == (2 if purpose == "totals" else 1)
    locks = things.statistics().locks
    assert sum(count for count, _ in holds.values()) == locks["namespace_write"].holds.count
    assert sum(ns for _, ns in holds.values()) == pytest.approx(
        locks["namespace_write"].holds.seconds * 1e9
    )
    assert locks["namespace_read"].waits.seconds * 1e9 == pytest.approx(wait.nanoseconds)
    assert locks["namespace_write"].waits.seconds * 1e9 == pytest.approx(wait_too.nanoseconds)


def test_who_wants_the_whole_learns_which_writer_was_in_the_way(make: Maker) -> None:
    """A stripe that is held by the write of a key keeps it waiting: `write`."""
    things = make.namespace(stripes=4)
    stripe = stripes_of(dicts_of(things)[0])[2]
    log = hold_and_wait(stripe, stripe, lambda: logged(things.clear)).result()
    assert log.waits == [Wait("namespace_write", log.nanoseconds, -1, "write")]
    assert_nothing_holds(things)


def test_key_that_waited_for_the_whole_is_hot(make: Maker) -> None:
    """A wait for a whole-namespace operation is the key's wait like any other."""
    store = make.store(stripes=8)
    things = store.namespace("things")
    with Gate() as gate:
        call_before(things.room, "totals", gate)
        clearing = start(things.clear)
        gate.arrived()
        waiting = start(lambda: logged(lambda: things.put("k", b"v")))
        with queueing(things) as somebody_queues:
            somebody_queues()
    clearing.result()
    log = waiting.result()
    (hot,) = store.hot_keys().kinds["waits"]
    assert (hot.key, hot.count) == ("k", log.nanoseconds)


# Figures


def test_last_waits_say_when_and_how_long(make: Maker) -> None:
    """Of each stripe that had one the latest, by the clock on the wall."""
    things = make.namespace(stripes=8, clock=Clock())
    assert things.last_waits() == []
    (entries,) = dicts_of(things)
    for number in (6, 2, 2):
        (key,) = keys_of_stripe(entries, number, 1)
        stripe = stripes_of(entries)[number]
        before = time.time()
        log = hold_and_wait(
            stripe,
            stripe,
            lambda key=key: logged(lambda: things.put(key, b"v")),  # type: ignore[misc]
        ).result()
        found = {each[0]: each[1:] for each in things.last_waits()}
        nanoseconds, when = found[number]
        assert nanoseconds == log.nanoseconds
        assert before - 0.05 <= when <= time.time() + 0.05
    assert sorted(found) == [2, 6]
    assert {each.stripe: each.contended for each in things.stripe_waits() if each.contended} == {
        2: 2,
        6: 1,
    }


def pulse_by_statistics(things: Namespace) -> Pulse:
    """What the pulse must be, from the full statistics."""
    now = things.statistics()
    stripe, read, write = (now.locks[k] for k in ("stripe", "namespace_read", "namespace_write"))
    return Pulse(
        now.hits,
        now.misses,
        now.writes,
        now.cas_conflicts,
        sum(now.evictions.values()),
        now.expirations,
        now.entries,
        now.bytes,
        stripe.acquisitions,
        stripe.contended,
        round(stripe.waits.seconds * 1e9),
        read.contended,
        round(read.waits.seconds * 1e9),
        write.contended,
        round(write.waits.seconds * 1e9),
        write.holds.count,
        round(write.holds.seconds * 1e9),
    )


def test_pulse_has_the_sums_of_the_statistics(make: Maker, clock: ManualClock) -> None:
    """After everything that counts, several changes of stripes among it, and after the drop."""
    store = make.store(stripes=4)
    things = store.namespace("things")
    assert things.pulse() == pulse_by_statistics(things) == Pulse(*[0] * 17)
    for number in range(50):
        things.put(f"{number}", b"v", ttl=1 if number % 2 else 0)
        things.read(f"{number}")
    things.read("none")
    things.put("0", b"v", condition=Condition.version(1))
    for stripes in (8, 2, 4):
        wait_for_a_stripe(things, "0")
        wait_for_the_whole(things, "2")
        things.change(stripes=stripes)
    clock.advance(100)
    list(things.sweep())
    things.change(max_entries=10)
    assert_equal(things)
    pulse = things.pulse()
    assert pulse.stripe_contended == 3
    assert pulse.read_contended >= 3
    assert (pulse.hits, pulse.misses, pulse.conflicts) == (50, 1, 1)
    assert pulse.expirations == 25
    assert pulse.evictions >= 15
    store.drop("things")
    assert_equal(things)
    gone = things.pulse()
    assert (gone.entries, gone.bytes) == (0, 0)
    assert all(
        now >= before
        for name, now, before in zip(Pulse._fields, gone, pulse, strict=True)
        if name not in ("entries", "bytes")
    ), "what was counted is not forgotten when a namespace is dropped"


def assert_equal(things: Namespace) -> None:
    """But for some nanoseconds, which floating seconds cost."""
    for mine, other in zip(things.pulse(), pulse_by_statistics(things), strict=True):
        assert abs(mine - other) <= 10


def wait_for_a_stripe(things: Namespace, key: str) -> None:
    stripe = stripe_with(things, key)
    hold_and_wait(stripe, stripe, lambda: things.put(key, b"v")).result()


def wait_for_the_whole(things: Namespace, key: str) -> None:
    with Gate() as gate:
        room = things.room
        call_before(room, "totals", gate)
        asking = start(things.totals)
        gate.arrived()
        waiting = start(lambda: things.put(key, b"v"))
        with queueing(things) as somebody_queues:
            somebody_queues()
    asking.result()
    waiting.result()


def test_store_without_waits_has_none(make: Maker) -> None:
    """Work of one thread waits for nobody."""
    store: Store = make.store()
    log = logged(lambda: [store.namespace("things").put(f"{n}", b"v") for n in range(1_000)])
    assert log.count == 0
    assert store.hot_keys().kinds["waits"] == []
