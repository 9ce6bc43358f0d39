"""Recorders, their sums, and the text that Prometheus reads."""

from __future__ import annotations

import asyncio
import gc
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from random import Random
from typing import ClassVar

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from cacheserver import Store, operations
from cacheserver.metrics import (
    HOT_KEY_LENGTH,
    REQUEST_BOUNDS,
    Exposition,
    Metrics,
    Recorder,
    make_registry,
    render,
)
from cacheserver.store.namespace import Namespace
from cacheserver.store.outcomes import Condition, Conflict, Missing, Written
from cacheserver.store.store import REPORTED
from tests.insight.waiting import wait_for_a_write
from tests.support.inside import dicts_of, keys_of_stripe
from tests.support.threads import eventually, run_threads, start


def in_thread(function: Callable[[], object]) -> None:
    """Run in a thread, to its end."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def text_of(store: Store, metrics: Metrics) -> str:
    """The metrics as text."""
    return render(make_registry(store, metrics))[0].decode()


def test_requests_of_all_threads_are_summed():
    """Requests noted by threads that live and by threads that have ended are all counted."""
    metrics = Metrics()
    metrics.recorder().request("GET", 200, 0.001)
    for _ in range(3):
        in_thread(lambda: metrics.recorder().request("GET", 200, 0.001))
    in_thread(lambda: metrics.recorder().request("PUT", 201, 0.001))
    totals = metrics.totals()
    assert totals.requests == {("GET", 200): 4, ("PUT", 201): 1}
    assert totals.durations.count == 5
    assert totals.durations.seconds == pytest.approx(0.005)


def test_requests_that_are_answered_together():
    """Each of them has its time in the histogram, but the thread was busy once."""
    metrics = Metrics()
    metrics.recorder().took(0.5, 8)
    in_thread(lambda: metrics.recorder().took(0.25))
    totals = metrics.totals()
    assert (totals.durations.count, totals.durations.seconds, totals.busy) == (9, 4.25, 0.75)


def test_each_thread_has_one_recorder():
    """A thread gets the same recorder each time, and no other thread gets it."""
    metrics = Metrics()
    others: list[object] = []
    in_thread(lambda: others.append(metrics.recorder()))
    assert metrics.recorder() is metrics.recorder()
    assert metrics.recorder() is not others[0]


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0),
        (0.000_016, 0),
        (0.000_017, 1),
        (0.000_032, 1),
        (0.000_033, 2),
        (1.0, 16),
        (REQUEST_BOUNDS[-1], len(REQUEST_BOUNDS) - 1),
        (REQUEST_BOUNDS[-1] + 1, len(REQUEST_BOUNDS)),
        (1e9, len(REQUEST_BOUNDS)),
    ],
)
def test_bucket_of_a_request(seconds: float, bucket: int):
    """A request falls into the first bucket whose bound is not below its time."""
    metrics = Metrics()
    metrics.recorder().request("GET", 200, seconds)
    buckets = metrics.totals().durations.buckets
    assert buckets.index(1) == bucket
    assert sum(buckets) == 1
    if bucket < len(REQUEST_BOUNDS):
        assert seconds <= REQUEST_BOUNDS[bucket]


def test_a_status_that_is_none_is_refused():
    """Numbers are counted for those that HTTP has, and nothing is counted elsewhere."""
    recorder = Recorder()
    for status in (99, 600, -1):
        with pytest.raises(ValueError, match="100 to 599"):
            recorder.request("GET", status, 0.0)
    recorder.request("GET", 100, 0.0)
    recorder.request("PUT", 599, 0.0)
    assert recorder.totals().requests == {("GET", 100): 1, ("PUT", 599): 1}


def test_others_read_while_one_thread_counts():
    """Each number rises, and in the end none is missing."""
    recorder = Recorder()
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(recorder.totals().requests["GET", 200])

    reader = start(read)
    eventually(lambda: bool(seen), "the other thread to read")
    for _ in range(20_000):
        recorder.request("GET", 200, 0.001)
    done.set()
    reader.result()
    assert seen == sorted(seen)
    totals = recorder.totals()
    assert (totals.requests, totals.durations.count) == ({("GET", 200): 20_000}, 20_000)


def test_methods_are_bounded():
    """Methods that nobody knows share a label."""
    metrics = Metrics()
    for method in ("BREW", "get", "X" * 1000):
        metrics.recorder().request(method, 405, 0)
    assert metrics.totals().requests == {("other", 405): 3}


def test_buckets_in_the_text_are_cumulative():
    """The text has every bucket, each with all that came before, and the last one has all."""
    metrics = Metrics()
    for seconds in (0.00001, 0.00001, 0.001, 100):
        metrics.recorder().request("GET", 200, seconds)
    lines = [
        line
        for line in text_of(Store(), metrics).splitlines()
        if line.startswith("cacheserver_request_seconds_bucket")
    ]
    counts = [float(line.split()[-1]) for line in lines]
    assert len(counts) == len(REQUEST_BOUNDS) + 1
    assert counts == sorted(counts)
    assert (counts[0], counts[-2], counts[-1]) == (2, 3, 4)


def test_event_loops_and_connections():
    """Connections are summed over threads; each loop's lag has its thread's name."""
    metrics = Metrics()
    done, proceed = threading.Barrier(2), threading.Event()

    def serve() -> None:
        recorder = metrics.recorder()
        recorder.connections += 3
        recorder.lag(0.25)
        done.wait(10)
        proceed.wait(10)

    thread = threading.Thread(target=serve, name="loop-7")
    thread.start()
    done.wait(10)
    metrics.recorder().connections += 1
    text = text_of(Store(), metrics)
    proceed.set()
    thread.join()
    assert "cacheserver_connections 4.0" in text
    assert 'cacheserver_event_loop_lag_seconds{thread="loop-7"} 0.25' in text
    assert text.count("cacheserver_event_loop_lag_seconds{") == 1


def lags(*noted: tuple[float, float], now: float) -> float | None:
    """The lag that is told at a time, of a loop that noted lags at these times."""
    times = [at for at, _ in noted] + [now]
    recorder = Metrics(timer=lambda: times.pop(0)).recorder()
    for _, seconds in noted:
        recorder.lag(seconds)
    return recorder.worst_lag()


@pytest.mark.parametrize(
    ("noted", "now", "worst"),
    [
        ([], 5, None),
        ([(1, 0.5)], 1, 0.5),
        ([(1, 0.5), (1.1, 0.0)], 1.2, 0.5),
        ([(1, 0.5), (1.1, 0.75), (1.2, 0.25)], 1.3, 0.75),
        ([(1, 0.5), (15.75, 0.25)], 15.9, 0.5),
        ([(1, 0.5), (15.75, 0.25)], 16, 0.25),
        ([(1, 0.5), (15.75, 0.25), (15.8, 0.125)], 16.1, 0.25),
        ([(1, 0.5), (30, 0.0)], 30, 0.0),
        ([(1, 0.0)], 2, 0.0),
        ([(1, 0.0)], 6, 4.0),
        ([(1, 0.5)], 101, 99.0),
    ],
)
def test_the_worst_lag_of_fifteen_seconds(
    noted: list[tuple[float, float]], now: float, worst: float | None
):
    """A loop's lag is the worst of the last 15 seconds, or, of one that is stuck, how long it is."""
    assert lags(*noted, now=now) == worst


