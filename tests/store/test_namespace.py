"""Namespace: a named StripedDict of text to bytes, with counters."""

from __future__ import annotations

import random
import threading

import pytest

from cacheserver.errors import NeverFits, StoreFull
from cacheserver.store.budget import Budget
from cacheserver.store.entry import (
    CONTENT_TYPE,
    DEADLINE,
    DEFAULT_CONTENT_TYPE,
    NEVER,
    SLOT,
    VALUE,
    VERSION,
)
from cacheserver.store.namespace import Namespace, NamespaceStatistics
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Written
from cacheserver.store.record import cost, pack
from tests.conftest import Maker
from tests.support.clock import ManualClock
from tests.support.inside import dicts_of, registered_views
from tests.support.outcomes import written
from tests.support.threads import frequent_switches, in_thread, run_threads


@pytest.fixture
def things(make: Maker, stripes: int) -> Namespace:
    """An empty namespace, once with one stripe and once with many."""
    return make.namespace(stripes=stripes)


def cost_of(key: str, value: bytes) -> int:
    """What an entry of the default type and without a deadline costs."""
    return cost(key, pack(value, 1, NEVER, DEFAULT_CONTENT_TYPE, 64))


def counts(namespace: Namespace) -> tuple[int, int, int, int]:
    now = namespace.statistics()
    return now.hits, now.misses, now.writes, now.cas_conflicts


def test_put_read_delete(things: Namespace) -> None:
    """What was put is read with version and content type, and is gone once deleted."""
    assert things.read("k") is None
    first = written(things.put("k", b"v", content_type="text/plain"))
    assert first.created
    entry = things.read("k")
    assert entry is not None
    assert entry[:SLOT] == (b"v", first.version, NEVER, "text/plain")
    assert not written(things.put("k", b"w")).created
    entry = things.read("k")
    assert entry is not None
    assert entry[CONTENT_TYPE] == "application/octet-stream"
    assert isinstance(things.delete("k"), Deleted)
    assert things.delete("k") == Missing("key")
    assert things.read("k") is None


def test_compare_and_set(things: Namespace) -> None:
    """It writes for the version that is there, or for 0 where nothing is, and tells otherwise."""
    created = things.compare_and_set("k", 0, b"one")
    assert isinstance(created, Written)
    assert things.compare_and_set("k", 0, b"two") == Conflict(things.read("k"))
    updated = things.compare_and_set("k", created.version, b"two")
    assert isinstance(updated, Written)
    assert updated.version > created.version
    condition = Condition.version(created.version)
    assert things.put("k", b"three", condition=condition) == Conflict(things.read("k"))
    assert things.delete("k", condition=condition) == Conflict(things.read("k"))
    assert isinstance(things.delete("k", condition=Condition.version(updated.version)), Deleted)
    assert things.compare_and_set("k", updated.version, b"four") == Conflict(None)


def test_counters_follow_the_operations(things: Namespace, clock: ManualClock) -> None:
    """Hits, misses, writes and conflicts count what happened, and each operation at most once."""
    things.read("k")
    assert counts(things) == (0, 1, 0, 0)
    things.put("k", b"v")
    things.read("k")
    things.read("k")
    assert counts(things) == (2, 1, 1, 0)
    things.compare_and_set("k", 1, b"v")
    things.delete("k", condition=Condition(must_be_absent=True))
    assert counts(things) == (2, 1, 1, 2)
    things.delete("k")
    things.delete("k")
    assert counts(things) == (2, 1, 2, 2)
    things.put("k", b"v", ttl=5)
    clock.advance(5)
    things.read("k")
    assert counts(things) == (2, 2, 3, 2)
    assert things.statistics().expirations == 1
    things.clear()
    assert counts(things) == (2, 2, 3, 2)


def test_counters_are_exact_under_threads(things: Namespace) -> None:
    """Hits, misses, writes and conflicts add up to what threads did, those that are gone too."""

    def work(number: int) -> tuple[int, int, int, int]:
        view = things.view()
        chance = random.Random(number)
        mine = [0, 0, 0, 0]
        for _ in range(300):
            key = f"key{chance.randrange(5)}"
            entry = view.read(key)
            mine[entry is None] += 1
            version = entry[VERSION] if entry else 0
            condition = Condition.version(version)
            if chance.random() < 0.2:
                outcome: object = view.delete(key, condition)
            else:
                outcome = view.put(key, b"v", None, "", condition)
            mine[2] += isinstance(outcome, (Written, Deleted))
            mine[3] += isinstance(outcome, Conflict)
        return mine[0], mine[1], mine[2], mine[3]

    with frequent_switches():
        done = [
            *run_threads([lambda n=n: work(n) for n in range(4)]),  # type: ignore[misc]
            *run_threads([lambda n=n: work(n) for n in range(4, 8)]),  # type: ignore[misc]
        ]
    totals = tuple(map(sum, zip(*done, strict=True)))
    assert counts(things) == totals
    assert totals[0] + totals[1] == 8 * 300


