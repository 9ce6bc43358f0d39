"""Hot keys: found in bounded memory, with bounds that hold, and forgotten in time."""

from __future__ import annotations

import random
import threading
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate, cycle, islice
from math import sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver import operations
from cacheserver.store.counts import Counts
from cacheserver.store.entry import VALUE
from cacheserver.store.heat import (
    CAPACITY,
    KINDS,
    SAMPLE,
    WINDOW,
    Heat,
    HotKey,
    HotKeys,
    KeySampler,
    ThreadHeat,
    _margin,
)
from cacheserver.store.outcomes import Condition, Conflict, Put, Refused, Written
from cacheserver.store.spacesaving import SpaceSaving
from cacheserver.store.store import Store
from tests.conftest import Maker
from tests.support.clock import ManualClock
from tests.support.inside import kept_by_heat
from tests.support.threads import Gate, in_thread, run_threads, start

type Load = list[tuple[int, int]]
"""Items and weights."""

loads = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40)), max_size=120)

SLACK = 2.5
"""So many margins of 95 per cent are some five standard deviations: once in a million tests."""


def sketch_of(load: Load, capacity: int) -> SpaceSaving[int]:
    sketch = SpaceSaving[int](capacity)
    for item, weight in load:
        sketch.add(item, weight)
    return sketch


def check_guarantee(sketch: SpaceSaving[int], load: Iterable[tuple[int, int]]) -> None:
    """Fail unless the bounds hold for every item, kept or not."""
    truth: Counter[int] = Counter()
    for item, weight in load:
        truth[item] += weight
    kept = {item: (count, overcount) for item, count, overcount in sketch.counts()}
    assert len(kept) == len(sketch.counts()) <= sketch.capacity
    assert sketch.total == truth.total()
    for item, (count, overcount) in kept.items():
        assert 0 <= count - overcount <= truth[item] <= count
    assert all(truth[item] <= sketch.floor for item in truth if item not in kept)
    counts = [count for _, count, _ in sketch.counts()]
    assert counts == sorted(counts, reverse=True)


# The sketch


@given(loads, st.integers(1, 12))
def test_bounds_hold_for_every_item(load: Load, capacity: int) -> None:
    """Count less overcount, truth, count: in that order; and what had its share of the room is kept."""
    sketch = sketch_of(load, capacity)
    check_guarantee(sketch, load)
    assert sketch.floor * capacity <= sketch.total
    assert sum(count for _, count, _ in sketch.counts()) == sketch.total


@given(st.lists(loads, max_size=5), st.integers(1, 12), loads)
def test_bounds_hold_after_merging(parts: list[Load], capacity: int, more: Load) -> None:
    """Those of many together are as true, when they are merged again, and when more is added."""
    sketches = [sketch_of(load, capacity) for load in parts]
    whole = [each for load in parts for each in load]
    merged = SpaceSaving.merged(sketches, capacity)
    check_guarantee(merged, whole)
    again = SpaceSaving.merged([merged, sketch_of(more, capacity)], capacity)
    check_guarantee(again, [*whole, *more])
    for item, weight in more:
        merged.add(item, weight)
    check_guarantee(merged, [*whole, *more])
    for sketch, load in zip(sketches, parts, strict=True):
        check_guarantee(sketch, load)


def test_what_fits_is_exact() -> None:
    """With room for all items nothing is overcounted."""
    sketch = sketch_of([(item % 8, item) for item in range(1, 200)], 8)
    assert all(overcount == 0 for _, _, overcount in sketch.counts())
    assert sketch.floor == 0


def test_heavy_item_stays_whatever_else_comes() -> None:
    """An item with more than one part in `capacity` of all is kept through any number of others."""
    sketch = SpaceSaving[int](10)
    for number in range(1, 5_001):
        sketch.add(-1 if number % 8 == 0 else number)
    item, count, overcount = sketch.counts()[0]
    assert item == -1
    assert count - overcount <= 625 <= count


