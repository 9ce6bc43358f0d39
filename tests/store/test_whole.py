"""What changes the whole dict while it is used: stripes, policy, limits, the end of it."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from cacheserver.errors import NamespaceGone
from cacheserver.store.entry import DEADLINE, SLOT, VALUE, VERSION, Entry
from cacheserver.store.eviction.policy import POLICIES
from cacheserver.store.outcomes import Condition, Deleted, Put, Touched, Written
from cacheserver.store.shared import StripedStatistics
from cacheserver.store.striped import StripedDict
from tests.conftest import Maker
from tests.support.clock import ManualClock
from tests.support.inside import (
    quota_of,
    stripes_of,
    turnstile_of,
    views_of,
)
from tests.support.invariants import check_invariants
from tests.support.linearizability import Operation, Recorder, check_linearizable
from tests.support.outcomes import written
from tests.support.threads import (
    Gate,
    call_before,
    eventually,
    frequent_switches,
    in_thread,
    run_threads,
    start,
)

type Dict = StripedDict[Any, Any]

CHANGER = "changes the dict"


def gated_in(thread: str, gate: Gate) -> Callable[[object, object], int]:
    """A cost function that stops in a thread of this name, under the locks that it has then."""

    def cost(_key: object, _entry: object) -> int:
        if threading.current_thread().name == thread:
            gate.wait()
        return 1

    return cost


def without_slots(entries: Dict) -> dict[Any, tuple[Any, ...]]:
    """All entries, but for where the policy has them."""
    return {key: entry[:SLOT] for key, entry in entries.snapshot().items()}


# Stripes


@pytest.mark.parametrize(("old", "new"), list(permutations([1, 2, 64, 1024], 2)))
def test_change_of_stripes_keeps_everything(
    make: Maker, clock: ManualClock, old: int, new: int
) -> None:
    """Values, versions, deadlines, types, totals and counters stay, and every view finds them."""
    entries = make.striped(old, cost=lambda key, entry: len(str(key)), max_entries=1_000)
    view = entries.view()
    for number in range(500):
        entries.put(number, number, ttl=(0, 10, 20)[number % 3], content_type=f"a/{number % 5}")
    entries.read(1)
    for number in range(0, 500, 10):
        del entries[number]
    entries.reshape(new)
    before = without_slots(entries), entries.totals(), entries.statistics().expirations
    entries.reshape(old)
    assert len(stripes_of(entries)) == old
    entries.reshape(new)
    assert len(stripes_of(entries)) == new
    assert (without_slots(entries), entries.totals(), entries.statistics().expirations) == before
    assert set(view) == set(entries.view()) == {number for number in range(500) if number % 10}
    assert all(view[number] == number for number in view)
    clock.advance(10)
    assert sum(entries.sweep()) == sum(1 for n in range(500) if n % 10 and n % 3 == 1)


def test_same_number_of_stripes_changes_nothing(make: Maker) -> None:
    """To ask for what is there already exchanges no dict."""
    entries = make.striped(8)
    before = stripes_of(entries)
    entries.reshape(8)
    assert stripes_of(entries) == before


@pytest.mark.parametrize("stripes", [0, -1, 3, 65, 8192])
def test_number_of_stripes_that_is_none_is_refused(make: Maker, stripes: int) -> None:
    """A number that is no power of two, or too large, is a ValueError and changes nothing."""
    entries = make.striped(2)
    entries["k"] = 1
    with pytest.raises(ValueError, match=f"power of two from 1 to 4096, not {stripes}"):
        entries.reshape(stripes)
    assert len(stripes_of(entries)) == 2
    assert entries["k"] == 1


def test_versions_rise_across_changes_of_stripes(make: Maker) -> None:
    """A key never sees a version again, however often it was written, deleted or moved before."""
    entries = make.striped(1)
    highest: dict[int, int] = {}
    chance = random.Random(3)
    for turn in range(600):
        key = chance.randrange(20)
        if turn % 25 == 0:
            entries.reshape(chance.choice([1, 2, 16, 64]))
        elif turn % 40 == 7:
            entries.clear()
        elif turn % 3 == 0:
            outcome = entries.delete(key)
            if isinstance(outcome, Deleted):
                assert outcome.version > highest[key]
                highest[key] = outcome.version
        else:
            version = written(entries.put(key, turn)).version
            assert version > highest.get(key, 0)
            highest[key] = version


def test_hits_are_remembered_across_a_change_of_stripes(make: Maker) -> None:
    """What was hit before stays when room is made after."""
    entries = make.striped(64, policy="sieve", max_entries=100)
    for number in range(100):
        entries.put(number, 0)
    hot = set(range(0, 100, 4))
    for number in hot:
        entries.read(number)
    entries.reshape(1)
    for number in range(70):
        entries.put(f"new {number}", 0)
    assert hot <= set(entries)


def test_failing_cost_leaves_the_stripes_as_they_were(make: Maker) -> None:
    """A change that can't be completed, because a cost can't be told, is none."""
    rude = False

    def cost(_key: object, _entry: object) -> int:
        if rude:
            raise ZeroDivisionError
        return 1

    entries = make.striped(4, cost=cost, max_bytes=100)
    for number in range(50):
        entries[number] = number
    before = stripes_of(entries)
    rude = True
    with pytest.raises(ZeroDivisionError):
        entries.reshape(8)
    rude = False
    assert stripes_of(entries) == before
    assert all(entries[number] == number for number in range(50))
    entries.reshape(8)
    assert entries.totals() == (50, 50)


def test_readers_go_on_while_stripes_change(make: Maker) -> None:
    """While entries move, readers find them, and writers wait."""
    with Gate() as gate:
        entries = make.striped(4, cost=gated_in(CHANGER, gate))
        for number in range(20):
            entries[number] = number
        changing = start(lambda: entries.reshape(16), CHANGER)
        gate.arrived()
        assert [entries.view()[number] for number in range(20)] == list(range(20))
        assert in_thread(lambda: entries[7]) == 7
        writer = start(lambda: entries.put(7, "new"))
        eventually(lambda: turnstile_of(entries).waiting() == 1, "the writer queues")
        assert entries[7] == 7
    changing.result()
    assert not written(writer.result()).created
    assert entries[7] == "new"


WRITES: dict[str, Callable[[Dict, int], object]] = {
    "put": lambda view, _: written(view.put("k", "new")).created is False,
    "compare and set": lambda view, version: isinstance(
        view.compare_and_set("k", version, "new"), Written
    ),
    "delete": lambda view, _: isinstance(view.delete("k"), Deleted),
    "pop": lambda view, _: view.pop("k") == "old",
    "touch": lambda view, version: view.touch("k", 50) == Touched(version),
    "setdefault": lambda view, _: view.setdefault("new", "x") == "x",
}


@pytest.mark.parametrize("way", WRITES)
@pytest.mark.parametrize("new", [1, 64])
def test_writer_that_waits_for_a_stripe_that_is_retired_finds_the_new_one(
    make: Maker, way: str, new: int
) -> None:
    """What queued for the lock of a stripe before it was retired happens in the one that came after."""
    with Gate() as gate:
        entries = make.striped(8, cost=gated_in(CHANGER, gate))
        version = written(entries.put("k", "old")).version
        view = entries.view()
        changing = start(lambda: entries.reshape(new), CHANGER)
        gate.arrived()
        writer = start(lambda: WRITES[way](view, version))
        eventually(lambda: turnstile_of(entries).waiting() == 1, "the writer queues")
    changing.result()
    assert writer.result()
    check_invariants(entries)
    assert entries.get("k") == {
        "put": "new",
        "compare and set": "new",
        "delete": None,
        "pop": None,
    }.get(way, "old")


def test_wait_for_a_change_of_stripes_is_counted(make: Maker) -> None:
    """Who waited for it counts under namespace_read, though its stripe is no more."""
    with Gate() as gate:
        entries = make.striped(8, cost=gated_in(CHANGER, gate))
        entries["k"] = "old"
        changing = start(lambda: entries.reshape(2), CHANGER)
        gate.arrived()
        writer = start(lambda: entries.put("k", "new"))
        eventually(lambda: turnstile_of(entries).waiting() == 1, "the writer queues")
    changing.result()
    writer.result()
    statistics = entries.statistics()
    assert statistics.namespace_read.contended >= 1
    entries.reshape(4)
    entries.reshape(8)
    assert entries.statistics().namespace_read.contended >= 1


class GatedKey:
    """Equal to a text; its hash, computed after a reader chose where to read, stops at a gate."""

    def __init__(self, text: str, gate: Gate) -> None:
        self.text = text
        self.gate = gate

    def __hash__(self) -> int:
        self.gate.wait()
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return self.text == other


def reshape(entries: Dict, *stripes: int) -> None:
    """Change the stripes, several times."""
    for number in stripes:
        entries.reshape(number)


CHANGES: dict[str, Callable[[Dict], object]] = {
    "fewer stripes": lambda entries: entries.reshape(1),
    "more stripes": lambda entries: entries.reshape(64),
    "there and back": lambda entries: reshape(entries, 64, 8),
    "policy": lambda entries: entries.set_policy("lru"),
    "policy without marks": lambda entries: entries.set_policy("fifo"),
    "limits": lambda entries: entries.set_limits(max_bytes=None, max_entries=100),
    "transaction": lambda entries: entries.transaction({"x": Put(1), "y": Put(2)}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_reader_that_began_before_a_change_is_explained(make: Maker, change: str) -> None:
    """A read that overlaps the change gives what was there at some instant; later ones see the latest."""
    entries = make.striped(8, policy="sieve")
    recorders = [Recorder(entries.view()) for _ in range(3)]
    writing, early, late = recorders
    with Gate() as gate:
        writing.write("k", "old")

        def read_twice() -> None:
            early.read(GatedKey("k", gate))
            early.read("k")

        reader = start(read_twice)
        gate.arrived()
        CHANGES[change](entries)
        late.read("k")
        writing.write("k", "new")
        late.read("k")
    reader.result()
    assert [o.result[0] for o in late.operations] == ["old", "new"]
    history = [o for recorder in recorders for o in recorder.operations]
    check_linearizable([with_plain_key(o) for o in history])


def with_plain_key(operation: Operation) -> Operation:
    """The same with a gated key as text."""
    key = operation.key
    return replace(operation, key=key.text) if isinstance(key, GatedKey) else operation


def test_reader_that_met_an_expired_entry_looks_in_the_new_stripes(
    make: Maker, clock: ManualClock
) -> None:
    """It began in the old ones, found that time was up, and asks under the lock of the new one."""
    entries = make.striped(8)
    entries.put("k", "old", ttl=10)
    with Gate() as gate:
        reader = start(lambda: entries.view().get(GatedKey("k", gate), "gone"))
        gate.arrived()
        clock.advance(10)
        entries.reshape(2)
        entries.put("k", "new")
    assert reader.result() == "new"


@pytest.mark.parametrize("change", ["reshape", "set_policy", "clear"])
def test_view_made_during_a_change_shows_what_is_there_after(make: Maker, change: str) -> None:
    """Whoever asks for a view in the middle gets one that misses nothing."""
    calls: dict[str, Callable[[Dict], object]] = {
        "reshape": lambda entries: entries.reshape(16),
        "set_policy": lambda entries: entries.set_policy("lru"),
        "clear": lambda entries: entries.clear(),
    }
    entries = make.striped(8, policy="sieve")
    entries["k"] = "old"
    made: list[Dict] = []
    with Gate() as gate:
        call_before(stripes_of(entries)[7], "take_for_writer", gate)
        changing = start(lambda: calls[change](entries))
        gate.arrived()
        made.append(entries.view())
        assert made[0]["k"] == "old"
    changing.result()
    entries["k"] = "new"
    assert made[0]["k"] == "new"
    assert made[0] in views_of(entries)


def test_iteration_goes_on_across_changes_of_stripes(make: Maker) -> None:
    """A key that is there throughout comes exactly once, though all stripes are exchanged meanwhile."""
    entries = make.striped(16)
    for number in range(300):
        entries[number] = number
    came, changes = [], [4, 64, 1, 16]
    for at, key in enumerate(entries):
        came.append(key)
        if at % 50 == 10:
            entries.reshape(changes[at // 50 % 4])
            entries[1_000 + at] = "comes"
    assert sorted(key for key in came if key < 300) == list(range(300))
    came = [key for key, _value in entries.items()]
    assert len(set(came)) == len(came) == len(entries)


WAYS_TO_GO: dict[str, tuple[Callable[[Dict], None], Callable[[Dict], object]]] = {
    # what: (what happens first, how it goes)
    "clear": (lambda _: None, lambda entries: entries.clear()),
    "drop": (lambda _: None, lambda entries: len(entries.drop())),
    "transaction": (lambda _: None, lambda entries: entries.transaction({5: None})),
    "change of stripes, then clear": (
        lambda entries: reshape(entries, 16),
        lambda entries: entries.clear(),
    ),
    "change of stripes, then delete": (
        lambda entries: reshape(entries, 16),
        lambda entries: entries.delete(5),
    ),
    "two changes, then overwrite": (
        lambda entries: reshape(entries, 16, 1),
        lambda entries: entries.put(5, 0),
    ),
    "change of policy, then delete": (
        lambda entries: entries.set_policy("lru"),
        lambda entries: entries.delete(5),
    ),
    "eviction": (
        lambda entries: entries.set_limits(max_bytes=None, max_entries=1),
        lambda entries: entries.put(6, 0),
    ),
}


@pytest.mark.parametrize("way", WAYS_TO_GO)
def test_what_goes_is_freed_without_the_collector(make: Maker, way: str) -> None:
    """What is deleted, by itself or with all else, leaves memory at once, not when garbage is looked for.

    Small records are nothing that the collector counts, so it might be long in coming.
    """

    class Value:
        alive = True

        def __del__(self) -> None:
            Value.alive = False

    entries = make.striped(4, policy="sieve")
    view = entries.view()
    entries.put(5, Value(), ttl=50)
    assert view.get(5) is not None
    first, then = WAYS_TO_GO[way]
    gc.disable()
    try:
        first(entries)
        assert Value.alive
        then(entries)
        eventually(lambda: not Value.alive, "it is freed", 2)
    finally:
        gc.enable()


# Limits, one upon another


def test_room_made_while_limits_change_is_given_back_to_the_new_ones(make: Maker) -> None:
    """Who evicts and waits for a change of limits tells those that there are then."""
    with Gate() as gate:

        def cost(_key: object, entry: Entry[Any]) -> int:
            if entry[VALUE] == "slow":
                gate.wait()
            return 1

        entries = make.striped(1, cost=cost, max_entries=10, policy="fifo")
        for number in range(10):
            entries[number] = number
        writer = start(lambda: entries.put(0, "slow"))
        gate.arrived()
        changing = start(lambda: entries.set_limits(max_bytes=50, max_entries=20))
        eventually(lambda: turnstile_of(entries).taken(), "the change waits for the writer")
        evicting = start(lambda: entries.room.evict("max_entries", 3))
        eventually(lambda: turnstile_of(entries).waiting() == 1, "the eviction waits behind it")
    for running in (writer, changing):
        running.result()
    assert evicting.result() == 3
    quota = quota_of(entries)
    assert quota is not None
    assert quota.entries is not None
    assert quota.own is not None
    assert quota.entries.used() == quota.own.used() == len(entries) == 7


def test_limits_that_are_raised_while_others_are_applied_spare_the_rest(make: Maker) -> None:
    """Two changes of limits at once don't add up to the loss of everything."""
    entries = make.striped(1, max_entries=1_000, policy="fifo")
    for number in range(1_000):
        entries[number] = number
    raised: list[None] = []

    def raise_limit() -> None:
        if not raised:
            raised.append(None)
            in_thread(lambda: entries.set_limits(max_bytes=None, max_entries=2_000))

    call_before(entries.room, "evict", raise_limit)
    entries.set_limits(max_bytes=None, max_entries=990)
    assert raised
    assert len(entries) >= 990


