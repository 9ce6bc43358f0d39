"""Hot keys: which keys are read, written, refused and waited for most, in bounded memory.

Guarantees:
- Reads (hits and misses) and writes are sampled, one in SAMPLE, after gaps that are random, so that a
  load that repeats itself is sampled like any other. Conflicts and waits are noted one and all.
- What is older than two periods of WINDOW seconds is not shown, whoever noted it, nor is it kept but by a
  thread that notes nothing any more.
- Nobody waits for anybody: a thread notes what it meets in sketches of its own, which others copy. Memory
  is bounded by the threads that live, not by keys or namespaces.

Assumes of the interpreter: that reading or replacing an attribute, an item of a list or of a dict, and
`dict.copy()` are atomic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import sqrt
from random import Random
from typing import Final, Literal, override

from cacheserver.clock import Clock
from cacheserver.store.counters import PerThread
from cacheserver.store.counts import Counts
from cacheserver.store.spacesaving import SpaceSaving

WINDOW: Final = 30.0
"""Seconds of a period. What is shown is that of the period before and of the one that goes on."""
CAPACITY: Final = 128
"""Keys that a sketch keeps."""
SAMPLE: Final = 128
"""One in so many reads and writes is noted. A power of two."""
_GAP_BITS: Final = SAMPLE.bit_length()
_Z95: Final = 1.96  # of a normal distribution 95 per cent are within so many standard deviations

type Kind = Literal["reads", "writes", "conflicts", "waits"]
KINDS: Final[tuple[Kind, ...]] = ("reads", "writes", "conflicts", "waits")
_READS, _WRITES, _CONFLICTS, _WAITS = range(4)
SAMPLED: Final[dict[Kind, int]] = {
    "reads": SAMPLE,
    "writes": SAMPLE,
    "conflicts": 1,
    "waits": 1,
}
"""One in how many is noted."""

type Item = tuple[str, str]
"""Names of a namespace and of a key in it."""

UNSAMPLED: Final = 1 << 62
"""A count that is never reached: where nothing is sampled, this is when the next sample is due."""


@dataclass(frozen=True, slots=True)
class HotKey:
    """A key and about how much of something it had."""

    namespace: str
    key: str
    count: int
    """Times, or nanoseconds of waits: at most so many, but for the `margin`."""
    overcount: int
    """By so much at most `count` is too high, since only some keys can be followed at a time."""
    margin: int
    """By so much `count` is too high or too low at most, with a probability of 95 per cent, since only a sample is
    looked at; 0 where everything is."""
    share: float
    """The count's part of all that there was, of all keys together."""

    @property
    def least_share(self) -> float:
        """The part that it has for certain, or with 95 per cent probability where only samples are taken."""
        if not self.count:
            return 0.0
        return self.share * max(0, self.count - self.overcount - self.margin) / self.count


@dataclass(frozen=True, slots=True)
class HotKeys:
    """The hottest keys of the last `seconds`, by what makes them hot."""

    seconds: float
    sampled: dict[Kind, int]
    """One in how many was looked at."""
    kinds: dict[Kind, list[HotKey]]
    """The hottest first. `waits` are nanoseconds that writers and readers waited on their way to the key."""
    totals: dict[Kind, int]
    """Of all keys together: times, or nanoseconds; estimates where it is a sample."""


class _Period:
    """What was met in one period of WINDOW seconds."""

    __slots__ = ("number", "sketches")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sketches = tuple(SpaceSaving[Item](CAPACITY) for _ in KINDS)  # in the order of KINDS