def test_sketch_without_room_is_refused() -> None:
    """One that keeps nothing makes no sense."""
    with pytest.raises(ValueError, match="one item at least"):
        SpaceSaving[int](0)


def test_sketch_can_be_copied_while_its_thread_adds() -> None:
    """Whoever merges meanwhile sees bounds that are true of some instant, and stops nobody."""
    sketch = SpaceSaving[int](16)
    ends = threading.Event()

    def add() -> None:
        draw = random.Random(5)
        for number in range(60_000):
            sketch.add(-1 if number % 4 == 0 else draw.randrange(1_000))
        ends.set()

    def look() -> None:
        seen = 0
        while not ends.is_set():
            least = sketch.total // 4  # the heavy one had as many before this look, or one less
            merged = SpaceSaving.merged([sketch], 16)
            assert merged.total >= seen
            seen = merged.total
            if least > 200:
                item, count, overcount = merged.counts()[0]
                assert item == -1
                assert count >= least - 1
                assert count - overcount <= merged.total // 4 + 1
                assert len(merged.counts()) <= 16

    run_threads([add, look])
    check_guarantee_of_heavy(sketch)


def check_guarantee_of_heavy(sketch: SpaceSaving[int]) -> None:
    item, count, overcount = sketch.counts()[0]
    assert item == -1
    assert count - overcount <= 15_000 <= count


# What is found


def stay(work: Callable[[], None], gate: Gate) -> None:
    """Work, and live on until the gate opens."""
    work()
    gate.wait()


def hottest(found: HotKeys, kind: Any = "reads") -> list[str]:
    return [each.key for each in found.kinds[kind]]


def check_near(each: HotKey, truth: int) -> None:
    """Fail if the truth is not within the bounds, but for very bad luck."""
    assert each.count - each.overcount - SLACK * each.margin <= truth
    assert truth <= each.count + SLACK * each.margin


def read_all(store: Store, keys: Iterable[str]) -> Counter[str]:
    read = store.namespace("things").view().entries.read
    truth = Counter[str]()
    for key in keys:
        read(key)
        truth[key] += 1
    return truth


def zipf(keys: int, number: int, seed: int) -> list[str]:
    weights = [*accumulate(1 / rank for rank in range(1, keys + 1))]
    draw = random.Random(seed)
    return [f"k{bisect(weights, draw.random() * weights[-1])}" for _ in range(number)]


def test_hot_keys_of_a_zipf_load_are_found(make: Maker) -> None:
    """The hottest come first, their counts are within their bounds, and so is the sum."""
    store = make.store()
    number = 200_000
    truth = read_all(store, zipf(2_000, number, seed=7))
    found = store.hot_keys()
    assert len(found.kinds["reads"]) == 20
    assert hottest(found)[0] == "k0"
    assert {"k0", "k1", "k2"} <= set(hottest(found)[:6])
    for each in found.kinds["reads"][:10]:
        check_near(each, truth[each.key])
        assert each.namespace == "things"
        assert each.share == pytest.approx(each.count / found.totals["reads"])
    # Gaps that are uniform vary by SAMPLE / sqrt(3): so does the number of samples, by less than its root.
    assert abs(found.totals["reads"] - number) <= 5 * sqrt(number / SAMPLE) * SAMPLE
    assert found.sampled == {"reads": SAMPLE, "writes": SAMPLE, "conflicts": 1, "waits": 1}


@pytest.mark.parametrize("present", [True, False])
def test_one_hot_key_among_uniform_ones_is_found(make: Maker, present: bool) -> None:
    """By hits and by misses alike: one of ten reads is for one key, the others for 5,000."""
    store = make.store()
    if present:
        view = store.namespace("things").view()
        for number in range(5_000):
            view.put(f"k{number}", b"v", None, "text/plain", None)
    draw = random.Random(11)
    keys = ["k77" if draw.random() < 0.1 else f"k{draw.randrange(5_000)}" for _ in range(100_000)]
    truth = read_all(store, keys)
    first = store.hot_keys().kinds["reads"][0]
    assert first.key == "k77"
    check_near(first, truth["k77"])
    assert 0.05 < first.share < 0.2


