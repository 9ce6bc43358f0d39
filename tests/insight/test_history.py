"""Samples, what follows from them, and the thread that takes them."""

from __future__ import annotations

import gc
import json
import logging
import random
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from cacheserver.insight.history import INTERVAL, POINTS, SHARE, History, Record
from cacheserver.metrics import REQUEST_BOUNDS, Metrics
from cacheserver.store.namespace import NamespaceConfig
from cacheserver.store.outcomes import Condition
from cacheserver.store.sampler import WINDOW
from cacheserver.store.store import Store
from tests.conftest import Maker
from tests.insight.waiting import hold_stripe, wait_for_a_write
from tests.support.clock import ManualClock
from tests.support.threads import eventually, in_thread, start


@pytest.fixture
def store(make: Maker) -> Store:
    """A store whose clock stands still."""
    return make.store()


@pytest.fixture
def metrics() -> Metrics:
    """What requests are noted in."""
    return Metrics()


@pytest.fixture
def record(store: Store, metrics: Metrics) -> Record:
    """A record with its first sample."""
    return Record(store, metrics)


def busy(metrics: Metrics, number: int, seconds: float = 0.001, status: int = 200) -> None:
    """Note requests, all alike."""
    for _ in range(number):
        metrics.recorder().request("GET", status, seconds)


# Rates, ratios and quantiles are what was done.


def test_rates_are_what_was_done(
    store: Store, metrics: Metrics, record: Record, clock: ManualClock
) -> None:
    """Requests, errors and methods are told a second, of the time since the sample before."""
    busy(metrics, 30)
    busy(metrics, 8, status=503)
    metrics.recorder().request("PUT", 204, 0.001)
    metrics.recorder().request("PUT", 412, 0.001)
    clock.advance(2)
    record.tick()
    told = record.overview()
    assert told["time"] == clock.wall()
    assert told["interval_seconds"] == 2
    assert told["requests_per_second"] == 20
    assert told["errors_per_second"] == 4
    assert told["methods"] == {"GET": 19, "PUT": 1}
    clock.advance(1)
    record.tick()
    told = record.overview()
    assert (told["requests_per_second"], told["errors_per_second"]) == (0, 0)
    assert told["methods"] == {}


def test_what_was_before_the_first_sample_counts_for_nothing(
    store: Store, metrics: Metrics, clock: ManualClock
) -> None:
    """A history that begins late tells of nothing that was before."""
    store.namespace("n").put("k", b"v")
    store.namespace("n").read("k")
    busy(metrics, 100)
    record = Record(store, metrics)
    clock.advance(1)
    record.tick()
    told = record.overview()
    assert told["requests_per_second"] == 0
    assert told["hit_ratio"] is told["p50_seconds"] is told["wait_ratio"] is None
    assert (told["entries"], told["namespaces_total"]) == (1, 1)
    assert told["bytes"] == store.statistics().bytes > 0
    locks = record.locks()
    assert locks["wait_ratio"] is None
    assert locks["namespaces"][0]["writes"] == 0


def test_what_a_namespace_does_is_told(
    store: Store, metrics: Metrics, record: Record, clock: ManualClock
) -> None:
    """Reads, writes, hits, conflicts, evictions and expirations are told as what happened to them."""
    namespace = store.namespace("n")
    namespace.configure(NamespaceConfig(max_entries=10, policy="fifo", stripes=1))
    for number in range(16):
        namespace.put(f"k{number}", b"v")
    namespace.put("short", b"v", ttl=0.5)
    for number in range(12, 16):
        assert namespace.read(f"k{number}")
    namespace.read("none")
    for _ in range(3):
        namespace.put("k15", b"v", condition=Condition.version(1))
    clock.advance(4)
    assert namespace.read("short") is None
    record.tick()
    told = record.overview()
    assert told["hit_ratio"] == pytest.approx(4 / 6, abs=1e-6)
    assert told["evictions_per_second"] == 7 / 4
    assert told["expirations_per_second"] == 1 / 4
    assert told["conflicts_per_second"] == 3 / 4
    [one] = told["namespaces"]
    assert one == {
        "name": "n",
        "entries": 9,
        "bytes": store.statistics().bytes,
        "reads_per_second": 6 / 4,
        "writes_per_second": 17 / 4,
        "hit_ratio": pytest.approx(4 / 6, abs=1e-6),
        "conflict_ratio": 0.15,
        "wait_ratio": None,
        "config": asdict(namespace.config),
    }


