"""Metrics: what the hot path notes down, and how Prometheus gets to read it.

The only module that imports prometheus_client, whose objects are too slow to be touched by every
request. Each thread adds plain numbers to a `Recorder` of its own; a collector adds them up, with
the store's statistics, when somebody asks.

Guarantees: no addition is lost, also of threads that have ended; a scrape stops no request.
"""

from __future__ import annotations

import math
import platform
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

import cacheserver
from cacheserver.store.counters import PerThread
from cacheserver.store.locks import WAIT_BOUNDS, Histogram, LockStatistics
from cacheserver.store.namespace import NamespaceStatistics
from cacheserver.store.store import Store

METHODS: Final = frozenset(("GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "OPTIONS"))
"""The methods that get a label of their own: clients can invent any number of others."""
OTHER: Final = "other"

_FIRST: Final = 4
REQUEST_BOUNDS: Final = tuple(2**k / 1e6 for k in range(_FIRST, 25))
"""Upper bounds of the buckets of `request_seconds`: 16 us, 32 us ... 16.8 s."""
assert REQUEST_BOUNDS[0] == 16e-6  # as it stands in hot functions, where a name costs a lookup
_BUCKETS: Final = len(REQUEST_BOUNDS) + 1


class Recorder:
    """What one thread notes down. Only that thread writes; others may read at any time."""

    __slots__ = ("_buckets", "_requests", "_seconds", "connections", "loop_lag", "quick", "thread")

    def __init__(self) -> None:
        self.thread = threading.current_thread().name
        self.connections = 0
        """Connections that are open."""
        self.loop_lag: float | None = None
        """How late the thread's event loop last was, in seconds, None where it runs none."""
        self._requests: dict[tuple[str, int], list[int]] = {}
        self._seconds = 0.0
        self._buckets = [0] * _BUCKETS
        self.quick: list[float] = [0, 0.0]
        """GETs answered with 200 within the first of REQUEST_BOUNDS, as most are, and their seconds: to be
        added to by who has answered one, in place of `counter` and `took`."""

    def request(self, method: str, status: int, seconds: float) -> None:
        """Note a request that was answered after so long."""
        self.counter(method if method in METHODS else OTHER, status)[0] += 1
        self.took(seconds)

    def counter(self, method: str, status: int) -> list[int]:
        """Return a list whose only item is to be added to for each such request that is answered.

        The method is one of METHODS, or OTHER.
        """
        label = method, status
        if label not in self._requests:
            self._requests[label] = [0]
        return self._requests[label]

    def took(self, seconds: float, number: int = 1) -> None:
        """Note that `number` requests were answered, each after so long."""
        self._seconds += seconds * number
        if seconds <= 16e-6:  # the first bound
            self._buckets[0] += number
            return
        # Bucket k holds what is at most 2**(k + _FIRST) microseconds long.
        bits = max(0, math.ceil(seconds * 1e6) - 1).bit_length()
        self._buckets[min(max(0, bits - _FIRST), _BUCKETS - 1)] += number

    def totals(self) -> Totals:
        """Return a copy of the numbers that only ever rise."""
        quick, seconds = int(self.quick[0]), self.quick[1]
        buckets = (self._buckets[0] + quick, *self._buckets[1:])
        durations = Histogram(sum(buckets), self._seconds + seconds, buckets)
        counts = Counter({label: count[0] for label, count in self._requests.copy().items()})
        counts["GET", 200] += quick
        return Totals(+counts, durations)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over threads."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How many, by method and status."""
    durations: Histogram = field(default=Histogram(buckets=(0,) * _BUCKETS))
    """How long they took, in buckets of REQUEST_BOUNDS."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.requests + other.requests, self.durations + other.durations)


class Metrics:
    """The recorders of all threads, and the sums of those that have ended."""

    def __init__(self) -> None:
        self._ended = Totals()  # guarded by the lock of _recorders
        self._recorders = PerThread(Recorder, self._retire)
        self.recorder: Callable[[], Recorder] = self._recorders.mine
        """Return the calling thread's own recorder."""

    def totals(self) -> Totals:
        """Return the sums as of now."""
        return self._recorders.fold(self._sum)

    def recorders(self) -> list[Recorder]:
        """Return the recorders of the threads that live, to read them only."""
        return self._recorders.living()

    def _sum(self, recorders: list[Recorder]) -> Totals:
        return sum((recorder.totals() for recorder in recorders), self._ended)

    def _retire(self, recorder: Recorder) -> None:
        self._ended += recorder.totals()


type _Rendered = Future[tuple[bytes, str]]
type _Encode = Callable[[CollectorRegistry], bytes]

_MAX_WAITING: Final = 8
"""Content types that wait at a time, of which clients can invent any number: they name the version.
Beyond, the answer is the plain text that those get who want nothing special."""


class Exposition:
    """Metrics as text for Prometheus, written by a thread of its own.

    That thread starts at once. It ends when the exposition is garbage, or with the interpreter.
    However many ask, one rendering goes on and at most one of each content type waits for its turn,
    for all who want that. One that has begun is never shared: its figures may be older than the
    request.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self.registry = make_registry(store, metrics)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cacheserver-metrics")
        self._thread.submit(int).result()
        self._lock = threading.Lock()
        self._waiting: dict[str, list[_Rendered]] = {}
        """By content type, whom the rendering is for that hasn't begun. Guarded by the lock."""

    def render_soon(self, accept: str) -> _Rendered:
        """Return what will be the text and its content type, as the `Accept` header wants them.

        Each caller has a future of its own, which it may cancel.
        """
        rendered: _Rendered = Future()
        encode, content_type = choose_encoder(accept)
        with self._lock:
            if content_type not in self._waiting and len(self._waiting) >= _MAX_WAITING:
                encode, content_type = choose_encoder("")
            if content_type not in self._waiting:
                # Under the lock, so that what can't be submitted, as the interpreter ends, is not
                # waited for. The rendering begins by asking for the lock, and so after this.
                self._thread.submit(self._render, encode, content_type)
                self._waiting[content_type] = []
            self._waiting[content_type].append(rendered)
        return rendered

    def _render(self, encode: _Encode, content_type: str) -> None:
        with self._lock:
            wanted = self._waiting.pop(content_type)
        if all(rendered.cancelled() for rendered in wanted):
            return
        try:
            text = encode(self.registry)
        except Exception as error:
            for rendered in _uncancelled(wanted):
                rendered.set_exception(error)
        else:
            for rendered in _uncancelled(wanted):
                rendered.set_result((text, content_type))


def _uncancelled(futures: Iterable[_Rendered]) -> Iterator[_Rendered]:
    """Yield those that still want a result; from then on they can't be cancelled."""
    return (future for future in futures if future.set_running_or_notify_cancel())


def render(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Return all metrics as text, and its content type: OpenMetrics for clients that ask for it."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def make_registry(store: Store, metrics: Metrics) -> CollectorRegistry:
    """Return a registry of its own, with the process's, the platform's and the collector's metrics."""
    registry = CollectorRegistry()
    registry.register(RequestCollector(metrics))
    registry.register(StoreCollector(store))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class RequestCollector(Collector):
    """What the recorders noted down."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Add the recorders up."""
        yield _info()
        totals = self._metrics.totals()
        requests = CounterMetricFamily(
            "cacheserver_requests", "Requests answered.", labels=("method", "status")
        )
        for (method, status), count in sorted(totals.requests.items()):
            requests.add_metric((method, str(status)), count)
        yield requests
        seconds = HistogramMetricFamily(
            "cacheserver_request_seconds", "Time from a request's arrival to the end of its answer."
        )
        _add_histogram(seconds, (), totals.durations, REQUEST_BOUNDS)
        yield seconds
        recorders = self._metrics.recorders()
        yield GaugeMetricFamily(
            "cacheserver_connections",
            "Connections that are open.",
            value=sum(recorder.connections for recorder in recorders),
        )
        lag = GaugeMetricFamily(
            "cacheserver_event_loop_lag_seconds",
            "How much later than planned the event loop of a thread last woke up.",
            labels=("thread",),
        )
        for recorder in recorders:
            if recorder.loop_lag is not None:
                lag.add_metric((recorder.thread,), recorder.loop_lag)
        yield lag


class StoreCollector(Collector):
    """The store's statistics, namespace by namespace."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Ask the store, once, and lay its figures out as metrics."""
        namespaces = self._store.statistics().namespaces
        for name, help_text, figure in _COUNTERS:
            counter = CounterMetricFamily(name, help_text, labels=("namespace",))
            for namespace in namespaces:
                counter.add_metric((namespace.name,), figure(namespace))
            yield counter
        evictions = CounterMetricFamily(
            "cacheserver_evictions",
            "Entries that went to make room, by the limit that was reached.",
            labels=("namespace", "reason"),
        )
        for namespace in namespaces:
            for reason, count in namespace.evictions.items():
                evictions.add_metric((namespace.name, reason), count)
        yield evictions
        for name, help_text, figure in _GAUGES:
            gauge = GaugeMetricFamily(name, help_text, labels=("namespace",))
            for namespace in namespaces:
                gauge.add_metric((namespace.name,), figure(namespace))
            yield gauge
        yield from _lock_metrics(namespaces)


type _Figure = Callable[[NamespaceStatistics], int]

_COUNTERS: Final[tuple[tuple[str, str, _Figure], ...]] = (
    ("cacheserver_hits", "Reads that found the key.", lambda of: of.hits),
    ("cacheserver_misses", "Reads that did not find the key.", lambda of: of.misses),
    ("cacheserver_writes", "Keys written and deleted.", lambda of: of.writes),
    (
        "cacheserver_cas_conflicts",
        "Writes refused because their condition did not hold.",
        lambda of: of.cas_conflicts,
    ),
    (
        "cacheserver_expirations",
        "Entries removed because their time was up.",
        lambda of: of.expirations,
    ),
)
_GAUGES: Final[tuple[tuple[str, str, _Figure], ...]] = (
    ("cacheserver_entries", "Entries that are kept.", lambda of: of.entries),
    ("cacheserver_bytes", "Bytes of keys and values and their overhead.", lambda of: of.bytes),
)


def _lock_metrics(namespaces: Iterable[NamespaceStatistics]) -> Iterator[Metric]:
    labels = ("namespace", "lock")
    acquisitions = CounterMetricFamily(
        "cacheserver_lock_acquisitions",
        "Times a lock was taken: a stripe's, or the namespace's to read or to write.",
        labels=labels,
    )
    contended = CounterMetricFamily(
        "cacheserver_lock_contended", "Times a lock was taken after a wait for it.", labels=labels
    )
    waits = HistogramMetricFamily(
        "cacheserver_lock_wait_seconds", "Waits for a lock, every one of them.", labels=labels
    )
    holds = HistogramMetricFamily(
        "cacheserver_lock_hold_seconds", "How long a lock was held, a sample.", labels=labels
    )
    for namespace, lock, statistics in _locks(namespaces):
        acquisitions.add_metric((namespace, lock), statistics.acquisitions)
        contended.add_metric((namespace, lock), statistics.contended)
        _add_histogram(waits, (namespace, lock), statistics.waits, WAIT_BOUNDS)
        if lock != "namespace_read":  # it is held as long as the stripe is
            _add_histogram(holds, (namespace, lock), statistics.holds, WAIT_BOUNDS)
    yield from (acquisitions, contended, waits, holds)


def _locks(namespaces: Iterable[NamespaceStatistics]) -> Iterator[tuple[str, str, LockStatistics]]:
    for namespace in namespaces:
        for lock, statistics in namespace.locks.items():
            yield namespace.name, lock, statistics


def _add_histogram(
    family: HistogramMetricFamily,
    labels: Sequence[str],
    histogram: Histogram,
    bounds: Sequence[float],
) -> None:
    upper = [*map(floatToGoString, bounds), "+Inf"]
    cumulative = accumulate(histogram.buckets)
    family.add_metric(labels, list(zip(upper, cumulative, strict=True)), histogram.seconds)


def _info() -> InfoMetricFamily:
    return InfoMetricFamily(
        "cacheserver",
        "What runs here.",
        value={
            "version": cacheserver.__version__,
            "python": platform.python_version(),
            "gil": "on" if sys._is_gil_enabled() else "off",
        },
    )
