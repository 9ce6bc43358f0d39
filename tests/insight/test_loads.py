"""Loads that make threads wait, each by another cause, and what is said about them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cacheserver import operations
from cacheserver.errors import Contention
from cacheserver.insight.advice import MIN_WAITS
from cacheserver.insight.history import Record
from cacheserver.metrics import Metrics
from cacheserver.store.entry import VERSION
from cacheserver.store.namespace import Namespace, NamespaceConfig
from cacheserver.store.outcomes import Written
from cacheserver.store.store import Store, StoreView
from tests.conftest import Maker
from tests.insight.waiting import slow_operations, slow_writes, stop_writers
from tests.support.clock import ManualClock
from tests.support.inside import dicts_of, keys_of_stripe
from tests.support.threads import DEADLINE, run_threads

HOLD = 0.0005
"""Seconds for which a write keeps its stripe's lock, so that others meet there on any machine."""
THREADS = 4
WRITES = 60
"""Of each thread."""


class Load:
    """A store, and threads that use it and note how long that takes, as the server's do."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.metrics = Metrics()
        self.record = Record(store, self.metrics)
        self._clock = clock

    def request(self, operation: Callable[[], object]) -> None:
        """Do something, and note it."""
        started = time.perf_counter()
        operation()
        self.metrics.recorder().request("PUT", 204, time.perf_counter() - started)

    def write(self, namespace: Namespace, keys: list[list[str]]) -> None:
        """Write keys, each list in a thread of its own, each value of another size than the last."""

        def work(mine: list[str]) -> None:
            for number, key in enumerate(mine):
                value = bytes(20 * (1 + number % 3))
                self.request(lambda key=key, value=value: namespace.put(key, value))  # type: ignore[misc]

        run_threads([lambda mine=mine: work(mine) for mine in keys])  # type: ignore[misc]

    def locks(self) -> dict[str, Any]:
        """What is told of the locks."""
        self._clock.advance(5)
        self.record.tick()
        return self.record.locks()


@pytest.fixture
def load(make: Maker, clock: ManualClock) -> Load:
    """Threads that use a store."""
    return Load(make.store(), clock)


def own_keys() -> list[list[str]]:
    """Keys of each thread, all of them different."""
    return [[f"t{thread}:k{number}" for number in range(WRITES)] for thread in range(THREADS)]


def waits_of(locks: dict[str, Any]) -> dict[str, Any]:
    """The first thing that is advised."""
    return dict(locks["advice"][0])


@pytest.mark.parametrize("stripes", [1, 2])
def test_too_few_stripes(stripes: int, load: Load) -> None:
    """Many writers of different keys meet in one or two stripes; with what is advised they don't."""
    namespace, _ = load.store.create("sessions", NamespaceConfig(stripes=stripes))
    slow_writes(namespace, HOLD)
    load.write(namespace, own_keys())
    locks = load.locks()
    advice = waits_of(locks)
    assert (advice["rule"], advice["severity"]) == ("too-few-stripes", "act")
    assert 'use 64 (PATCH /v1/namespaces/sessions with {"stripes": 64})' in advice["text"]
    [told] = locks["namespaces"]
    assert len(told["stripe_contended"]) == stripes
    assert told["wait_ratio"] == locks["wait_ratio"] > 0.3

    namespace.change(stripes=64)
    slow_writes(namespace, HOLD)
    again = Load(load.store, load._clock)
    again.write(namespace, [[f"again:{key}" for key in mine] for mine in own_keys()])
    [after] = again.locks()["namespaces"]
    assert sum(after["stripe_contended"]) < sum(told["stripe_contended"]) / 4


def test_one_hot_key(load: Load) -> None:
    """Where four of five writes are to one key, that key is named, and no stripes are asked for."""
    namespace = load.store.namespace("sessions")
    slow_writes(namespace, HOLD)
    keys = [
        [key if number % 5 == 0 else "user:17" for number, key in enumerate(mine)]
        for mine in own_keys()
    ]
    load.write(namespace, keys)
    locks = load.locks()
    advice = waits_of(locks)
    assert (advice["rule"], advice["severity"], advice["namespace"]) == (
        "hot-key",
        "act",
        "sessions",
    )
    assert "1 of 64 stripes takes" in advice["text"]
    assert "one key, user:17, causes" in advice["text"]
    assert "split that key" in advice["text"]
    [told] = locks["namespaces"]
    assert told["hot_keys"][0]["key"] == "user:17"
    assert told["hot_keys"][0]["share"] > 0.5
    assert told["hottest"][0]["share"] > 0.5
    [hottest] = [number for number, waits in enumerate(told["stripe_contended"]) if waits > 50]
    assert hottest == told["hottest"][0]["stripe"]
    waits: Any = load.record.hotkeys()["waits"]
    assert (waits[0]["namespace"], waits[0]["key"]) == ("sessions", "user:17")