def test_namespaces_are_ranked_by_work(store: Store, record: Record, clock: ManualClock) -> None:
    """The busiest come first, fifty at most; all are counted."""
    for number in range(60):
        namespace = store.namespace(f"n{number:02}")
        for _ in range(number % 7):
            namespace.read("k")
    clock.advance(1)
    record.tick()
    told = record.overview()
    names: list[dict[str, Any]] = told["namespaces"]
    assert told["namespaces_total"] == 60
    assert len(names) == 50
    assert [each["reads_per_second"] for each in names] == sorted(
        (each["reads_per_second"] for each in names), reverse=True
    )
    assert names[0]["name"] == "n06"


@pytest.mark.parametrize("q", [0.5, 0.99])
def test_quantiles_are_within_their_bucket(
    q: float, metrics: Metrics, record: Record, clock: ManualClock
) -> None:
    """A quantile is in the same bucket as the one of the durations themselves."""
    source = random.Random(7)
    durations = [source.lognormvariate(-7, 1.5) for _ in range(2000)]
    for seconds in durations:
        metrics.recorder().request("GET", 200, seconds)
    clock.advance(1)
    record.tick()
    told = record.overview()[f"p{round(q * 100)}_seconds"]
    exact = sorted(durations)[round(q * len(durations)) - 1]
    lower = max([bound for bound in REQUEST_BOUNDS if bound < exact], default=0)
    upper = min(bound for bound in REQUEST_BOUNDS if bound >= exact)
    assert isinstance(told, float)
    assert lower <= told <= upper


@pytest.mark.parametrize(
    ("seconds", "p50"),
    [(0.0, 8e-6), (16e-6, 8e-6), (20e-6, 24e-6), (1e6, REQUEST_BOUNDS[-1])],
)
def test_a_quantile_of_one_bucket(
    seconds: float, p50: float, metrics: Metrics, record: Record, clock: ManualClock
) -> None:
    """The median of durations that are all in one bucket is its middle; the last has no upper end."""
    busy(metrics, 10, seconds)
    clock.advance(1)
    record.tick()
    assert record.overview()["p50_seconds"] == pytest.approx(p50)


def test_the_wait_ratio_is_the_part_of_the_time(
    store: Store, metrics: Metrics, record: Record, clock: ManualClock
) -> None:
    """What a thread waited, of what requests took: of all, and of the namespace alone."""
    waited = wait_for_a_write(store.namespace("n"), "k", seconds=0.05)
    store.namespace("idle")
    metrics.recorder().request("PUT", 204, 10 * waited)
    clock.advance(1)
    record.tick()
    told = record.overview()
    assert told["wait_ratio"] == pytest.approx(0.1, abs=1e-6)
    ratios = {each["name"]: each["wait_ratio"] for each in told["namespaces"]}
    assert ratios == {"n": told["wait_ratio"], "idle": 0}
    locks = record.locks()
    assert locks["wait_ratio"] == told["wait_ratio"]
    assert locks["wait_seconds"] == pytest.approx(waited)
    assert locks["request_seconds"] == pytest.approx(10 * waited)
    assert [each["name"] for each in locks["namespaces"]] == ["n", "idle"]