# All of it under load


def figures(statistics: StripedStatistics) -> list[int]:
    """Numbers that never fall."""
    return [
        statistics.expirations,
        *statistics.evictions.values(),
        statistics.stripe_lock.acquisitions,
        statistics.stripe_lock.contended,
        statistics.namespace_read.contended,
        statistics.namespace_write.acquisitions,
    ]


@pytest.mark.parametrize("what", ["stripes", "policy", "limits", "all"])
def test_nothing_is_lost_and_nothing_answered_wrongly_under_load(
    make: Maker, clock: ManualClock, what: str
) -> None:
    """While the dict is changed all the time, each thread finds what it wrote, and counters add up."""
    entries = make.striped(8, cost=lambda _key, _entry: 1, policy="sieve", max_entries=100_000)
    entries["counter"] = 0
    stop = threading.Event()

    def work(number: int) -> None:
        view = entries.view()
        chance = random.Random(number)
        mine: dict[Any, tuple[Any, int]] = {}
        highest: dict[Any, int] = {}
        for turn in range(100):
            key = (number, chance.randrange(12))
            match chance.randrange(6):
                case 0 | 1:
                    outcome = written(view.put(key, turn, ttl=chance.choice([0, 1_000])))
                    assert outcome.created == (key not in mine)
                    assert outcome.version > highest.get(key, 0)
                    mine[key] = turn, outcome.version
                    highest[key] = outcome.version
                case 2:
                    assert view.pop(key, None) == mine.pop(key, (None, 0))[0]
                case 3:
                    both = {key: Put(turn), (number, 99): Put(turn)}
                    done = view.transaction(
                        both, {key: Condition.version(mine.get(key, (0, 0))[1])}
                    )
                    assert isinstance(done, dict)
                    for each in both:
                        mine[each] = turn, done[each].version  # type: ignore[union-attr]
                        highest[each] = mine[each][1]
                case 4 if key in mine:
                    assert view.touch(key, 500) == Touched(mine[key][1])
                case _:
                    while True:
                        entry = view.read("counter")
                        assert entry is not None
                        added = view.compare_and_set("counter", entry[VERSION], entry[VALUE] + 1)
                        if isinstance(added, Written):
                            break
                    counted[number] += 1
            for each in (key, (number, 99)):
                seen = view.read(each)
                assert (seen and seen[:2]) == mine.get(each)
        assert {key: view[key] for key in mine} == {key: v for key, (v, _) in mine.items()}

    def change() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            if what in {"stripes", "all"}:
                entries.reshape(2 ** (turn % 7))
            if what in {"policy", "all"}:
                entries.set_policy(POLICIES[turn % len(POLICIES)])
            if what in {"limits", "all"}:
                entries.set_limits(max_bytes=50_000 + turn, max_entries=None)
            sum(entries.sweep())

    def watch() -> None:
        before = figures(entries.statistics())
        while not stop.is_set():
            now = figures(entries.statistics())
            assert all(after >= earlier for earlier, after in zip(before, now, strict=True))
            before = now

    def all_work() -> None:
        try:
            run_threads([lambda n=n: work(n) for n in range(3)])  # type: ignore[misc]
        finally:
            stop.set()

    counted = [0] * 3
    with frequent_switches():
        run_threads([all_work, change, watch])
    assert entries["counter"] == sum(counted)