def test_statistics_show_the_figures(things: Namespace) -> None:
    """Name, entries, bytes and the three locks are in the statistics, which are frozen."""
    things.put("k", b"v")
    things.put("key", b"value")
    now = things.statistics()
    assert isinstance(now, NamespaceStatistics)
    assert (now.name, now.entries) == ("things", 2)
    kept = {"k": b"v", "key": b"value"}
    expected = sum(cost_of(key, value) for key, value in kept.items())
    assert now.bytes == expected == things.totals()[1]
    assert list(now.locks) == ["stripe", "namespace_read", "namespace_write"]
    assert now.locks["stripe"].acquisitions == now.locks["namespace_read"].acquisitions == 2
    assert now.locks["namespace_write"].acquisitions == 0
    assert things.statistics().locks["namespace_write"].acquisitions == 1, "totals() took the whole"
    with pytest.raises(AttributeError):
        now.hits = 5  # type: ignore[misc]


def test_default_ttl_is_for_writes_that_name_none(make: Maker, clock: ManualClock) -> None:
    """None means the namespace's default, 0 for ever, a number that many seconds."""
    things = make.namespace(default_ttl=10)
    things.put("default", b"v")
    things.put("for ever", b"v", ttl=0)
    things.put("short", b"v", ttl=5)
    things.compare_and_set("compared", 0, b"v")
    clock.advance(5)
    assert things.read("short") is None
    entry = things.read("default")
    assert entry is not None
    assert entry[DEADLINE] == clock.monotonic() + 5
    clock.advance(5)
    assert things.read("default") is None
    assert things.read("compared") is None
    assert things.read("for ever") is not None


def test_clear_and_totals(things: Namespace) -> None:
    """A clear empties it and tells how many went; views of other threads see it."""
    for number in range(50):
        in_thread(lambda n=number: things.put(f"key{n}", b"v"))  # type: ignore[misc]
    assert things.totals() == (
        50,
        sum(cost_of(f"key{n}", b"v") for n in range(50)),
    )
    assert in_thread(things.clear) == 50
    assert things.totals() == (0, 0)
    assert things.read("key1") is None


def test_view_is_the_threads_own(things: Namespace) -> None:
    """A thread gets the same view again, another thread another one."""
    assert things.view() is things.view()
    mine = things.view()
    assert in_thread(lambda: things.view() is mine) is False


def test_threads_that_end_leave_no_views(things: Namespace) -> None:
    """Hundreds of threads that came and went leave a few views, and their counts."""
    for _ in range(40):
        run_threads([lambda: things.read("k")] * 5)
    assert counts(things) == (0, 200, 0, 0)
    things.view()
    assert registered_views(dicts_of(things)[0]) <= 12


def test_full_namespace_counts_nothing_and_keeps_the_value(make: Maker) -> None:
    """A write that found no room is neither a write nor a conflict."""
    things = make.namespace(budget=Budget(cost_of("k", bytes(1_800))), policy="none")
    things.put("k", b"small")
    with pytest.raises(NeverFits):
        things.put("k", bytes(3_000))
    with pytest.raises(StoreFull):
        things.put("l", bytes(1_800))
    entry = things.read("k")
    assert entry is not None
    assert entry[VALUE] == b"small"
    assert counts(things) == (1, 0, 1, 0)


def test_statistics_can_be_read_at_any_time(things: Namespace) -> None:
    """Figures read in the midst of work only rise and wait for nobody."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            things.put("k", b"v")
            things.read("k")

    def watch() -> None:
        try:
            before = things.statistics()
            for turn in range(150):
                now = things.statistics()
                assert now.hits >= before.hits
                assert now.writes >= before.writes
                stripe = now.locks["stripe"]
                assert stripe.contended <= stripe.acquisitions
                if turn % 50 == 0:
                    things.clear()
                before = now
        finally:
            stop.set()

    with frequent_switches():
        run_threads([work, work, watch])
