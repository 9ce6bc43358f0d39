"""The limit on memory: never passed, usable to the end, given back when room is made."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from cacheserver.errors import StoreFull
from cacheserver.store.budget import SHARDS, Budget
from cacheserver.store.entry import VALUE, Entry, cost
from cacheserver.store.outcomes import Written
from tests.conftest import Maker
from tests.support.clock import ManualClock
from tests.support.outcomes import written
from tests.support.threads import Running, eventually, frequent_switches, run_threads, start


def test_budget_hands_out_the_last_byte() -> None:
    """All of the limit can be taken, through whichever shard, and not one byte more."""
    budget = Budget(1_000)
    budget.change(980, hint=3)
    budget.change(20, hint=12)
    assert budget.used() == budget.limit
    with pytest.raises(StoreFull):
        budget.change(1, hint=5)
    budget.change(-1, hint=7)
    budget.change(1, hint=8)
    assert budget.used() == budget.limit


def test_budget_that_is_full_says_which_bytes_and_changes_nothing() -> None:
    """The refusal tells need, rest and limit, and nothing was taken."""
    budget = Budget(1_000)
    budget.change(900, hint=0)
    with pytest.raises(StoreFull, match=r"needs 101 bytes and 100 of 1000 are free"):
        budget.change(101, hint=0)
    assert budget.used() == 900


@pytest.mark.parametrize("limit", [100_000, 1 << 20, 1 << 30])
def test_budget_finds_what_other_shards_keep(limit: int) -> None:
    """However many shards keep a piece to themselves, the whole rest can be had at once."""
    budget = Budget(limit)
    for hint in range(2 * SHARDS):
        budget.change(1, hint)
    budget.change(limit - 2 * SHARDS, hint=0)
    assert budget.used() == limit


def test_budget_without_a_byte_is_refused() -> None:
    """A limit of nothing, or less, is a mistake."""
    for limit in (0, -1):
        with pytest.raises(ValueError, match="at least 1 byte"):
            Budget(limit)


class HookedLock:
    """A lock at which something happens just before it is first taken."""

    def __init__(self, hook: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._hook: Callable[[], None] | None = hook

    def __enter__(self) -> None:
        hook, self._hook = self._hook, None
        if hook is not None:
            hook()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()


def test_budget_is_not_full_while_bytes_move_from_shard_to_shard() -> None:
    """With enough bytes free at every instant a taking succeeds, wherever they are meanwhile."""
    budget = Budget(1 << 20)
    budget.change(budget.limit - 100, hint=SHARDS - 1)  # whose shard keeps the rest
    others: list[Running[None]] = []

    def move() -> None:
        budget.change(-100, hint=0)
        budget.change(100, hint=SHARDS - 1)

    def overtake() -> None:
        others.append(start(move))
        first = budget._shards[0].lock
        eventually(lambda: others[0].done or first.locked(), "the bytes have moved, or can't")

    budget._shards[1].lock = HookedLock(overtake)  # type: ignore[assignment]
    budget.change(100, hint=5)
    others[0].result()
    assert budget.used() == budget.limit


class YieldingSize(int):
    """A number of bytes that lets other threads run in the midst of being subtracted."""

    def __rsub__(self, other: int) -> int:
        os.sched_yield()
        return other - int(self)


def test_shard_is_exact_under_many_threads() -> None:
    """Threads that meet at one shard lose no byte that they take or give back."""
    budget = Budget(1 << 20)

    def work() -> None:
        for turn in range(300):
            budget.change(YieldingSize(turn % 50 + 2), hint=0)
            budget.change(YieldingSize(-(turn % 50 + 1)), hint=0)

    with frequent_switches():
        run_threads([work] * 4)
    assert budget.used() == 1_200


def test_budget_is_exact_under_many_threads() -> None:
    """Threads that take and give back leave what they didn't give back, and pass no limit."""
    budget = Budget(10_000)

    def work(number: int) -> int:
        kept = 0
        for turn in range(500):
            size = turn % 90 + 1
            try:
                budget.change(size, hint=number + turn)
            except StoreFull:
                budget.change(-kept, hint=number)
                kept = 0
            else:
                kept += size
            assert 0 <= budget.used() <= budget.limit
        return kept

    with frequent_switches():
        kept = run_threads([lambda n=n: work(n) for n in range(6)])  # type: ignore[misc]
    assert budget.used() == sum(kept)


def bytes_of(_key: object, entry: Entry[int]) -> int:
    """A cost by which a value is its own size."""
    return entry[VALUE]


def test_full_dict_refuses_and_changes_nothing(make: Maker, stripes: int) -> None:
    """StoreFull leaves the old value, its version, the totals and every other key as they were."""
    entries = make.striped(stripes, cost=bytes_of, budget=Budget(1_000))
    entries.put("a", 600)
    entries.put("b", 300)
    before = (entries.snapshot(), entries.totals())
    with pytest.raises(StoreFull):
        entries.put("a", 701)
    with pytest.raises(StoreFull):
        entries.put("c", 101)
    with pytest.raises(StoreFull):
        entries["b"] = 401
    assert (entries.snapshot(), entries.totals()) == before
    assert written(entries.put("c", 100)).version


