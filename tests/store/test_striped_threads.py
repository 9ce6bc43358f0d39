"""StripedDict under threads: forced interleavings, and recorded histories that must be explained."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter_ns
from typing import Any

import pytest

from cacheserver.clock import Clock
from cacheserver.errors import StoreFull
from cacheserver.store.budget import Budget
from cacheserver.store.entry import VALUE, VERSION, Entry
from cacheserver.store.outcomes import Conflict, Deleted, Missing, Written
from cacheserver.store.striped import StripedDict
from tests.conftest import Maker
from tests.support.clock import MONOTONIC, ManualClock
from tests.support.inside import gate_of, stripe_of, stripes_of, turnstile_of
from tests.support.invariants import check_invariants
from tests.support.linearizability import Operation, Recorder, check_linearizable
from tests.support.locks import WatchedLock
from tests.support.outcomes import written
from tests.support.threads import (
    Gate,
    Running,
    call_before,
    eventually,
    frequent_switches,
    run_threads,
    start,
)


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


class GatedClock(Clock):
    """Tells the time of another clock, to one thread only after it has stopped at a gate."""

    def __init__(self, clock: ManualClock) -> None:
        gates: dict[int, Gate] = {}

        def monotonic() -> float:
            gate = gates.pop(threading.get_ident(), None)
            if gate is not None:
                gate.wait()
            return clock.monotonic()

        super().__init__(monotonic=monotonic, wall=clock.wall)
        object.__setattr__(self, "_gates", gates)  # a Clock is frozen

    _gates: dict[int, Gate]

    def stop_here(self, gate: Gate) -> None:
        """Stop the calling thread at `gate` when it next asks for the time."""
        self._gates[threading.get_ident()] = gate


def gated_cost(gates: dict[object, Gate]) -> Callable[[object, Entry[object]], int]:
    """A cost function, which runs under the lock of a stripe, that stops for some values."""

    def cost(_key: object, entry: Entry[object]) -> int:
        if entry[VALUE] in gates:
            gates[entry[VALUE]].wait()
        return 1

    return cost


def other_stripe(entries: StripedDict[Any, Any], key: object) -> str:
    """A key that another stripe has."""
    mine = stripe_of(entries, key)
    probes = (f"probe{number}" for number in range(10_000))
    return next(probe for probe in probes if stripe_of(entries, probe) != mine)


def waiting_for_the_whole(entries: StripedDict[Any, Any], number: int) -> None:
    eventually(lambda: turnstile_of(entries).waiting() == number, f"{number} queue")


# Writers of one key, and readers beside them


def test_reader_is_not_held_up_by_a_writer(make: Maker, stripes: int) -> None:
    """While a writer is in the middle of its write, readers get what was there before."""
    with Gate() as gate:
        entries = make.striped(stripes, cost=gated_cost({"new": gate}))
        entries["k"] = "old"
        writer = start(lambda: entries.put("k", "new"))
        gate.arrived()
        assert entries["k"] == entries.view()["k"] == "old"
        assert list(entries.items()) == [("k", "old")]
        assert entries.statistics().entries == 1
    assert isinstance(writer.result(), Written)
    assert entries["k"] == "new"


def test_writers_of_one_key_take_turns(make: Maker, stripes: int) -> None:
    """Of two compare-and-sets from one version the one that came first wins, and tells the other."""
    with Gate() as gate:
        entries = make.striped(stripes, cost=gated_cost({"first": gate}))
        version = written(entries.put("k", "old")).version
        first = start(lambda: entries.compare_and_set("k", version, "first"))
        gate.arrived()
        second = start(lambda: entries.view().compare_and_set("k", version, "second"))
        remover = start(lambda: entries.view().pop("k"))
        assert entries["k"] == "old"
    won, lost = first.result(), second.result()
    assert isinstance(won, Written)
    assert isinstance(lost, Conflict)
    assert remover.result() == "first"
    assert lost.current is None or lost.current[VERSION] == won.version


def test_writers_of_other_stripes_go_on(make: Maker) -> None:
    """A writer that stands still holds up nobody in another stripe."""
    with Gate() as gate:
        entries = make.striped(64, cost=gated_cost({"slow": gate}))
        entries["k"] = "old"
        elsewhere = other_stripe(entries, "k")
        writer = start(lambda: entries.put("k", "slow"))
        gate.arrived()
        entries[elsewhere] = "quick"
        assert entries.pop(elsewhere) == "quick"
        assert not writer.done
    writer.result()


def test_exactly_one_of_many_creates(make: Maker, stripes: int) -> None:
    """Of threads that create one key at once one does, and all others see its version."""
    entries = make.striped(stripes)
    for turn in range(50):
        outcomes = run_threads([lambda: entries.view().compare_and_set(turn, 0, "v")] * 4)  # noqa: B023
        created = [outcome for outcome in outcomes if isinstance(outcome, Written)]
        assert len(created) == 1
        assert created[0].created
        assert all(
            outcome.current is not None and outcome.current[VERSION] == created[0].version
            for outcome in outcomes
            if isinstance(outcome, Conflict)
        )


def test_exactly_one_of_many_pops(make: Maker, stripes: int) -> None:
    """Each value that is written is popped by one of those who try."""
    entries = make.striped(stripes)
    popped: list[list[int]] = [[] for _ in range(4)]
    done = threading.Event()

    def write() -> None:
        for number in range(300):
            while entries.compare_and_set("k", 0, number).__class__ is Conflict:
                time.sleep(0)
        done.set()

    def pop(mine: list[int]) -> None:
        view = entries.view()
        while not done.is_set() or "k" in view:
            if (value := view.pop("k", None)) is not None:
                mine.append(value)

    with frequent_switches():
        run_threads([write, *(lambda m=m: pop(m) for m in popped)])
    assert sorted(one for mine in popped for one in mine) == list(range(300))


def test_setdefault_agrees(make: Maker, stripes: int) -> None:
    """All threads that set a default at once get the same one, and it is the one that is kept."""
    entries = make.striped(stripes)
    for turn in range(50):
        got = run_threads(
            [lambda n=n: entries.view().setdefault(turn, n) for n in range(4)]  # type: ignore[misc] # noqa: B023
        )
        assert set(got) == {entries[turn]}


@pytest.mark.parametrize("writers", [8])
def test_no_update_is_lost(make: Maker, stripes: int, writers: int) -> None:
    """Eight threads that each add one a thousand times by compare-and-set make 8,000 exactly."""
    entries = make.striped(stripes)
    entries["counter"] = 0

    def work() -> int:
        view = entries.view()
        conflicts = 0
        for _ in range(1_000):
            entry = view.read("counter")
            while True:
                assert entry is not None
                outcome = view.compare_and_set("counter", entry[VERSION], entry[VALUE] + 1)
                if isinstance(outcome, Written):
                    break
                conflicts += 1
                entry = outcome.current
        return conflicts

    with frequent_switches():
        conflicts = sum(run_threads([work] * writers))
    assert entries["counter"] == 8_000
    statistics = entries.statistics()
    assert statistics.stripe_lock.acquisitions == 8_000 + conflicts + 1


# Deadlines


def test_reader_that_met_an_expired_entry_spares_its_successor(
    make: Maker, stripes: int, clock: ManualClock
) -> None:
    """A reader that slept while its entry expired and was replaced returns the new value."""
    gated = GatedClock(clock)
    with Gate() as gate:
        entries = make.striped(stripes, clock=gated)
        entries.put("k", "old", ttl=10)

        def read() -> object:
            gated.stop_here(gate)
            return entries.view().get("k")

        reader = start(read)
        gate.arrived()
        clock.advance(10)
        assert written(entries.put("k", "new")).created
    assert reader.result() == "new"
    assert entries["k"] == "new"
    assert entries.statistics().expirations == 1


def test_reader_that_slept_past_the_deadline_sees_nothing(
    make: Maker, stripes: int, clock: ManualClock
) -> None:
    """The deadline is compared with the time after the entry was loaded, not before."""
    gated = GatedClock(clock)
    with Gate() as gate:
        entries = make.striped(stripes, clock=gated)
        entries.put("k", "old", ttl=10)

        def read() -> object:
            gated.stop_here(gate)
            return entries.get("k", "gone")

        reader = start(read)
        gate.arrived()
        clock.advance(10)
    assert reader.result() == "gone"


def test_many_readers_count_one_expiry(make: Maker, stripes: int, clock: ManualClock) -> None:
    """Threads that find a key expired at once remove it once and count it once."""
    entries = make.striped(stripes)
    for turn in range(1, 40):
        entries.put("k", "v", ttl=5)
        clock.advance(5)
        assert run_threads([lambda: entries.view().get("k")] * 4) == [None] * 4
        assert entries.statistics().expirations == turn


# The whole: clear, snapshot, totals


def test_reader_that_began_before_a_clear_is_explained(make: Maker, stripes: int) -> None:
    """A reader that overlaps a clear may see the old value; whoever begins later sees the new."""
    entries = make.striped(stripes)
    recorders = [Recorder(entries.view()) for _ in range(3)]
    writing, early, late = recorders
    with Gate() as gate:
        writing.write("k", "old")

        def read_twice() -> None:
            early.read(GatedKey("k", gate))
            early.read("k")

        reader = start(read_twice)
        gate.arrived()
        writing.clear()
        late.read("k")
        writing.write("k", "new")
        late.read("k")
    reader.result()
    assert [o.result and o.result[0] for o in late.operations] == [None, "new"]
    history = [o for recorder in recorders for o in recorder.operations]
    check_linearizable([with_plain_key(o) for o in history])


def with_plain_key(operation: Operation) -> Operation:
    """The same with a gated key as text."""
    key = operation.key
    return replace(operation, key=key.text) if isinstance(key, GatedKey) else operation


class GatedView(StripedDict[Any, Any]):
    """A view at whose turn a `clear` stops before it leads the readers to the new dicts."""

    __slots__ = ("gate",)
    gate: Gate

    def bind(self, marks: list[bytearray] | None) -> None:
        if hasattr(self, "gate") and not self:  # the dicts have been exchanged
            self.gate.wait()
        super().bind(marks)


def test_clear_seen_in_one_view_is_seen_in_all(make: Maker, stripes: int) -> None:
    """While a clear leads view after view to the new dicts, none shows the old after one the new."""
    entries = GatedView(stripes, clock=make.clock)
    make.made.append(entries)
    views = [entries.view() for _ in range(3)]
    with Gate() as gate:
        recorders = [Recorder(view) for view in views]
        for key in range(5):
            recorders[0].write(key, f"old {key}")
        views[1].gate = gate
        clearing = start(recorders[0].clear)
        gate.arrived()

        def read(recorder: Recorder) -> None:
            for key in range(5):
                recorder.read(key)

        quick = [Recorder(view) for view in views]
        readers: list[Running[None]] = []
        for recorder in quick:  # one begins when the one before has read or waits
            readers.append(start(lambda recorder=recorder: read(recorder)))  # type: ignore[misc]
            done_or_queued(entries, readers)
        writer = start(lambda: recorders[1].write(0, "new"))
        done_or_queued(entries, [*readers, writer])
        assert not writer.done
    for running in (clearing, writer, *readers):
        running.result()
    check_linearizable(o for r in (*recorders, *quick) for o in r.operations)
    assert [value for _key, value in entries.items()] == ["new"]


def done_or_queued(entries: StripedDict[Any, Any], running: list[Running[Any]]) -> None:
    """Wait until each of the threads has ended or stands in the queue for the whole."""
    eventually(
        lambda: sum(one.done for one in running) + turnstile_of(entries).waiting() == len(running),
        "each has ended or waits",
    )


def test_clear_in_the_middle_is_seen_by_nobody(make: Maker) -> None:
    """While a clear has emptied some stripes and others not, readers see all or nothing."""
    with Gate() as gate:
        entries = make.striped(64)
        call_before(stripes_of(entries)[32], "fill", gate)
        keys = list(range(40))
        writing, *recorders = [Recorder(entries.view()) for _ in range(4)]
        for key in keys:
            writing.write(key, f"old {key}")
        clearing = start(writing.clear)
        gate.arrived()

        def read(recorder: Recorder, order: list[int]) -> None:
            for key in order:
                recorder.read(key)

        orders = [keys, keys[::-1], keys[20:] + keys[:20]]
        readers = [
            start(lambda r=r, o=o: read(r, o))  # type: ignore[misc]
            for r, o in zip(recorders, orders, strict=True)
        ]
        done_or_queued(entries, readers)
    clearing.result()
    for reader in readers:
        reader.result()
    check_linearizable(o for r in (writing, *recorders) for o in r.operations)
    assert list(entries) == []


def test_view_made_during_a_clear_shows_what_is_there_after(make: Maker, stripes: int) -> None:
    """Whoever asks for a view in the middle of a clear gets one that misses nothing."""
    entries = GatedView(stripes, clock=make.clock)
    make.made.append(entries)
    slow = entries.view()
    entries["k"] = "old"
    with Gate() as gate:
        slow.gate = gate
        clearing = start(entries.clear)
        gate.arrived()
        seen = start(lambda: entries.view().get("k", "cleared"))
    assert clearing.result() == 1
    assert seen.result() == "cleared"
    entries["k"] = "new"
    assert entries.view()["k"] == slow["k"] == "new"


def test_snapshot_and_clear_wait_for_a_writer_and_lock_others_out(
    make: Maker, stripes: int
) -> None:
    """What takes the whole waits for writers inside, later comers queue in order, readers go on."""
    with Gate() as gate:
        entries = make.striped(stripes, cost=gated_cost({"slow": gate}))
        entries["k"] = "old"
        writer = start(lambda: entries.put("k", "slow"))
        gate.arrived()
        snapshot = start(entries.snapshot)
        eventually(lambda: turnstile_of(entries).taken(), "the snapshot stands in the turnstile")
        late = start(lambda: entries.put("k", "late"))
        waiting_for_the_whole(entries, 1)
        clear = start(entries.clear)
        waiting_for_the_whole(entries, 2)
        last = start(lambda: entries.put("k", "last"))
        waiting_for_the_whole(entries, 3)
        assert entries["k"] == "old"
    writer.result()
    assert snapshot.result()["k"][VALUE] == "slow"
    assert late.result().created is False  # type: ignore[union-attr]
    assert clear.result() == 1
    assert last.result().created is True  # type: ignore[union-attr]
    assert entries["k"] == "last"


def test_snapshot_holds_up_writers_and_no_readers(
    make: Maker, stripes: int, clock: ManualClock
) -> None:
    """While a snapshot is made, reads go on and writes wait."""
    gated = GatedClock(clock)
    entries = make.striped(stripes, clock=gated)
    entries["k"] = "old"
    with Gate() as gate:

        def snapshot() -> Mapping[Any, Any]:
            gated.stop_here(gate)
            return entries.snapshot()

        snapshotting = start(snapshot)
        gate.arrived()
        assert entries["k"] == "old"
        writer = start(lambda: entries.put("k", "new"))
        waiting_for_the_whole(entries, 1)
        assert entries["k"] == "old"
    assert snapshotting.result()["k"][VALUE] == "old"
    writer.result()


def test_snapshot_shows_nothing_that_expired_while_it_waited(
    make: Maker, stripes: int, clock: ManualClock
) -> None:
    """A snapshot is of the instant at which it is made: what is over then isn't in it."""
    with Gate() as gate:
        entries = make.striped(stripes, cost=gated_cost({"slow": gate}))
        entries.put("mortal", "v", ttl=10)
        writer = start(lambda: entries.put("k", "slow"))
        gate.arrived()
        snapshot = start(entries.snapshot)
        eventually(lambda: turnstile_of(entries).taken(), "the snapshot waits for the writer")
        clock.advance(10)
    writer.result()
    assert list(snapshot.result()) == ["k"]


