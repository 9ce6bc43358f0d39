"""A stripe that is held while somebody wants it: a wait that happens for certain, and how long it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from cacheserver.store.store import Store
from tests.support.inside import dicts_of, stripe_of, stripes_of
from tests.support.locks import WatchedLock
from tests.support.threads import start

HELD: Final = 0.03
"""Seconds for which the stripe is held, at least, once somebody waits for it."""


class Waited[T](NamedTuple):
    """What came of work that had to wait."""

    result: T
    at_least: float
    """Seconds for which it certainly waited."""
    at_most: float
    """Seconds that all of it took."""
    stripe: int
    """The number of the stripe that it waited for."""


def made_to_wait[T](store: Store, namespace: str, key: str, work: Callable[[], T]) -> Waited[T]:
    """Call `work`, which writes this key, in a thread, while the key's stripe is held.

    The stripe is let go once `work` has waited for it for HELD seconds.
    """
    entries = dicts_of(store.namespace(namespace))[0]
    number = stripe_of(entries, key)
    stripe = stripes_of(entries)[number]
    unwatched, watched = stripe.lock, WatchedLock()
    stripe.lock = watched
    stripe.acquire()
    try:
        asked = time.perf_counter()
        working = start(work)
        watched.wait_for_a_waiter()
        waiting_since = time.perf_counter()
        time.sleep(HELD)
        at_least = time.perf_counter() - waiting_since
    finally:
        stripe.release()
    result = working.result()
    at_most = time.perf_counter() - asked
    stripe.lock = unwatched
    return Waited(result, at_least, at_most, number)
