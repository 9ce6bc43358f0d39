"""Samples of all counters, and the figures of the time between two of them.

Guarantees: a namespace that goes and comes again under its name begins anew, so no difference is ever
negative; what namespaces did that were dropped stays in the sums of the whole, up to the last sample
that saw them. Memory is bounded by the namespaces that there are, and their stripes that were ever
waited for.

Samples are immutable, so any thread may work out the figures from those that another thread took.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import sub
from typing import Final, NamedTuple

from cacheserver.insight.figures import (
    Figures,
    Holder,
    KeyFigures,
    NamespaceFigures,
    StripeFigures,
    Waits,
)
from cacheserver.metrics import Metrics, Totals
from cacheserver.store.heat import HotKeys
from cacheserver.store.namespace import Namespace, Pulse
from cacheserver.store.sampler import WINDOW
from cacheserver.store.store import Store

DETAILED: Final = 100
"""Namespaces, those that waited longest, whose stripes and holders are looked at."""
_MIN_HOLDS: Final = 10
"""Fewer holds that were timed give no mean."""
_NOTHING: Final = Pulse(*(0,) * len(Pulse._fields))


class Seen(NamedTuple):
    """A namespace and what it had counted when it was looked at."""

    namespace: weakref.ref[Namespace]
    """Weak, lest one that was dropped be kept."""
    pulse: Pulse

    def before(self, namespace: Namespace) -> Pulse:
        """Return what this very namespace had counted, nothing if it was another of the same name."""
        return self.pulse if self.namespace() is namespace else _NOTHING


@dataclass(frozen=True, slots=True)
class Sample:
    """All counters, as of now."""

    at: float
    """By the store's clock, which decides nothing but how long ago something was."""
    wall: float
    totals: Totals
    whole: Pulse
    """The sums of all namespaces since the first sample; `entries` and `bytes` are those that are there."""
    namespaces: Mapping[str, Seen]
    connections: int


class Details(NamedTuple):
    """What is looked at only now and then, of a namespace."""

    seen: Seen
    stripes: int
    waits: dict[int, tuple[int, int]]
    """Contended acquisitions and nanoseconds by stripe, where there were any."""
    holds: Mapping[str, tuple[int, int]]


class Base(NamedTuple):
    """Where a window begins."""

    sample: Sample
    details: Mapping[str, Details]
    """Of the namespaces that had counted any waits or holds by then."""


def first_sample(store: Store, metrics: Metrics) -> Sample:
    """Return a sample from which the sums of the whole begin."""
    nobody: dict[str, Seen] = {}
    before = Sample(0.0, 0.0, Totals(), _NOTHING, nobody, 0)
    # What was counted before belongs to no window: the sums of the whole begin at nothing.
    first = next_sample(before, store, metrics)
    gauges = first.whole
    return Sample(
        first.at,
        first.wall,
        first.totals,
        _NOTHING._replace(entries=gauges.entries, bytes=gauges.bytes),
        first.namespaces,
        first.connections,
    )


def next_sample(before: Sample, store: Store, metrics: Metrics) -> Sample:
    """Return a sample taken now, whose sums go on from those of another."""
    at, wall = store.clock.monotonic(), store.clock.wall()
    namespaces: dict[str, Seen] = {}
    known = before.namespaces
    rises: list[Pulse] = []
    entries = size = 0
    for name in store.names():
        namespace = store.get(name)
        if namespace is None:
            continue
        pulse = namespace.pulse()
        entries += pulse.entries
        size += pulse.bytes
        last = known.get(name)
        if last is not None and last.namespace() is namespace:
            if last.pulse == pulse:
                namespaces[name] = last
                continue
            rises.append(_rise(last.pulse, pulse))
        else:
            rises.append(pulse)
        namespaces[name] = Seen(weakref.ref(namespace), pulse)
    whole = Pulse(*map(sum, zip(before.whole, *rises, strict=True)))
    return Sample(
        at,
        wall,
        metrics.totals(),
        whole._replace(entries=entries, bytes=size),
        namespaces,
        sum(recorder.connections for recorder in metrics.recorders()),
    )


