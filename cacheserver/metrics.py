"""Metrics: what the hot path notes down, and how Prometheus gets to read it.

The only module that imports prometheus_client, whose objects are too slow to be touched by every
request. Each thread adds plain numbers to a `Recorder` of its own; a collector adds them up, with
the store's statistics, when somebody asks.

Guarantees: no addition is lost, also of threads that have ended; a scrape stops no request.
"""

from __future__ import annotations

import heapq
import platform
import sys
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
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
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

import cacheserver
from cacheserver.recording import FIRST, NUMBER_OF_BUCKETS, RequestCounts
from cacheserver.slowlog import SLOW_THRESHOLD, SlowLog, SlowOperation
from cacheserver.store.counters import PerThread
from cacheserver.store.locks import WAIT_BOUNDS, Histogram, LockStatistics
from cacheserver.store.namespace import Namespace, NamespaceStatistics
from cacheserver.store.store import Store

REQUEST_BOUNDS: Final[tuple[float, ...]] = tuple(
    2**k / 1e6 for k in range(FIRST, FIRST + NUMBER_OF_BUCKETS - 1)
)
"""Upper bounds of the buckets of `request_seconds`: 16 us, 32 us ... 16.8 s."""
HOT_KEYS: Final = 5
"""Keys of each kind that have a figure of their own, of those with at least HOT_SHARE."""
HOT_SHARE: Final = 0.01
HOT_KEY_LENGTH: Final = 64
"""Characters of a key that its label has."""
STRIPES: Final = 8
"""Stripes of a namespace that have figures of their own: those that were waited for most often."""

LAG_WINDOW: Final = 15.0
"""Seconds: a loop's lag is the worst of so long, so that scrapes as far apart miss none."""
LOOP_PERIOD: Final = 1.0
"""Seconds within which every event loop wakes up and says so, and much sooner in fact."""


