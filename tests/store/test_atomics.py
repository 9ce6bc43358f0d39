"""AtomicReference and AtomicCounter: one contract, held by both implementations."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cacheserver.store import atomics
from cacheserver.store.atomics import (
    IMPLEMENTATION,
    AtomicCounter,
    AtomicReference,
    ExchangedReference,
    LockedReference,
)
from cacheserver.store.counters import LARGEST, SMALLEST, LockedCounter, ShardedCounter
from tests.support.server import ROOT
from tests.support.threads import (
    Gate,
    Running,
    frequent_switches,
    in_thread,
    run_threads,
    start,
)

needs_cereggii = pytest.mark.skipif(
    IMPLEMENTATION == "lock", reason="cereggii 1.0 or later is not installed"
)


@pytest.fixture(params=[LockedReference, pytest.param(ExchangedReference, marks=needs_cereggii)])
def reference(request: pytest.FixtureRequest) -> Any:
    """A class of references."""
    return request.param


@pytest.fixture(params=[LockedCounter, AtomicCounter])
def counter(request: pytest.FixtureRequest) -> Any:
    """A class of counters with compare-and-set."""
    return request.param


@pytest.fixture(params=[ShardedCounter, LockedCounter, AtomicCounter])
def any_counter(request: pytest.FixtureRequest) -> Any:
    """A class of counters, all of which add and tell the sum."""
    return request.param


# References


def test_reference_keeps_the_very_object(reference: Any) -> None:
    """What was put in comes out, not something equal; None is an object too."""
    value = [1]
    kept = reference(value)
    assert kept.get() is value
    kept.set(None)
    assert kept.get() is None


def test_reference_exchanges(reference: Any) -> None:
    """The old object is handed out and the new one is there."""
    old, new = object(), object()
    kept = reference(old)
    assert kept.exchange(new) is old
    assert kept.get() is new


def test_reference_compares_identity(reference: Any) -> None:
    """An equal but different object is not the expected one; the same object is."""
    value, equal, new = [1, 2], [1, 2], object()
    assert value == equal
    assert value is not equal
    kept = reference(value)
    assert kept.compare_and_set(equal, new) is False
    assert kept.get() is value
    assert kept.compare_and_set(value, new) is True
    assert kept.get() is new


def test_reference_lets_go_of_what_it_had(reference: Any) -> None:
    """Replaced objects are not kept alive, whichever way they were replaced."""
    value = object()
    before = sys.getrefcount(value)
    kept = reference(value)
    assert sys.getrefcount(value) > before
    kept.compare_and_set(value, None)
    assert sys.getrefcount(value) == before
    for _ in range(100):
        kept.set(value)
        kept.exchange(value)
        kept.get()
        kept.compare_and_set(value, value)
        kept.compare_and_set(None, value)
    kept.set(None)
    assert sys.getrefcount(value) == before


def test_reference_of_several_who_expect_the_same_one_wins(reference: Any) -> None:
    """Of threads that replace the same object on condition, exactly one succeeds."""
    with frequent_switches():
        for _ in range(200):
            first = object()
            kept = reference(first)
            mine = [object() for _ in range(4)]
            won = run_threads([partial(kept.compare_and_set, first, one) for one in mine])
            assert won.count(True) == 1
            assert kept.get() is mine[won.index(True)]


def test_reference_hands_each_object_out_once(reference: Any) -> None:
    """Whatever threads exchange at once, every object that went in comes out exactly once."""
    kept = reference(None)

    def work(number: int) -> list[Any]:
        return [kept.exchange((number, turn)) for turn in range(500)]

    with frequent_switches():
        taken = run_threads([lambda n=n: work(n) for n in range(4)])  # type: ignore[misc]
    out = Counter([one for some in taken for one in some] + [kept.get()])
    assert out == Counter([None] + [(number, turn) for number in range(4) for turn in range(500)])


def test_reference_update_loses_nothing(reference: Any) -> None:
    """Tuples that threads make longer by one have every piece once at the end."""
    kept: Any = reference(())

    def work(number: int) -> None:
        for turn in range(100):
            kept.update(lambda old: (*old, (number, turn)))  # noqa: B023 (called before the next turn)

    with frequent_switches():
        run_threads([lambda n=n: work(n) for n in range(4)])  # type: ignore[misc]
    assert sorted(kept.get()) == [(number, turn) for number in range(4) for turn in range(100)]


def test_reference_update_calls_again_when_somebody_was_quicker(reference: Any) -> None:
    """Forced: an object that is replaced while the function runs has it run again."""
    kept = reference("first")
    seen = []
    with Gate() as gate:

        def function(old: str) -> str:
            seen.append(old)
            gate.wait()
            return f"after {old}"

        updating = start(lambda: kept.update(function))
        gate.arrived()
        kept.set("second")
    assert updating.result() == "after second"
    assert seen == ["first", "second"]
    assert kept.get() == "after second"


def test_locked_reference_waits_to_write_and_not_to_read() -> None:
    """Forced: while another writes, writers of all three kinds wait, and a reader does not."""
    value = object()
    kept: LockedReference[object] = LockedReference(value)
    with kept._lock:
        writing = [
            start(lambda: kept.set("set")),
            start(lambda: kept.exchange("exchanged") and None),
            start(lambda: kept.compare_and_set(value, "compared") and None),
        ]
        assert in_thread(kept.get) is value
        time.sleep(0.02)  # for those who would not wait
        assert not any(one.done for one in writing)
        assert kept.get() is value
    for one in writing:
        one.result()
    assert kept.get() is not value


# Counters


def test_counter_adds_what_it_is_given(any_counter: Any) -> None:
    """It starts at nothing, takes positive, negative and no amounts, and 1 where none is said."""
    number = any_counter()
    assert number.value == 0
    number.add()
    number.add(5)
    number.add(-8)
    number.add(0)
    assert number.value == -2


def test_counter_loses_no_addition(any_counter: Any) -> None:
    """Additions of threads that work at once are all there, each once."""
    number = any_counter()

    def work(amount: int) -> None:
        for _ in range(3_000):
            number.add(amount)

    with frequent_switches():
        run_threads([lambda a=a: work(a) for a in (1, 2, -4, 8)])  # type: ignore[misc]
    assert number.value == 3_000 * 7


def test_counter_tells_each_who_adds_another_sum(counter: Any) -> None:
    """What `add` returns is the sum right after it: with ones, every number comes once."""
    number = counter()

    def work() -> list[int]:
        return [number.add() for _ in range(2_000)]

    with frequent_switches():
        sums = run_threads([work] * 4)
    assert sorted(one for some in sums for one in some) == list(range(1, 8_001))
    assert all(some == sorted(some) for some in sums)


def test_counter_begins_where_it_is_told(counter: Any) -> None:
    """The first value may be given, and be negative."""
    assert counter(7).add() == 8
    assert counter(-7).value == -7


def test_counter_exchanges(counter: Any) -> None:
    """The old number is handed out and the new one is there."""
    number = counter(3)
    assert number.exchange(10**12) == 3
    assert number.value == 10**12


def test_counter_compares_the_number(counter: Any) -> None:
    """An equal number is the expected one, whichever object it is."""
    number = counter(10**12)
    assert number.compare_and_set(10**12 + 1, 5) is False
    assert number.value == 10**12
    assert number.compare_and_set(int("1" + "0" * 12), 5) is True
    assert number.value == 5


def test_counter_of_several_who_expect_the_same_one_wins(counter: Any) -> None:
    """Of threads that set a number on condition, exactly one succeeds."""
    with frequent_switches():
        for _ in range(200):
            number = counter(0)
            won = run_threads([partial(number.compare_and_set, 0, n) for n in range(1, 5)])
            assert won.count(True) == 1
            assert number.value == won.index(True) + 1


@pytest.mark.parametrize(("start_at", "amount"), [(LARGEST, 1), (SMALLEST, -1), (4, 2**70)])
def test_counter_refuses_to_overflow(counter: Any, start_at: int, amount: int) -> None:
    """A sum beyond 64 bits is an OverflowError, and the number stays and can be used."""
    number = counter(start_at)
    with pytest.raises(OverflowError):
        number.add(amount)
    assert number.value == start_at
    assert number.add(0) == start_at


@pytest.mark.parametrize("value", [LARGEST + 1, SMALLEST - 1, 2**70])
def test_counter_refuses_what_is_too_large(counter: Any, value: int) -> None:
    """Numbers beyond 64 bits are an OverflowError everywhere, and change nothing."""
    number = counter(4)
    for refused in (
        lambda: counter(value),
        lambda: number.exchange(value),
        lambda: number.compare_and_set(4, value),
        lambda: number.compare_and_set(value, 4),
    ):
        with pytest.raises(OverflowError):
            refused()
    assert number.value == 4


@pytest.mark.parametrize("value", [1.5, "1"])
def test_counter_refuses_what_is_no_integer(counter: Any, value: Any) -> None:
    """Anything but an integer is a TypeError everywhere, and changes nothing."""
    number = counter(4)
    for refused in (
        lambda: counter(value),
        lambda: number.add(value),
        lambda: number.exchange(value),
        lambda: number.compare_and_set(4, value),
    ):
        with pytest.raises(TypeError):
            refused()
    assert number.add() == 5


def test_atomic_counter_is_not_copied() -> None:
    """A copy would count apart from what it was made from: there is none, pickled or not."""
    number = AtomicCounter(4)
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copying(number)


def test_locked_counter_waits_to_write_and_not_to_read() -> None:
    """Forced: while another writes, writers of all three kinds wait, and a reader does not."""
    number = LockedCounter(1)
    number._acquire()
    writing: list[Running[object]] = [
        start(lambda: number.add(10)),
        start(lambda: number.exchange(1)),
        start(lambda: number.compare_and_set(1, 1)),
    ]
    assert in_thread(lambda: number.value) == 1
    time.sleep(0.02)  # for those who would not wait
    assert not any(one.done for one in writing)
    number._release()
    for one in writing:
        one.result()


# The choice


def test_names_stand_for_what_is_there() -> None:
    """With cereggii a reference uses the processor's operations, without it a lock."""
    chosen: Any = AtomicReference
    assert chosen is (LockedReference if IMPLEMENTATION == "lock" else ExchangedReference)
    assert {"get", "set", "exchange", "compare_and_set", "update"} <= set(dir(AtomicReference))
    assert {"value", "add", "exchange", "compare_and_set"} <= set(dir(AtomicCounter))


