"""TimedLock, Turnstile, WriteGate with Slot, RWLock: exclusion, fairness, misuse, numbers."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter_ns
from typing import Any

import pytest

from cacheserver.errors import LockMisuse
from cacheserver.store.counters import ShardedCounter
from cacheserver.store.latch import SAMPLE_EVERY
from cacheserver.store.locks import (
    WAIT_BOUNDS,
    Histogram,
    LockStatistics,
    RWLock,
    Slot,
    TimedLock,
    Turnstile,
    WriteGate,
    _Durations,
)
from tests.support.invariants import check_gate_is_free, check_lock_numbers
from tests.support.locks import WatchedLock
from tests.support.threads import (
    DEADLINE,
    Gate,
    Running,
    eventually,
    frequent_switches,
    in_thread,
    run_threads,
    start,
)


class Interrupted(BaseException):
    """What a signal handler raises, as KeyboardInterrupt is raised."""


class BusyOnce:
    """A lock whose first try always fails, and whose wait is over at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return blocking and self._lock.acquire(True, timeout)

    def release(self) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()


def pass_through(turnstile: Turnstile) -> None:
    turnstile.enter()
    turnstile.leave()


class Inside:
    """Counts who is inside a section, without any protection of its own."""

    def __init__(self) -> None:
        self.total = 0

    def add(self) -> None:
        before = self.total
        for _ in range(3):
            pass
        self.total = before + 1


def bucket_of(nanoseconds: float) -> int:
    """The bucket that a length belongs to, by the definition of the buckets."""
    return sum(nanoseconds > bound * 1e9 for bound in WAIT_BOUNDS)


# Histograms


def test_bounds_are_powers_of_two_from_one_microsecond_to_one_second() -> None:
    """The bounds double from 1 us to 1.048576 s."""
    assert [round(bound * 1e9) for bound in WAIT_BOUNDS] == [1000 * 2**k for k in range(21)]


@pytest.mark.parametrize(
    ("nanoseconds", "bucket"),
    [
        (0, 0),
        (1, 0),
        (999, 0),
        (1_000, 0),
        (1_001, 1),
        (2_000, 1),
        (2_001, 2),
        (4_000, 2),
        (4_001, 3),
        (1_048_576_000, 20),
        (1_048_576_001, 21),
        (3_600_000_000_000, 21),
    ],
)
def test_bucket_boundaries_are_exact(nanoseconds: int, bucket: int) -> None:
    """A bucket holds what is at most its bound long; the last one holds the rest."""
    durations = _Durations()
    durations.add(nanoseconds)
    frozen = durations.freeze()
    assert frozen.buckets.index(1) == bucket
    assert (frozen.count, frozen.seconds) == (1, nanoseconds / 1e9)
    assert len(frozen.buckets) == len(WAIT_BOUNDS) + 1


def test_every_bound_belongs_to_its_own_bucket() -> None:
    """For every bound: the bound itself is inside, one nanosecond more is not."""
    for number, bound in enumerate(WAIT_BOUNDS):
        durations = _Durations()
        durations.add(round(bound * 1e9))
        durations.add(round(bound * 1e9) + 1)
        assert durations.freeze().buckets[number : number + 2] == (1, 1)


def test_histograms_and_statistics_add_up() -> None:
    """The sum of two has the counts, the sums and the buckets of both."""
    one, other = _Durations(), _Durations()
    one.add(500)
    other.add(1_500)
    other.add(2_500_000_000)
    both = one.freeze() + other.freeze()
    assert both.count == sum(both.buckets) == 3
    assert both.seconds == pytest.approx(2.500_002)
    total = LockStatistics(5, one.freeze()) + LockStatistics(7, other.freeze(), both)
    assert (total.acquisitions, total.contended, total.holds.count) == (12, 3, 3)
    assert LockStatistics() + total == total
    assert Histogram() + both == both


# TimedLock


def test_timed_lock_is_free_busy_and_free_again() -> None:
    """It locks and unlocks, by call and by `with`, and tells whether it is locked."""
    lock = TimedLock()
    assert not lock.locked()
    assert lock.acquire()
    assert lock.locked()
    lock.release()
    with lock as taken:
        assert taken
        assert lock.locked()
    assert not lock.locked()
    assert lock.statistics().acquisitions == 2
    assert lock.statistics().contended == 0