def test_lags_take_no_room():
    """Of lags that are noted for an hour only those are kept that may still be the worst."""
    now = [0.0]
    recorder = Metrics(timer=lambda: now[0]).recorder()
    for tick in range(36_000):
        now[0] += 0.1
        recorder.lag(
            1 / (tick % 1000 + 1)
        )  # each smaller than the one before: none can be forgotten
    assert len(recorder._lags) <= 151
    assert recorder.worst_lag() == pytest.approx(1 / (35_999 % 1000 + 1 - 149), rel=0.01)


def test_registries_are_apart():
    """Two stores in one process have metrics of their own, and nothing goes to the global registry."""
    one, other = Store(), Store()
    one.namespace("n").put("k", b"")
    assert 'cacheserver_writes_total{namespace="n"} 1.0' in text_of(one, Metrics())
    assert 'namespace="n"' not in text_of(other, Metrics())


def test_metrics_are_rendered_elsewhere():
    """The text is written by the exposition's own thread, which is there from the start."""
    before = set(threading.enumerate())
    exposition = Exposition(Store(), Metrics())
    [writer] = set(threading.enumerate()) - before
    names: list[str] = []

    class Spy:
        def collect(self) -> list[object]:
            names.append(threading.current_thread().name)
            return []

    exposition.registry.register(Spy())  # type: ignore[arg-type]
    exposition.render_soon("").result(10)
    assert names == [writer.name]


