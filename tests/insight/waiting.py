"""Waits that a test makes happen: each is one that certainly is, however many processors there are."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from cacheserver.store.namespace import Namespace
from cacheserver.store.stripe import Stripe
from tests.support.inside import dicts_of, gate_of, stripe_of, stripes_of
from tests.support.threads import DEADLINE, call_before, start


@contextmanager
def hold_stripe(namespace: Namespace, key: str) -> Generator[threading.Semaphore]:
    """Have the lock of a key's stripe; the semaphore is released whenever somebody begins to wait."""
    [entries] = dicts_of(namespace)
    stripe = stripes_of(entries)[stripe_of(entries, key)]
    waits = threading.Semaphore(0)
    call_before(stripe, "_acquire_slowly", waits.release)
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
    [entries] = dicts_of(namespace)
    for stripe in stripes_of(entries):
        call_before(stripe, "put", lambda: time.sleep(seconds))


def stop_writers(namespace: Namespace, seconds: float) -> None:
    """Have one write in 192 stopped for so long while it has its stripe.

    Never one whose hold is timed, lest chance decides how long holds are on average.
    """

    def stop(stripe: Stripe[Any, Any]) -> None:
        if stripe.statistics().acquisitions % 192 == 5:
            time.sleep(seconds)

    [entries] = dicts_of(namespace)
    for stripe in stripes_of(entries):
        call_before(stripe, "put", lambda stripe=stripe: stop(stripe))  # type: ignore[misc]


def slow_operations(namespace: Namespace, seconds: float) -> None:
    """Have every operation on the whole namespace keep it so much longer."""
    [entries] = dicts_of(namespace)
    call_before(gate_of(entries), "__exit__", lambda: time.sleep(seconds))