def test_snapshot_runs_no_code_of_keys_under_the_locks(make: Maker, stripes: int) -> None:
    """Under the locks a snapshot only copies: keys are hashed when writers may go on already."""
    held: list[bool] = []

    class Key:
        def __hash__(self) -> int:
            held.append(turnstile_of(entries).taken())
            return 7

    entries = make.striped(stripes)
    key = Key()
    entries[key] = "v"
    held.clear()
    assert entries.snapshot()[key][VALUE] == "v"
    assert not any(held)


def test_totals_are_of_one_instant(make: Maker, stripes: int) -> None:
    """Entries and bytes that are always equal are seen equal, whatever is written meanwhile."""
    entries = make.striped(stripes, cost=lambda _key, _entry: 1)
    stop = threading.Event()

    def write(first: int) -> None:
        while not stop.is_set():
            for key in range(first, first + 20):
                entries.put(key, 0)
            for key in range(first, first + 20):
                entries.pop(key, None)

    def watch() -> None:
        try:
            for turn in range(150):
                count, size = entries.totals()
                assert count == size
                if turn % 30 == 0:
                    entries.clear()
        finally:
            stop.set()

    with frequent_switches():
        run_threads([lambda: write(0), lambda: write(10), watch])


def test_snapshot_is_of_one_instant(make: Maker) -> None:
    """Of keys written in turn a snapshot shows no later one without the earlier ones."""
    entries = make.striped(64)
    keys = list(range(16))
    for key in keys:
        entries[key] = 0
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for key in keys:
                entries[key] = number

    def watch() -> None:
        try:
            view = entries.view()
            for _ in range(150):
                snapshot = view.snapshot()
                numbers = [snapshot[key][VALUE] for key in keys]
                assert sorted(numbers, reverse=True) == numbers
                assert numbers[0] - numbers[-1] <= 1
        finally:
            stop.set()

    with frequent_switches():
        run_threads([write, watch])