def test_timed_lock_excludes() -> None:
    """Unprotected additions inside it lose nothing, from many threads."""
    lock = TimedLock()
    inside = Inside()

    def work() -> None:
        for _ in range(1_000):
            with lock:
                inside.add()

    with frequent_switches():
        run_threads([work] * 6)
    assert inside.total == 6_000
    assert lock.statistics().acquisitions == 6_000
    check_lock_numbers(lock.statistics())


def test_timed_lock_is_released_by_an_exception() -> None:
    """An exception inside leaves the lock free."""
    lock = TimedLock()
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    assert not lock.locked()


def test_timed_lock_tries_without_waiting() -> None:
    """A try on a busy lock fails at once, and neither it nor a timeout counts as an acquisition."""
    lock = TimedLock()
    with lock:
        assert in_thread(lambda: lock.acquire(False)) is False
        assert in_thread(lambda: lock.acquire(blocking=False)) is False
        assert in_thread(lambda: lock.acquire(timeout=0.01)) is False
        assert in_thread(lambda: lock.acquire(timeout=0)) is False
    assert lock.acquire(timeout=1)
    lock.release()
    statistics = lock.statistics()
    assert (statistics.acquisitions, statistics.contended) == (2, 0)


def test_timed_lock_refuses_the_release_of_what_is_free() -> None:
    """Releasing a free lock is the same error as for threading.Lock."""
    with pytest.raises(RuntimeError):
        TimedLock().release()


def test_timed_lock_may_be_released_by_another_thread() -> None:
    """As for threading.Lock, whoever has the lock object may release it."""
    lock = TimedLock()
    in_thread(lock.acquire)
    lock.release()
    assert lock.acquire(False)
    lock.release()


def forced_wait(lock: Any, watched: WatchedLock, hold: AbstractContextManager[Any]) -> list[int]:
    """Have a thread wait for `lock` while this one holds it 30 ms: [lower, upper] in ns."""
    with hold:

        def waiter() -> int:
            before = perf_counter_ns()
            with lock:
                pass
            return perf_counter_ns() - before

        waiting = start(waiter)
        watched.wait_for_a_waiter()
        lower = pass_30_ms()
    return [lower, waiting.result()]


def pass_30_ms() -> int:
    """Let at least 30 ms pass and return how many nanoseconds it were."""
    began = perf_counter_ns()
    while perf_counter_ns() - began < 30_000_000:
        time.sleep(0.001)
    return perf_counter_ns() - began


def assert_one_wait_between(waits: Histogram, lower: int, upper: int) -> None:
    assert waits.count == 1
    assert lower <= waits.seconds * 1e9 <= upper
    assert bucket_of(lower) <= waits.buckets.index(1) <= bucket_of(upper)
    assert waits.buckets.index(1) == bucket_of(waits.seconds * 1e9)


def test_timed_lock_measures_a_forced_wait() -> None:
    """A wait of known length is in the count, in the sum and in its bucket."""
    lock = TimedLock()
    lock.lock = watched = WatchedLock()
    lower, upper = forced_wait(lock, watched, lock)
    assert_one_wait_between(lock.statistics().waits, lower, upper)
    assert lock.statistics().acquisitions == 2


def test_timed_lock_loses_no_short_wait() -> None:
    """Waits far below a microsecond or a few long count like any other, each with its length."""
    lock = TimedLock()
    lock.lock = BusyOnce()
    lengths = 0
    for _ in range(1_000):
        before = perf_counter_ns()
        lock.acquire()
        lengths += perf_counter_ns() - before
        lock.release()
    statistics = lock.statistics()
    assert statistics.acquisitions == statistics.contended == 1_000
    assert 0 < statistics.waits.seconds * 1e9 <= lengths
    assert sum(statistics.waits.buckets[:5]) > 500, "most of them took less than 16 us"


def test_timed_lock_counts_each_failed_first_try_as_one_wait() -> None:
    """Under contention: acquisitions are the operations, waits the first tries that failed."""
    lock = TimedLock()
    lock.lock = watched = WatchedLock()

    def work() -> None:
        for _ in range(500):
            with lock:
                for _ in range(20):
                    pass

    with frequent_switches():
        run_threads([work] * 6)
    statistics = lock.statistics()
    assert statistics.acquisitions == 3_000
    assert statistics.contended == watched.failed_tries.value
    check_lock_numbers(statistics)


