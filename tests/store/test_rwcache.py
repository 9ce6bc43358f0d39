"""RWCache: a dict in every respect that it offers, and whole changes that are seen whole."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from cacheserver.errors import LockMisuse
from cacheserver.store.rwcache import RWCache
from tests.support.threads import (
    Gate,
    eventually,
    frequent_switches,
    in_thread,
    run_threads,
    start,
)


@pytest.fixture
def cache() -> RWCache[Any, Any]:
    """A cache with two entries."""
    return RWCache({"a": 1, "b": 2})


def check_free(cache: RWCache[Any, Any]) -> None:
    """Fail if anybody still has the lock: another thread must get both sides."""

    def take() -> None:
        with cache.lock.write():
            pass
        with cache.lock.read():
            pass

    in_thread(take)


def test_cache_does_what_a_dict_does() -> None:
    """Random operations give what the same ones give on a dict."""
    cache: RWCache[str, int] = RWCache()
    model: dict[str, int] = {}
    chance = random.Random(4)
    for turn in range(2_000):
        key = chance.choice("abcdef")
        match chance.randrange(8):
            case 0 | 1:
                cache.put(key, turn)
                model[key] = turn
            case 2:
                assert cache.delete(key) == (model.pop(key, None) is not None)
            case 3:
                assert cache.get(key) == model.get(key)
                assert cache.get(key, -1) == model.get(key, -1)
            case 4:
                assert (key in cache) == (key in model)
            case 5:
                several = dict.fromkeys(chance.sample("abcdef", 2), turn)
                cache.update(several)
                model.update(several)
            case 6:
                assert dict(cache.items()) == model
                assert len(cache) == len(model)
            case _ if chance.random() < 0.1:
                assert cache.clear() == len(model)
                model.clear()
    check_free(cache)


def test_items_are_a_copy(cache: RWCache[Any, Any]) -> None:
    """What is written later is not in a list that was made before."""
    items = cache.items()
    cache.put("a", 3)
    cache.clear()
    assert items == [("a", 1), ("b", 2)]


def test_cache_takes_pairs_too() -> None:
    """It is filled from a mapping or from pairs, as a dict is."""
    cache = RWCache([("a", 1)])
    cache.update([("b", 2)])
    assert cache.items() == [("a", 1), ("b", 2)]


def test_a_value_may_be_none(cache: RWCache[Any, Any]) -> None:
    """None is a value like others."""
    cache.put("a", None)
    assert cache.get("a", 7) is None
    assert cache.delete("a") is True
    assert cache.delete("a") is False


def test_readers_are_in_side_by_side(cache: RWCache[Any, Any]) -> None:
    """Forced: while one reader is inside, others read."""
    with Gate() as gate:

        def read() -> None:
            with cache.lock.read():
                gate.wait()

        reading = start(read)
        gate.arrived()
        assert in_thread(lambda: cache.get("a")) == 1
        assert in_thread(cache.items) == [("a", 1), ("b", 2)]
        assert in_thread(lambda: len(cache)) == 2
        assert in_thread(lambda: "b" in cache)
        assert not reading.done
    reading.result()


@pytest.mark.parametrize("writes", ["put", "update", "delete", "clear"])
def test_writer_waits_for_readers(cache: RWCache[Any, Any], writes: str) -> None:
    """Forced: while a reader is inside nothing changes; when it leaves, the writer goes ahead."""
    arguments: dict[str, tuple[Any, ...]] = {
        "put": ("a", 9),
        "update": ({"a": 9},),
        "delete": ("a",),
        "clear": (),
    }
    with cache.lock.read():
        writing = start(lambda: getattr(cache, writes)(*arguments[writes]))
        eventually(cache.lock._gate.turnstile.taken, "the writer asks")
        assert cache._data == {"a": 1, "b": 2}
        assert not writing.done
    writing.result()
    assert cache._data != {"a": 1, "b": 2}
    check_free(cache)


def test_readers_wait_for_a_writer(cache: RWCache[Any, Any]) -> None:
    """Forced: while a writer is inside, a reader waits and then sees what was written."""
    with cache.lock.write():
        reading = start(lambda: cache.get("a"))
        eventually(lambda: cache.lock._gate.turnstile.waiting() == 1, "the reader queues")
        cache._data["a"] = 5
        assert not reading.done
    assert reading.result() == 5


def test_update_is_never_seen_by_half() -> None:
    """All keys are written at one instant: every copy has one and the same value throughout."""
    keys = "abcdefgh"
    cache: RWCache[str, int] = RWCache(dict.fromkeys(keys, 0))
    stop = threading.Event()

    def write(first: int) -> None:
        try:
            for turn in range(first, 200, 2):
                cache.update(dict.fromkeys(keys, turn))
        finally:
            stop.set()

    def read() -> None:
        while not stop.is_set():
            assert len({value for _, value in cache.items()}) == 1

    with frequent_switches():
        run_threads([lambda: write(0), lambda: write(1), read, read])
    check_free(cache)


def test_clear_is_one_instant() -> None:
    """All threads that clear at once together count every entry once."""
    cache: RWCache[int, int] = RWCache((number, number) for number in range(1_000))
    with frequent_switches():
        assert sum(run_threads([cache.clear] * 4)) == 1_000
    assert len(cache) == 0


def test_whoever_reads_cannot_write(cache: RWCache[Any, Any]) -> None:
    """A write by a thread that is inside as a reader is refused, and does not hang."""
    with cache.lock.read(), pytest.raises(LockMisuse):
        cache.put("a", 2)
    check_free(cache)


def test_key_that_cannot_be_hashed_changes_nothing(cache: RWCache[Any, Any]) -> None:
    """A TypeError inside leaves the lock free and the entries as they were."""
    for refused in (
        lambda: cache.put([], 1),
        lambda: cache.get([]),
        lambda: cache.delete([]),
        lambda: cache.update([([], 1)]),
    ):
        with pytest.raises(TypeError):
            refused()
    assert cache.items() == [("a", 1), ("b", 2)]
    check_free(cache)
