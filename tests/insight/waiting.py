"""Waits that a test makes happen: each is one that certainly is, however many processors there are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from cacheserver.store.namespace import Namespace
from tests.support.inside import dicts_of, gate_of, quota_of, stripe_of, stripes_of
from tests.support.threads import DEADLINE, call_before, start


@contextmanager
def hold_stripe(namespace: Namespace, key: str) -> Generator[threading.Semaphore]:
    """Have the lock of a key's stripe; the semaphore is released whenever somebody begins to wait."""
    [entries] = dicts_of(namespace)
    stripe = stripes_of(entries)[stripe_of(entries, key)]
    waits = threading.Semaphore(0)
    call_before(stripe, "_wait", waits.release)
    stripe.acquire()
    try:
        yield waits
    finally:
        stripe.release()


@contextmanager
def hold_whole(namespace: Namespace, purpose: str) -> Generator[None]:
    """Have the whole namespace, as an operation does that is called so."""
    [entries] = dicts_of(namespace)
    with gate_of(entries).held_for(purpose):
        yield


def wait_for_a_write(namespace: Namespace, key: str, seconds: float) -> float:
    """Have a writer of the key wait for its stripe at least so long; returns how long it did."""
    before = waited(namespace)
    with hold_stripe(namespace, key) as waits:
        writer = start(lambda: namespace.put(key, b"v"))
        assert waits.acquire(timeout=DEADLINE), "nobody waits"
        time.sleep(seconds)  # how long the lock is held: nothing is waited for
    writer.result()
    return waited(namespace) - before


def waited(namespace: Namespace) -> float:
    """All waits in a namespace so far, in seconds."""
    return sum(lock.waits.seconds for lock in namespace.statistics().locks.values())


def slow_writes(namespace: Namespace, seconds: float) -> None:
    """Have every write that changes an entry's size keep its stripe's lock so much longer."""
    _before_bytes_are_taken(namespace, lambda: time.sleep(seconds))


def stop_writers(namespace: Namespace, seconds: float) -> None:
    """Have one write in 192 stopped for so long while it has its stripe, of which there is one.

    Never one whose hold is timed, lest chance decides how long holds are on average.
    """
    [entries] = dicts_of(namespace)
    [stripe] = stripes_of(entries)

    def stop() -> None:
        if stripe.acquisitions % 192 == 5:
            time.sleep(seconds)

    _before_bytes_are_taken(namespace, stop)


def _before_bytes_are_taken(namespace: Namespace, hook: Callable[[], object]) -> None:
    """Have this called by every write that changes an entry's size, while it has its stripe."""
    [entries] = dicts_of(namespace)
    quota = quota_of(entries)
    assert quota is not None
    assert quota.memory is not None
    for shard in quota.memory._shards:
        shard.lock = _HookedLock(hook)


class _HookedLock:
    """A lock at which something is called before it is tried."""

    def __init__(self, hook: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._hook = hook

    def acquire(self, blocking: bool = True) -> bool:
        if not blocking:
            self._hook()
        return self._lock.acquire(blocking)

    def release(self) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()


def slow_operations(namespace: Namespace, seconds: float) -> None:
    """Have every operation on the whole namespace keep it so much longer."""
    [entries] = dicts_of(namespace)
    call_before(gate_of(entries), "__exit__", lambda: time.sleep(seconds))