def make_base(sample: Sample, last: Base | None) -> Base:
    """Return where a window begins that begins with a sample. The last one spares work."""
    details: dict[str, Details] = {}
    for name, seen in sample.namespaces.items():
        namespace = seen.namespace()
        if namespace is None or not (seen.pulse.stripe_contended or seen.pulse.write_holds):
            continue
        known = last.details.get(name) if last is not None else None
        if known is not None and known.seen is seen:
            details[name] = known
        else:
            details[name] = _look_closely(seen, namespace)
    return Base(sample, details)


class Period(NamedTuple):
    """Where the window that tells of now began, and where the next one will."""

    number: int
    """Of the current period of WINDOW seconds."""
    earlier: Base
    """From the beginning of the period before it, or the first sample."""
    current: Base

    def base_in(self, number: int) -> Base:
        """Return where the window begins in a period, which may have begun since the last sample.

        Keys are forgotten at the very beginning of a period: figures that go further back would have more
        waits than the keys explain.
        """
        return self.earlier if number == self.number else self.current

    def after(self, sample: Sample) -> Period:
        """Return this, or, if the sample is the first of another period, what follows."""
        number = period_number(sample.at)
        if number == self.number:
            return self
        return Period(number, self.current, make_base(sample, self.current))


def first_period(sample: Sample) -> Period:
    """Return the windows that begin with the first sample."""
    base = make_base(sample, None)
    return Period(period_number(sample.at), base, base)


