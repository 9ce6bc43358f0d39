"""The retry loop and OptimisticDict: no update is lost, nobody tries without end, no lock is held."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cacheserver.errors import Contention, InvalidTTL
from cacheserver.store.entry import CONTENT_TYPE, VALUE, VERSION, Entry
from cacheserver.store.optimistic import BACKOFF, Backoff, OptimisticDict, retry, unchanged
from cacheserver.store.outcomes import Conflict, Written
from tests.conftest import Maker
from tests.support.clock import ManualClock
from tests.support.invariants import check_invariants
from tests.support.linearizability import Operation, Recorder, check_linearizable
from tests.support.threads import Gate, frequent_switches, in_thread, run_threads, start


class Sleeps:
    """Stands for `time.sleep`: remembers, and calls `meanwhile` instead of waiting."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.seconds: list[float] = []
        self._meanwhile = meanwhile

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self._meanwhile()


def entry_of(value: str, version: int) -> Entry[str]:
    return (value, version, 0, "text/plain", 0)


@pytest.fixture
def entries(stripes: int, clock: ManualClock) -> OptimisticDict[str, Any]:
    """An OptimisticDict of one stripe, and of many."""
    return OptimisticDict(stripes, clock=clock)


# Backoff


def test_backoff_doubles_up_to_the_longest_after_retries_at_once() -> None:
    """The first retries don't wait, then the range doubles until it reaches the longest wait."""
    backoff = Backoff(attempts=8, at_once=2, first=10, longest=50)
    assert list(backoff.waits()) == [0, 0, 10, 20, 40, 50, 50]


def test_backoff_of_one_attempt_waits_for_nothing() -> None:
    """One attempt means no retry."""
    assert list(Backoff(attempts=1).waits()) == []


def test_backoff_spreads_the_waits() -> None:
    """A wait is a random share of its range; where the range is empty nobody sleeps at all."""
    sleeps = Sleeps()
    shares = iter([0.0, 0.25, 0.99])
    backoff = Backoff(sleep=sleeps, jitter=lambda: next(shares))
    for longest in (0.0, 8.0, 8.0, 8.0):
        backoff.pause(longest)
    assert sleeps.seconds == [0.0, 2.0, 7.92]


def test_default_backoff_is_short_enough_for_an_event_loop() -> None:
    """All waits of one update together stay below 4 ms, and the first retries don't wait."""
    assert sum(BACKOFF.waits()) < 0.004
    assert list(BACKOFF.waits())[:3] == [0, 0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"at_once": -1},
        {"first": -1e-6},
        {"first": 2.0, "longest": 1.0},
        {"longest": float("inf")},
        {"first": float("nan")},
    ],
)
def test_backoff_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    """No attempt, negative, endless or unordered waits are a ValueError."""
    with pytest.raises(ValueError):
        Backoff(**wrong)


# The loop


def test_retry_ends_with_the_first_outcome_that_is_no_conflict() -> None:
    """Without a conflict there is one read, one attempt, and no wait."""
    sleeps = Sleeps()
    found = entry_of("there", 7)
    seen: list[Entry[str] | None] = []

    def attempt(entry: Entry[str] | None) -> str:
        seen.append(entry)
        return "done"

    assert retry(lambda: found, attempt, Backoff(sleep=sleeps)) == "done"
    assert seen == [found]
    assert sleeps.seconds == []


def test_retry_goes_on_with_what_the_conflict_found() -> None:
    """After a conflict the next attempt gets its entry, and nothing is read again."""
    reads = iter([None])
    later = entry_of("later", 8)
    outcomes: list[Conflict[str] | str] = [Conflict(later), Conflict(None), "done"]
    seen: list[Entry[str] | None] = []

    def attempt(entry: Entry[str] | None) -> Conflict[str] | str:
        seen.append(entry)
        return outcomes[len(seen) - 1]

    assert retry(lambda: next(reads), attempt) == "done"
    assert seen == [None, later, None]


def test_retry_gives_up_after_so_many_attempts() -> None:
    """Conflicts without end are Contention, after the attempts and the waits that were allowed."""
    sleeps = Sleeps()
    attempts: list[None] = []

    def attempt(_entry: Entry[str] | None) -> Conflict[str]:
        attempts.append(None)
        return Conflict(None)

    backoff = Backoff(6, 1, first=1, longest=4, sleep=sleeps, jitter=lambda: 0.5)
    with pytest.raises(Contention, match="6 attempts"):
        retry(lambda: None, attempt, backoff)
    assert len(attempts) == 6
    assert sleeps.seconds == [0.5, 1, 2, 2]