# Numbers of the locks


def hold_30_ms() -> int:
    """Let at least 30 ms pass and return how many nanoseconds it were."""
    began = perf_counter_ns()
    while perf_counter_ns() - began < 30_000_000:
        time.sleep(0.001)
    return perf_counter_ns() - began


def timed(call: Callable[[], object]) -> int:
    began = perf_counter_ns()
    call()
    return perf_counter_ns() - began


def test_waits_for_the_whole_are_told_from_waits_for_a_stripe(
    make: Maker, stripes: int, clock: ManualClock
) -> None:
    """A writer of a key that waits for a snapshot counts under namespace_read, with its length."""
    gated = GatedClock(clock)
    entries = make.striped(stripes, clock=gated)
    with Gate() as gate:

        def hold() -> None:
            with gate_of(entries):
                gate.wait()

        holder = start(hold)
        gate.arrived()
        writer = start(lambda: timed(lambda: entries.put("k", "v")))
        waiting_for_the_whole(entries, 1)
        lower = hold_30_ms()
    holder.result()
    upper = writer.result()
    statistics = entries.statistics()
    assert statistics.namespace_read.contended == 1
    assert lower <= statistics.namespace_read.waits.seconds * 1e9 <= upper
    assert statistics.stripe_lock.contended == 0
    assert statistics.namespace_write.contended == 0
    assert statistics.namespace_read.acquisitions == statistics.stripe_lock.acquisitions == 1


