"""History: a sample a second, what the last minutes were like, and who wants to be told of each.

Guarantees: sampling never takes more than SHARE of a processor, whatever there is to look at: where a
sample costs more, the next one comes later. Memory is bounded: POINTS points, and four samples. The
thread ends when the history is garbage, or with the interpreter.

Any thread may ask. What is asked for is worked out as of now, in the thread that asks, from immutable
samples; with a thousand namespaces that takes some ten milliseconds, so an event loop has it done
elsewhere.
"""

from __future__ import annotations

import contextvars
import json
import logging
import platform
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import cacheserver
from cacheserver.insight.hotkeys import HOT_KEYS, hot_keys_report
from cacheserver.insight.locks import NAMESPACES, lock_report, rounded
from cacheserver.insight.slowlog import slow_log_report
from cacheserver.insight.window import (
    Sample,
    Spent,
    between,
    first_period,
    first_sample,
    next_sample,
    period_number,
    rises,
    wait_seconds,
    window_figures,
)
from cacheserver.metrics import REQUEST_BOUNDS, Metrics
from cacheserver.store.namespace import Namespace, Pulse
from cacheserver.store.sampler import CAPACITY
from cacheserver.store.store import Store

INTERVAL: Final = 1.0
"""Seconds from one sample to the next."""
SHARE: Final = 0.01
"""Part of one processor that samples, and events about them, may take."""
POINTS: Final = 300
"""Points that are kept: five minutes at one a second."""
_BUSIEST: Final = 50  # namespaces in an overview
_LOCK_NAMESPACES: Final = 20  # likewise; /v1/locks has more
_SLOW_OPERATIONS: Final = 20  # likewise

_log: Final = logging.getLogger(__name__)

type Callback = Callable[[bytes], None]
type StatusFn = Callable[[], Mapping[str, object]]


class Point(NamedTuple):
    """What the time between two samples was like. Ratios and quantiles are None where nothing was."""

    time: float
    """Seconds since 1970."""
    requests_per_second: float
    hit_ratio: float | None
    p50_seconds: float | None
    p99_seconds: float | None
    wait_ratio: float | None
    bytes: int
    connections: int


class Record:
    """Samples and what follows from them, for who calls `tick` again and again, in one thread at a time.

    `status_fn` gives `threads`, `state` and `uptime_seconds` of the server. `cpu` tells how long the
    calling thread has computed, in seconds.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        status_fn: StatusFn | None = None,
        *,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._status_fn = status_fn
        self._cpu = cpu
        self._lock = threading.Lock()  # guards changes of _callbacks; a leaf
        self._callbacks: tuple[Callback, ...] = ()
        self._began = store.clock.monotonic()
        first = first_sample(store, metrics)
        # Replaced as a whole by who takes a sample:
        self._last = first, first
        self._period = first_period(first)
        self._points: tuple[Point, ...] = ()

    def tick(self) -> float:
        """Take a sample, tell of it, and return how many seconds to wait for the next one."""
        began = self._cpu()
        self._take()
        callbacks = self._callbacks
        if callbacks:
            event = _event("overview", self.overview())
            for callback in callbacks:
                self._tell(callback, event)
        return max(INTERVAL, (self._cpu() - began) / SHARE)

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Have `callback` called with an event at each sample, as bytes that are sent as they are.

        It is called by who takes the sample and must be quick; one that raises is called no more.
        Returns what ends it.
        """
        with self._lock:
            self._callbacks = (*self._callbacks, callback)
        return lambda: self._unsubscribe(callback)

    def opening(self) -> bytes:
        """Return the events that a stream begins with: the points so far, and the overview."""
        return _event("history", self.points()) + _event("overview", self.overview())

    def _take(self) -> None:
        earlier = self._last[1]
        sample = next_sample(earlier, self._store, self._metrics)
        if sample.at <= earlier.at:
            return  # the clock stands still, and nothing has a rate
        self._last = earlier, sample
        self._period = self._period.after(sample)
        point = _point(between(earlier, sample), sample)
        self._points = (*self._points[1 - POINTS :], point)

    def points(self) -> dict[str, Any]:
        """Return the points as columns, the oldest first."""
        points = self._points
        return {
            name: [point[column] for point in points] for column, name in enumerate(Point._fields)
        }

    def overview(self) -> dict[str, Any]:
        """Return what the time between the last two samples was like, and what holds as of the last."""
        earlier, later = self._last
        spent = between(earlier, later)
        point = _point(spent, later)
        each_second = _per(spent.seconds)
        return {
            "time": later.wall,
            "interval_seconds": round(spent.seconds, 6),
            "server": self._server(),
            "requests_per_second": point.requests_per_second,
            "errors_per_second": each_second(
                sum(count for (_, status), count in spent.requests.items() if status >= 500)
            ),
            "methods": _methods(spent, each_second),
            "hit_ratio": point.hit_ratio,
            "p50_seconds": point.p50_seconds,
            "p99_seconds": point.p99_seconds,
            "wait_ratio": point.wait_ratio,
            "connections": later.connections,
            "entries": later.whole.entries,
            "bytes": later.whole.bytes,
            "evictions_per_second": each_second(spent.whole.evictions),
            "expirations_per_second": each_second(spent.whole.expirations),
            "conflicts_per_second": each_second(spent.whole.conflicts),
            "loops": [
                {"thread": recorder.thread, "lag_seconds": round(lag, 6)}
                for recorder in self._metrics.recorders()
                if (lag := recorder.worst_lag()) is not None
            ],
            "namespaces": _namespaces(earlier, later, spent),
            "namespaces_total": len(later.namespaces),
            "locks": self._locks(later, _LOCK_NAMESPACES),
            "hotkeys": self.hotkeys(),
            "slowlog": slow_log_report(self._metrics.slowlog, _SLOW_OPERATIONS),
        }

    def locks(self, limit: int = NAMESPACES) -> dict[str, Any]:
        """Return where threads waited since the window began, and what to do about it."""
        return self._locks(next_sample(self._last[1], self._store, self._metrics), limit)

    def hotkeys(self) -> dict[str, Any]:
        """Return the hottest keys."""
        return hot_keys_report(self._store.hot_keys(HOT_KEYS))

    def slowlog(self) -> dict[str, Any]:
        """Return the slow operations."""
        return slow_log_report(self._metrics.slowlog)

    def _locks(self, now: Sample, limit: int) -> dict[str, Any]:
        clock, number, hot = self._store.clock, -1, None
        while hot is None or number != period_number(clock.monotonic()):
            number = period_number(clock.monotonic())
            hot = self._store.hot_keys(CAPACITY)
        return lock_report(window_figures(self._period.base_in(number), now, hot), limit)

    def _tell(self, callback: Callback, event: bytes) -> None:
        try:
            callback(event)
        except Exception:
            _log.exception("who was to be told of a sample failed, and is told no more")
            self._unsubscribe(callback)

    def _unsubscribe(self, callback: Callback) -> None:
        with self._lock:
            self._callbacks = tuple(each for each in self._callbacks if each is not callback)

    def _server(self) -> dict[str, object]:
        status: dict[str, object] = {
            "threads": 1,
            "state": "serving",
            "uptime_seconds": round(self._store.clock.monotonic() - self._began, 3),
        }
        if self._status_fn is not None:
            status |= self._status_fn()
        return {
            "version": cacheserver.__version__,
            "python": platform.python_version(),
            "gil_enabled": sys._is_gil_enabled(),
            "stripes": self._store.stripes,
            "max_memory": self._store.max_memory,
            **status,
        }


