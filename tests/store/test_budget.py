"""The limits on memory and entries: never passed, usable to the end, given back when room is made."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cacheserver.errors import NeverFits, StoreFull
from cacheserver.store.budget import MAX_LIMIT, SHARDS, Budget, Quota, Reason
from cacheserver.store.entry import DEFAULT_CONTENT_TYPE, NEVER, VALUE, Entry
from cacheserver.store.outcomes import Written
from cacheserver.store.record import cost, growth
from tests.conftest import Maker
from tests.support.clock import ManualClock
from tests.support.inside import quota_of
from tests.support.outcomes import written
from tests.support.threads import Running, eventually, frequent_switches, run_threads, start


def test_budget_hands_out_the_last_byte() -> None:
    """All of the limit can be taken, through whichever shard, and not one byte more."""
    budget = Budget(1_000)
    assert budget.take(980, hint=3)
    assert budget.take(20, hint=12)
    assert budget.used() == budget.limit
    assert not budget.take(1, hint=5)
    assert budget.take(-1, hint=7)
    assert budget.take(1, hint=8)
    assert budget.used() == budget.limit


def test_budget_that_is_full_takes_nothing() -> None:
    """What isn't there is not taken in part, thoroughly or not."""
    budget = Budget(1_000)
    assert budget.take(900, hint=0)
    assert not budget.take(101, hint=0)
    assert not budget.take(101, hint=0, thorough=False)
    assert budget.used() == 900
    assert budget.take(100, hint=0)


@pytest.mark.parametrize("limit", [100_000, 1 << 20, 1 << 30])
def test_budget_finds_what_other_shards_keep(limit: int) -> None:
    """However many shards keep a piece to themselves, the whole rest can be had at once."""
    budget = Budget(limit)
    for hint in range(2 * SHARDS):
        assert budget.take(1, hint)
    assert budget.take(limit - 2 * SHARDS, hint=0)
    assert budget.used() == limit


def test_taking_that_is_not_thorough_leaves_other_shards_alone() -> None:
    """It is refused where only the others have enough, and gets what its own shard or the pool has."""
    budget = Budget(1 << 20)
    rest = 100
    assert budget.take(budget.limit - rest, hint=0)
    assert budget.take(-50, hint=1)
    assert not budget.take(rest + 50, hint=2, thorough=False)
    assert budget.take(rest + 50, hint=2, thorough=True)
    assert budget.take(-50, hint=3)
    assert budget.take(50, hint=3, thorough=False)
    assert budget.used() == budget.limit


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1, True, 1.5, "1", None])
def test_budget_without_a_byte_is_refused(limit: Any) -> None:
    """A limit is a whole number from 1 on, and not absurd."""
    with pytest.raises(ValueError, match="whole number from 1"):
        Budget(limit)


def test_budget_may_begin_in_use() -> None:
    """What is used at the start counts; where that is more than the limit, nothing can be taken."""
    budget = Budget(1_000, used=400)
    assert budget.used() == 400
    assert not budget.take(601, hint=0)
    assert budget.take(600, hint=0)
    exceeded = Budget(1_000, used=1_500)
    assert exceeded.used() == 1_500
    assert not exceeded.take(1, hint=0)
    assert exceeded.take(-500, hint=0)
    assert not exceeded.take(1, hint=0)
    assert exceeded.take(-1, hint=0)
    assert exceeded.take(1, hint=1)
    assert exceeded.used() == exceeded.limit


@pytest.mark.parametrize("thorough", [False, True])
def test_budget_beyond_its_limit_hands_out_nothing_that_comes_back(thorough: bool) -> None:
    """While a lowered limit is exceeded, what one gives back isn't there for another to take."""
    budget = Budget(1 << 20, used=1 << 21)
    assert budget.take(-100, hint=0)
    assert not budget.take(100, hint=0, thorough=thorough)
    assert budget.used() == (1 << 21) - 100