def test_timed_lock_samples_its_holds() -> None:
    """One hold in SAMPLE_EVERY is timed, and its length is right."""
    lock = TimedLock()
    for _ in range(SAMPLE_EVERY - 1):
        with lock:
            pass
    assert lock.statistics().holds.count == 0
    before = perf_counter_ns()
    with lock:
        inner = perf_counter_ns()
        time.sleep(0.002)
        inner = perf_counter_ns() - inner
    outer = perf_counter_ns() - before
    for _ in range(SAMPLE_EVERY - 1):
        with lock:
            pass
    holds = lock.statistics().holds
    assert holds.count == 1
    assert inner <= holds.seconds * 1e9 <= outer


def test_statistics_can_be_read_while_the_lock_is_held() -> None:
    """Asking for the numbers waits for nobody, not even for oneself."""
    lock = TimedLock()
    with lock:
        assert lock.statistics().acquisitions == 1
        assert in_thread(lock.statistics).acquisitions == 1


def test_statistics_are_consistent_whenever_they_are_read() -> None:
    """Numbers read in the midst of work never show more waits than acquisitions, and only rise."""
    lock = TimedLock()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with lock:
                pass

    def watch() -> None:
        try:
            before = LockStatistics()
            for _ in range(500):
                now = lock.statistics()
                check_lock_numbers(now)
                assert now.acquisitions >= before.acquisitions
                assert now.contended >= before.contended
                assert now.waits.seconds >= before.waits.seconds
                before = now
        finally:
            stop.set()

    with frequent_switches():
        run_threads([work, work, watch])


# Turnstile


def queued(turnstile: Turnstile, number: int, function: Callable[[], None]) -> Running[None]:
    """Start `function`, and return when it stands in the queue as number `number`."""
    running = start(function)
    eventually(lambda: turnstile.waiting() == number, f"{number} wait at the turnstile")
    return running


def test_turnstile_lets_in_one_at_a_time_in_order_of_arrival() -> None:
    """Five who queue are let in one after the other, first come, first served."""
    turnstile = Turnstile()
    came: list[int] = []

    def visitor(number: int) -> None:
        assert turnstile.enter() is True
        came.append(number)
        turnstile.leave()

    assert turnstile.enter() is False
    visitors = [queued(turnstile, n + 1, lambda n=n: visitor(n)) for n in range(5)]  # type: ignore[misc]
    assert came == []
    turnstile.leave()
    for each in visitors:
        each.result()
    assert came == [0, 1, 2, 3, 4]
    assert turnstile.waiting() == 0
    assert turnstile.enter() is False
    turnstile.leave()


def test_turnstile_excludes() -> None:
    """Unprotected additions between enter and leave lose nothing."""
    turnstile = Turnstile()
    inside = Inside()

    def work() -> None:
        for _ in range(200):
            turnstile.enter()
            inside.add()
            turnstile.leave()

    with frequent_switches():
        run_threads([work] * 5)
    assert inside.total == 1_000
    assert turnstile.enter() is False


class Interruption:
    """For the time of a `with` block: SIGUSR1 raises Interrupted in the main thread, once."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._sending = threading.Lock()

    def send(self) -> None:
        """Interrupt the main thread, with more signals than one if need be.

        One that comes just before the thread begins to wait doesn't end that wait.
        """
        identity = threading.main_thread().ident
        assert identity is not None
        while not self.over.wait(0.005):
            with self._sending:
                if not self.over.is_set():
                    signal.pthread_kill(identity, signal.SIGUSR1)

    def _handle(self, *_: object) -> None:
        if not self.over.is_set():
            self.over.set()
            raise Interrupted

    def __enter__(self) -> Interruption:
        self._before = signal.signal(signal.SIGUSR1, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        with self._sending:  # none is under way when the old handler, or none, is back
            signal.signal(signal.SIGUSR1, self._before)


def interrupted_while(queue: Callable[[], bool], call: Callable[[], object]) -> None:
    """Interrupt `call`, made here in the main thread, once `queue()` tells that it waits."""

    def interrupt() -> None:
        eventually(queue, "the main thread waits")
        interruption.send()

    with Interruption() as interruption:
        interrupter = start(interrupt)
        with pytest.raises(Interrupted):
            call()
        interrupter.result()


def test_turnstile_survives_a_waiter_that_is_interrupted() -> None:
    """One whose waiting a signal handler ends gives its place up; those behind it are let in."""
    turnstile = Turnstile()
    turnstile.enter()
    interrupted_while(lambda: turnstile.waiting() == 1, turnstile.enter)
    assert turnstile.waiting() == 0
    behind = queued(turnstile, 1, lambda: pass_through(turnstile))
    turnstile.leave()
    behind.result()
    assert turnstile.enter() is False


def test_turnstile_survives_a_waiter_interrupted_as_its_turn_comes() -> None:
    """One interrupted between being called and going in passes its turn on to the next."""

    class Queue(deque[threading.Lock]):
        """Interrupts the first in the queue when it has left the queue and can't go in yet."""

        def popleft(self) -> threading.Lock:
            turn = super().popleft()
            interruption.send()
            return turn

    turnstile = Turnstile()
    turnstile._queue = Queue()
    turnstile.enter()
    second: list[Running[None]] = []

    def others() -> None:
        eventually(lambda: turnstile.waiting() == 1, "the main thread waits")
        second.append(queued(turnstile, 2, lambda: pass_through(turnstile)))
        turnstile.leave()

    with Interruption() as interruption:
        leaver = start(others)
        with pytest.raises(Interrupted):
            turnstile.enter()
        leaver.result()
        second[0].result()
    assert turnstile.enter() is False