class History(Record):
    """A record that a thread of its own keeps: it takes a sample each second, and tells of it."""

    def __init__(self, store: Store, metrics: Metrics, status_fn: StatusFn | None = None) -> None:
        super().__init__(store, metrics, status_fn)
        stop = threading.Event()
        weakref.finalize(self, stop.set).atexit = False
        # With a context of its own, since threads may inherit their creator's.
        threading.Thread(
            target=contextvars.Context().run,
            args=(_keep, weakref.ref(self), stop),
            name="cacheserver-history",
            daemon=True,
        ).start()


def _keep(to: weakref.ref[History], stop: threading.Event) -> None:
    """Take samples until nobody has the history any more."""
    wait = INTERVAL
    while not stop.wait(wait):
        history = to()
        if history is None:
            return
        try:
            wait = history.tick()
        except Exception:
            _log.exception("a sample of the metrics failed; the next one may not")
            wait = INTERVAL
        del history


def _event(kind: str, data: Mapping[str, object]) -> bytes:
    # ASCII without a line feed, so it is one line of a server-sent event.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return f"event: {kind}\ndata: {text}\n\n".encode("ascii")


def _point(spent: Spent, sample: Sample) -> Point:
    return Point(
        sample.wall,
        _per(spent.seconds)(spent.requests.total()),
        _hit_ratio(spent.whole),
        _quantile(0.5, spent.request_buckets),
        _quantile(0.99, spent.request_buckets),
        _ratio(spent.wait_seconds, spent.request_seconds),
        sample.whole.bytes,
        sample.connections,
    )


def _namespaces(earlier: Sample, later: Sample, spent: Spent) -> list[dict[str, object]]:
    each_second = _per(spent.seconds)

    def work(of: tuple[str, Namespace, Pulse]) -> tuple[int, str]:
        name, _, pulse = of
        return -(pulse.hits + pulse.misses + pulse.writes + pulse.conflicts), name

    return [
        {
            "name": name,
            "entries": pulse.entries,
            "bytes": pulse.bytes,
            "reads_per_second": each_second(pulse.hits + pulse.misses),
            "writes_per_second": each_second(pulse.writes),
            "hit_ratio": _hit_ratio(pulse),
            "conflict_ratio": _ratio(pulse.conflicts, pulse.writes + pulse.conflicts),
            "wait_ratio": _ratio(wait_seconds(pulse), spent.request_seconds),
            "config": asdict(namespace.config),
        }
        for name, namespace, pulse in sorted(rises(earlier, later), key=work)[:_BUSIEST]
    ]


def _methods(spent: Spent, each_second: Callable[[float], float]) -> dict[str, float]:
    counts: dict[str, int] = {}
    for (method, _), count in spent.requests.items():
        counts[method] = counts.get(method, 0) + count
    return {method: each_second(count) for method, count in sorted(counts.items())}


def _per(seconds: float) -> Callable[[float], float]:
    """Return what makes a rate of a number that happened in so long."""
    return lambda number: round(number / seconds, 3) if seconds > 0 else 0.0


def _hit_ratio(pulse: Pulse) -> float | None:
    return _ratio(pulse.hits, pulse.hits + pulse.misses)


def _ratio(part: float, whole: float) -> float | None:
    return rounded(part / whole) if whole > 0 else None


def _quantile(q: float, buckets: Sequence[int]) -> float | None:
    """Return a quantile of durations in buckets of REQUEST_BOUNDS, as if each was filled evenly.

    What is beyond the last bound counts as that.
    """
    rank = q * sum(buckets)
    if not rank:
        return None
    below = 0
    lower = 0.0
    for bound, count in zip(REQUEST_BOUNDS, buckets, strict=False):
        if below + count >= rank:
            return round(lower + (bound - lower) * (rank - below) / count, 9)
        below += count
        lower = bound
    return REQUEST_BOUNDS[-1]