# The end


USES: dict[str, Callable[[Dict], object]] = {
    "read": lambda entries: entries.read("k"),
    "get": lambda entries: entries.get("k"),
    "subscription": lambda entries: entries["k"],
    "in": lambda entries: "k" in entries,
    "iteration": lambda entries: list(entries),
    "items": lambda entries: list(entries.items()),
    "length": len,
    "truth": bool,
    "put": lambda entries: entries.put("k", 1),
    "compare and set": lambda entries: entries.compare_and_set("k", 0, 1),
    "delete": lambda entries: entries.delete("k"),
    "pop": lambda entries: entries.pop("k", None),
    "setdefault": lambda entries: entries.setdefault("k", 1),
    "touch": lambda entries: entries.touch("k", 1),
    "transaction": lambda entries: entries.transaction({"k": Put(1)}),
    "clear": lambda entries: entries.clear(),
    "snapshot": lambda entries: entries.snapshot(),
    "reshape": lambda entries: entries.reshape(2),
    "set_policy": lambda entries: entries.set_policy("lru"),
    "set_limits": lambda entries: entries.set_limits(max_bytes=None, max_entries=5),
    "drop": lambda entries: entries.drop(),
}


@pytest.mark.parametrize("use", USES)
def test_dict_that_was_dropped_is_gone_for_everybody(
    make: Maker, stripes: int, clock: ManualClock, use: str
) -> None:
    """Every use of it, through old views and new ones, raises NamespaceGone; it keeps nothing."""
    entries = make.striped(stripes, cost=lambda _key, _entry: 1, max_bytes=100)
    view = entries.view()
    entries["k"] = 1
    entries.put("l", 1, ttl=5)
    highest = entries.highest_version()
    assert sum(len(contents.data) for contents in entries.drop()) == 2
    assert entries.is_gone()
    clock.advance(10)
    for each in (entries, view, entries.view(), view.view()):
        with pytest.raises(NamespaceGone):
            USES[use](each)
        assert list(each.sweep()) == []
        assert each.totals() == (0, 0)
    assert entries.highest_version() >= highest
    quota = quota_of(entries)
    assert quota is not None
    assert quota.own is not None
    assert quota.own.used() == 0