def test_turnstile_survives_an_interruption_as_a_waiter_joins_the_queue() -> None:
    """One interrupted when it stands in the queue, and before it waits, isn't called later on."""

    class Queue(deque[threading.Lock]):
        """Raises what a signal handler would, when the newcomer stands behind another."""

        def append(self, turn: threading.Lock) -> None:
            super().append(turn)
            if len(self) > 1:
                raise Interrupted

    turnstile = Turnstile()
    turnstile._queue = Queue()
    turnstile.enter()
    with pytest.raises(Interrupted):
        turnstile.enter()
    assert turnstile.waiting() == 0
    turnstile.leave()
    assert not turnstile.taken()


def test_turnstile_survives_an_interruption_as_a_visitor_goes_in() -> None:
    """One interrupted when it was let in, and before it knows, leaves the turnstile free."""

    class Guard:
        """A lock whose first user is interrupted as it lets go."""

        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.uses = 0

        def __enter__(self) -> None:
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()
            self.uses += 1
            if self.uses == 1:
                raise Interrupted

    turnstile = Turnstile()
    turnstile._lock = Guard()  # type: ignore[assignment]
    with pytest.raises(Interrupted):
        turnstile.enter()
    assert not turnstile.taken()
    assert turnstile.enter() is False


# RWLock: who is let in with whom


def test_readers_read_side_by_side() -> None:
    """Two readers meet inside: neither has to leave before the other comes."""
    lock = RWLock()
    meeting = threading.Barrier(3)

    def reader() -> None:
        with lock.read():
            meeting.wait(DEADLINE)

    run_threads([reader] * 3)
    assert lock.read_statistics().acquisitions == 3
    assert lock.read_statistics().contended == 0


def test_writer_keeps_readers_and_writers_out() -> None:
    """While a writer is inside nobody else comes in, and all come in when it has left."""
    lock = RWLock()
    came: list[str] = []

    def visit(how: Callable[[], AbstractContextManager[Any]], who: str) -> None:
        with how():
            came.append(who)

    turnstile = lock._gate.turnstile
    with lock.write():
        others = [
            queued(turnstile, 1, lambda: visit(lock.read, "reader")),
            queued(turnstile, 2, lambda: visit(lock.write, "writer")),
            queued(turnstile, 3, lambda: visit(lock.read, "reader")),
        ]
        assert came == []
    for other in others:
        other.result()
    assert came == ["reader", "writer", "reader"]
    check_gate_is_free(lock._gate)


def test_reader_keeps_a_writer_out() -> None:
    """A writer waits for the reader inside, and goes in when that one has left."""
    lock = RWLock()
    came: list[str] = []

    def write() -> None:
        with lock.write():
            came.append("writer")

    with lock.read():
        writer = start(write)
        eventually(lambda: lock._gate._taken or lock._gate.turnstile.taken(), "the writer asks")
        assert not writer.done
        assert came == []
        came.append("reader leaves")
    writer.result()
    assert came == ["reader leaves", "writer"]