def test_retry_lets_exceptions_out() -> None:
    """What an attempt raises ends the loop."""

    def attempt(_entry: Entry[str] | None) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        retry(lambda: None, attempt)


def test_unchanged_holds_for_that_entry_alone() -> None:
    """The condition is the version of the entry, or that there is none."""
    entry = entry_of("there", 7)
    assert unchanged(entry).holds(7)
    assert not unchanged(entry).holds(8)
    assert not unchanged(entry).holds(0)
    assert unchanged(None).holds(0)
    assert not unchanged(None).holds(7)


def test_retried_writes_are_linearizable(make: Maker, stripes: int) -> None:
    """Histories of read, compute and write from many threads can be explained, conflicts included."""
    for seed in range(6):
        entries = make.striped(stripes)
        recorders = [Recorder(entries) for _ in range(4)]

        def work(number: int, recorders: list[Recorder] = recorders, seed: int = seed) -> None:
            recorder, chance = recorders[number], random.Random(f"{seed}:{number}")
            for turn in range(8):
                key = chance.choice("ab")

                def attempt(
                    entry: Entry[Any] | None, key: str = key, turn: int = turn
                ) -> Written | Conflict[Any]:
                    expected = 0 if entry is None else entry[VERSION]
                    return recorder.write(key, (number, turn), expected)

                retry(lambda key=key: recorder.read(key), attempt)  # type: ignore[misc]

        with frequent_switches():
            run_threads([lambda n=n: work(n) for n in range(4)])  # type: ignore[misc]
        history: list[Operation] = [o for r in recorders for o in r.operations]
        assert sum(isinstance(o.result, Written) for o in history) == 32
        check_linearizable(history)


# OptimisticDict


def test_update_writes_what_the_function_makes(entries: OptimisticDict[str, Any]) -> None:
    """It gets None where nothing is and the value later, and what it returns is returned."""
    assert entries.update("n", lambda old: (old or 0) + 1) == 1
    assert entries.update("n", lambda old: (old or 0) + 1) == 2
    assert entries["n"] == 2
    check_invariants(entries)


def test_update_gives_a_new_version(entries: OptimisticDict[str, Any]) -> None:
    """Each update is a write: its version is higher than the one before."""
    versions = []
    for _ in range(3):
        entries.update("n", lambda _old: "same")
        entry = entries.read("n")
        assert entry is not None
        versions.append(entry[VERSION])
    assert versions == sorted(set(versions))


def test_update_keeps_the_content_type(entries: OptimisticDict[str, Any]) -> None:
    """What kind of value it is stays as it was."""
    entries.put("n", "1", content_type="text/plain")
    entries.update("n", lambda old: f"{old}1")
    entry = entries.read("n")
    assert entry is not None
    assert (entry[VALUE], entry[CONTENT_TYPE]) == ("11", "text/plain")


def test_update_takes_a_ttl(entries: OptimisticDict[str, Any], clock: ManualClock) -> None:
    """A value updated with a ttl is gone after it; the next update finds nothing."""
    entries.update("n", lambda _old: 1, ttl=10)
    clock.advance(10)
    assert entries.update("n", lambda old: "none" if old is None else "some") == "none"
    with pytest.raises(InvalidTTL):
        entries.update("n", lambda _old: 3, ttl=-1)
    assert entries["n"] == "none"


def test_update_keeps_the_deadline(entries: OptimisticDict[str, Any], clock: ManualClock) -> None:
    """Without a ttl a value is gone when it would have been anyway, and ttl=0 makes it stay."""
    entries.put("n", 1, ttl=10)
    entries.put("m", 1, ttl=10)
    clock.advance(6)
    entries.update("n", lambda _old: 2)
    entries.update("m", lambda _old: 2, ttl=0)
    clock.advance(4)
    assert dict(entries.items()) == {"m": 2}


def test_update_calls_again_when_somebody_wrote_meanwhile(
    entries: OptimisticDict[str, Any],
) -> None:
    """Forced: a write while the function runs has it run again with what was written."""
    entries["n"] = 1
    seen: list[Any] = []
    with Gate() as gate:

        def function(old: Any) -> Any:
            seen.append(old)
            gate.wait()
            return old + 10

        updating = start(lambda: entries.update("n", function))
        gate.arrived()
        entries["n"] = 2
    assert updating.result() == 12
    assert seen == [1, 2]
    assert entries["n"] == 12