class Recorder(RequestCounts):
    """What one thread notes down. Only that thread writes; others may read at any time."""

    __slots__ = ("_lags", "_timer", "connections", "thread")

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._lags: tuple[tuple[float, float], ...] = ()  # when, and how late; replaced whole
        self.thread = threading.current_thread().name
        self.connections = 0
        """Connections that are open."""

    def lag(self, seconds: float) -> None:
        """Note that the thread's event loop has just woken up, so much later than planned."""
        now = self._timer()
        # One that is older and smaller is never again the worst of those that count.
        worse = (lag for lag in self._lags if lag[1] > seconds and lag[0] > now - LAG_WINDOW)
        self._lags = (*worse, (now, seconds))

    def worst_lag(self) -> float | None:
        """Return the worst lag of the last LAG_WINDOW seconds, None for a thread that runs no loop.

        A loop that has not woken up for longer than LOOP_PERIOD is late by what is beyond that.
        """
        lags, now = self._lags, self._timer()
        if not lags:
            return None
        recent = (seconds for at, seconds in lags if at > now - LAG_WINDOW)
        return max(*recent, 0.0, now - lags[-1][0] - LOOP_PERIOD)

    def totals(self) -> Totals:
        """Return a copy of the numbers that only ever rise."""
        buckets = self.by_bucket()
        durations = Histogram(sum(buckets), self.seconds(), buckets)
        return Totals(Counter(self.by_label()), durations, self.busy())


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over threads."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How many, by method and status."""
    durations: Histogram = field(default=Histogram(buckets=(0,) * NUMBER_OF_BUCKETS))
    """How long they took, in buckets of REQUEST_BOUNDS."""
    busy: float = 0.0
    """Seconds that were spent on requests: those that were answered together count once."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.requests + other.requests,
            self.durations + other.durations,
            self.busy + other.busy,
        )


class Metrics:
    """The recorders of all threads, the sums of those that have ended, and the slow operations.

    `slow_threshold` is in seconds; `timer` tells how old a loop's lag is.
    """

    def __init__(
        self,
        slow_threshold: float = SLOW_THRESHOLD,
        *,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slowlog = SlowLog(slow_threshold)
        """The latest operations that took as long as the threshold or longer."""
        self._ended = Totals()  # guarded by the lock of _recorders
        self._recorders = PerThread(lambda: Recorder(timer), self._retire)
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
        slowlog = self._metrics.slowlog
        exemplars = map(_slow_exemplar, slowlog.latest())
        latest = _latest(exemplars, REQUEST_BOUNDS)
        _add_histogram(seconds, (), totals.durations, REQUEST_BOUNDS, latest)
        yield seconds
        yield CounterMetricFamily(
            "cacheserver_busy_seconds",
            "Time spent on requests; what is answered together counts once.",
            value=totals.busy,
        )
        yield CounterMetricFamily(
            "cacheserver_slow_operations",
            "Operations that took as long as the threshold of the slow log, or longer.",
            value=slowlog.total,
        )
        recorders = self._metrics.recorders()
        yield GaugeMetricFamily(
            "cacheserver_connections",
            "Connections that are open.",
            value=sum(recorder.connections for recorder in recorders),
        )
        lag = GaugeMetricFamily(
            "cacheserver_event_loop_lag_seconds",
            "How much later than planned the event loop of a thread woke up, at worst in 15 seconds.",
            labels=("thread",),
        )
        for recorder in recorders:
            worst = recorder.worst_lag()
            if worst is not None:
                lag.add_metric((recorder.thread,), worst)
        yield lag


def _slow_exemplar(operation: SlowOperation) -> Exemplar:
    labels = {"operation": operation.operation}
    if operation.trace_id:
        labels["trace_id"] = operation.trace_id
    return Exemplar(labels, operation.seconds, operation.at)


class StoreCollector(Collector):
    """The store's statistics, namespace by namespace."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shown: dict[str, _Exemplars] = {}  # by namespace; replaced whole

    def collect(self) -> Iterator[Metric]:
        """Ask the store, once, and lay its figures out as metrics."""
        store = self._store
        statistics = store.statistics()
        reported = [each for each in statistics.namespaces if each.reported]
        namespaces = reported if statistics.others is None else [*reported, statistics.others]
        yield GaugeMetricFamily(
            "cacheserver_memory_limit_bytes",
            "Bytes that keys and values and their overhead may take in all namespaces together.",
            value=store.max_memory,
        )
        yield GaugeMetricFamily(
            "cacheserver_namespaces", "Namespaces that there are.", value=len(statistics.namespaces)
        )
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
        waited = {
            each.name: found
            for each in reported
            if each.locks["stripe"].contended and (found := store.get(each.name)) is not None
        }
        yield from _lock_metrics(namespaces, self._exemplars(waited))
        yield from _stripe_metrics(waited)
        yield _hot_key_metric(store)

    def _exemplars(self, waited: Mapping[str, Namespace]) -> dict[str, _Exemplars]:
        """Return the latest wait for a stripe in each bucket, by namespace.

        In no bucket is one older than that which was shown before: Prometheus takes none that is.
        """
        shown: dict[str, _Exemplars] = {}
        for name, namespace in waited.items():
            before = self._shown.get(name, {})
            # One that is known keeps the time that was told: it is worked out, not quite the same each time.
            known = {(each.labels["stripe"], each.value) for each in before.values()}
            waits = (
                (str(stripe), nanoseconds / 1e9, at)
                for stripe, nanoseconds, at in namespace.last_waits()
            )
            new = (
                Exemplar({"stripe": stripe}, seconds, at)
                for stripe, seconds, at in waits
                if (stripe, seconds) not in known
            )
            shown[name] = _latest((*before.values(), *new), WAIT_BOUNDS)
        self._shown = shown
        return shown


type _Exemplars = dict[int, Exemplar]
"""By bucket."""
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