def test_writers_exclude_each_other_and_readers_under_stress() -> None:
    """Writers' unprotected additions lose nothing, and no reader sees two numbers that differ."""
    lock = RWLock()
    pair = [0, 0]

    def write() -> None:
        for _ in range(150):
            with lock.write():
                pair[0] += 1
                for _ in range(5):
                    pass
                pair[1] += 1

    def read() -> None:
        for _ in range(1_500):
            with lock.read():
                one = pair[0]
                for _ in range(5):
                    pass
                assert one == pair[1]

    with frequent_switches():
        run_threads([write, write, read, read, read])
    assert pair == [300, 300]
    assert lock.read_statistics().acquisitions == 4_500
    assert lock.write_statistics().acquisitions == 300
    check_lock_numbers(lock.read_statistics())
    check_lock_numbers(lock.write_statistics())
    check_gate_is_free(lock._gate)


def test_newcomers_queue_behind_a_writer_that_waits() -> None:
    """From when a writer asks, all are let in in order of arrival: readers can't starve it."""
    lock = RWLock()
    turnstile = lock._gate.turnstile
    came: list[str] = []

    def visit(how: Callable[[], AbstractContextManager[Any]], who: str) -> None:
        with how():
            came.append(who)

    with lock.read():
        first = start(lambda: visit(lock.write, "writer 1"))
        eventually(lambda: turnstile.taken(), "the first writer stands in the turnstile")
        others = [
            queued(turnstile, 1, lambda: visit(lock.read, "reader 1")),
            queued(turnstile, 2, lambda: visit(lock.write, "writer 2")),
            queued(turnstile, 3, lambda: visit(lock.write, "writer 3")),
            queued(turnstile, 4, lambda: visit(lock.read, "reader 2")),
        ]
        assert came == []
    for each in [first, *others]:
        each.result()
    assert came == ["writer 1", "reader 1", "writer 2", "writer 3", "reader 2"]


def test_newcomers_queue_behind_the_second_writer_too() -> None:
    """When one writer has left and another waits, newcomers still queue."""
    lock = RWLock()
    turnstile = lock._gate.turnstile
    came: list[str] = []

    def visit(how: Callable[[], AbstractContextManager[Any]], who: str) -> None:
        with how():
            came.append(who)

    def stay() -> None:
        with lock.read():
            gate.wait()

    def read_again() -> None:
        with lock.read():
            pass
        again.wait()
        visit(lock.read, "newcomer")

    with Gate() as gate, Gate() as again:
        newcomer = start(read_again)
        again.arrived()
        with lock.write():
            staying = queued(turnstile, 1, stay)
            second = queued(turnstile, 2, lambda: visit(lock.write, "second writer"))
        gate.arrived()
        eventually(lambda: turnstile.waiting() == 0, "the second writer waits for the reader")
        again.open()
        eventually(lambda: newcomer.done or turnstile.waiting() == 1, "the newcomer came")
        assert came == []
    for each in (staying, second, newcomer):
        each.result()
    assert came == ["second writer", "newcomer"]


def test_reader_that_was_inside_before_queues_as_well() -> None:
    """A thread that read before and comes again after a writer asked waits for that writer."""
    lock = RWLock()
    came: list[str] = []
    again = Gate()

    def often() -> None:
        with lock.read():
            pass
        again.wait()
        with lock.read():
            came.append("reader")

    def write() -> None:
        with lock.write():
            came.append("writer")

    reader = start(often)
    again.arrived()
    with lock.read():
        writer = start(write)
        eventually(lambda: lock._gate.turnstile.taken(), "the writer stands in the turnstile")
        again.open()
        eventually(lambda: lock._gate.turnstile.waiting() == 1, "the reader queues")
    writer.result()
    reader.result()
    assert came == ["writer", "reader"]


def test_stream_of_readers_does_not_starve_a_writer() -> None:
    """With readers coming all the time, each writer gets in."""
    lock = RWLock()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            with lock.read():
                for _ in range(20):
                    pass

    def write() -> None:
        try:
            for _ in range(30):
                with lock.write():
                    pass
        finally:
            stop.set()

    run_threads([read, read, read, write])
    assert lock.write_statistics().acquisitions == 30


def test_stream_of_writers_does_not_starve_a_reader() -> None:
    """With writers coming all the time, each reader gets in."""
    lock = RWLock()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with lock.write():
                pass

    def read() -> None:
        try:
            for _ in range(30):
                with lock.read():
                    pass
        finally:
            stop.set()

    run_threads([write, write, write, read])
    assert lock.read_statistics().acquisitions == 30


