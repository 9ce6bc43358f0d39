"""What the advice and the reports are made from: the figures of a window of time, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple


class Waits(NamedTuple):
    """Acquisitions of a lock that had to wait, and how long all of them did together."""

    contended: int = 0
    seconds: float = 0.0


_NONE: Final = Waits()


class StripeFigures(NamedTuple):
    """The waits for one stripe."""

    stripe: int
    contended: int
    seconds: float


class KeyFigures(NamedTuple):
    """What one key has of something that is counted by key."""

    key: str
    amount: float
    """An estimate: seconds for waits, a number for all else."""
    at_least: float
    """What it certainly, or with 95 per cent certainty where only samples are taken, has."""
    share: float
    """The estimate as a part of what the namespace has, 1 at most."""


class Holder(NamedTuple):
    """Operations of one kind that had the whole namespace."""

    purpose: str
    holds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class NamespaceFigures:
    """What one namespace saw in the window."""

    name: str
    stripes: int
    entries: int = 0
    reads: int = 0
    writes: int = 0
    conflicts: int = 0
    acquisitions: int = 0
    """Of stripes."""
    stripe: Waits = _NONE
    """Writers of keys that waited for one another."""
    mean_hold: float | None = None
    """Seconds for which a writer has a stripe, the mean of a sample, None where there is none yet."""
    read: Waits = _NONE
    """Writers of keys that waited for an operation on the whole namespace."""
    write: Waits = _NONE
    """Operations on the whole namespace that waited."""
    holds: int = 0
    """Operations that had the whole namespace."""
    hold_seconds: float = 0.0
    holders: tuple[Holder, ...] = ()
    """Those, by kind, the longest first."""
    by_stripe: tuple[StripeFigures, ...] = ()
    """The stripes that were waited for, the one with the longest waits first."""
    wait_keys: tuple[KeyFigures, ...] = ()
    """The keys whose writers waited longest."""
    conflict_keys: tuple[KeyFigures, ...] = ()
    read_keys: tuple[KeyFigures, ...] = ()

    @property
    def wait_seconds(self) -> float:
        """All waits together."""
        return self.stripe.seconds + self.read.seconds + self.write.seconds

    @property
    def contended(self) -> int:
        """How many waits there were."""
        return self.stripe.contended + self.read.contended + self.write.contended

    @property
    def conflict_ratio(self) -> float | None:
        """Refused writes as a part of all writes, None without any."""
        tried = self.writes + self.conflicts
        return self.conflicts / tried if tried else None

    @property
    def has_traffic(self) -> bool:
        """Whether anything was done at all."""
        return bool(self.reads or self.writes or self.conflicts or self.acquisitions or self.holds)


@dataclass(frozen=True, slots=True)
class Figures:
    """What the whole store saw in the window."""

    seconds: float
    """How long the window is."""
    requests: int
    request_seconds: float
    """The time that was spent on requests, of all threads together."""
    wait_seconds: float
    """All waits for locks, those in namespaces that were dropped meanwhile included."""
    contended: int
    """How many waits there were."""
    namespaces: tuple[NamespaceFigures, ...] = ()
    """Those with traffic first, and of them those that waited longest."""

    def ratio(self, seconds: float) -> float | None:
        """Return seconds as a part of the time spent on requests, None where none was."""
        return seconds / self.request_seconds if self.request_seconds > 0 else None