def test_both_implementations_offer_the_same() -> None:
    """No name is public in one of them only."""
    for one, other in (
        (LockedReference, ExchangedReference),
        (LockedCounter, AtomicCounter),
    ):
        names = [{name for name in dir(cls) if not name.startswith("_")} for cls in (one, other)]
        assert names[0] == names[1]


def run_script(script: str, *folders: Path) -> str:
    """What a Python of its own prints, with these folders before all others."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        env={"PYTHONPATH": ":".join(map(str, folders))},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_cereggii_there_are_locks() -> None:
    """Where it cannot be imported nothing fails."""
    hidden = "import sys; sys.modules['cereggii'] = None\n"
    script = "from cacheserver.store.atomics import AtomicReference as r; print(r.__name__)"
    assert run_script(hidden + script) == "LockedReference"


def test_an_old_cereggii_is_left_alone(tmp_path: Path) -> None:
    """One before 1.0 is not imported: it might turn the GIL on."""
    (tmp_path / "cereggii.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    folder = tmp_path / "cereggii-0.9.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: cereggii\nVersion: 0.9\n", encoding="utf-8"
    )
    script = "from cacheserver.store.atomics import IMPLEMENTATION; print(IMPLEMENTATION)"
    assert run_script(script, tmp_path) == "lock"


def test_import_leaves_the_gil_as_it_is() -> None:
    """Importing the module turns no GIL on, and `import cacheserver` leaves cereggii alone."""
    script = """
import sys
before = sys._is_gil_enabled()
import cacheserver
assert "cereggii" not in sys.modules
import cacheserver.store.atomics
assert sys._is_gil_enabled() == before
print("fine")
"""
    assert run_script(script, *_folder_of_cereggii()) == "fine"


def _folder_of_cereggii() -> list[Path]:
    if atomics._cereggii is None:
        return []
    return [Path(atomics._cereggii.__file__).parents[1]]


def test_threads_may_share_a_reference_that_is_read_without_end(reference: Any) -> None:
    """Readers beside writers always get one of the objects that were put in, whole."""
    kept = reference((0, 0))
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            left, right = kept.get()
            assert left == right

    def write() -> None:
        try:
            for turn in range(3_000):
                kept.set((turn, turn))
        finally:
            stop.set()

    with frequent_switches():
        run_threads([read, read, write])