class Gate(Collector):
    """Holds every rendering up until it is opened, and counts them."""

    def __init__(self) -> None:
        self.renderings = 0
        self.begun = threading.Event()
        self.opened = threading.Event()
        self.error: Exception | None = None

    def collect(self) -> Iterator[Metric]:
        self.renderings += 1
        self.begun.set()
        assert self.opened.wait(10)
        if self.error is not None:
            raise self.error
        return iter(())


OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate, which is open at the end whatever happens."""
    gate = Gate()
    yield gate
    gate.opened.set()


def gated(gate: Gate) -> tuple[Exposition, Future[tuple[bytes, str]]]:
    """Return an exposition whose first rendering has come to the gate, and what will come of it."""
    exposition = Exposition(Store(), Metrics())
    gate.opened.set()
    exposition.registry.register(gate)  # which collects once, to learn the names
    gate.renderings = 0
    gate.begun.clear()
    gate.opened.clear()
    first = exposition.render_soon("")
    assert gate.begun.wait(10)
    return exposition, first


def test_scrapes_share_the_rendering_that_has_not_begun(gate: Gate):
    """Of many scrapes the first has its rendering, and all that come while it runs share the next."""
    exposition, first = gated(gate)
    later = [exposition.render_soon("") for _ in range(50)]
    assert not any(scrape.done() for scrape in (first, *later))
    gate.opened.set()
    assert {scrape.result(10)[0] for scrape in later} == {later[0].result()[0]}
    assert first.result(10)[0] is not later[0].result()[0]
    assert gate.renderings == 2
    exposition.render_soon("").result(10)
    assert gate.renderings == 3


def test_scrapes_from_many_threads_share_a_rendering(gate: Gate):
    """Scrapes that come at the same time from several threads wait for one rendering."""
    exposition, _ = gated(gate)
    scrapes: list[Future[tuple[bytes, str]]] = []
    together = threading.Barrier(8)

    def scrape() -> None:
        together.wait(10)
        scrapes.extend([exposition.render_soon("") for _ in range(100)])

    threads = [threading.Thread(target=scrape) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    gate.opened.set()
    assert len({id(scrape.result(10)[0]) for scrape in scrapes}) == 1
    assert (len(scrapes), gate.renderings) == (800, 2)


def test_scrapes_share_within_a_content_type(gate: Gate):
    """Each content type has a rendering that waits, and everybody gets the type that was asked for."""
    exposition, _ = gated(gate)
    scrapes = [exposition.render_soon(accept) for accept in ("", OPEN_METRICS) * 10]
    gate.opened.set()
    types = [scrape.result(10)[1].partition(";")[0] for scrape in scrapes]
    assert types == ["text/plain", "application/openmetrics-text"] * 10
    assert gate.renderings == 3


def test_invented_content_types_are_bounded(gate: Gate):
    """Clients that ask for ever other versions make only so many renderings wait."""
    exposition, _ = gated(gate)
    asked = [f"application/openmetrics-text; version=1.0.{number}" for number in range(100)]
    scrapes = [exposition.render_soon(accept) for accept in asked]
    gate.opened.set()
    assert scrapes[-1].result(10)[1].startswith("text/plain")
    assert gate.renderings == 1 + 8 + 1


def test_a_cancelled_scrape_leaves_the_others_theirs(gate: Gate):
    """Who no longer wants the text takes it from nobody else."""
    exposition, _ = gated(gate)
    gone, stays, also_gone = (exposition.render_soon("") for _ in range(3))
    assert gone.cancel()
    assert also_gone.cancel()
    gate.opened.set()
    assert stays.result(10)[0]
    assert gate.renderings == 2


def test_nothing_is_rendered_for_nobody(gate: Gate):
    """A rendering that waits is left out when all who wanted it have cancelled."""
    exposition, first = gated(gate)
    for unwanted in [exposition.render_soon("") for _ in range(10)]:
        assert unwanted.cancel()
    gate.opened.set()
    first.result(10)
    exposition.render_soon(OPEN_METRICS).result(10)  # behind the one that is left out
    assert gate.renderings == 2


def test_a_rendering_that_fails_fails_for_all_and_ends_nothing(gate: Gate):
    """All who share it get its error; the next scrape is rendered as ever."""
    exposition, first = gated(gate)
    later = [exposition.render_soon("") for _ in range(3)]
    gate.error = KeyError("broken")
    gate.opened.set()
    assert [scrape.exception(10) for scrape in (first, *later)] == [gate.error] * 4
    gate.error = None
    assert exposition.render_soon("").result(10)[0]


def test_requests_share_a_rendering_and_go_away_quietly(
    gate: Gate, caplog: pytest.LogCaptureFixture
):
    """A request that is cancelled, or whose loop is closed, takes nothing from others nor is logged."""
    exposition, first = gated(gate)
    left: list[asyncio.Task[None]] = []

    async def ask() -> None:
        await asyncio.wrap_future(exposition.render_soon(""))

    async def ask_and_go_away() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(), 0)
        left.append(asyncio.create_task(ask()))
        await asyncio.sleep(0)

    asyncio.run(ask_and_go_away())
    assert left[0].cancelled()
    other = exposition.render_soon("")
    gate.error = KeyError("broken")
    gate.opened.set()
    assert first.exception(10) is other.exception(10) is gate.error
    gc.collect()
    assert not caplog.records


def test_holds_are_told_once():
    """How long locks are held is told of stripes and of whole namespaces: shares are a stripe's holds."""
    store = Store()
    store.namespace("n").put("k", b"v")
    text = text_of(store, Metrics())
    count = 'cacheserver_lock_{}{{lock="{}",namespace="n"}}'
    for lock, told in (("stripe", True), ("namespace_read", False), ("namespace_write", True)):
        assert count.format("acquisitions_total", lock) in text
        assert count.format("wait_seconds_count", lock) in text
        assert (count.format("hold_seconds_count", lock) in text) is told