def test_what_is_answered_together_takes_its_time_once(
    metrics: Metrics, record: Record, clock: ManualClock
) -> None:
    """Of requests that come together each has waited for all, but the time was spent once."""
    metrics.recorder().took(0.25, 16)
    clock.advance(1)
    record.tick()
    assert record.locks()["request_seconds"] == 0.25


def test_lags_and_connections(metrics: Metrics, record: Record, clock: ManualClock) -> None:
    """Loops that have noted a lag are told by thread; connections are those of all."""
    metrics.recorder().connections = 3
    clock.advance(1)
    record.tick()
    assert record.overview()["loops"] == []
    metrics.recorder().lag(0.25)
    told = record.overview()
    assert told["connections"] == 3
    assert told["loops"] == [{"thread": threading.current_thread().name, "lag_seconds": 0.25}]


def test_the_server_is_told(make: Maker, metrics: Metrics, clock: ManualClock) -> None:
    """What runs is told, with what the server tells of itself."""
    store = make.store(stripes=8, max_memory=1 << 20)
    alone: dict[str, Any] = Record(store, metrics).overview()["server"]
    assert (alone["threads"], alone["state"], alone["uptime_seconds"]) == (1, "serving", 0)
    status = {"threads": 4, "state": "draining", "uptime_seconds": 12.5}
    told: dict[str, Any] = Record(store, metrics, lambda: status).overview()["server"]
    assert status.items() <= told.items()
    assert (told["stripes"], told["max_memory"]) == (8, 1 << 20)
    assert (
        told.keys()
        == alone.keys()
        == {
            *("version", "python", "gil_enabled", "threads", "stripes", "state", "uptime_seconds"),
            "max_memory",
        }
    )


# Namespaces that go and come again.


def test_a_namespace_that_comes_again_gives_no_negative_rate(
    store: Store, record: Record, clock: ManualClock
) -> None:
    """One of the same name begins anew; nothing that is told is ever below nothing."""
    for writes in (100, 10, 1):
        namespace = store.namespace("n")
        for number in range(writes):
            namespace.put(f"k{number}", b"v")
        clock.advance(1)
        record.tick()
        [told] = record.overview()["namespaces"]
        assert told["writes_per_second"] == writes
        [lock] = record.locks()["namespaces"]
        assert lock["writes"] == writes
        assert lock["locks"]["stripe"]["acquisitions"] >= writes
        store.drop("n")
    clock.advance(1)
    record.tick()
    assert record.overview()["namespaces"] == []
    assert record.locks()["namespaces"] == []


def test_waits_of_a_namespace_that_went_stay_in_the_whole(
    store: Store, metrics: Metrics, record: Record, clock: ManualClock
) -> None:
    """What a namespace waited that was dropped since is told of the whole for the rest of the window."""
    waited = wait_for_a_write(store.namespace("n"), "k", seconds=0.01)
    clock.advance(1)
    record.tick()
    store.drop("n")
    clock.advance(1)
    record.tick()
    locks = record.locks()
    assert locks["namespaces"] == []
    assert locks["wait_seconds"] == pytest.approx(waited)


def test_a_history_keeps_no_namespace_alive(
    store: Store, record: Record, clock: ManualClock
) -> None:
    """One that was dropped is freed, whatever samples know of it."""
    gone = weakref.ref(store.namespace("n"))
    clock.advance(1)
    record.tick()
    store.drop("n")
    for _ in store.sweep():
        pass
    gc.collect()
    assert gone() is None


# The window.


def test_the_window_is_one_to_two_periods(store: Store, record: Record, clock: ManualClock) -> None:
    """It begins with the period before the current one: what is older is told no more."""
    clock.set(100 * WINDOW)
    record = Record(store, Metrics())
    namespace = store.namespace("n")
    lengths, writes = [], []
    for _ in range(int(4 * WINDOW)):
        namespace.put("k", b"v")  # one a second
        clock.advance(1)
        record.tick()
        locks = record.locks()
        lengths.append(locks["seconds"])
        writes.append(locks["namespaces"][0]["writes"])
    assert lengths[: int(2 * WINDOW) - 1] == [*range(1, int(2 * WINDOW))]
    assert {min(lengths[int(WINDOW) :]), max(lengths)} == {WINDOW, 2 * WINDOW - 1}
    assert writes == lengths


