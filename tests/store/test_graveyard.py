"""What was cleared or dropped is freed bit by bit where somebody sweeps, and at once where nobody does."""

from __future__ import annotations

import pytest

from cacheserver.store.graveyard import Graveyard
from tests.conftest import Maker
from tests.support.threads import Gate, eventually, start


class Value:
    """Counts those that live."""

    alive = 0

    def __init__(self) -> None:
        Value.alive += 1

    def __del__(self) -> None:
        Value.alive -= 1


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


def test_what_nobody_attends_to_is_freed_at_once(make: Maker) -> None:
    """Without somebody who sweeps all the time a clear frees what it took away."""
    entries = make.striped(2, bury=Graveyard().bury)
    for number in range(2_000):
        entries[number] = Value()
    entries.clear()
    eventually(lambda: Value.alive == 0, "they are freed")


def test_what_is_attended_to_is_freed_in_small_steps(make: Maker) -> None:
    """With one, the clear frees nothing, and each of its steps a few hundred."""
    graveyard = Graveyard()
    graveyard.attended = True
    entries = make.striped(2, bury=graveyard.bury)
    for number in range(2_000):
        entries[number] = Value()
    entries.clear()
    before = Value.alive
    assert before == 2_000
    assert len(entries) == 0
    for _ in graveyard.empty():
        assert before - Value.alive <= 600
        before = Value.alive
    eventually(lambda: Value.alive == 0, "all are freed")
    assert list(graveyard.empty()) == []


@pytest.mark.parametrize("end", ["clear", "drop"])
def test_sweep_of_a_store_frees_what_went(make: Maker, end: str) -> None:
    """Who says that he attends sweeps it away; what is there now is not touched by that."""
    store = make.store(stripes=2)
    store.graveyard.attended = True
    things = store.namespace("things")
    for number in range(1_000):
        things.put(f"key{number}", b"v")
    assert (things.clear() if end == "clear" else store.drop("things")) == 1_000
    now = store.namespace("things")
    now.put("k", b"new")
    sum(store.sweep())
    assert now.totals()[0] == 1
    assert list(store.graveyard.empty()) == []


@pytest.mark.parametrize("many", [1, 16])
def test_reader_that_began_before_a_change_of_stripes_finds_what_was_there_throughout(
    make: Maker, many: int
) -> None:
    """It may look into the old dicts as late as it likes: nobody takes them apart under it."""
    graveyard = Graveyard()
    graveyard.attended = True
    entries = make.striped(4, bury=graveyard.bury)
    entries["k"] = "there"
    with Gate() as gate:
        reader = start(lambda: entries.view().get(GatedKey("k", gate), "missed"))
        gate.arrived()
        entries.reshape(many)
        for _ in graveyard.empty():
            pass
    assert reader.result() == "there"


def test_iteration_goes_on_across_a_change_of_stripes_and_a_sweep(make: Maker) -> None:
    """A key that is there throughout comes exactly once, though the old stripes are swept away."""
    graveyard = Graveyard()
    graveyard.attended = True
    entries = make.striped(8, bury=graveyard.bury)
    for number in range(200):
        entries[number] = number
    came = []
    for at, key in enumerate(entries):
        came.append(key)
        if at == 10:
            entries.reshape(2)
            for _ in graveyard.empty():
                pass
    assert sorted(came) == list(range(200))