class ThreadHeat:
    """What one thread met, in the period that goes on and in the last one before. That thread's own."""

    __slots__ = ("_bits", "_end", "_monotonic", "_sketches", "periods")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._bits = Random().getrandbits  # noqa: S311 (no secret)
        self.periods: tuple[_Period, ...] = ()
        """The latest first. Replaced as a whole, for others to read."""
        self._begin_period(monotonic())

    def add(self, kind: int, item: Item, weight: int = 1) -> None:
        """Note something of a kind, which is given by its place in KINDS."""
        now = self._monotonic()
        if now >= self._end:
            self._begin_period(now)
        self._sketches[kind].add(item, weight)

    def gap(self) -> int:
        """Return how many to count to the next that is looked at: SAMPLE on average, from 1 to twice that.

        All are as likely, but SAMPLE itself twice. So it leads to each place in a load that comes round
        after a power of two as often as to any other.
        """
        return self._bits(_GAP_BITS) or SAMPLE

    def _begin_period(self, now: float) -> None:
        period = _Period(int(now // WINDOW))
        self.periods = (period, *self.periods[:1])
        self._sketches = period.sketches
        self._end = (period.number + 1) * WINDOW


class _Ended:
    """What was met by threads that are gone since. Guarded by the lock of the others' list.

    Apart from the heat, as the sums of ended threads are from their tally.
    """

    __slots__ = ("_monotonic", "periods")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.periods: tuple[_Period, ...] = ()

    def absorb(self, heat: ThreadHeat) -> None:
        """Keep what a thread leaves behind, as long as it is shown."""
        periods = _shown(int(self._monotonic() // WINDOW), (*self.periods, *heat.periods))
        merged = []
        for number in {period.number for period in periods}:
            period = _Period(number)
            same = [each for each in periods if each.number == number]
            period.sketches = tuple(_merge(same, kind) for kind in range(len(KINDS)))
            merged.append(period)
        self.periods = tuple(merged)


def _shown(now: int, periods: Iterable[_Period]) -> list[_Period]:
    return [period for period in periods if period.number >= now - 1]


def _merge(periods: Iterable[_Period], kind: int) -> SpaceSaving[Item]:
    sketches = [sketch for period in periods if (sketch := period.sketches[kind]).total]
    return SpaceSaving.merged(sketches, CAPACITY)


class Heat:
    """What all threads met in a store. For any thread."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = monotonic = clock.monotonic
        self._began = monotonic()
        self._ended = _Ended(monotonic)
        self._threads = PerThread(lambda: ThreadHeat(monotonic), self._ended.absorb)
        self.mine: Callable[[], ThreadHeat] = self._threads.mine
        """Return the calling thread's own."""

    def hot_keys(self, limit: int) -> HotKeys:
        """Return so many keys of each kind."""
        now = self._monotonic()
        number = int(now // WINDOW)
        ended = self._ended
        periods = self._threads.fold(
            lambda living: [
                *ended.periods,
                *(period for heat in living for period in heat.periods),
            ]
        )
        shown = _shown(number, periods)
        kinds: dict[Kind, list[HotKey]] = {}
        totals: dict[Kind, int] = {}
        for at, kind in enumerate(KINDS):
            sketch = _merge(shown, at)
            totals[kind] = sketch.total * SAMPLED[kind]
            kinds[kind] = [
                _hot_key(item, count, overcount, sketch.total, SAMPLED[kind])
                for item, count, overcount in sketch.counts()[:limit]
            ]
        since = max(self._began, (number - 1) * WINDOW)
        return HotKeys(max(0.0, now - since), SAMPLED.copy(), kinds, totals)


def _hot_key(item: Item, count: int, overcount: int, total: int, sampled: int) -> HotKey:
    namespace, key = item
    margin = round(_margin(count) * sampled) if sampled > 1 else 0
    return HotKey(namespace, key, count * sampled, overcount * sampled, margin, count / total)


def _margin(count: int) -> float:
    """Return what a count of samples is off by at most, with 95 per cent probability.

    The upper end of the score interval of a Poisson variable, which holds for few samples, too.
    """
    return _Z95 * _Z95 / 2 + _Z95 * sqrt(count + _Z95 * _Z95 / 4)


class Sampler:
    """What one view tells of the keys that it meets: nothing. For views without a store."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due = Counts(3)
        """The counts of hits, misses and writes at which the next one is to be told."""
        self.due[0] = self.due[1] = self.due[2] = UNSAMPLED

    def read(self, key: object, found: int) -> None:
        """Tell of a read whose count was due, `found` being the place of its count: 0 hits, 1 misses."""

    def wrote(self, key: object) -> None:
        """Tell of a write whose count was due."""

    def conflict(self, key: object) -> None:
        """Tell of a write that was refused by its condition: of every one."""

    def waited(self, key: object, nanoseconds: int) -> None:
        """Tell of a wait for the lock of the key's stripe, or for the whole: of every one."""


class KeySampler(Sampler):
    """Tells the heat of the view's thread. `counts` are the view's own: hits, misses, writes."""

    __slots__ = ("_add", "_counts", "_gap", "_namespace")

    def __init__(self, namespace: str, counts: Counts, heat: ThreadHeat) -> None:
        super().__init__()
        self._namespace = namespace
        self._counts = counts
        self._add = heat.add
        self._gap = gap = heat.gap
        # As one who comes by at any time finds it: the rest of a gap, and of longer ones more often.
        for at in range(3):
            self.due[at] = counts[at] + min(gap(), gap())

    @override
    def read(self, key: object, found: int) -> None:
        self.due[found] = self._counts[found] + self._gap()
        self._add(_READS, (self._namespace, key))  # type: ignore[arg-type]

    @override
    def wrote(self, key: object) -> None:
        self.due[2] = self._counts[2] + self._gap()
        self._add(_WRITES, (self._namespace, key))  # type: ignore[arg-type]

    @override
    def conflict(self, key: object) -> None:
        self._add(_CONFLICTS, (self._namespace, key))  # type: ignore[arg-type]

    @override
    def waited(self, key: object, nanoseconds: int) -> None:
        self._add(_WAITS, (self._namespace, key), nanoseconds)  # type: ignore[arg-type]