def period_number(at: float) -> int:
    """Return the number of the period of WINDOW seconds that a time by the store's clock is in."""
    return int(at // WINDOW)


class Spent(NamedTuple):
    """What happened between two samples."""

    seconds: float
    requests: Counter[tuple[str, int]]
    """By method and status."""
    request_seconds: float
    """What was spent on them: those that were answered together count once."""
    request_buckets: tuple[int, ...]
    whole: Pulse

    @property
    def wait_seconds(self) -> float:
        """All waits for locks."""
        return wait_seconds(self.whole)


def between(earlier: Sample, later: Sample) -> Spent:
    """Return what happened between two samples."""
    before, after = earlier.totals, later.totals
    requests = after.requests.copy()
    requests.subtract(before.requests)
    buckets = map(sub, after.durations.buckets, before.durations.buckets)
    return Spent(
        later.at - earlier.at,
        +requests,
        max(0.0, after.busy - before.busy),
        tuple(buckets),
        _rise(earlier.whole, later.whole),
    )


def wait_seconds(pulse: Pulse) -> float:
    """Return all waits that a pulse, or the rise of one, has."""
    return (pulse.stripe_ns + pulse.read_ns + pulse.write_ns) / 1e9


def rises(earlier: Sample, later: Sample) -> Iterable[tuple[str, Namespace, Pulse]]:
    """Yield each namespace of the later sample that lives, with what it counted since the earlier."""
    for name, seen in later.namespaces.items():
        namespace = seen.namespace()
        if namespace is not None:
            last = earlier.namespaces.get(name)
            before = _NOTHING if last is None else last.before(namespace)
            yield name, namespace, _rise(before, seen.pulse)


def window_figures(base: Base, now: Sample, hot: HotKeys) -> Figures:
    """Return what happened since the window began. It looks at stripes as they are now."""
    spent = between(base.sample, now)
    keys = _keys_by_namespace(hot)
    ranked = sorted(
        rises(base.sample, now),
        key=lambda each: (not _has_traffic(each[2]), -wait_seconds(each[2]), each[0]),
    )
    whole = spent.whole
    return Figures(
        seconds=spent.seconds,
        requests=spent.requests.total(),
        request_seconds=spent.request_seconds,
        wait_seconds=spent.wait_seconds,
        contended=whole.stripe_contended + whole.read_contended + whole.write_contended,
        namespaces=tuple(
            _figures(namespace, pulse, base.details.get(name), keys.get(name, {}), rank < DETAILED)
            for rank, (name, namespace, pulse) in enumerate(ranked)
        ),
    )


def _figures(
    namespace: Namespace,
    pulse: Pulse,
    before: Details | None,
    keys: Mapping[str, list[KeyFigures]],
    detailed: bool,
) -> NamespaceFigures:
    known = before if before is not None and before.seen.namespace() is namespace else None
    key_waits = (pulse.stripe_ns + pulse.read_ns) / 1e9
    return NamespaceFigures(
        name=namespace.name,
        stripes=namespace.config.stripes,
        entries=pulse.entries,
        reads=pulse.hits + pulse.misses,
        writes=pulse.writes,
        conflicts=pulse.conflicts,
        acquisitions=pulse.acquisitions,
        stripe=Waits(pulse.stripe_contended, pulse.stripe_ns / 1e9),
        read=Waits(pulse.read_contended, pulse.read_ns / 1e9),
        write=Waits(pulse.write_contended, pulse.write_ns / 1e9),
        holds=pulse.write_holds,
        hold_seconds=pulse.write_hold_ns / 1e9,
        holders=_holders(namespace, known) if detailed and pulse.write_holds else (),
        mean_hold=_mean_hold(namespace) if detailed and pulse.stripe_contended else None,
        by_stripe=_by_stripe(namespace, known) if detailed and pulse.stripe_contended else (),
        wait_keys=_shares(keys.get("waits", ()), key_waits),
        conflict_keys=_shares(keys.get("conflicts", ()), pulse.conflicts),
        read_keys=_shares(keys.get("reads", ()), pulse.hits + pulse.misses),
    )


def _look_closely(seen: Seen, namespace: Namespace) -> Details:
    stripes = namespace.stripe_waits()
    waits = {each.stripe: (each.contended, each.nanoseconds) for each in stripes if each.contended}
    return Details(seen, len(stripes), waits, namespace.holds())


def _mean_hold(namespace: Namespace) -> float | None:
    holds = namespace.statistics().locks["stripe"].holds
    return holds.seconds / holds.count if holds.count >= _MIN_HOLDS else None


def _by_stripe(namespace: Namespace, before: Details | None) -> tuple[StripeFigures, ...]:
    """Return the waits for each stripe since then, or, where the stripes are others, since there are those."""
    stripes = namespace.stripe_waits()
    past: dict[int, tuple[int, int]] = {}
    if before is not None and before.stripes == len(stripes):
        past = before.waits
        if any(past.get(each.stripe, (0, 0))[0] > each.contended for each in stripes):
            past = {}  # there were other stripes in between
    figures = []
    for each in stripes:
        contended, nanoseconds = past.get(each.stripe, (0, 0))
        if each.contended > contended:
            seconds = (each.nanoseconds - nanoseconds) / 1e9
            figures.append(StripeFigures(each.stripe, each.contended - contended, seconds))
    return tuple(sorted(figures, key=lambda of: (-of.seconds, of.stripe)))


def _holders(namespace: Namespace, before: Details | None) -> tuple[Holder, ...]:
    past = {} if before is None else before.holds
    found = []
    for purpose, (holds, nanoseconds) in namespace.holds().items():
        earlier_holds, earlier_nanoseconds = past.get(purpose, (0, 0))
        if holds > earlier_holds:
            seconds = (nanoseconds - earlier_nanoseconds) / 1e9
            found.append(Holder(purpose, holds - earlier_holds, seconds))
    return tuple(sorted(found, key=lambda of: (-of.seconds, of.purpose)))


def _keys_by_namespace(hot: HotKeys) -> dict[str, dict[str, list[KeyFigures]]]:
    """Return the hot keys by namespace and kind, the hottest first; shares are not known yet."""
    found: dict[str, dict[str, list[KeyFigures]]] = {}
    for kind, keys in hot.kinds.items():
        scale = 1e9 if kind == "waits" else 1
        for key in keys:
            at_least = max(0.0, key.count - key.overcount - key.margin) / scale
            figures = KeyFigures(key.key, key.count / scale, at_least, 0.0)
            found.setdefault(key.namespace, {}).setdefault(kind, []).append(figures)
    return found


def _shares(keys: Iterable[KeyFigures], total: float) -> tuple[KeyFigures, ...]:
    if total <= 0:
        return ()
    return tuple(key._replace(share=min(1.0, key.amount / total)) for key in keys)


def _rise(before: Pulse, after: Pulse) -> Pulse:
    """Return the differences of the counters; entries and bytes are those of now."""
    return Pulse(*map(sub, after, before))._replace(entries=after.entries, bytes=after.bytes)


def _has_traffic(of: Pulse) -> bool:
    return bool(of.hits or of.misses or of.writes or of.conflicts or of.acquisitions)
