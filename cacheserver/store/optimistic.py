"""Optimistic updates: read without a lock, compute, write on condition that nothing has changed.

Guarantees:
- No update is lost: what is written was computed from the very entry that it replaces.
- The function that computes runs outside of every lock, so it may take its time or use the same
  dict. It may be called several times for one update; only its last result is written.
- Somebody always gets on: an attempt fails only because another write succeeded meanwhile. That is
  no promise to each: threads that update one key without pause can starve one that does the same.
- Nobody tries without end: after so many attempts `Contention` is raised, and nothing was written.

Between attempts the thread waits a random time from a range that doubles (exponential backoff with
full jitter), so that those who collided don't collide again in step. The first attempts don't wait:
most conflicts are over by then, and the shortest sleep costs more than an attempt.

Assumes nothing of the interpreter beyond what `StripedDict` does.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cacheserver.errors import Contention
from cacheserver.store.entry import (
    CONTENT_TYPE,
    DEFAULT_CONTENT_TYPE,
    KEEP,
    VALUE,
    VERSION,
    Entry,
    Keep,
)
from cacheserver.store.outcomes import Condition, Conflict
from cacheserver.store.striped import StripedDict


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often to try, and how long to wait in between.

    With the defaults one update asks for less than 4 ms of sleep in all, so that an event loop may
    afford it. `sleep` and `jitter` (a number from 0 up to 1) are there to be replaced in tests.
    """

    attempts: int = 64
    """How many in all."""
    at_once: int = 3
    """How many of the retries come without a wait before them."""
    first: float = 20e-6
    """Seconds: the longest that the first wait may be. That of each one after it is twice as long."""
    longest: float = 50e-6
    """Seconds: no wait is longer."""
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.attempts < 1 or self.at_once < 0:
            raise ValueError("attempts must be at least 1 and at_once at least 0")
        if not 0 <= self.first <= self.longest < float("inf"):
            raise ValueError("first and longest must be finite seconds, 0 <= first <= longest")

    def waits(self) -> Iterator[float]:
        """Yield, for each retry, the longest that the wait before it may be."""
        for retry in range(self.attempts - 1):
            doublings = retry - self.at_once
            yield min(self.first * 2**doublings, self.longest) if doublings >= 0 else 0.0

    def pause(self, longest: float) -> None:
        """Wait for a random time up to `longest`."""
        if longest:
            self.sleep(longest * self.jitter())


BACKOFF: Final = Backoff()


def unchanged[V](entry: Entry[V] | None) -> Condition:
    """The condition that a key still has this entry, or, for None, still has none."""
    return Condition.version(0 if entry is None else entry[VERSION])


def retry[V, R](
    read: Callable[[], Entry[V] | None],
    attempt: Callable[[Entry[V] | None], R | Conflict[V]],
    backoff: Backoff | None = None,
) -> R:
    """Call `attempt` with what is there until it returns something else than a `Conflict`.

    `attempt` gets an entry or None, and writes on the condition that this is `unchanged`. After a
    conflict it gets what the conflict found, so `read` is called once. To end the loop with nothing
    written, `attempt` returns anything but a `Conflict`, or raises. `Contention` after
    `backoff.attempts` conflicts.
    """
    outcome = attempt(read())
    if isinstance(outcome, Conflict):
        return _try_again(attempt, outcome, backoff or BACKOFF)
    return outcome


def _try_again[V, R](
    attempt: Callable[[Entry[V] | None], R | Conflict[V]], conflict: Conflict[V], backoff: Backoff
) -> R:
    for longest in backoff.waits():
        backoff.pause(longest)
        outcome = attempt(conflict.current)
        if not isinstance(outcome, Conflict):
            return outcome
        conflict = outcome
    raise Contention(
        f"gave up after {backoff.attempts} attempts: others wrote the key each time; try again"
    )


class OptimisticDict[K, V](StripedDict[K, V]):
    """A `StripedDict` whose values are updated by functions of what was there before."""

    __slots__ = ()

    def update(
        self,
        key: K,
        function: Callable[[V | None], V],
        *,
        ttl: float | Keep = KEEP,
        backoff: Backoff | None = None,
    ) -> V:
        """Write what `function` makes of the key's value, None where there is none; return it.

        `function` runs outside of every lock and is called again whenever somebody else wrote the
        key meanwhile. What it raises comes out, and nothing is written then. `ttl` as for `put`; the
        value keeps the deadline that it has unless one is given. `Contention` where others were quicker `backoff.attempts` times.
        """

        def attempt(entry: Entry[V] | None) -> tuple[V] | Conflict[V]:
            value = function(None if entry is None else entry[VALUE])
            outcome = self.put(
                key,
                value,
                ttl=ttl,
                content_type=DEFAULT_CONTENT_TYPE if entry is None else entry[CONTENT_TYPE],
                condition=unchanged(entry),
            )
            return outcome if isinstance(outcome, Conflict) else (value,)

        return retry(lambda: self.read(key), attempt, backoff)[0]