def test_thread_that_comes_first_while_a_writer_works_waits() -> None:
    """The slot of a thread that was never here before is closed to it while a writer is inside."""
    lock = RWLock()
    came: list[str] = []

    def newcomer() -> None:
        with lock.read():
            came.append("newcomer")

    with lock.write():
        newcomers = [queued(lock._gate.turnstile, n + 1, newcomer) for n in range(3)]
        assert came == []
        came.append("writer leaves")
    for each in newcomers:
        each.result()
    assert came == ["writer leaves", *["newcomer"] * 3]


def test_new_threads_and_writers_exclude_each_other() -> None:
    """Readers whose slots are made while writers come and go never see a writer at work."""
    lock = RWLock()
    pair = [0, 0]
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with lock.write():
                pair[0] += 1
                for _ in range(5):
                    pass
                pair[1] += 1

    def read() -> None:
        with lock.read():
            one = pair[0]
            for _ in range(5):
                pass
            assert one == pair[1]

    def readers() -> None:
        try:
            for _ in range(6):
                run_threads([read] * 4)
        finally:
            stop.set()

    with frequent_switches():
        run_threads([write, readers])
    assert lock.read_statistics().acquisitions == 24


# RWLock: exceptions and misuse


def assert_usable(lock: RWLock) -> None:
    """Fail unless a reader, a writer and, in another thread, both again get in."""
    for _ in range(2):
        with lock.read():
            pass
        with lock.write():
            pass
    assert in_thread(lambda: enter_both(lock)) is True
    check_gate_is_free(lock._gate)


def enter_both(lock: RWLock) -> bool:
    with lock.write():
        pass
    with lock.read():
        return True


def test_exception_inside_releases() -> None:
    """What is raised inside goes out and leaves the lock free."""
    lock = RWLock()
    with pytest.raises(ZeroDivisionError), lock.read():
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), lock.write():
        raise ZeroDivisionError
    assert_usable(lock)


@pytest.mark.parametrize("outer", ["read", "write"])
@pytest.mark.parametrize("inner", ["read", "write"])
def test_taking_it_again_is_refused(outer: str, inner: str) -> None:
    """A thread inside that asks again, or to upgrade, gets LockMisuse and stays inside."""
    lock = RWLock()
    with getattr(lock, outer)():
        with pytest.raises(LockMisuse), getattr(lock, inner)():
            pass
        assert in_thread(lambda: can_write(lock)) is False, "the outer lock is still held"
    assert_usable(lock)


def can_write(lock: RWLock) -> bool:
    """Whether no reader and no writer is inside."""
    free = not any(slot.locked() for slot in lock._gate.slots())
    return free and not lock._gate.turnstile.taken()


def test_release_by_a_thread_that_is_not_inside_is_refused() -> None:
    """Only the writer inside can leave: another thread's attempt lets nobody in beside it."""
    lock = RWLock()
    with lock.write():
        with pytest.raises(LockMisuse):
            in_thread(lambda: lock.write().__exit__(None, None, None))
        assert in_thread(lambda: can_write(lock)) is False
    assert_usable(lock)


def test_writer_that_takes_a_slot_itself_is_refused() -> None:
    """Who has the whole and wants a part would wait for itself: it gets LockMisuse at once."""
    gate = WriteGate()
    slot = Slot(gate)

    def work() -> None:
        with gate:
            with pytest.raises(LockMisuse):
                slot.acquire()
            assert slot.locked()

    in_thread(work, seconds=5)
    check_gate_is_free(gate)
    visit_once(lambda: slot)


def test_interrupted_reader_leaves_the_lock_usable() -> None:
    """A reader whose waiting a signal handler ends has taken nothing."""
    lock = RWLock()
    turnstile = lock._gate.turnstile
    with Gate() as gate:

        def write() -> None:
            with lock.write():
                gate.wait()

        writer = start(write)
        gate.arrived()
        interrupted_while(lambda: turnstile.waiting() == 1, lock.read().__enter__)
    writer.result()
    assert_usable(lock)


def test_interrupted_writer_in_the_queue_leaves_the_lock_usable() -> None:
    """A writer interrupted in the queue opens the slots that it closed."""
    lock = RWLock()
    turnstile = lock._gate.turnstile
    with Gate() as gate:

        def write() -> None:
            with lock.write():
                gate.wait()

        writer = start(write)
        gate.arrived()
        interrupted_while(lambda: turnstile.waiting() == 1, lock.write().__enter__)
    writer.result()
    assert_usable(lock)