def test_waits_of_who_wants_the_whole_are_counted(make: Maker, stripes: int) -> None:
    """A clear that waits for a writer of a key counts under namespace_write, with its length."""
    with Gate() as gate:
        entries = make.striped(stripes, cost=gated_cost({"slow": gate}))
        watched = WatchedLock()
        stripes_of(entries)[stripe_of(entries, "k")].lock = watched
        writer = start(lambda: entries.put("k", "slow"))
        gate.arrived()
        clearing = start(lambda: timed(entries.clear))
        watched.wait_for_a_waiter()
        lower = hold_30_ms()
    writer.result()
    upper = clearing.result()
    statistics = entries.statistics()
    assert (statistics.namespace_write.contended, statistics.namespace_write.acquisitions) == (1, 1)
    assert lower <= statistics.namespace_write.waits.seconds * 1e9 <= upper
    assert statistics.namespace_read.contended == statistics.stripe_lock.contended == 0


def test_acquisitions_are_the_operations(make: Maker, stripes: int) -> None:
    """Every write takes one stripe's lock, every look at the whole takes all; reads take none."""
    entries = make.striped(stripes)

    def work(number: int) -> None:
        view = entries.view()
        for turn in range(500):
            key = (number, turn % 20)
            view.put(key, turn)
            view.read(key)
            view.compare_and_set(key, 1, "never")
            view.delete(key)
            view.delete(key)
            assert key not in view
        view.totals()

    with frequent_switches():
        run_threads([lambda n=n: work(n) for n in range(6)])  # type: ignore[misc]
    statistics = entries.statistics()
    assert statistics.stripe_lock.acquisitions == 6 * 500 * 4
    assert statistics.namespace_read.acquisitions == 6 * 500 * 4
    assert statistics.namespace_write.acquisitions == 6