def test_a_hot_stripe(load: Load) -> None:
    """Where many keys of one stripe are written, and no other, they are to be parted."""
    namespace = load.store.namespace("sessions")
    slow_writes(namespace, HOLD)
    keys = keys_of_stripe(dicts_of(namespace)[0], 5, 40)
    load.write(namespace, [keys[thread * 10 : thread * 10 + 10] * 6 for thread in range(THREADS)])
    advice = waits_of(load.locks())
    assert (advice["rule"], advice["severity"]) == ("hot-stripe", "act")
    assert "1 of 64 stripes takes 100 % of the waits, and no single key" in advice["text"]


def test_stopped_holders(load: Load) -> None:
    """Where writers are stopped while they have a stripe, stripes are not to blame, nor keys."""
    namespace, _ = load.store.create("sessions", NamespaceConfig(stripes=1))
    stop_writers(namespace, 0.01)
    load.write(namespace, [[f"t{thread}:k"] * 1500 for thread in range(2 * THREADS)])
    locks = load.locks()
    advice = waits_of(locks)
    assert (advice["rule"], advice["severity"]) == ("stopped-holders", "act")
    assert "start the server with fewer --threads, or give it more processors" in advice["text"]
    assert 'use 64 stripes (PATCH /v1/namespaces/sessions with {"stripes": 64})' in advice["text"]
    assert locks["namespaces"][0]["locks"]["stripe"]["contended"] >= MIN_WAITS


OPERATIONS: dict[str, Callable[[Namespace, int], object]] = {
    "clear": lambda namespace, turn: namespace.clear(),
    "snapshot": lambda namespace, turn: namespace.snapshot(),
    "totals": lambda namespace, turn: namespace.totals(),
    "reshape": lambda namespace, turn: namespace.change(stripes=64 << turn % 2),
    "policy": lambda namespace, turn: namespace.change(policy=("sieve", "fifo")[turn % 2]),
    "limits": lambda namespace, turn: namespace.change(max_entries=100_000 + turn),
}


@pytest.mark.parametrize("purpose", OPERATIONS)
def test_long_holds(purpose: str, load: Load) -> None:
    """Where an operation on the whole namespace is done again and again, it is what is named."""
    namespace = load.store.namespace("sessions")
    for number in range(2000):
        namespace.put(f"k{number}", b"v")
    load.record = Record(load.store, load.metrics)
    slow_operations(namespace, 0.002)
    done = threading.Event()

    def operate() -> None:
        try:
            for number in range(1, 26):
                OPERATIONS[purpose](namespace, number)
                time.sleep(0.001)  # for writers to come between
        finally:
            done.set()

    def write(thread: int) -> None:
        for number in itertools.count():
            if done.is_set():
                break
            load.request(lambda number=number: namespace.put(f"t{thread}:{number}", b"v"))  # type: ignore[misc]

    run_threads([operate, lambda: write(1), lambda: write(2)])
    locks = load.locks()
    [advice] = [each for each in locks["advice"] if each["rule"] == "long-holds"]
    assert (advice["severity"], advice["namespace"]) == ("act", "sessions")
    assert f"; {purpose} held it 25 times, for " in advice["text"]
    [told] = locks["namespaces"]
    assert told["locks"]["namespace_write"]["holds"] == 25
    assert told["locks"]["namespace_write"]["hold_seconds"] > 0.05
    assert told["locks"]["namespace_read"]["contended"] >= 10


