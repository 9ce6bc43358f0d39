"""Recorders, their sums, and the text that Prometheus reads."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable

import pytest

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
