"""Recorders, their sums, and the text that Prometheus reads."""

from __future__ import annotations

import asyncio
import gc
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cacheserver import Store
from cacheserver.metrics import REQUEST_BOUNDS, Exposition, Metrics, make_registry, render


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
        recorder.loop_lag = 0.25
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


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing():
    """Prometheus's own linter has no complaint about names, types and help texts."""
    store, metrics = Store(), Metrics()
    namespace = store.namespace("n")
    namespace.put("k", b"v")
    namespace.read("k")
    metrics.recorder().request("GET", 200, 0.001)
    metrics.recorder().loop_lag = 0.001
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text_of(store, metrics),
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