def test_update_is_not_fooled_by_the_same_value_written_again(
    entries: OptimisticDict[str, Any],
) -> None:
    """Forced: deleted and written as it was is another version, so the function runs again."""
    entries["n"] = 1
    calls: list[Any] = []
    with Gate() as gate:

        def function(old: Any) -> Any:
            calls.append(old)
            gate.wait()
            return old + 10

        updating = start(lambda: entries.update("n", function))
        gate.arrived()
        del entries["n"]
        entries["n"] = 1
    assert updating.result() == 11
    assert calls == [1, 1]


def test_update_finds_nothing_where_the_key_was_deleted_meanwhile(
    entries: OptimisticDict[str, Any],
) -> None:
    """Forced: a delete while the function runs has it run again with None."""
    entries["n"] = 1
    seen: list[Any] = []
    with Gate() as gate:

        def function(old: Any) -> Any:
            seen.append(old)
            gate.wait()
            return "new" if old is None else "old"

        updating = start(lambda: entries.update("n", function))
        gate.arrived()
        del entries["n"]
    assert updating.result() == "new"
    assert seen == [1, None]


def test_update_of_what_expires_meanwhile(
    entries: OptimisticDict[str, Any], clock: ManualClock
) -> None:
    """Forced: a value whose time is up while the function runs is not updated but made anew."""
    entries.put("n", 1, ttl=5)
    seen: list[Any] = []

    def function(old: Any) -> Any:
        seen.append(old)
        clock.advance(5)
        return "made"

    entries.update("n", function)
    assert seen == [1, None]
    check_invariants(entries)


def test_function_runs_outside_of_every_lock(clock: ManualClock) -> None:
    """With one stripe for all keys, the function may write others, and so may other threads."""
    entries: OptimisticDict[str, int] = OptimisticDict(1, clock=clock)

    def function(_old: int | None) -> int:
        entries["mine"] = 1
        in_thread(lambda: entries.put("theirs", 2))
        in_thread(entries.snapshot)
        return entries.update("inner", lambda _old: 3)

    assert entries.update("n", function) == 3
    assert dict(entries.items()) == {"mine": 1, "theirs": 2, "inner": 3, "n": 3}


def test_function_that_raises_changes_nothing(entries: OptimisticDict[str, Any]) -> None:
    """What the function raises comes out of update, and the entry is the one it was."""
    entries["n"] = 1
    before = entries.read("n")
    with pytest.raises(ZeroDivisionError):
        entries.update("n", lambda _old: 1 // 0)
    assert entries.read("n") is before


def test_update_gives_up_and_changes_nothing(entries: OptimisticDict[str, Any]) -> None:
    """Forced: with somebody else quicker each time it is Contention, and theirs is what stays."""
    sleeps = Sleeps()
    backoff = Backoff(5, 2, first=1, longest=1, sleep=sleeps, jitter=lambda: 1.0)
    calls = []

    def function(old: Any) -> Any:
        calls.append(old)
        entries["n"] = len(calls)
        return "never"

    with pytest.raises(Contention):
        entries.update("n", function, backoff=backoff)
    assert calls == [None, 1, 2, 3, 4]
    assert sleeps.seconds == [1, 1]
    assert entries["n"] == 5


def test_somebody_who_gives_way_lets_update_through(entries: OptimisticDict[str, Any]) -> None:
    """Others who stop writing during a wait let the next attempt succeed."""
    quicker = iter([True, True, True, False])
    sleeps = Sleeps()

    def function(old: Any) -> Any:
        if next(quicker):
            entries["n"] = "theirs"
        return "ours"

    entries.update("n", function, backoff=replace(BACKOFF, at_once=0, sleep=sleeps))
    assert entries["n"] == "ours"
    assert len(sleeps.seconds) == 3


def test_no_update_is_lost(entries: OptimisticDict[str, Any]) -> None:
    """Many threads that add to the same few keys lose nothing, whatever they met."""
    patient = Backoff(attempts=100_000)

    def work(number: int) -> None:
        view = entries.view()
        for turn in range(300):
            view.update("ab"[(turn + number) % 2], lambda old: (old or 0) + 1, backoff=patient)

    with frequent_switches():
        run_threads([lambda n=n: work(n) for n in range(6)])  # type: ignore[misc]
    assert dict(entries.items()) == {"a": 900, "b": 900}
    check_invariants(entries)


def test_view_is_an_optimistic_dict_too(entries: OptimisticDict[str, Any]) -> None:
    """A thread's own way in has update as well, over the same entries."""
    view = entries.view()
    assert isinstance(view, OptimisticDict)
    view.update("n", lambda _old: 1)
    assert entries["n"] == 1