def test_refused_write_gives_no_version_away(make: Maker) -> None:
    """A write that was refused can't be told from one that was never tried."""
    entries = make.striped(1, cost=bytes_of, budget=Budget(10))
    first = written(entries.put("a", 10))
    with pytest.raises(StoreFull):
        entries.put("b", 1)
    assert entries.put("a", 10) == Written(first.version + 1, False)


def test_overwriting_takes_only_the_difference(make: Maker, stripes: int) -> None:
    """A value may take the room of the one that it replaces."""
    entries = make.striped(stripes, cost=bytes_of, budget=Budget(1_000))
    entries.put("a", 900)
    entries.put("a", 1_000)
    entries.put("a", 1_000)
    entries.put("a", 10)
    entries.put("b", 990)
    assert entries.totals() == (2, 1_000)


def test_room_comes_back(make: Maker, stripes: int, clock: ManualClock) -> None:
    """Deletion, pop, clear, a smaller value and an expiry that somebody met make room again."""
    entries = make.striped(stripes, cost=bytes_of, budget=Budget(1_000))

    def fill(ttl: float = 0) -> None:
        entries.put("a", 1_000, ttl=ttl)
        with pytest.raises(StoreFull):
            entries.put("b", 1)

    fill()
    del entries["a"]
    fill()
    entries.pop("a")
    fill()
    entries.clear()
    fill()
    entries["a"] = 0
    fill(ttl=5)
    clock.advance(5)
    assert "a" not in entries
    fill(ttl=5)
    clock.advance(5)
    assert written(entries.put("a", 1_000)).created
    assert entries.totals() == (1, 1_000)


def test_conflict_takes_no_room(make: Maker, stripes: int) -> None:
    """A write whose condition doesn't hold isn't asked for room."""
    entries = make.striped(stripes, cost=bytes_of, budget=Budget(100))
    entries.put("a", 100)
    entries.compare_and_set("a", 1, 10_000)
    assert entries.totals() == (1, 100)


def test_limit_is_never_passed_by_many_writers(make: Maker, stripes: int) -> None:
    """With writers, deleters and a clear at once, no instant shows more than the limit."""
    budget = Budget(20_000)
    entries = make.striped(stripes, cost=bytes_of, budget=budget)

    def work(number: int) -> int:
        refused = 0
        for turn in range(400):
            key = (number * 7 + turn * 13) % 50
            try:
                if turn % 5 == 4:
                    entries.pop(key, None)
                else:
                    entries.put(key, turn * 37 % 1_500)
            except StoreFull:
                refused += 1
            assert budget.used() <= budget.limit
            if turn == 200 and number == 0:
                entries.clear()
        return refused

    with frequent_switches():
        refused = run_threads([lambda n=n: work(n) for n in range(6)])  # type: ignore[misc]
    assert sum(refused) > 0, "the limit was never in the way, so nothing was tested"
    assert sum(entries.snapshot()[key][0] for key in entries) == entries.totals()[1] <= 20_000


@pytest.mark.parametrize("limit", [64 << 10, 1 << 20, 4 << 20])
@pytest.mark.parametrize("many", [1, 64, 4096])
def test_small_limit_can_be_used(make: Maker, limit: int, many: int) -> None:
    """What stripes keep to themselves leaves all but one entry's room, however many."""
    entries = make.striped(many, cost=cost, budget=Budget(limit))
    try:
        for number in range(limit):
            entries.put(f"key{number}", b"x" * 100)
    except StoreFull:
        pass
    assert entries.totals()[1] > limit - 1_000


@pytest.mark.parametrize("namespaces", [1, 64])
def test_empty_store_has_all_its_room_again(make: Maker, namespaces: int) -> None:
    """After everything was cleared the whole limit fits into a single value."""
    limit = 4 << 20
    store = make.store(max_memory=limit)
    for number in range(namespaces):
        namespace = store.namespace(f"n{number}")
        for key in range(8_000 // namespaces):
            namespace.put(f"key{key}", b"x" * 100)
        namespace.clear()
    assert store.statistics().entries == 0
    assert written(store.namespace("n0").put("large", bytes(limit - 1_000))).version


def test_namespaces_share_one_limit(make: Maker) -> None:
    """What one namespace takes another one can't have."""
    store = make.store(max_memory=100_000)
    store.namespace("a").put("k", bytes(80_000))
    with pytest.raises(StoreFull, match="max-memory"):
        store.namespace("b").put("k", bytes(80_000))
    store.namespace("a").delete("k")
    assert isinstance(store.namespace("b").put("k", bytes(80_000)), Written)