def test_interrupted_writer_gives_back_the_slots_that_it_has() -> None:
    """A writer interrupted while it waits for the last reader gives back what it took."""
    lock = RWLock()
    with lock.read():
        pass  # so that this thread's slot is the first
    with Gate() as gate:

        def read() -> None:
            with lock.read():
                gate.wait()

        reader = start(read)
        gate.arrived()
        interrupted_while(lambda: len(lock._gate._taken) == 1, lock.write().__enter__)
    reader.result()
    assert_usable(lock)


# RWLock: threads that end


def test_threads_that_end_give_their_slots_up() -> None:
    """Hundreds of threads that came and went leave a few slots, and all of their numbers."""
    lock = RWLock()

    def visit() -> None:
        with lock.read():
            pass

    for _ in range(60):
        run_threads([visit] * 10)
    assert lock.read_statistics().acquisitions == 600
    assert len(lock._gate.slots()) <= 20
    assert_usable(lock)


def test_slot_given_up_while_a_writer_has_it_harms_nobody() -> None:
    """A reader that ends while a writer is inside is retired, and the writer leaves in peace."""
    lock = RWLock()
    end = Gate()

    def visit() -> None:
        with lock.read():
            pass
        end.wait()

    reader = start(visit)
    end.arrived()
    with lock.write():
        end.open()
        reader.result()
        assert lock.read_statistics().acquisitions == 1  # reaps
    assert_usable(lock)


# RWLock and WriteGate: numbers


def test_numbers_can_be_read_while_inside() -> None:
    """A reader and a writer can ask for the numbers without waiting for themselves."""
    lock = RWLock()
    with lock.read():
        assert lock.read_statistics().acquisitions == 1
        assert lock.write_statistics().acquisitions == 0
    with lock.write():
        assert lock.read_statistics().acquisitions == 1
        assert lock.write_statistics().acquisitions == 1
        assert in_thread(lock.read_statistics).acquisitions == 1


def test_reader_counts_its_wait_for_a_writer() -> None:
    """A reader's wait of known length for a writer is among the readers' waits, and there alone."""
    lock = RWLock()
    turnstile = lock._gate.turnstile
    with lock.write():
        before = perf_counter_ns()
        reader = queued(turnstile, 1, lambda: visit_once(lock.read))
        lower = pass_30_ms()
    reader.result()
    upper = perf_counter_ns() - before
    assert_one_wait_between(lock.read_statistics().waits, lower, upper)
    assert lock.read_statistics().acquisitions == 1
    assert lock.write_statistics().contended == 0


def visit_once(how: Callable[[], AbstractContextManager[Any]]) -> None:
    with how():
        pass


def test_writer_counts_its_wait_for_a_reader() -> None:
    """A writer's wait of known length for a reader is among the writers' waits, and there alone."""
    lock = RWLock()
    lock._slots.mine().lock = watched = WatchedLock()
    with lock.read():
        before = perf_counter_ns()
        writer = start(lambda: visit_once(lock.write))
        watched.wait_for_a_waiter()
        lower = pass_30_ms()
    writer.result()
    upper = perf_counter_ns() - before
    assert_one_wait_between(lock.write_statistics().waits, lower, upper)
    assert lock.write_statistics().acquisitions == 1
    assert lock.read_statistics().contended == 0


def test_writer_counts_its_wait_for_a_writer() -> None:
    """A writer that queued behind another counts one wait; the other counts none."""
    lock = RWLock()
    with lock.write():
        writer = queued(lock._gate.turnstile, 1, lambda: visit_once(lock.write))
    writer.result()
    assert lock.write_statistics().acquisitions == 2
    assert lock.write_statistics().contended == 1


def test_every_hold_of_a_writer_is_timed() -> None:
    """Writers are rare, so each of their holds is in the histogram."""
    lock = RWLock()
    outer = perf_counter_ns()
    for _ in range(3):
        with lock.write():
            time.sleep(0.001)
    outer = perf_counter_ns() - outer
    holds = lock.write_statistics().holds
    assert holds.count == lock.write_statistics().acquisitions == 3
    assert 3_000_000 <= holds.seconds * 1e9 <= outer


# Slot: the reader's half by itself


def test_slot_can_only_be_waited_for() -> None:
    """Forms of acquire that a slot doesn't have are refused, not ignored."""
    slot = Slot(WriteGate())
    with pytest.raises(LockMisuse):
        slot.acquire(False)
    with pytest.raises(LockMisuse):
        slot.acquire(timeout=1)
    assert slot.acquire() is True
    slot.release()
    with slot as taken:
        assert taken is True