@pytest.mark.parametrize("period", [32, 64, 128, 256])
def test_load_that_repeats_itself_is_sampled_evenly(make: Maker, period: int) -> None:
    """Keys in turn, as often as is sampled or a part or multiple of it: none stands out."""
    store = make.store()
    number = 2_000 * SAMPLE
    read_all(store, islice(cycle([f"k{at}" for at in range(period)]), number))
    found = store.hot_keys(limit=CAPACITY)
    expected = 2_000 / period
    for each in found.kinds["reads"]:
        samples = (each.count - each.overcount) / SAMPLE
        assert samples <= expected + 6 * sqrt(expected)
    if period <= 64:
        assert len(found.kinds["reads"]) == period


def test_writes_are_sampled_too(make: Maker) -> None:
    """New keys, those written over, deletions and transactions: one of four writes is for one key."""
    store = make.store()
    view = store.namespace("things").view()
    truth = Counter[str]()
    for number in range(30_000):
        view.put("hot", b"%d" % number, None, "text/plain", None)
        view.put(f"k{number % 500}", b"v", None, "text/plain", None)
        view.delete(f"k{number % 500}", None)
        view.transaction({f"t{number % 500}": Put(b"v")}, {})
        truth["hot"] += 1
    found = store.hot_keys()
    assert hottest(found, "writes")[0] == "hot"
    check_near(found.kinds["writes"][0], truth["hot"])
    assert abs(found.totals["writes"] - 120_000) <= 5 * sqrt(120_000 / SAMPLE) * SAMPLE


def test_few_reads_of_many_views_are_sampled_as_often_as_many_of_one() -> None:
    """The first gap is the rest of one: else whoever reads little would be looked at half as often."""
    heat = ThreadHeat(lambda: 0.0)
    told = 0
    for _ in range(10_000):
        counts = Counts(4)
        sampler = KeySampler("things", counts, heat)
        for _ in range(10):
            counts[0] += 1
            if counts[0] >= sampler.due[0]:
                sampler.read("k", 0)
                told += 1
    expected = 100_000 / SAMPLE
    assert abs(told - expected) <= 5 * sqrt(expected)