@pytest.mark.parametrize("way", WRITES)
def test_writer_that_waits_for_a_drop_finds_it_gone(make: Maker, way: str) -> None:
    """What queued for a stripe's lock before the dict was dropped raises and writes nothing."""
    entries = make.striped(8)
    version = written(entries.put("k", "old")).version
    with Gate() as gate:
        call_before(stripes_of(entries)[7], "contents", gate)
        dropping = start(entries.drop)
        gate.arrived()
        view = entries.view()
        writer = start(lambda: WRITES[way](view, version))
        eventually(lambda: turnstile_of(entries).waiting() == 1, "the writer queues")
    dropping.result()
    with pytest.raises(NamespaceGone):
        writer.result()


def test_drop_ends_the_work_of_many(make: Maker) -> None:
    """Threads in the midst of reads, writes and changes all find that it is gone, and none hangs."""
    entries = make.striped(8, cost=lambda _key, _entry: 1, max_bytes=500, policy="sieve")

    def work(number: int) -> None:
        view = entries.view()
        with pytest.raises(NamespaceGone):  # noqa: PT012 (until it is gone)
            for turn in range(1_000_000):
                view.put((number, turn % 50), turn)
                view.read((number, turn % 49))
                view.transaction({turn % 7: Put(1), turn % 5: None})
                if number == 0 and turn % 20 == 0:
                    view.reshape(2 ** (turn // 20 % 5))

    def drop() -> int:
        eventually(lambda: entries.statistics().stripe_lock.acquisitions > 500, "they work")
        return sum(len(contents.data) for contents in entries.drop())

    workers: list[Callable[[], object]] = [lambda n=n: work(n) for n in range(3)]  # type: ignore[misc]
    with frequent_switches():
        run_threads([*workers, drop])
    assert entries.totals() == (0, 0)


def test_deadlines_stay_when_stripes_change(make: Maker, clock: ManualClock) -> None:
    """Not a moment earlier or later; the sweeper finds what is due in the new stripes."""
    entries = make.striped(8)
    deadlines = {}
    for number in range(100):
        entries.put(number, number, ttl=1 + number)
        deadlines[number] = clock.monotonic() + 1 + number
    clock.advance(30.5)
    entries.reshape(2)
    assert {key: entry[DEADLINE] for key, entry in entries.snapshot().items()} == {
        key: deadline for key, deadline in deadlines.items() if deadline > clock.monotonic()
    }
    for number in range(30, 100):
        assert number in entries
        clock.set(deadlines[number])
        assert number not in entries
    clock.advance(10)
    sum(entries.sweep())
    assert len(entries) == 0
    assert entries.statistics().expirations == 100
