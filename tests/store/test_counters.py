"""Counters that many threads add to: exact, and bounded in memory by the threads that live."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest

from cacheserver.store.counters import PerThread, ShardedCounter, Tally
from tests.support.threads import (
    DEADLINE,
    Gate,
    frequent_switches,
    in_thread,
    run_threads,
    start,
)


def test_counter_adds() -> None:
    """It starts at nothing and takes positive, negative and no amounts."""
    counter = ShardedCounter()
    assert counter.value == 0
    counter.add()
    counter.add(5)
    counter.add(-2)
    counter.add(0)
    assert counter.value == 4


def test_counter_is_exact_under_many_threads() -> None:
    """Additions of threads that work at once are all there, each once."""
    counter = ShardedCounter()

    def work() -> None:
        for _ in range(3_000):
            counter.add()

    with frequent_switches():
        run_threads([work] * 8)
    assert counter.value == 24_000


def test_adder_adds_to_the_same_counter() -> None:
    """What a thread adds through its own way in is in the total, beside what it adds otherwise."""
    counter = ShardedCounter()

    def work() -> None:
        add = counter.adder()
        for _ in range(1_000):
            add()
            add(3)
        counter.add(-1)
        counter.adder()(1)

    with frequent_switches():
        run_threads([work] * 4)
    assert counter.value == 16_000
    counter.adder()(-16_000)
    assert counter.value == 0


def test_counter_keeps_the_sums_of_threads_that_ended() -> None:
    """A thousand threads that each added once make a thousand, and leave next to nothing behind."""
    counter = ShardedCounter()
    for _ in range(100):
        run_threads([counter.add] * 10)
        assert len(counter._shards._living) <= 20
    assert counter.value == 1_000
    assert counter._shards.living() == []
    counter.add()
    assert counter.value == 1_001


def test_counter_never_goes_back() -> None:
    """Read while threads add, end and are replaced, a sum of additions only rises."""
    counter = ShardedCounter()
    stop = threading.Event()

    def watch() -> None:
        before = 0
        while not stop.is_set():
            now = counter.value
            assert before <= now
            before = now

    def work() -> None:
        for _ in range(20):
            counter.add()

    def generations() -> None:
        try:
            for _ in range(25):
                run_threads([work] * 4)
        finally:
            stop.set()

    with frequent_switches():
        run_threads([watch, generations])
    assert counter.value == 2_000


def test_completed_addition_is_in_the_next_value() -> None:
    """What another thread has added, and told of, is there."""
    counter = ShardedCounter()
    with Gate() as gate:

        def work() -> None:
            counter.add(3)
            gate.wait()

        working = start(work)
        gate.arrived()
        assert counter.value == 3
    working.result()
    assert counter.value == 3


def take_away_after(counter: ShardedCounter, adding: Future[None]) -> None:
    adding.result()
    counter.add(-1)


def test_value_is_of_one_instant() -> None:
    """Forced: while a total is being taken nobody adds, so it never has one half of a transfer.

    The reader has the first thread's shard and has not come to the second one's. If the first could
    now add 1, and then the second take 1 away, the total would be -1, which it never was.
    """
    counter = ShardedCounter()
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second, Gate() as gate:
        for pool in (first, second):
            pool.submit(counter.add, 0).result()
        shard = counter._shards.living()[1]
        take = shard.acquire

        def gated() -> bool:
            if threading.current_thread().name == "reader":
                gate.wait()
            return take()

        shard.acquire = gated  # type: ignore[assignment]
        reading = start(lambda: counter.value, "reader")
        gate.arrived()
        adding = first.submit(counter.add, 1)
        assert not wait([adding], 0.05).done
        taking = second.submit(take_away_after, counter, adding)
        gate.open()
        assert reading.result() in {0, 1}
        taking.result()
    assert counter.value == 0


def test_value_is_never_one_that_was_not() -> None:
    """One thread adds 1, then another takes it away, again and again: all that is seen is 0 and 1."""
    counter = ShardedCounter()
    there, gone = threading.Semaphore(0), threading.Semaphore(1)
    rounds = 300
    stop = threading.Event()

    def give() -> None:
        for _ in range(rounds):
            assert gone.acquire(timeout=DEADLINE)
            counter.add(1)
            there.release()

    def take() -> None:
        try:
            for _ in range(rounds):
                assert there.acquire(timeout=DEADLINE)
                counter.add(-1)
                gone.release()
        finally:
            stop.set()

    def watch() -> None:
        while not stop.wait(0.0002):  # the locks must be free at times
            assert counter.value in {0, 1}

    with frequent_switches():
        run_threads([give, take, watch])
    assert counter.value == 0


def test_addition_that_fails_leaves_the_counter_usable() -> None:
    """What cannot be added raises, changes nothing, and holds nobody up."""
    counter = ShardedCounter()
    counter.add(2)
    with pytest.raises(TypeError):
        counter.add("3")  # type: ignore[arg-type]
    counter.add(1)
    assert in_thread(lambda: counter.value) == 3


def test_tally_keeps_its_sums_apart() -> None:
    """Each place of a tally is a sum of its own, over living and ended threads."""
    tally = Tally(3)

    def work() -> None:
        for _ in range(100):
            tally.mine()[0] += 1
            tally.mine()[2] += 2

    run_threads([work] * 5)
    tally.mine()[1] += 7
    assert tally.totals() == (500, 7, 1_000)
    assert tally.totals() == (500, 7, 1_000), "asking changes nothing"


def test_each_thread_has_an_object_of_its_own() -> None:
    """The same thread gets the same object again, two threads never the same."""
    made = PerThread(object)
    assert made.mine() is made.mine()
    together = threading.Barrier(8)

    def take() -> object:
        mine = made.mine()
        together.wait(30)  # so that none has ended when another asks
        assert made.mine() is mine
        return mine

    taken = run_threads([take] * 8)
    assert len({id(one) for one in [*taken, made.mine()]}) == 9


def test_living_are_those_of_threads_that_live() -> None:
    """Objects are listed while their thread lives, and retired when it has ended."""
    retired: list[list[str]] = []
    made: PerThread[list[str]] = PerThread(list, retired.append)
    with Gate() as gate:

        def work() -> None:
            made.mine().append("working")
            gate.wait()

        working = start(work)
        gate.arrived()
        assert made.living() == [["working"]]
        assert retired == []
    working.result()
    assert made.living() == []
    assert retired == [["working"]]
    assert made.living() == []
    assert retired == [["working"]]


def test_retire_is_called_once_for_each() -> None:
    """However many threads look, an object is retired exactly once."""
    retired: Counter[int] = Counter()
    numbers = iter(range(10_000))
    guard = threading.Lock()

    def number() -> int:
        with guard:
            return next(numbers)

    made = PerThread(number, lambda one: retired.update([one]))  # under the lock of `made`

    def work() -> None:
        made.mine()
        made.living()

    with frequent_switches():
        for _ in range(40):
            run_threads([work] * 5)
    assert made.living() == []
    assert retired == Counter(range(200))


def test_fold_sees_the_living_and_the_retired_once() -> None:
    """While `fold` runs nobody is retired, so that sums of both are exact."""
    ended = [0]

    def retire(one: list[int]) -> None:
        ended[0] += one[0]

    made: PerThread[list[int]] = PerThread(lambda: [1], retire)
    for rounds in range(1, 30):
        run_threads([made.mine] * 4)
        assert made.fold(lambda living: ended[0] + sum(one[0] for one in living)) == 4 * rounds


def test_object_of_a_thread_goes_with_it() -> None:
    """What a thread had is let go once the thread has ended and somebody looked."""

    class Thing:
        pass

    gone = threading.Event()

    def make() -> Thing:
        thing = Thing()
        weakref.finalize(thing, gone.set)
        return thing

    made = PerThread(make)
    in_thread(lambda: made.mine() is None)
    assert made.living() == []
    assert gone.is_set()