def test_threads_are_added_up(make: Maker) -> None:
    """What several threads met is one figure, those that live and those that have ended."""
    store = make.store()
    many = 40_000

    def work(number: int) -> None:
        read_all(store, (key for at in range(many // 2) for key in ("hot", f"{number}-{at}")))

    run_threads([lambda number=number: work(number) for number in range(3)])  # type: ignore[misc]
    with Gate() as gate:
        living = start(lambda: stay(lambda: work(3), gate))
        gate.arrived()
        first = store.hot_keys().kinds["reads"][0]
        assert first.key == "hot"
        check_near(first, 2 * many)
    living.result()


# Conflicts


def test_conflicts_are_exact_while_they_fit(make: Maker) -> None:
    """Every refusal counts for its key: of put, delete and touch, and each key of a transaction."""
    store = make.store()
    things, others = store.namespace("things"), store.namespace("others")
    wrong = Condition.version(1)
    for each in (things, others):
        for key in "abc":
            each.put(key, b"v")
    for _ in range(3):
        assert isinstance(things.put("a", b"w", condition=wrong), Conflict)
    assert isinstance(things.delete("a", condition=wrong), Conflict)
    assert isinstance(things.touch("b", 5, condition=wrong), Conflict)
    assert isinstance(others.put("a", b"w", condition=wrong), Conflict)
    refused = things.transaction({"a": Put(b"w"), "c": None}, {"a": wrong, "b": wrong})
    assert isinstance(refused, Refused)
    found = store.hot_keys()
    counts = {(each.namespace, each.key): each.count for each in found.kinds["conflicts"]}
    assert counts == {("things", "a"): 5, ("things", "b"): 2, ("others", "a"): 1}
    assert found.totals["conflicts"] == 8
    assert things.statistics().cas_conflicts + others.statistics().cas_conflicts == 8
    assert all(each.margin == each.overcount == 0 for each in found.kinds["conflicts"])
    assert found.kinds["conflicts"][0].share == 5 / 8


@pytest.mark.parametrize("verb", ["incr", "append"])
def test_retries_inside_a_verb_count_as_conflicts(
    make: Maker, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is overtaken between reading and writing tries again, and that is told of the key."""
    store = make.store()
    view = store.view()
    operations.put(view, "things", "n", b"1")
    get, overtaken = operations.get, [False]

    def overtake(*what: Any) -> Any:
        entry = get(*what)
        if not overtaken[0]:
            overtaken[0] = True
            in_thread(lambda: store.namespace("things").put("n", b"5"))
        return entry

    monkeypatch.setattr(operations, "get", overtake)
    if verb == "incr":
        operations.incr(view, "things", "n")
    else:
        operations.append(view, "things", "n", b"0")
    (conflict,) = store.hot_keys().kinds["conflicts"]
    assert (conflict.key, conflict.count) == ("n", 1)
    entry = store.namespace("things").read("n")
    assert entry is not None
    assert entry[VALUE] == (b"6" if verb == "incr" else b"50")


# Windows


def refuse(store: Store, key: str) -> None:
    outcome = store.namespace("things").put(key, b"v", condition=Condition.version(1))
    assert isinstance(outcome, Conflict)


def test_old_heat_vanishes(make: Maker, clock: ManualClock) -> None:
    """What was met is shown to the end of the next period, and not afterwards."""
    store = make.store()
    clock.set(100 * WINDOW + 1)
    refuse(store, "old")
    clock.set(101 * WINDOW)
    refuse(store, "new")
    assert set(hottest(store.hot_keys(), "conflicts")) == {"old", "new"}
    clock.set(102 * WINDOW - 0.125)
    assert set(hottest(store.hot_keys(), "conflicts")) == {"old", "new"}
    assert store.hot_keys().seconds == 2 * WINDOW - 0.125
    clock.set(102 * WINDOW)
    assert hottest(store.hot_keys(), "conflicts") == ["new"]
    clock.set(103 * WINDOW)
    assert hottest(store.hot_keys(), "conflicts") == []
    assert store.hot_keys().totals == dict.fromkeys(KINDS, 0)


def test_old_heat_vanishes_with_threads_that_are_idle_or_gone(
    make: Maker, clock: ManualClock
) -> None:
    """Nobody has to do anything for that: an idle thread's is passed over, an ended one's forgotten."""
    store = make.store()
    clock.set(100 * WINDOW)
    with Gate() as gate:
        idle = start(lambda: stay(lambda: refuse(store, "idle"), gate))
        gate.arrived()
        for number in range(3):
            in_thread(lambda number=number: refuse(store, f"gone{number}"))  # type: ignore[misc]
        clock.set(101 * WINDOW)
        in_thread(lambda: refuse(store, "gone0"))
        found = store.hot_keys()
        assert set(hottest(found, "conflicts")) == {"idle", "gone0", "gone1", "gone2"}
        assert found.kinds["conflicts"][0].key == "gone0"
        assert found.kinds["conflicts"][0].count == found.totals["conflicts"] - 3 == 2
        clock.set(102 * WINDOW)
        assert hottest(store.hot_keys(), "conflicts") == ["gone0"]
        clock.set(103 * WINDOW)
        assert hottest(store.hot_keys(), "conflicts") == []
    idle.result()


def test_thread_that_was_idle_shows_only_what_is_new(make: Maker, clock: ManualClock) -> None:
    """One that goes on after a long time keeps what it had last met, and shows it no more."""
    store = make.store()
    clock.set(100 * WINDOW)
    refuse(store, "old")
    clock.set(110 * WINDOW)
    refuse(store, "new")
    assert hottest(store.hot_keys(), "conflicts") == ["new"]


def test_window_begins_with_the_store(make: Maker, clock: ManualClock) -> None:
    """A store that is younger than the window says so."""
    clock.set(100 * WINDOW + 10)
    store = make.store()
    assert store.hot_keys().seconds == 0
    clock.advance(2.5)
    assert store.hot_keys().seconds == 2.5


# Memory


def test_memory_is_bounded_whatever_comes(make: Maker, clock: ManualClock) -> None:
    """Keys, namespaces, periods and threads by the hundred: so many keys a sketch, two periods a thread."""
    store = make.store(stripes=1)
    for period in range(5):
        clock.set((100 + period) * WINDOW)
        for namespace in range(20):
            things = store.namespace(f"n{namespace}")
            for number in range(100):
                things.put(f"{period}-{number}", b"v", condition=Condition.version(1))
        for number in range(20):
            in_thread(lambda number=number: refuse(store, f"{number}"))  # type: ignore[misc]
    store.hot_keys()
    kept = kept_by_heat(store)
    assert max(kept) == CAPACITY
    # This thread's and that of the ended ones, of two periods, of each kind.
    assert len(kept) == 2 * 2 * len(KINDS)


def test_dropped_namespace_leaves_nothing_but_its_name(make: Maker, clock: ManualClock) -> None:
    """Its keys are shown as long as others; nothing of it is needed for that."""
    store = make.store()
    refuse(store, "k")
    assert store.drop("things") == 0
    assert hottest(store.hot_keys(), "conflicts") == ["k"]
    clock.advance(2 * WINDOW)
    assert hottest(store.hot_keys(), "conflicts") == []


def test_dict_without_a_store_has_no_heat(make: Maker) -> None:
    """A namespace by itself, and a dict, notice nothing: nothing is ever due, and nobody is told."""
    things = make.namespace()
    view = things.view()
    for number in range(1_000):
        assert isinstance(view.put("k", b"%d" % number, None, "text/plain", None), Written)
        view.entries.read("k")
    assert isinstance(view.put("k", b"", None, "text/plain", Condition.version(1)), Conflict)
    entries = make.striped(4)
    for number in range(1_000):
        entries[number % 10] = number
        assert entries.get(number % 10) == number


def test_heat_of_nothing_is_empty(clock: ManualClock) -> None:
    """Of each kind no key, and a sum of none."""
    found = Heat(clock).hot_keys(20)
    assert found.kinds == {kind: [] for kind in KINDS}
    assert found.totals == dict.fromkeys(KINDS, 0)


def test_diverted_reads_count_and_are_sampled(make: Maker) -> None:
    """While readers are sent to the locks they are looked at as often."""
    store = make.store()
    things = store.namespace("things")
    things.put("hot", b"v")
    entries = things.view().entries
    entries.divert()
    for _ in range(20_000):
        entries.read("hot")
        entries.read("not there")
    entries.read_freely()
    found = store.hot_keys()
    assert set(hottest(found)) == {"hot", "not there"}
    for each in found.kinds["reads"]:
        check_near(each, 20_000)
    assert (things.statistics().hits, things.statistics().misses) == (20_000, 20_000)


def test_few_samples_prove_nothing(make: Maker) -> None:
    """Of many keys that are read once each some are sampled, and none has a share for certain."""
    store = make.store()
    namespace = store.namespace("n")
    for number in range(64 * SAMPLE):
        namespace.read(str(number))
    found = store.hot_keys().kinds["reads"]
    assert found
    assert all(key.share > 0.005 and key.least_share == 0 for key in found)


@pytest.mark.parametrize("expected", [1, 3, 10, 100])
def test_margin_holds_for_few_samples(expected: int) -> None:
    """The truth is within the margin nearly always, also where there were few samples."""
    seeded = random.Random(expected)
    within = 0
    for _ in range(2000):
        count = sum(seeded.random() < expected / 1000 for _ in range(1000))
        within += abs(count - expected) <= _margin(count)
    assert within >= 0.94 * 2000