def test_keys_and_waits_are_of_the_same_window(store: Store, clock: ManualClock) -> None:
    """Also where a period has begun since the last sample: else the keys explained half of the waits."""
    clock.set(100 * WINDOW)
    record = Record(store, Metrics())
    namespace = store.namespace("n")

    def conflict() -> None:
        namespace.put("k", b"v", condition=Condition.version(1))

    for _ in range(int(2 * WINDOW) - 1):
        conflict()
        clock.advance(1)
        record.tick()
    clock.advance(1.5)  # into the next period, without a sample
    conflict()
    (told,) = record.locks()["namespaces"]
    assert told["conflict_keys"][0]["conflicts"] == told["cas_conflicts"] == WINDOW
    (told,) = record.overview()["locks"]["namespaces"]
    assert told["conflict_keys"][0]["share"] == 1
    assert told["cas_conflicts"] == WINDOW - 1  # as of the last sample


def test_a_pause_ends_the_window(store: Store, record: Record, clock: ManualClock) -> None:
    """After a long time without samples the window begins with the last one before."""
    store.namespace("n").put("k", b"v")
    clock.advance(1)
    record.tick()
    clock.advance(10 * WINDOW)
    record.tick()
    clock.advance(WINDOW)
    record.tick()
    locks = record.locks()
    assert locks["seconds"] == WINDOW
    assert locks["namespaces"][0]["writes"] == 0


def test_stripes_of_the_window(store: Store, metrics: Metrics, clock: ManualClock) -> None:
    """A stripe has the waits of the window, and they go when the window has gone."""
    clock.set(100 * WINDOW)
    record = Record(store, metrics)
    namespace = store.namespace("n")
    wait_for_a_write(namespace, "old", seconds=0.002)
    clock.advance(1)
    record.tick()
    first = record.locks()["namespaces"][0]
    assert sum(first["stripe_contended"]) == 1
    assert first["hottest"][0]["share"] == 1
    for _ in range(2):
        clock.advance(WINDOW)
        record.tick()
    quiet = record.locks()["namespaces"][0]
    assert (quiet["stripe_contended"], quiet["hottest"]) == ([], [])
    waited = wait_for_a_write(namespace, "new", seconds=0.002)
    wait_for_a_write(namespace, "new", seconds=0.002)
    again = record.locks()["namespaces"][0]
    assert sum(again["stripe_contended"]) == 2
    assert again["hottest"][0]["contended"] == 2
    assert again["wait_seconds"] > waited


def test_other_stripes_begin_anew(store: Store, record: Record, clock: ManualClock) -> None:
    """After a change of stripes each has what it saw since, and no figure is below nothing."""
    namespace = store.namespace("n")
    for _ in range(3):
        wait_for_a_write(namespace, "k", seconds=0.001)
    clock.advance(WINDOW)
    record.tick()
    clock.advance(WINDOW)
    record.tick()
    for stripes in (8, 64):
        namespace.change(stripes=stripes)
        wait_for_a_write(namespace, "k", seconds=0.001)
        told = record.locks()["namespaces"][0]
        assert len(told["stripe_contended"]) == told["stripes"] == stripes
        assert sum(told["stripe_contended"]) == 1


def test_what_was_held_is_told(store: Store, record: Record, clock: ManualClock) -> None:
    """Operations on the whole namespace are counted, with how long they had it."""
    namespace = store.namespace("n")
    for _ in range(5):
        namespace.clear()
    namespace.totals()
    clock.advance(1)
    record.tick()
    told = record.locks()["namespaces"][0]
    write = told["locks"]["namespace_write"]
    assert (write["holds"], write["acquisitions"]) == (6, 6)
    assert 0 < write["hold_seconds"] < 1