def _lock_metrics(
    namespaces: Iterable[NamespaceStatistics], exemplars: Mapping[str, _Exemplars]
) -> Iterator[Metric]:
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
        found = exemplars.get(namespace, {}) if lock == "stripe" else {}
        _add_histogram(waits, (namespace, lock), statistics.waits, WAIT_BOUNDS, found)
        if lock != "namespace_read":  # it is held as long as the stripe is
            _add_histogram(holds, (namespace, lock), statistics.holds, WAIT_BOUNDS)
    yield from (acquisitions, contended, waits, holds)


def _locks(namespaces: Iterable[NamespaceStatistics]) -> Iterator[tuple[str, str, LockStatistics]]:
    for namespace in namespaces:
        for lock, statistics in namespace.locks.items():
            yield namespace.name, lock, statistics


def _stripe_metrics(waited: Mapping[str, Namespace]) -> Iterator[Metric]:
    labels = ("namespace", "stripe")
    contended = CounterMetricFamily(
        "cacheserver_stripe_contended",
        "Times a stripe's lock was taken after a wait for it, of the stripes with the most.",
        labels=labels,
    )
    seconds = CounterMetricFamily(
        "cacheserver_stripe_wait_seconds",
        "Waits for a stripe's lock, of the stripes that were waited for most often.",
        labels=labels,
    )
    for name, namespace in waited.items():
        most = heapq.nlargest(STRIPES, namespace.stripe_waits(), key=lambda of: of.contended)
        for stripe in most:
            if stripe.contended:
                contended.add_metric((name, str(stripe.stripe)), stripe.contended)
                seconds.add_metric((name, str(stripe.stripe)), stripe.nanoseconds / 1e9)
    yield from (contended, seconds)


def _hot_key_metric(store: Store) -> Metric:
    shares: dict[tuple[str, str, str], float] = {}  # keys that are cut may be the same then
    for kind, keys in store.hot_keys(HOT_KEYS).kinds.items():
        for key in keys:
            if key.least_share >= HOT_SHARE:
                label = _printable(key.key[:HOT_KEY_LENGTH])
                alike = shares.get((kind, key.namespace, label), 0.0)
                shares[kind, key.namespace, label] = alike + key.share
    family = GaugeMetricFamily(
        "cacheserver_hot_key_share",
        "Part of all reads, writes, conflicts or waits that the hottest keys have, an estimate.",
        labels=("kind", "namespace", "key"),
    )
    for labels, share in shares.items():
        family.add_metric(labels, share)
    return family


def _printable(text: str) -> str:
    """Return text with what a terminal would obey written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_NO_EXEMPLARS: Final[Mapping[int, Exemplar]] = {}


def _add_histogram(
    family: HistogramMetricFamily,
    labels: Sequence[str],
    histogram: Histogram,
    bounds: Sequence[float],
    exemplars: Mapping[int, Exemplar] = _NO_EXEMPLARS,
) -> None:
    """Add a histogram, with exemplars by bucket, which only OpenMetrics shows."""
    upper = [*map(floatToGoString, bounds), "+Inf"]
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    cumulative = 0
    for at, (bound, count) in enumerate(zip(upper, histogram.buckets, strict=True)):
        cumulative += count
        # What was noted since the buckets were read is in none of them yet.
        found = exemplars.get(at) if count else None
        buckets.append((bound, cumulative) if found is None else (bound, cumulative, found))
    family.add_metric(labels, buckets, histogram.seconds)


def _latest(exemplars: Iterable[Exemplar], bounds: Sequence[float]) -> _Exemplars:
    latest: _Exemplars = {}
    for exemplar in exemplars:
        at = bisect_left(bounds, exemplar.value)
        if at not in latest or _age(latest[at]) < _age(exemplar):
            latest[at] = exemplar
    return latest


def _age(exemplar: Exemplar) -> float:
    assert isinstance(exemplar.timestamp, float)
    return exemplar.timestamp


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