def figures(store: Store, metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """All samples of a scrape, by name and the values of labels in order of their names, each once."""
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    for family in text_string_to_metric_families(text_of(store, metrics)):
        for sample in family.samples:
            label = sample.name.removeprefix("cacheserver_"), tuple(sample.labels.values())
            assert label not in found
            found[label] = sample.value
    return found


def test_limits_and_numbers_are_told():
    """The memory that there is, how many namespaces, and how many operations were slow."""
    store, metrics = Store(max_memory=5 << 20), Metrics()
    for name in ("a", "b", "c"):
        store.namespace(name)
    store.drop("b")
    metrics.slowlog.note(operation="get", method="GET", namespace="a", status=200, seconds=1)
    found = figures(store, metrics)
    assert found["memory_limit_bytes", ()] == 5 << 20
    assert found["namespaces", ()] == 2
    assert found["slow_operations_total", ()] == 1


def test_namespaces_beyond_the_limit_are_together():
    """A hundred namespaces have figures of their own; the rest is one, and loses nothing by drops."""
    store = Store(stripes=1)
    for number in range(REPORTED + 20):
        store.namespace(f"n{number:03}").put("k", b"v")
    found = figures(store, Metrics())
    writes = {name: value for (what, name), value in found.items() if what == "writes_total"}
    assert len(writes) == REPORTED + 1
    assert writes["(other)",] == 20
    assert found["namespaces", ()] == REPORTED + 20
    assert found["entries", ("(other)",)] == 20
    for number in range(REPORTED + 10, REPORTED + 20):
        store.drop(f"n{number:03}")
    store.drop("n000")
    found = figures(store, Metrics())
    assert found["writes_total", ("(other)",)] == 20
    assert found["entries", ("(other)",)] == 10
    assert ("writes_total", ("n000",)) not in found


def test_stripes_that_are_waited_for_are_told():
    """The eight stripes with the most waits have figures, others none, and one without waits none."""
    store = Store()
    namespace = store.namespace("n")
    store.namespace("quiet").put("k", b"v")
    assert not [name for name, _ in figures(store, Metrics()) if name.startswith("stripe_")]
    entries = dicts_of(namespace)[0]
    for stripe in range(10):
        [key] = keys_of_stripe(entries, stripe, 1)
        for _ in range(1 + (stripe > 1)):
            wait_for_a_write(namespace, key, seconds=0)
    found = figures(store, Metrics())
    contended = {key: found[key] for key in found if key[0] == "stripe_contended_total"}
    assert contended == {
        ("stripe_contended_total", ("n", str(stripe))): 2.0 for stripe in range(2, 10)
    }
    seconds = [found["stripe_wait_seconds_total", ("n", str(stripe))] for stripe in range(2, 10)]
    total = found["lock_wait_seconds_sum", ("stripe", "n")]
    assert 0 < sum(seconds) < total
    assert found["lock_contended_total", ("stripe", "n")] == 18


def test_hot_keys_are_told():
    """The five hottest keys of each kind have their share, cut where they are long, never twice."""
    store = Store()
    namespace = store.namespace("n")
    start = "k" * HOT_KEY_LENGTH
    keys = {f"{start}1": 30, f"{start}2": 20, 'a"\n\\': 25, "b": 15, "c": 5, "d": 4, "e": 1}
    for key, conflicts in keys.items():
        for _ in range(conflicts):
            namespace.put(key, b"v", condition=Condition.version(5))
    found = figures(store, Metrics())
    shares = {key: value for (name, key), value in found.items() if name == "hot_key_share"}
    assert shares == {
        (start, "conflicts", "n"): 0.5,
        ('a"\\n\\', "conflicts", "n"): 0.25,  # the line feed written out
        ("b", "conflicts", "n"): 0.15,
        ("c", "conflicts", "n"): 0.05,
    }


def test_keys_that_are_hardly_hot_are_not_told():
    """A key with less than a hundredth has no figure."""
    store = Store()
    namespace = store.namespace("n")
    for number in range(101):
        namespace.put(f"k{number}", b"v", condition=Condition.version(5))
    assert not [name for name, _ in figures(store, Metrics()) if name == "hot_key_share"]


def test_after_a_load_the_sums_are_what_was_done():
    """Once several threads are done, every counter is what they counted: nothing lost, nothing twice."""
    store, metrics = Store(stripes=4, policy="fifo"), Metrics()
    names = [f"n{number}" for number in range(3)]

    def work(thread: int) -> Counter[str]:
        view, recorder, did = store.view(), metrics.recorder(), Counter[str]()
        source = Random(thread)
        for number in range(1500):
            name, key = source.choice(names), f"t{thread}:{source.randrange(40)}"
            match number % 3:
                case 0:
                    outcome = operations.put(view, name, key, b"v" * source.randrange(4, 9))
                    did["writes"] += type(outcome) is Written
                case 1:
                    missing = type(operations.get(view, name, key)) is Missing
                    did["misses" if missing else "hits"] += 1
                case _:
                    never = Condition.version(1)
                    refused = operations.put(view, name, key, b"", condition=never)
                    did["cas_conflicts"] += type(refused) is Conflict
            recorder.request("PUT" if number % 3 else "GET", 200, 0.001)
        return did

    for name in names:
        store.namespace(name)
    did = sum(run_threads([lambda thread=thread: work(thread) for thread in range(4)]), Counter())  # type: ignore[misc]
    found = figures(store, metrics)
    sums: Counter[str] = Counter()
    for (name, _), value in found.items():
        sums[name] += int(value)
    assert did["hits"] > did["misses"] > 0
    assert did["writes"] == did["cas_conflicts"] == 2000
    for what, count in did.items():
        assert sums[f"{what}_total"] == count
    assert found["requests_total", ("GET", "200")] == 2000
    assert found["requests_total", ("PUT", "200")] == 4000
    assert found["request_seconds_count", ()] == 6000
    assert found["request_seconds_sum", ()] == pytest.approx(6)
    assert found["busy_seconds_total", ()] == pytest.approx(6)
    assert sum(found["lock_acquisitions_total", ("stripe", name)] for name in names) == 4000
    for name in names:
        labels = ("stripe", name)
        assert found["lock_contended_total", labels] == found["lock_wait_seconds_count", labels]
        told = [
            value
            for key, value in found.items()
            if key[0] == "stripe_contended_total" and key[1][0] == name
        ]
        assert sum(told) == found["lock_contended_total", labels]


def exemplars(store: Store, metrics: Metrics) -> dict[str, list[tuple[float, Exemplar]]]:
    """The exemplars of a scrape in OpenMetrics by family, each with its bucket's upper bound."""
    text, content_type = render(make_registry(store, metrics), OPEN_METRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    found: dict[str, list[tuple[float, Exemplar]]] = {}
    for family in openmetrics.text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.exemplar is not None:
                assert sample.name.endswith("_bucket")
                bound = float(sample.labels["le"])
                found.setdefault(family.name, []).append((bound, sample.exemplar))
    return found


def test_exemplars_of_slow_operations():
    """A bucket of the requests has the latest slow operation that fell in it, with its trace."""
    metrics = Metrics()
    for seconds, trace in ((0.02, "a" * 32), (0.021, ""), (1.5, "b" * 32)):
        metrics.recorder().request("GET", 200, seconds)
        metrics.slowlog.note(
            operation="get",
            method="GET",
            namespace="n",
            status=200,
            seconds=seconds,
            trace_id=trace,
        )
    metrics.slowlog.note(operation="get", method="GET", namespace="n", status=200, seconds=9)
    found = exemplars(Store(), metrics)
    assert list(found) == ["cacheserver_request_seconds"]
    assert [
        (bound, each.labels, each.value) for bound, each in found["cacheserver_request_seconds"]
    ] == [
        (0.032768, {"operation": "get"}, 0.021),
        (2.097152, {"operation": "get", "trace_id": "b" * 32}, 1.5),
    ]


def test_exemplars_of_waits():
    """A bucket of the waits for stripes has the stripe that was waited for last for so long."""
    store = Store()
    namespace = store.namespace("n")
    [key] = keys_of_stripe(dicts_of(namespace)[0], 17, 1)
    before = time.time()
    waited = wait_for_a_write(namespace, key, seconds=0.002)
    [(bound, exemplar)] = exemplars(store, Metrics())["cacheserver_lock_wait_seconds"]
    assert exemplar.labels == {"stripe": "17"}
    assert exemplar.value == pytest.approx(waited)
    assert bound / 2 < exemplar.value <= bound
    assert exemplar.timestamp is not None
    assert before - 1 < float(exemplar.timestamp) < time.time() + 1


class Waiting(Namespace):
    """A namespace whose stripes have waited as a test says."""

    latest: ClassVar[list[tuple[int, int, float]]] = []

    def last_waits(self) -> list[tuple[int, int, float]]:
        return self.latest


def test_exemplars_of_waits_never_go_back():
    """A bucket keeps its exemplar, and the time that it was told, until it has a later one."""
    store = Store()
    namespace = store.namespace("n")
    wait_for_a_write(namespace, "k", seconds=0.002)
    [[_, nanoseconds, _]] = namespace.last_waits()
    namespace.__class__ = Waiting
    registry = make_registry(store, Metrics())

    def shown(*latest: tuple[int, int, float]) -> tuple[str, float]:
        Waiting.latest[:] = latest
        text = render(registry, OPEN_METRICS)[0].decode()
        found = re.findall(r'# {stripe="(\d+)"} \S+ (\S+)', text)
        assert len(found) == 1
        return found[0][0], float(found[0][1])

    assert shown((1, nanoseconds, 100.0), (2, nanoseconds, 200.0)) == ("2", 200)
    assert shown((1, nanoseconds, 100.0), (2, 1, 300.0)) == ("2", 200)
    assert shown((1, nanoseconds, 100.0), (2, nanoseconds, 200.0001)) == ("2", 200)
    assert shown((1, nanoseconds, 250.0), (2, 1, 300.0)) == ("1", 250)


def test_plain_text_has_no_exemplars():
    """Who doesn't ask for OpenMetrics gets what every parser of the older format reads."""
    metrics = Metrics()
    metrics.recorder().request("GET", 200, 0.02)
    metrics.slowlog.note(operation="get", method="GET", namespace="n", status=200, seconds=0.02)
    buckets = [line for line in text_of(Store(), metrics).splitlines() if "_bucket" in line]
    assert buckets
    assert not [line for line in buckets if "#" in line]


def test_a_scrape_of_a_thousand_namespaces_is_bounded():
    """With ten times as many namespaces as are reported a scrape has hardly more lines."""
    few, many = (Store(stripes=1, max_namespaces=2000) for _ in range(2))
    for store, number in ((few, REPORTED), (many, 10 * REPORTED)):
        for name in range(number):
            store.namespace(f"n{name}").put("k", b"v")
    lines = [text_of(store, Metrics()).count("\n") for store in (few, many)]
    assert lines[1] - lines[0] < lines[0] / 50


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing():
    """Prometheus's own linter has no complaint about names, types and help texts."""
    store, metrics = Store(), Metrics()
    namespace = store.namespace("n")
    namespace.put("k", b"v")
    namespace.read("k")
    namespace.put("k", b"v", condition=Condition.version(5))
    wait_for_a_write(namespace, "k", seconds=0)
    for number in range(REPORTED):
        store.namespace(f"n{number}").put("k", b"v")
    metrics.recorder().request("GET", 200, 0.001)
    metrics.recorder().lag(0.001)
    metrics.slowlog.note(operation="get", method="GET", namespace="n", status=200, seconds=0.02)
    text = text_of(store, metrics)
    for family in ("stripe_contended_total", "stripe_wait_seconds_total", "hot_key_share"):
        assert f"cacheserver_{family}{{" in text
    assert 'namespace="(other)"' in text
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text,
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
