"""Sweeping: what has expired goes without being asked for, and nothing else does."""

from __future__ import annotations

from cacheserver.errors import StoreFull
from cacheserver.store.outcomes import Written
from tests.conftest import Maker
from tests.support.clock import ManualClock
from tests.support.threads import frequent_switches, run_threads


def test_sweep_removes_what_has_expired_and_nothing_else(
    make: Maker, stripes: int, clock: ManualClock
) -> None:
    """Of entries that stay, that have time left and that are over, the last go, and are counted."""
    entries = make.striped(stripes)
    for number in range(300):
        entries.put(number, number, ttl=(0, 5, 50)[number % 3])
    clock.advance(5)
    assert sum(entries.sweep()) == 100
    assert sorted(entries) == [number for number in range(300) if number % 3 != 1]
    assert len(entries) == 200
    assert entries.statistics().expirations == 100
    assert sum(entries.sweep()) == 0


def test_sweep_does_not_look_at_stripes_where_nothing_is_due(
    make: Maker, stripes: int, clock: ManualClock
) -> None:
    """Where nothing is due there is no step; where something is there are steps for its stripe."""
    entries = make.striped(stripes)
    for number in range(100):
        entries[number] = number
    assert list(entries.sweep()) == []
    entries.put("mortal", 1, ttl=5)
    assert list(entries.sweep()) == []
    clock.advance(5)
    entries.put("mortal", 1)
    assert sum(entries.sweep()) == 0
    assert list(entries.sweep()) == []
    entries.put("mortal", 1, ttl=5)
    clock.advance(5)
    assert [gone for gone in entries.sweep() if gone] == [1]
    entries.put("mortal", 1, ttl=5)
    entries.clear()
    clock.advance(5)
    assert list(entries.sweep()) == []


def test_sweep_leaves_what_was_written_again_meanwhile(make: Maker, clock: ManualClock) -> None:
    """An entry that takes an expired one's place between two steps stays."""
    entries = make.striped(64)
    for number in range(200):
        entries.put(number, "old", ttl=1)
    clock.advance(1)
    sweep = entries.sweep()
    gone = next(sweep)
    for number in range(200):
        entries.put(number, "new", ttl=1)
    assert sum(sweep) == 0
    assert 0 < gone < 200
    assert len(entries) == 200


def test_swept_store_takes_writes_again(make: Maker, clock: ManualClock) -> None:
    """A store that is full of what has expired has all its room once it was swept."""
    store = make.store(max_memory=200_000, policy="none")
    for number in range(8):
        store.namespace(f"n{number % 2}").put(f"k{number}", bytes(20_000), ttl=1)
    clock.advance(1)
    try:
        store.namespace("n0").put("new", bytes(100_000))
    except StoreFull:
        pass
    else:
        raise AssertionError("the store was not full, so nothing was tested")
    assert sum(store.sweep()) == 8
    assert isinstance(store.namespace("n0").put("new", bytes(100_000)), Written)


def test_sweep_beside_writers_keeps_the_invariants(make: Maker, stripes: int) -> None:
    """Sweeps, writes with and without deadlines and clears at once leave a consistent dict."""
    entries = make.striped(stripes, clock=None)

    def write(number: int) -> None:
        view = entries.view()
        for turn in range(400):
            key = (number * 31 + turn) % 50
            view.put(key, turn, ttl=(0, 0.0005, 60)[turn % 3])
            if turn % 7 == 0:
                view.pop(key, None)

    def sweep() -> None:
        for turn in range(20):
            sum(entries.sweep())
            if turn == 10:
                entries.clear()

    with frequent_switches():
        run_threads([lambda: write(1), lambda: write(2), sweep, sweep])