def test_slot_tells_waits_for_a_reader_from_waits_for_a_writer() -> None:
    """Waiting for who has the same slot is the slot's; waiting for a writer is the whole's."""
    gate = WriteGate()
    slot = Slot(gate)
    slot.lock = watched = WatchedLock()
    lower, upper = forced_wait(slot, watched, slot)
    assert_one_wait_between(slot.statistics().waits, lower, upper)
    assert Slot.total_read((slot,)).contended == 0
    with gate:
        visitor = queued(gate.turnstile, 1, lambda: visit_once(lambda: slot))
    visitor.result()
    assert slot.statistics().contended == 1
    assert Slot.total_read((slot,)).contended == 1
    assert slot.statistics().acquisitions == Slot.total_read((slot,)).acquisitions == 3


class Overtaken(WatchedLock):
    """A lock at which something happens just before it is first tried."""

    def __init__(self, overtake: Callable[[], None]) -> None:
        super().__init__()
        self.overtake: Callable[[], None] | None = overtake

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        overtake, self.overtake = self.overtake, None
        if overtake is not None:
            overtake()
        return super().acquire(blocking, timeout)


def test_wait_for_a_writer_that_came_in_between_counts_as_one() -> None:
    """A reader that finds its slot open and then taken by a writer waits for that writer, in turn."""
    gate = WriteGate()
    slot = Slot(gate)
    writers: list[Running[None]] = []

    def write() -> None:
        with gate:
            leave.wait()

    def overtake() -> None:
        writers.append(start(write))
        leave.arrived()

    with Gate() as leave:
        slot.lock = lock = Overtaken(overtake)
        reader = start(lambda: visit_once(lambda: slot))
        eventually(
            lambda: gate.turnstile.waiting() or lock.waits.acquire(blocking=False),
            "the reader waits",
        )
    reader.result()
    writers[0].result()
    assert Slot.total_read([slot]).contended == 1
    assert slot.statistics().contended == 0
    check_gate_is_free(gate)


def test_writer_through_a_gate_is_no_acquisition_of_the_slots() -> None:
    """A slot counts its readers; the gate counts its writers."""
    gate = WriteGate()
    slots = [Slot(gate) for _ in range(4)]
    with gate:
        assert all(slot.locked() for slot in slots)
        assert gate.is_mine()
        assert in_thread(gate.is_mine) is False
    assert not any(slot.locked() for slot in slots)
    assert not gate.is_mine()
    assert [slot.statistics().acquisitions for slot in slots] == [0] * 4
    assert gate.statistics().acquisitions == 1


def test_gate_taken_again_is_refused() -> None:
    """A writer inside that asks again gets LockMisuse and is still inside."""
    gate = WriteGate()
    slot = Slot(gate)
    with gate:
        with pytest.raises(LockMisuse), gate:
            pass
        assert gate.is_mine()
        assert slot.locked()
    assert not slot.locked()
    check_gate_is_free(gate)


def test_gate_without_slots_still_excludes_writers() -> None:
    """Writers exclude each other even where there is nobody to keep out."""
    gate = WriteGate()
    with gate:
        other = queued(gate.turnstile, 1, lambda: visit_once(lambda: gate))
        assert not other.done
    other.result()


def test_slot_taken_out_is_left_alone() -> None:
    """A writer takes the slots that there are, no removed one."""
    gate = WriteGate()
    kept, gone = Slot(gate), Slot(gate)
    gate.remove(gone)
    with gone, gate:
        assert kept.locked()
    assert gate.slots() == (kept,)


def test_slots_exclude_each_user_and_the_writer() -> None:
    """Many threads on few slots and writers beside them lose no unprotected addition."""
    gate = WriteGate()
    slots = [Slot(gate) for _ in range(3)]
    numbers = [Inside() for _ in slots]
    checks = ShardedCounter()

    def work() -> None:
        for turn in range(600):
            with slots[turn % 3]:
                numbers[turn % 3].add()

    def whole() -> None:
        for _ in range(100):
            with gate:
                before = [number.total for number in numbers]
                for _ in range(20):
                    pass
                assert before == [number.total for number in numbers]
                checks.add()

    with frequent_switches():
        run_threads([work, work, work, work, whole, whole])
    assert [number.total for number in numbers] == [800] * 3
    assert checks.value == gate.statistics().acquisitions == 200
    assert sum(slot.statistics().acquisitions for slot in slots) == 2_400
    check_gate_is_free(gate)
