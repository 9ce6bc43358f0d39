"""Threads that do everything at once to one store, for ThreadSanitizer to look at: see scripts/races."""

from __future__ import annotations

import random
import sys
import threading
import time

from cacheserver.store.outcomes import Condition, Put
from cacheserver.store.store import Store

POLICIES = ("sieve", "lru", "s3fifo", "lfu", "none")


def work(store: Store, seed: int, end: float) -> int:
    """Read, write, delete, touch and compare-and-set keys until then; return how many operations."""
    chance = random.Random(seed)
    view = store.namespace("n").view()
    done = 0
    while time.monotonic() < end:
        key = f"k{chance.randrange(200)}"
        match chance.randrange(9):
            case 0 | 1 | 2:
                view.read(key)
            case 3 | 4:
                ttl = chance.choice([None, 0.01, 5])
                view.put(key, bytes(chance.randrange(200)), ttl, "text/plain", None)
            case 5:
                view.delete(key, None)
            case 6:
                entry = view.read(key)
                view.put(key, b"y", None, "a/b", Condition.version(entry[1] if entry else 0))
            case 7:
                view.transaction({key: Put(b"t"), "z": Put(b"u")}, {})
            case _:
                view.touch(key, 3, None)
        done += 1
    return done


def change(store: Store, end: float) -> None:
    """Do what concerns all keys, and look at all figures."""
    namespace = store.namespace("n")
    turn = 0
    while time.monotonic() < end:
        turn += 1
        match turn % 4:
            case 0:
                namespace.clear()
            case 1:
                namespace.change(stripes=2 << turn % 3)
            case 2:
                namespace.change(policy=POLICIES[turn % 4], default_ttl=float(turn % 2))
            case _:
                namespace.change(max_entries=100 + turn % 2)
        store.statistics()
        store.hot_keys()
        list(store.sweep())
        namespace.snapshot()
        namespace.pulse()
        namespace.stripe_waits()
        namespace.last_waits()
        time.sleep(0.02)


def main(seconds: float) -> None:
    """Have them work for so long."""
    store = Store(stripes=4, max_memory=1 << 17)
    end = time.monotonic() + seconds
    done: list[int] = []
    threads = [
        threading.Thread(target=lambda seed=seed: done.append(work(store, seed, end)))
        for seed in range(3)
    ]
    threads.append(threading.Thread(target=change, args=(store, end)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{sum(done):,} operations of {len(done)} threads")
    assert len(done) == len(threads) - 1, "a thread failed"


if __name__ == "__main__":
    main(float(sys.argv[1]))
