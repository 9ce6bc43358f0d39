"""Locks that tell a test what happens at them."""

from __future__ import annotations

import threading

from cacheserver.store.counters import ShardedCounter
from tests.support.threads import DEADLINE


class WatchedLock:
    """A `threading.Lock` that counts failed first tries and tells when somebody begins to wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.failed_tries = ShardedCounter()
        self.waits = threading.Semaphore(0)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking:
            self.waits.release()
            return self._lock.acquire(True, timeout)
        taken = self._lock.acquire(False)
        if not taken:
            self.failed_tries.add()
        return taken

    def release(self) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def wait_for_a_waiter(self) -> None:
        """Return once somebody has begun to wait: whoever does has looked at its clock before."""
        assert self.waits.acquire(timeout=DEADLINE), "nobody waits for the lock"