# Points, pace and those who are told.


def test_points_are_columns(metrics: Metrics, record: Record, clock: ManualClock) -> None:
    """Of more points than are kept the oldest go; all columns are equally long."""
    began = clock.wall()
    for number in range(POINTS + 5):
        busy(metrics, number)
        clock.advance(1)
        record.tick()
    points = record.points()
    assert {len(column) for column in points.values()} == {POINTS}
    assert points["time"] == [began + 6 + number for number in range(POINTS)]
    assert points["requests_per_second"] == [*range(5, POINTS + 5)]
    assert list(points) == [
        *("time", "requests_per_second", "hit_ratio", "p50_seconds", "p99_seconds"),
        *("wait_ratio", "bytes", "connections"),
    ]


def test_a_clock_that_stands_still_gives_no_point(metrics: Metrics, record: Record) -> None:
    """Nothing is divided by no time."""
    busy(metrics, 5)
    record.tick()
    assert record.points()["time"] == []
    assert record.overview()["requests_per_second"] == 0


@pytest.mark.parametrize(
    ("cost", "wait"), [(0.0, INTERVAL), (0.01, INTERVAL), (0.02, 2.0), (1.0, 100.0)]
)
def test_dear_samples_come_less_often(
    cost: float, wait: float, store: Store, metrics: Metrics
) -> None:
    """The time to the next sample is so long that all of them take a hundredth of a processor."""
    used = [0.0, cost]
    record = Record(store, metrics, cpu=lambda: used.pop(0))
    assert record.tick() == pytest.approx(wait)
    assert cost / wait <= SHARE + 1e-9


