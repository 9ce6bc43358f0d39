"""Slow operations: the latest of those that took long, with what they waited for.

Guarantees: every operation that is noted is counted; the latest `size` are kept, and no more, so
memory is bounded. Noting one takes a lock of its own, a leaf, and is meant for slow operations only.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from cacheserver.store.locks import Wait

SLOW_THRESHOLD: Final = 0.01
"""Seconds from which on an operation counts as slow, unless somebody says otherwise."""
SLOW_LOG_SIZE: Final = 128
"""Slow operations that are kept."""


class SlowOperation(NamedTuple):
    """An operation that took long."""

    id: int
    """1 for the first that was noted, and so on."""
    at: float
    """When it ended, in seconds since 1970."""
    operation: str
    """The name of the route's handler."""
    method: str
    namespace: str
    key: str
    """Empty where it was for no single key."""
    status: int
    seconds: float
    requests: int
    """How many were answered together, of which this is the first: 1 mostly."""
    lock_wait_seconds: float
    """All waits for locks together, those included that are not among `waits`."""
    waits: tuple[Wait, ...]
    """The last of them, in order."""
    thread: str
    """The name of the thread that noted it."""
    trace_id: str
    """32 hexadecimal digits, empty where the client sent none."""


class SlowLog:
    """The latest slow operations, for any thread. ValueError for a threshold or a size that is none.

    Who notes an operation has compared its time with `threshold` before.
    """

    def __init__(
        self,
        threshold: float = SLOW_THRESHOLD,
        size: int = SLOW_LOG_SIZE,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if not 0 <= threshold < float("inf"):
            raise ValueError(f"a threshold is a number of seconds from 0 up, not {threshold!r}")
        if size < 1:
            raise ValueError(f"a slow log keeps at least one operation, not {size!r}")
        self.threshold: Final = threshold
        """Seconds: what takes as long or longer is slow."""
        self.size: Final = size
        """How many are kept."""
        self._wall = wall
        self._lock = threading.Lock()  # guards what follows; a leaf
        self._total = 0
        self._latest: deque[SlowOperation] = deque(maxlen=size)

    @property
    def total(self) -> int:
        """How many were noted so far."""
        return self._total

    def note(
        self,
        *,
        operation: str,
        method: str,
        namespace: str,
        status: int,
        seconds: float,
        key: str = "",
        requests: int = 1,
        lock_wait_seconds: float = 0.0,
        waits: tuple[Wait, ...] = (),
        trace_id: str = "",
    ) -> None:
        """Keep an operation that has just ended in the calling thread."""
        at, thread = self._wall(), threading.current_thread().name
        with self._lock:
            self._total += 1
            self._latest.append(
                SlowOperation(
                    id=self._total,
                    at=at,
                    operation=operation,
                    method=method,
                    namespace=namespace,
                    key=key,
                    status=status,
                    seconds=seconds,
                    requests=requests,
                    lock_wait_seconds=lock_wait_seconds,
                    waits=waits,
                    thread=thread,
                    trace_id=trace_id,
                )
            )

    def latest(self, limit: int = SLOW_LOG_SIZE) -> list[SlowOperation]:
        """Return the latest operations, the newest first, at most `limit`."""
        with self._lock:
            kept = list(self._latest)
        return kept[: -limit - 1 : -1]