class HookedLock:
    """A lock at which something happens just before it is first taken."""

    def __init__(self, hook: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._hook: Callable[[], None] | None = hook

    def acquire(self, blocking: bool = True) -> bool:
        hook, self._hook = self._hook, None
        if hook is not None:
            hook()
        return self._lock.acquire(blocking)

    def release(self) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()


def test_budget_is_not_full_while_bytes_move_from_shard_to_shard() -> None:
    """With enough bytes free at every instant a taking succeeds, wherever they are meanwhile."""
    budget = Budget(1 << 20)
    assert budget.take(budget.limit - 100, hint=SHARDS - 1)  # whose shard keeps the rest
    others: list[Running[None]] = []

    def move() -> None:
        assert budget.take(-100, hint=0)
        assert budget.take(100, hint=SHARDS - 1)

    def overtake() -> None:
        others.append(start(move))
        first = budget._shards[0]
        eventually(lambda: others[0].done or first.locked(), "the bytes have moved, or can't")

    budget._shards[1].lock = HookedLock(overtake)
    assert budget.take(100, hint=5)
    others[0].result()
    assert budget.used() == budget.limit


class YieldingLock:
    """A lock that lets other threads run when it has just been taken, and before it is let go of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, blocking: bool = True) -> bool:
        taken = self._lock.acquire(blocking)
        os.sched_yield()
        return taken

    def release(self) -> None:
        os.sched_yield()
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()


def test_shard_is_exact_under_many_threads() -> None:
    """Threads that meet at one shard lose no byte that they take or give back."""
    budget = Budget(1 << 20)
    budget._shards[0].lock = YieldingLock()

    def work() -> None:
        for turn in range(300):
            assert budget.take(turn % 50 + 2, hint=0)
            assert budget.take(-(turn % 50 + 1), hint=0)

    with frequent_switches():
        run_threads([work] * 4)
    assert budget.used() == 1_200


@pytest.mark.parametrize("thorough", [True, False])
def test_budget_is_exact_under_many_threads(thorough: bool) -> None:
    """Threads that take and give back leave what they didn't give back, and pass no limit."""
    budget = Budget(10_000)

    def work(number: int) -> int:
        kept = 0
        for turn in range(500):
            size = turn % 90 + 1
            if budget.take(size, number + turn, thorough):
                kept += size
            else:
                assert budget.take(-kept, hint=number)
                kept = 0
            assert 0 <= budget.used() <= budget.limit
        return kept

    with frequent_switches():
        kept = run_threads([lambda n=n: work(n) for n in range(6)])  # type: ignore[misc]
    assert budget.used() == sum(kept)


def used(quota: Quota) -> tuple[int, ...]:
    """What is taken of each budget."""
    return tuple(b.used() for b in (quota.memory, quota.own, quota.entries) if b is not None)


def test_quota_takes_from_all_budgets() -> None:
    """Bytes count twice, in the shared memory and in the dict's own; entries once."""
    quota = Quota(Budget(1_000), Budget(500), Budget(3))
    assert quota.take(100, 1, 0, True) is None
    assert used(quota) == (100, 100, 1)
    assert quota.take(-40, 0, 5, False) is None
    assert quota.take(-60, -1, 5, False) is None
    assert used(quota) == (0, 0, 0)


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize(
    ("size", "entries", "reason"),
    [
        (1_001, 1, "memory"),
        (501, 1, "max_bytes"),
        (1, 4, "max_entries"),
        (0, 4, "max_entries"),
        (-10, 4, "max_entries"),
        (600, -1, "max_bytes"),
        (1_001, 4, "memory"),
        (501, 4, "max_bytes"),
    ],
)
def test_quota_takes_all_or_nothing(
    size: int, entries: int, reason: Reason, thorough: bool
) -> None:
    """Where one budget hasn't enough, it is named and none is changed."""
    quota = Quota(Budget(1_000), Budget(500), Budget(3))
    assert quota.take(20, 1, 0, True) is None
    assert quota.take(size, entries - (entries > 3), 0, thorough) == reason
    assert used(quota) == (20, 20, 1)


def test_quota_of_some_budgets() -> None:
    """Budgets that are not there refuse nothing."""
    assert used(Quota()) == ()
    assert Quota().take(1 << 50, 1 << 50, 0, True) is None
    only = Quota(entries=Budget(1))
    assert only.take(1 << 50, 1, 0, True) is None
    assert only.take(1, 1, 0, True) == "max_entries"
    assert only.take(1, 0, 0, True) is None
    number = only.budget("max_entries")
    assert number is not None
    assert number.limit == 1
    assert only.budget("memory") is None


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


def test_refusal_says_what_is_needed_and_which_limit_to_raise(make: Maker, stripes: int) -> None:
    """Need, rest, limit and the knob are in the message, for each kind of limit."""
    memory = make.striped(stripes, cost=bytes_of, budget=Budget(1_000))
    memory.put("a", 900)
    with pytest.raises(StoreFull, match=r"needs 101 bytes and 100 of 1000 are free.*--max-memory"):
        memory.put("b", 101)
    with pytest.raises(NeverFits, match=r"1001 bytes.* limit is 1000.*--max-memory"):
        memory.put("b", 1_001)
    own = make.striped(stripes, cost=bytes_of, max_bytes=1_000)
    own.put("a", 900)
    with pytest.raises(StoreFull, match=r"needs 101 bytes and 100 of 1000 are free.*max_bytes"):
        own.put("b", 101)
    with pytest.raises(NeverFits, match=r"1001 bytes.* limit is 1000.*max_bytes"):
        own.put("b", 1_001)
    number = make.striped(stripes, max_entries=1)
    number.put("a", 1)
    with pytest.raises(StoreFull, match=r"1 entries are the most.*max_entries"):
        number.put("b", 1)


def test_refused_write_gives_no_version_away(make: Maker) -> None:
    """A write that was refused can't be told from one that was never tried."""
    entries = make.striped(1, cost=bytes_of, budget=Budget(10))
    first = written(entries.put("a", 10))
    with pytest.raises(StoreFull):
        entries.put("b", 1)
    with pytest.raises(NeverFits):
        entries.put("b", 11)
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
    entries = make.striped(many, growth=growth, budget=Budget(limit), packed=True)
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
    store = make.store(max_memory=limit, policy="none")
    for number in range(namespaces):
        namespace = store.namespace(f"n{number}")
        for key in range(8_000 // namespaces):
            namespace.put(f"key{key}", b"x" * 100)
        namespace.clear()
    assert store.statistics().entries == 0
    more = cost("large", (bytes(limit), 1, NEVER, DEFAULT_CONTENT_TYPE, 64)) - limit
    assert written(store.namespace("n0").put("large", bytes(limit - more))).version


def test_namespaces_share_one_limit(make: Maker) -> None:
    """What one namespace takes another one can't have, where neither evicts."""
    store = make.store(max_memory=100_000, policy="none")
    store.namespace("a").put("k", bytes(80_000))
    with pytest.raises(StoreFull, match="max-memory"):
        store.namespace("b").put("k", bytes(80_000))
    store.namespace("a").delete("k")
    assert isinstance(store.namespace("b").put("k", bytes(80_000)), Written)


def test_limits_on_bytes_and_on_memory_hold_together(make: Maker, stripes: int) -> None:
    """Of two limits the one that is reached first is in the way, and both count the same bytes."""
    entries = make.striped(stripes, cost=bytes_of, budget=Budget(100), max_bytes=50)
    entries.put("a", 50)
    with pytest.raises(StoreFull, match="max_bytes"):
        entries.put("b", 1)
    quota = quota_of(entries)
    assert quota is not None
    assert used(quota) == (50, 50)