def test_conflicts_of_optimistic_retries(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threads count in one key, each again when another was quicker, the conflicts are told."""
    namespace = load.store.namespace("pages")
    namespace.put("hits", b"1")
    load.record = Record(load.store, load.metrics)
    put = operations.put

    def put_late(*what: Any, **more: Any) -> Any:
        time.sleep(HOLD)  # so that all who come meanwhile have read what is replaced
        return put(*what, **more)

    monkeypatch.setattr(operations, "put", put_late)

    def count_one(view: StoreView) -> None:
        while True:
            try:
                operations.incr(view, "pages", "hits")
                return
            except Contention:
                pass  # others were quicker each time: as a client would, once more

    def count() -> int:
        view = load.store.view()
        for _ in range(WRITES):
            load.request(lambda: count_one(view))
        return WRITES

    assert sum(run_threads([count] * THREADS)) == THREADS * WRITES
    locks = load.locks()
    [told] = locks["namespaces"]
    assert told["writes"] == THREADS * WRITES
    conflicts = told["cas_conflicts"]
    assert conflicts == namespace.statistics().cas_conflicts >= 100
    assert told["conflict_ratio"] == pytest.approx(
        conflicts / (conflicts + told["writes"]), abs=1e-6
    )
    assert told["conflict_keys"] == [{"key": "hits", "conflicts": conflicts, "share": 1}]
    [advice] = [each for each in locks["advice"] if each["rule"] == "conflicts"]
    assert (advice["severity"], advice["namespace"]) == ("watch", "pages")
    assert "100 % of those on one key, hits: split that key" in advice["text"]


def test_conflicts_of_compare_and_set(load: Load) -> None:
    """Of threads that read the same version, one writes: so many conflicts as there were are told."""
    namespace = load.store.namespace("jobs")
    namespace.put("next", b"0")
    load.record = Record(load.store, load.metrics)
    together = threading.Barrier(THREADS)
    rounds = 50

    def work() -> int:
        written = 0
        for _ in range(rounds):
            entry = namespace.read("next")
            assert entry is not None
            together.wait(DEADLINE)
            written += type(namespace.compare_and_set("next", entry[VERSION], b"1")) is Written
            together.wait(DEADLINE)
        return written

    assert sum(run_threads([work] * THREADS)) == rounds
    locks = load.locks()
    [told] = locks["namespaces"]
    refused = rounds * (THREADS - 1)
    assert (told["writes"], told["cas_conflicts"]) == (rounds, refused)
    assert told["conflict_keys"] == [{"key": "next", "conflicts": refused, "share": 1}]
    assert [each["text"] for each in locks["advice"] if each["rule"] == "conflicts"] == [
        "namespace jobs: 75 % of the tries to write fail since another write came first or their "
        "condition does not hold, 100 % of those on one key, next: split that key; where clients "
        "read, compute and compare-and-set, incr or append may do it in one request; where a refusal "
        "is an answer, as with If-None-Match: *, leave it"
    ]


def test_writers_that_do_not_meet(load: Load) -> None:
    """Writers of stripes of their own wait for nobody, and are told to leave it."""
    namespace = load.store.namespace("sessions")
    entries = dicts_of(namespace)[0]
    load.write(namespace, [keys_of_stripe(entries, stripe, 3) * 50 for stripe in (3, 5)])
    locks = load.locks()
    assert [(each["rule"], each["severity"]) for each in locks["advice"]] == [("low", "fine")]
    assert locks["advice"][0]["text"] == "threads wait 0 % of the time: leave it"
    assert locks["wait_ratio"] == 0
    assert locks["namespaces"][0]["stripe_contended"] == []


def test_hot_reads(load: Load) -> None:
    """A key that most reads are for is named, and left alone."""
    namespace = load.store.namespace("pages")
    namespace.put("front", b"v")

    def read() -> None:
        look = namespace.view().read
        for number in range(40_000):
            look("front" if number % 10 else f"k{number}")

    run_threads([read] * 2)
    load.metrics.recorder().request("GET", 200, 0.1)
    advice = load.locks()["advice"]
    assert [(each["rule"], each["severity"]) for each in advice] == [
        ("low", "fine"),
        ("hot-reads", "fine"),
    ]
    assert "one key, front, has about" in advice[1]["text"]
    assert "reads take no lock, so nobody waits for it: leave it" in advice[1]["text"]


def test_nothing_happened(load: Load) -> None:
    """Where nobody did anything, that is all there is to say."""
    load.store.namespace("sessions")
    locks = load.locks()
    assert [each["rule"] for each in locks["advice"]] == ["no-traffic"]
    assert locks["wait_ratio"] is None