# Histories


class YieldingKey:
    """A key that lets other threads run, with the reader or the writer in the midst of its work."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        os.sched_yield()
        return hash(self.number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, YieldingKey) and self.number == other.number


class YieldingClock(Clock):
    """A clock that lets other threads run before it tells the time."""

    def __init__(self, clock: Clock) -> None:
        def monotonic() -> float:
            os.sched_yield()
            return clock.monotonic()

        super().__init__(monotonic=monotonic, wall=clock.wall)


def yielding_cost(_key: object, _entry: object) -> int:
    """A cost that lets other threads run while the lock of a stripe is held."""
    os.sched_yield()
    return 1


@pytest.fixture(params=["numbers", "yielding keys"])
def keys(request: pytest.FixtureRequest) -> list[Any]:
    """Builtin keys, and such as bring operations to overlap, which they hardly do by themselves."""
    if request.param == "numbers":
        return list(range(3))
    return [YieldingKey(number) for number in range(3)]


@pytest.fixture
def overlapping(make: Maker, stripes: int, clock: ManualClock) -> StripedDict[Any, Any]:
    """A dict whose writers let others run while they hold a lock."""
    return make.striped(stripes, clock=YieldingClock(clock), cost=yielding_cost)


def histories(
    entries: StripedDict[Any, Any],
    work: Callable[[Recorder, random.Random, int], None],
    threads: int,
    seed: int,
) -> list[Operation]:
    """What `threads` threads did at once, each through a view of its own."""

    def one(number: int) -> list[Operation]:
        recorder = Recorder(entries.view())
        work(recorder, random.Random(f"{seed} {number}"), number)
        return recorder.operations

    done = run_threads([lambda n=n: one(n) for n in range(threads)])  # type: ignore[misc]
    return [operation for operations in done for operation in operations]


def mixed_work(keys: list[Any], turns: int) -> Callable[[Recorder, random.Random, int], None]:
    """Reads, writes, compare-and-sets and deletions on few keys."""

    def work(recorder: Recorder, chance: random.Random, number: int) -> None:
        for turn in range(turns):
            key = chance.choice(keys)
            value = (number, turn)
            match chance.randrange(8):
                case 0 | 1:
                    recorder.read(key)
                case 2:
                    recorder.write(key, value)
                case 3:
                    recorder.write(key, value, expected=0)
                case 4:
                    recorder.delete(key)
                case 5:
                    entry = recorder.read(key)
                    recorder.delete(key, expected=entry[VERSION] if entry else 1)
                case _:
                    entry = recorder.read(key)
                    recorder.write(key, value, expected=entry[VERSION] if entry else 0)

    return work


@pytest.mark.parametrize("threads", [4, 8])
def test_histories_of_single_keys_are_linearizable(
    overlapping: StripedDict[Any, Any], keys: list[Any], threads: int
) -> None:
    """Some order explains what many threads saw and did on few keys, in each of many rounds."""
    with frequent_switches():
        for seed in range(50):
            history = histories(overlapping, mixed_work(keys[:2], 12), threads, seed)
            check_linearizable(history)
            overlapping.clear()


def test_histories_with_clear_and_snapshot_are_linearizable(
    overlapping: StripedDict[Any, Any], keys: list[Any]
) -> None:
    """Some order explains them together with clears and snapshots, over all keys at once."""
    single = mixed_work(keys, 12)

    def work(recorder: Recorder, chance: random.Random, number: int) -> None:
        if number == 0:
            for _ in range(4):
                recorder.clear()
                recorder.read(chance.choice(keys))
        elif number == 1:
            for _ in range(4):
                recorder.snapshot()
                recorder.write(chance.choice(keys), "by the one who makes snapshots")
        else:
            single(recorder, chance, number)

    with frequent_switches():
        for seed in range(50):
            check_linearizable(histories(overlapping, work, 5, seed))
            overlapping.clear()


def test_histories_with_deadlines_are_linearizable(stripes: int, keys: list[Any]) -> None:
    """With a clock that moves on, some order explains them: nothing lives too long or comes back."""
    for seed in range(50):
        clock = ManualClock()
        entries = StripedDict[Any, Any](stripes, clock=YieldingClock(clock))

        def work(
            recorder: Recorder,
            chance: random.Random,
            number: int,
            clock: ManualClock = clock,
        ) -> None:
            if number == 0:
                for turn in range(1, 6):
                    recorder.tick(clock.set, MONOTONIC + 5 * turn)
                    recorder.read(chance.choice(keys[:2]))
                return
            for turn in range(10):
                key = chance.choice(keys[:2])
                ttl = chance.choice([0, 5, 10])
                match chance.randrange(6):
                    case 0 | 1 | 2:
                        recorder.read(key)
                    case 3:
                        recorder.write(key, (number, turn), ttl=ttl)
                    case 4:
                        recorder.delete(key)
                    case _:
                        entry = recorder.read(key)
                        expected = entry[VERSION] if entry else 0
                        recorder.write(key, (number, turn), expected, ttl)

        with frequent_switches():
            check_linearizable(histories(entries, work, 4, seed), now=MONOTONIC)
        check_invariants(entries)


def test_everything_at_once_keeps_the_invariants(
    make: Maker, stripes: int, clock: ManualClock
) -> None:
    """All operations at once, with deadlines and a limit in the way, leave a consistent dict."""
    entries = make.striped(stripes, cost=lambda _key, entry: entry[VALUE], budget=Budget(3_000))

    def work(number: int) -> None:
        view = entries.view()
        chance = random.Random(number)
        highest: dict[int, int] = {}
        for _ in range(600):
            key = chance.randrange(40)
            try:
                match chance.randrange(12):
                    case 0 | 1 | 2 | 3:
                        outcome: object = view.put(
                            key, chance.randrange(300), ttl=chance.choice([0, 1])
                        )
                    case 4 | 5:
                        outcome = view.delete(key)
                    case 6 | 7 | 8:
                        outcome = view.compare_and_set(key, highest.get(key, 0), 50)
                    case 9:
                        outcome = view.pop(key, None)
                    case 10:
                        outcome = view.setdefault(key, 7)
                    case _:
                        outcome = None
                        clock.advance(0.01)
                        if chance.random() < 0.1:
                            view.clear()
            except StoreFull:
                continue
            if isinstance(outcome, (Written, Deleted)):
                assert highest.get(key, 0) < outcome.version
                highest[key] = outcome.version
            assert not isinstance(outcome, Missing) or outcome == Missing("key")

    with frequent_switches():
        run_threads([lambda n=n: work(n) for n in range(6)])  # type: ignore[misc]