def events(of: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The server-sent events in some bytes."""
    found = []
    for block in of.decode("ascii").split("\n\n")[:-1]:
        kind, data = block.split("\n")
        assert kind.startswith("event: ")
        assert data.startswith("data: ")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_all_who_want_are_told_the_same_bytes(record: Record, clock: ManualClock) -> None:
    """An overview is rendered once for all who want it, and not for those who want no more."""
    one: list[bytes] = []
    other: list[bytes] = []
    leave = record.subscribe(one.append)
    record.subscribe(other.append)
    clock.advance(1)
    record.tick()
    assert one[0] is other[0]
    [(kind, told)] = events(one[0])
    assert kind == "overview"
    assert told == json.loads(json.dumps(record.overview()))
    leave()
    leave()
    record.tick()
    assert (len(one), len(other)) == (1, 2)


def test_a_stream_begins_with_the_past(record: Record, clock: ManualClock) -> None:
    """The first events are the points so far, and what holds now."""
    clock.advance(1)
    record.tick()
    (first, points), (second, _) = events(record.opening())
    assert (first, second) == ("history", "overview")
    assert points == record.points()


def test_who_fails_is_told_no_more(
    record: Record, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One that raises is logged and left out; the others are told as ever."""
    told: list[bytes] = []

    def fail(event: bytes) -> None:
        raise RuntimeError("the loop is closed")

    record.subscribe(fail)
    record.subscribe(told.append)
    with caplog.at_level(logging.ERROR):
        record.tick()
        record.tick()
    assert len(told) == 2
    assert len(caplog.records) == 1


def test_keys_of_any_kind_are_told(
    store: Store, metrics: Metrics, record: Record, clock: ManualClock
) -> None:
    """Line feeds, quotes and letters of any script come through an event as they are."""
    key = 'a\r\n\n"b"\u2028 ключ'
    store.namespace("n").put(key, b"v", condition=Condition.version(5))
    told: list[bytes] = []
    record.subscribe(told.append)
    clock.advance(1)
    record.tick()
    [(_, overview)] = events(told[0])
    assert overview["hotkeys"]["conflicts"][0]["key"] == key


# The thread.


def test_the_thread_takes_samples_and_ends_with_the_history(store: Store) -> None:
    """It starts at once, tells of samples, and ends when nobody has the history any more."""
    before = set(threading.enumerate())
    history = History(Store(), Metrics())
    [thread] = set(threading.enumerate()) - before
    assert thread.daemon
    told: list[tuple[bytes, str]] = []
    history.subscribe(lambda event: told.append((event, threading.current_thread().name)))
    eventually(lambda: told, "a sample")
    assert told[0][1] == thread.name
    assert history.points()["time"]
    del history
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_the_thread_outlives_a_sample_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A sample that fails is logged, and the next one is taken all the same."""
    fails = [True]

    def status() -> dict[str, object]:
        if fails:
            fails.pop()
            raise RuntimeError("no status")
        return {}

    history = History(Store(), Metrics(), status)
    told: list[bytes] = []
    history.subscribe(told.append)
    eventually(lambda: told, "a sample after one that failed")
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info] == [  # type: ignore[union-attr]
        ("no status",)
    ]


def test_any_thread_may_ask_while_samples_are_taken(
    store: Store, metrics: Metrics, record: Record, clock: ManualClock
) -> None:
    """Reports are made from whole samples while others replace them and namespaces come and go."""
    done = threading.Event()

    def ask(report: Callable[[], dict[str, object]]) -> Callable[[], int]:
        def work() -> int:
            asked = 0
            while not done.is_set():
                json.dumps(report(), allow_nan=False)
                asked += 1
            return asked

        return work

    asking = [start(ask(report)) for report in (record.locks, record.overview, record.points)]
    try:
        for number in range(60):
            namespace = store.namespace(f"n{number % 5}")
            namespace.put(f"k{number}", b"v")
            metrics.recorder().request("PUT", 201, 0.001)
            if number % 7 == 0:
                store.drop(f"n{number % 5}")
            clock.advance(1)
            record.tick()
    finally:
        done.set()
    assert all(each.result() for each in asking)


# Bounds.


def test_memory_is_bounded_with_a_thousand_namespaces(make: Maker, clock: ManualClock) -> None:
    """However many samples were taken, four of them are kept, whatever namespaces there are."""
    store = make.store(stripes=1, max_namespaces=1000)
    for number in range(1000):
        store.namespace(f"n{number}").read("k")
    record = Record(store, Metrics())
    sizes = []
    for _ in range(8):
        for number in range(0, 1000, 2):
            store.drop(f"n{number}")
            store.namespace(f"n{number}").read("k")
        for _ in range(3):
            clock.advance(WINDOW / 2)
            record.tick()
        sizes.append(_size(record))
    assert max(sizes[2:]) <= sizes[2]
    assert max(sizes) < 5_000_000
    told = record.overview()
    assert (len(told["namespaces"]), told["namespaces_total"]) == (50, 1000)
    locks = record.locks()
    assert (len(locks["namespaces"]), locks["namespaces_left_out"]) == (100, 900)


def _size(record: Record) -> int:
    """The bytes of a record's samples, each object counted once."""
    seen: dict[int, object] = {}
    rest: list[object] = [record._last, record._period]
    while rest:
        thing = rest.pop()
        if id(thing) in seen or isinstance(thing, int | str | type | weakref.ref):
            continue
        seen[id(thing)] = thing
        rest += gc.get_referents(thing)
    return sum(map(sys.getsizeof, seen.values()))


def test_a_stripe_that_is_held_stops_no_sample(
    store: Store, record: Record, clock: ManualClock
) -> None:
    """Who has a lock of the store keeps no sample and no report waiting."""
    namespace = store.namespace("n")
    namespace.put("k", b"v")
    with hold_stripe(namespace, "k"):
        clock.advance(1)
        in_thread(record.tick)
        in_thread(record.locks)
    assert record.points()["time"] == [clock.wall()]
