"""StripedDict's contract: a dict with versions, deadlines and conditions; one stripe and many."""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from cacheserver.clock import Clock
from cacheserver.errors import InvalidTTL, NeverFits, StoreFull
from cacheserver.store.budget import Budget
from cacheserver.store.entry import CONTENT_TYPE, DEADLINE, NEVER, VALUE, VERSION, Entry
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Written
from cacheserver.store.striped import DEFAULT_STRIPES, StripedDict
from cacheserver.store.way import MAX_STRIPES
from tests.conftest import Maker
from tests.support.clock import WALL, ManualClock
from tests.support.inside import locks_of, registered_views, stripes_of, views_of
from tests.support.outcomes import written
from tests.support.threads import in_thread

MAX_VERSION = 2**53


@pytest.fixture
def entries(make: Maker, stripes: int) -> StripedDict[Any, Any]:
    """An empty dict, once with one stripe and once with many."""
    return make.striped(stripes)


@pytest.fixture(params=["itself", "a view of it", "a view of a view"])
def reader(request: pytest.FixtureRequest, entries: StripedDict[Any, Any]) -> StripedDict[Any, Any]:
    """The same dict seen otherwise."""
    views = {"itself": 0, "a view of it": 1, "a view of a view": 2}[request.param]
    seen = entries
    for _ in range(views):
        seen = seen.view()
    return seen


def version_of(entries: StripedDict[Any, Any], key: object) -> int:
    entry = entries.read(key)
    assert entry is not None
    return entry[VERSION]


# As a dict


def test_empty_dict_has_nothing(entries: StripedDict[Any, Any]) -> None:
    """An empty dict is false, has no length, no keys and no items."""
    assert not entries
    assert len(entries) == 0
    assert list(entries) == list(entries.items()) == []
    assert "k" not in entries
    assert entries.get("k") is None
    assert entries.get("k", "other") == "other"
    assert entries.read("k") is None
    assert entries.snapshot() == {}
    assert entries.totals() == (0, 0)
    assert entries.clear() == 0


def test_missing_key_is_a_key_error(entries: StripedDict[Any, Any]) -> None:
    """Subscription, deletion and pop of a missing key raise KeyError with that key."""
    calls: list[Callable[[], object]] = [
        lambda: entries["k"],
        lambda: entries.__delitem__("k"),
        lambda: entries.pop("k"),
    ]
    for call in calls:
        with pytest.raises(KeyError) as raised:
            call()
        assert raised.value.args == ("k",)


def test_value_that_was_set_can_be_read(
    entries: StripedDict[Any, Any], reader: StripedDict[Any, Any]
) -> None:
    """A value set through one view is there through all, by every way of reading."""
    entries["k"] = "v"
    assert reader["k"] == reader.get("k") == reader.get("k", "other") == "v"
    assert "k" in reader
    assert reader
    assert len(reader) == 1
    assert list(reader) == ["k"]
    assert list(reader.items()) == [("k", "v")]
    entry = reader.read("k")
    assert entry is not None
    assert (entry[VALUE], entry[DEADLINE]) == ("v", NEVER)
    assert reader.snapshot() == {"k": entry}
    assert reader.setdefault("k", "other") == "v"
    assert reader.pop("k") == "v"
    assert "k" not in entries


def test_values_may_be_false_or_none(entries: StripedDict[Any, Any]) -> None:
    """A value that is false is a value."""
    for value in (None, 0, "", b"", False):
        entries["k"] = value
        assert "k" in entries
        assert entries["k"] is value
        assert entries.get("k", "other") is value
        assert entries.setdefault("k", "other") is value
        assert entries.pop("k", "other") is value
        assert entries.pop("k", "other") == "other"


def test_delete_removes(entries: StripedDict[Any, Any], reader: StripedDict[Any, Any]) -> None:
    """A key deleted through one view is gone for all, once."""
    entries["k"] = "v"
    del entries["k"]
    assert "k" not in reader
    assert len(reader) == 0
    with pytest.raises(KeyError):
        del reader["k"]


def test_pop_returns_default(entries: StripedDict[Any, Any]) -> None:
    """Pop of a missing key returns the default, None as well."""
    assert entries.pop("k", None) is None
    assert entries.pop("k", 7) == 7


def test_setdefault_writes_only_where_nothing_is(entries: StripedDict[Any, Any]) -> None:
    """The first default stays."""
    assert entries.setdefault("k", 1) == 1
    version = version_of(entries, "k")
    assert entries.setdefault("k", 2) == 1
    assert version_of(entries, "k") == version


def test_many_keys(entries: StripedDict[Any, Any], reader: StripedDict[Any, Any]) -> None:
    """A thousand keys of several types are all there, each once."""
    keys: list[object] = [*range(400), *map(str, range(400)), *((n, "t") for n in range(200))]
    for key in keys:
        entries[key] = ("value of", key)
    assert len(reader) == len(keys)
    assert set(reader) == set(keys)
    assert len(list(reader)) == len(keys)
    assert dict(reader.items()) == {key: ("value of", key) for key in keys}
    assert all(reader[key] == ("value of", key) for key in keys)


def test_number_and_its_text_are_two_keys(entries: StripedDict[Any, Any]) -> None:
    """1 and "1" have nothing to do with each other."""
    entries[1] = "number"
    entries["1"] = "text"
    assert (entries[1], entries["1"], len(entries)) == ("number", "text", 2)
    del entries[1]
    assert "1" in entries


def test_equal_keys_are_one_key(entries: StripedDict[Any, Any]) -> None:
    """1, 1.0 and True are equal and have one hash, so they are one key, as in a dict."""
    for number, key in enumerate([1, 1.0, True]):
        entries[key] = number
        assert entries[1] == entries[1.0] == entries[True] == number
    assert len(entries) == 1
    assert list(entries) == [1]
    for zero in (0, 0.0, -0.0, False):
        assert written(entries.put(zero, "zero")).created == (zero is 0)  # noqa: F632 only the first


def test_key_that_has_no_hash_is_refused(entries: StripedDict[Any, Any]) -> None:
    """A key that can't be hashed is a TypeError and leaves no lock held."""
    for call in (entries.read, entries.delete, lambda key: entries.put(key, 1)):
        with pytest.raises(TypeError, match="unhashable"):
            call(["list"])


def test_any_clock_is_obeyed() -> None:
    """One that is made by handing in a function, too."""
    now = [0.0]
    entries = StripedDict[str, int](clock=Clock(monotonic=lambda: now[0]))
    entries.put("k", 1, ttl=10)
    now[0] = 9.9
    assert entries.read("k") is not None
    now[0] = 10.0
    assert entries.read("k") is None
    assert list(entries) == []


def test_key_whose_comparison_fails_leaves_the_lock_free(entries: StripedDict[Any, Any]) -> None:
    """What a key's `__eq__` raises goes out to the caller, and the dict goes on."""

    class Rude:
        def __hash__(self) -> int:
            return hash("k")

        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError

    entries["k"] = 1
    for call in (entries.read, entries.delete, lambda key: entries.put(key, 1)):
        with pytest.raises(ZeroDivisionError):
            call(Rude())
    assert entries["k"] == 1


# Writing, with and without conditions


def test_put_tells_created_and_version(entries: StripedDict[Any, Any]) -> None:
    """A write tells whether the key is new, and the version that a read then shows."""
    first = entries.put("k", 1)
    assert isinstance(first, Written)
    assert first.created
    assert version_of(entries, "k") == first.version
    second = entries.put("k", 2)
    assert isinstance(second, Written)
    assert not second.created
    assert second.version > first.version
    assert version_of(entries, "k") == second.version


def test_put_keeps_the_content_type(entries: StripedDict[Any, Any]) -> None:
    """The content type is kept with the value; the default is bytes of no known kind."""
    entries.put("k", b"{}", content_type="application/json")
    entry = entries.read("k")
    assert entry is not None
    assert entry[CONTENT_TYPE] == "application/json"
    entries["k"] = b"{}"
    entry = entries.read("k")
    assert entry is not None
    assert entry[CONTENT_TYPE] == "application/octet-stream"


def test_delete_tells_its_own_version(entries: StripedDict[Any, Any]) -> None:
    """A deletion has a version higher than the key's, and a missing key is an answer."""
    first = written(entries.put("k", 1))
    deleted = entries.delete("k")
    assert isinstance(deleted, Deleted)
    assert deleted.version > first.version
    assert entries.delete("k") == Missing("key")
    assert written(entries.put("k", 2)).version > deleted.version


CONDITIONS: dict[str, tuple[Callable[[int], Condition], bool, bool]] = {
    # what: (condition made from the present version, holds when there, holds when not there)
    "none": (lambda _: Condition(), True, True),
    "the version": (Condition.version, True, False),
    "another version": (lambda v: Condition.version(v + 1), False, False),
    "an older version": (lambda v: Condition.version(v - 1), False, False),
    "absent": (lambda _: Condition.version(0), False, True),
    "exists": (lambda _: Condition(must_exist=True), True, False),
    "exists and absent": (lambda _: Condition(None, frozenset(), True, True), False, False),
    "a list with the version": (lambda v: Condition(frozenset({1, v, 3})), True, False),
    "a list without it": (lambda v: Condition(frozenset({1, v + 1})), False, False),
    "an empty list": (lambda _: Condition(frozenset()), False, False),
    "none of a list with it": (lambda v: Condition(None, frozenset({1, v})), False, True),
    "none of a list without it": (lambda v: Condition(None, frozenset({1, v + 1})), True, True),
    "the version and none of it": (
        lambda v: Condition.version(v) & Condition(None, frozenset({v})),
        False,
        False,
    ),
    "the version and exists": (
        lambda v: Condition.version(v) & Condition(must_exist=True),
        True,
        False,
    ),
    "the version and absent": (lambda v: Condition.version(v) & Condition.version(0), False, False),
    "exists and none of another": (
        lambda v: Condition(None, frozenset({v + 1}), must_exist=True),
        True,
        False,
    ),
}


@pytest.mark.parametrize("what", CONDITIONS)
def test_condition_on_a_key_that_is_there(entries: StripedDict[Any, Any], what: str) -> None:
    """On a key that is there, a write and a deletion happen exactly when the condition holds."""
    condition_of, holds, _ = CONDITIONS[what]
    version = written(entries.put("k", "old")).version
    before = entries.read("k")
    condition = condition_of(version)
    outcome = entries.put("k", "new", condition=condition)
    if holds:
        assert outcome == Written(version_of(entries, "k"), False)
        assert entries["k"] == "new"
    else:
        assert outcome == Conflict(before)
        assert entries.read("k") is before
    current = written(entries.put("k", "old")).version
    before = entries.read("k")
    removed = entries.delete("k", condition=condition_of(current))
    if holds:
        assert isinstance(removed, Deleted)
        assert "k" not in entries
    else:
        assert removed == Conflict(before)
        assert entries.read("k") is before


@pytest.mark.parametrize("what", CONDITIONS)
@pytest.mark.parametrize("why", ["never written", "deleted", "expired", "cleared", "popped"])
def test_condition_on_a_key_that_is_not_there(
    entries: StripedDict[Any, Any], clock: ManualClock, what: str, why: str
) -> None:
    """On a missing key a write creates when the condition holds; a deletion deletes nothing."""
    condition_of, _, holds = CONDITIONS[what]
    version = 1_000
    if why != "never written":
        version = written(entries.put("k", "old", ttl=10)).version
    if why == "deleted":
        del entries["k"]
    elif why == "expired":
        clock.advance(10)
    elif why == "cleared":
        entries.clear()
    elif why == "popped":
        entries.pop("k")
    condition = condition_of(version)
    assert entries.delete("k", condition=condition) == (Missing() if holds else Conflict(None))
    outcome = entries.put("k", "new", condition=condition)
    if holds:
        assert outcome == Written(version_of(entries, "k"), True)
        assert entries["k"] == "new"
    else:
        assert outcome == Conflict(None)
        assert "k" not in entries


def test_compare_and_set(entries: StripedDict[Any, Any]) -> None:
    """It writes for the version that is there, or for 0 where nothing is, and tells otherwise."""
    created = entries.compare_and_set("k", 0, "one")
    assert isinstance(created, Written)
    assert created.created
    refused = entries.compare_and_set("k", 0, "two")
    assert isinstance(refused, Conflict)
    assert refused.current == entries.read("k")
    updated = entries.compare_and_set("k", created.version, "two")
    assert isinstance(updated, Written)
    assert not updated.created
    assert entries.compare_and_set("k", created.version, "three") == Conflict(entries.read("k"))
    assert entries["k"] == "two"
    del entries["k"]
    assert entries.compare_and_set("k", updated.version, "three") == Conflict(None)


# Versions


def test_versions_rise_and_never_repeat(entries: StripedDict[Any, Any], clock: ManualClock) -> None:
    """Across overwriting, deletion, expiry, clear and pop a key never has a version again."""
    seen = [0]

    def written(outcome: Written | Conflict[Any]) -> None:
        assert isinstance(outcome, Written)
        assert seen[-1] < outcome.version < MAX_VERSION
        assert version_of(entries, "k") == outcome.version
        seen.append(outcome.version)

    for _ in range(3):
        written(entries.put("k", 1))
        written(entries.put("k", 2))
        del entries["k"]
        written(entries.put("k", 3, ttl=5))
        clock.advance(5)
        written(entries.put("k", 4, ttl=5))
        clock.advance(5)
        assert "k" not in entries
        written(entries.put("k", 5))
        entries.clear()
        written(entries.compare_and_set("k", 0, 6))
        written(entries.compare_and_set("k", seen[-1], 7))
        entries.pop("k")
    assert len(set(seen)) == len(seen)


def test_old_version_never_matches_again(
    entries: StripedDict[Any, Any], clock: ManualClock
) -> None:
    """After a key was removed and written again with the same value, its old version is refused."""
    removals: list[Callable[[], object]] = [
        lambda: entries.delete("k"),
        lambda: entries.pop("k"),
        lambda: entries.clear(),
        lambda: clock.advance(10),
    ]
    for remove in removals:
        old = written(entries.put("k", "same", ttl=10)).version
        remove()
        entries.put("k", "same")
        assert isinstance(entries.compare_and_set("k", old, "new"), Conflict)
        assert isinstance(entries.delete("k", condition=Condition.version(old)), Conflict)


def test_versions_start_with_the_wall_clock(make: Maker, clock: ManualClock, stripes: int) -> None:
    """A dict made later, as after a restart, gives higher versions than one before it."""
    before = make.striped(stripes)
    last = 0
    for number in range(1_000):
        last = written(before.put("k", number)).version
    assert last > WALL * 1e6
    clock.advance(0.01)
    assert written(make.striped(stripes).put("k", 0)).version > last


@pytest.mark.parametrize("wall", [0.0, 1.0, 4_102_444_800.0])
def test_versions_are_positive_and_below_2_to_the_53(
    make: Maker, stripes: int, wall: float
) -> None:
    """From 1970 to 2100, versions fit a JSON number and are never 0."""
    entries = make.striped(stripes, clock=ManualClock(wall=wall))
    assert 0 < written(entries.put("k", 1)).version < MAX_VERSION


# Deadlines


def test_entry_is_gone_exactly_at_its_deadline(
    entries: StripedDict[Any, Any], reader: StripedDict[Any, Any], clock: ManualClock
) -> None:
    """Just before the deadline it is there for every way of looking; at the deadline for none."""
    entries.put("k", "v", ttl=10)
    deadline = clock.monotonic() + 10
    clock.set(math.nextafter(deadline, 0))
    assert "k" in reader
    assert reader["k"] == "v"
    assert list(reader) == ["k"]
    assert list(reader.items()) == [("k", "v")]
    assert list(reader.snapshot()) == ["k"]
    clock.set(deadline)
    assert list(reader) == list(reader.items()) == []
    assert reader.snapshot() == {}
    assert reader.get("k", "gone") == "gone"
    assert "k" not in reader


WAYS_TO_FIND_IT_GONE: dict[str, Callable[[StripedDict[Any, Any]], object]] = {
    "read": lambda entries: entries.read("k") is None,
    "get": lambda entries: entries.get("k", "gone") == "gone",
    "in": lambda entries: "k" not in entries,
    "delete": lambda entries: entries.delete("k") == Missing(),
    "delete under a condition": lambda entries: (
        entries.delete("k", condition=Condition(must_exist=True)) == Conflict(None)
    ),
    "compare and set": lambda entries: entries.compare_and_set("k", 5, 1) == Conflict(None),
    "pop": lambda entries: entries.pop("k", "gone") == "gone",
    "overwrite": lambda entries: written(entries.put("k", "new")).created,
    "create": lambda entries: written(entries.compare_and_set("k", 0, "new")).created,
    "setdefault": lambda entries: entries.setdefault("k", "new") == "new",
}


@pytest.mark.parametrize("way", WAYS_TO_FIND_IT_GONE)
@pytest.mark.parametrize("late", [0, 1000])
def test_expired_entry_is_found_gone_and_counted_once(
    entries: StripedDict[Any, Any], clock: ManualClock, way: str, late: float
) -> None:
    """Whoever meets an expired entry first finds nothing and cleans up; it is counted once."""
    entries.put("k", "v", ttl=10)
    entries.put("other", "v", ttl=10_000)
    clock.advance(10 + late)
    assert entries.statistics().expirations == 0
    assert len(entries) == 2, "nobody met it yet"
    assert WAYS_TO_FIND_IT_GONE[way](entries)
    assert entries.statistics().expirations == 1
    assert entries.read("absent") is None
    assert WAYS_TO_FIND_IT_GONE["delete"](entries) or entries["other"] == "v"
    assert entries.statistics().expirations == 1


def test_ttl_of_nothing_is_for_ever(entries: StripedDict[Any, Any], clock: ManualClock) -> None:
    """Without a ttl, or with 0, an entry stays."""
    entries.put("a", 1)
    entries.put("b", 1, ttl=0)
    entries.put("c", 1, ttl=0.0)
    clock.advance(1e9)
    assert sorted(entries) == ["a", "b", "c"]


def test_overwriting_replaces_the_deadline(
    entries: StripedDict[Any, Any], clock: ManualClock
) -> None:
    """The new value has its own deadline, or none; the old one's means nothing any more."""
    entries.put("a", 1, ttl=5)
    entries.put("a", 2)
    entries.put("b", 1, ttl=5)
    entries.put("b", 2, ttl=7)
    entries.put("c", 1, ttl=9)
    entries.put("c", 2, ttl=5)
    clock.advance(5)
    assert ("a" in entries, "b" in entries, "c" in entries) == (True, True, False)
    clock.advance(2)
    assert ("a" in entries, "b" in entries) == (True, False)


def test_conflict_leaves_the_deadline(entries: StripedDict[Any, Any], clock: ManualClock) -> None:
    """A write that didn't happen lengthens no life."""
    entries.put("k", 1, ttl=5)
    entries.compare_and_set("k", 1, 2, ttl=100)
    clock.advance(5)
    assert "k" not in entries


def test_very_short_ttl_is_over_at_once_or_soon(
    entries: StripedDict[Any, Any], clock: ManualClock
) -> None:
    """The shortest life that can be asked for ends at the latest when time moves."""
    assert written(entries.put("k", 1, ttl=5e-324)).created
    clock.set(math.nextafter(clock.monotonic(), math.inf))
    assert "k" not in entries


@pytest.mark.parametrize("ttl", [-1.0, -1e-9, math.nan])
def test_ttl_that_is_no_length_of_time_is_refused(
    entries: StripedDict[Any, Any], ttl: float
) -> None:
    """A negative ttl, or one that is no number, is an error and changes nothing."""
    entries.put("k", "before")
    with pytest.raises(InvalidTTL):
        entries.put("k", "after", ttl=ttl)
    assert entries["k"] == "before"


# What runs while a lock is held


class Watchful:
    """A value that, when it is freed, tells which locks of its dict are held."""

    def __init__(self, entries: StripedDict[Any, Any], freed: list[bool]) -> None:
        self.entries = entries
        self.freed = freed

    def __del__(self) -> None:
        self.freed.append(any(locked() for locked in locks_of(self.entries).values()))


WAYS_TO_DROP_A_VALUE: dict[str, Callable[[StripedDict[Any, Any]], object]] = {
    "overwrite": lambda entries: entries.put("k", "new"),
    "set": lambda entries: entries.__setitem__("k", "new"),
    "compare and set": lambda entries: entries.compare_and_set(
        "k", version_of(entries, "k"), "new"
    ),
    "delete": lambda entries: entries.delete("k"),
    "del": lambda entries: entries.__delitem__("k"),
    "pop": lambda entries: entries.pop("k") and None,
    "clear": lambda entries: entries.clear(),
    "clear a view": lambda entries: entries.view().clear(),
}
WAYS_TO_DROP_WHAT_EXPIRED: dict[str, Callable[[StripedDict[Any, Any]], object]] = {
    "read": lambda entries: entries.read("k"),
    "overwrite": lambda entries: entries.put("k", "new"),
    "delete": lambda entries: entries.delete("k"),
    "conflict": lambda entries: entries.compare_and_set("k", 1, "new"),
    "conflict of a deletion": lambda entries: entries.delete("k", condition=Condition.version(1)),
}


@pytest.mark.parametrize("way", WAYS_TO_DROP_A_VALUE)
def test_value_is_freed_outside_the_locks(entries: StripedDict[Any, Any], way: str) -> None:
    """Freeing a value, which may take long or run its owner's code, happens when no lock is held."""
    freed: list[bool] = []
    entries.put("k", Watchful(entries, freed))
    WAYS_TO_DROP_A_VALUE[way](entries)
    gc.collect()  # the interpreter without the GIL may free a little later
    assert freed == [False]


@pytest.mark.parametrize("way", WAYS_TO_DROP_WHAT_EXPIRED)
def test_expired_value_is_freed_outside_the_locks(
    entries: StripedDict[Any, Any], clock: ManualClock, way: str
) -> None:
    """The same for a value that whoever met it found expired."""
    freed: list[bool] = []
    entries.put("k", Watchful(entries, freed), ttl=10)
    clock.advance(10)
    WAYS_TO_DROP_WHAT_EXPIRED[way](entries)
    gc.collect()
    assert freed == [False]


def test_value_that_was_refused_is_freed_outside_the_locks(make: Maker, stripes: int) -> None:
    """The same for a value that found no room, one that never will and one that met a conflict."""

    def cost(_key: object, entry: Entry[Any]) -> int:
        return 1_000 if entry[CONTENT_TYPE] == "large" else 100

    entries = make.striped(stripes, cost=cost, budget=Budget(150))
    entries.put("other", "fills it")
    freed: list[bool] = []
    for content_type, error in (("small", StoreFull), ("large", NeverFits)):
        try:
            entries.put("k", Watchful(entries, freed), content_type=content_type)
        except error as failure:
            failure.__traceback__ = None  # which holds the value
    entries.compare_and_set("k", 5, Watchful(entries, freed))
    gc.collect()
    assert freed == [False, False, False]


def test_finalizer_of_a_value_may_use_the_dict(entries: StripedDict[Any, Any]) -> None:
    """A value that writes to the dict when it is freed waits for nobody."""

    class Noisy:
        def __del__(self) -> None:
            entries["log"] = "freed"

    for drop in (entries.clear, lambda: entries.pop("k") and None, lambda: entries.put("k", 1)):
        entries["k"] = Noisy()
        in_thread(drop)
        gc.collect()
        assert entries.pop("log") == "freed"


def test_failing_cost_changes_nothing(make: Maker, stripes: int) -> None:
    """What the cost function raises goes out, with the old value in place and the lock free."""

    def cost(_key: object, entry: Entry[int]) -> int:
        if entry[VALUE] < 0:
            raise ZeroDivisionError
        return entry[VALUE]

    entries = make.striped(stripes, cost=cost, budget=Budget(1_000))
    entries["k"] = 5
    before = (entries.snapshot(), entries.totals())
    for key in ("k", "new"):
        with pytest.raises(ZeroDivisionError):
            entries[key] = -1
    assert (entries.snapshot(), entries.totals()) == before


# The whole


def test_clear_deletes_everything(
    entries: StripedDict[Any, Any], reader: StripedDict[Any, Any]
) -> None:
    """A clear through one view empties all and says how many entries went."""
    for number in range(100):
        entries[number] = number
    assert reader.clear() == 100
    assert not entries
    assert not reader
    assert [key for key in range(100) if key in entries or key in reader] == []
    assert entries.clear() == 0
    entries["k"] = 1
    assert reader["k"] == 1


def test_snapshot_is_a_copy(entries: StripedDict[Any, Any], clock: ManualClock) -> None:
    """What happens after a snapshot is not seen in it: writes, deletions, the passing of time."""
    entries["a"] = 1
    entries.put("mortal", 2, ttl=5)
    snapshot = entries.snapshot()
    before = dict(snapshot)
    entries["b"] = 2
    entries["a"] = 3
    entries.reshape(2)
    clock.advance(5)
    entries.clear()
    assert sorted(snapshot) == ["a", "mortal"]
    assert snapshot["a"][VALUE] == 1
    assert snapshot == before
    assert len(snapshot) == 2
    assert "b" not in snapshot
    with pytest.raises(TypeError):
        snapshot["c"] = snapshot["a"]  # type: ignore[index]
    assert list(entries) == []


def test_totals_count_entries_and_bytes(make: Maker, stripes: int) -> None:
    """Entries and bytes follow every kind of change."""
    entries = make.striped(stripes, cost=lambda key, entry: len(key) + len(entry[VALUE]))
    for size, total in [(3, 4), (5, 6), (0, 1)]:
        entries.put("k", "v" * size)
        assert entries.totals() == (1, total)
    entries.put("key", "value")
    assert entries.totals() == (2, 9)
    assert (entries.statistics().entries, entries.statistics().bytes) == (2, 9)
    entries.delete("k")
    entries.compare_and_set("key", 1, "a long value that isn't written")
    assert entries.totals() == (1, 8)
    entries.clear()
    assert entries.totals() == (0, 0)


def test_iteration_goes_on_while_keys_come_and_go(entries: StripedDict[Any, Any]) -> None:
    """A key that is there throughout comes exactly once, whatever is written meanwhile."""
    stay = set(range(100))
    for key in stay:
        entries[key] = "stays"
    came = []
    for number, key in enumerate(entries):
        came.append(key)
        entries[1_000 + number] = "comes"
        entries.pop(999 + number, None)
        entries[key] = "rewritten"
        if number > 10_000:
            break
    assert sorted(key for key in came if key in stay) == sorted(stay)
    assert len(set(came)) == len(came)


def test_items_skip_what_was_deleted_meanwhile(entries: StripedDict[Any, Any]) -> None:
    """A key deleted after the iteration came to know of it isn't shown with a made-up value."""
    for key in range(10):
        entries[key] = key
    shown = []
    for key, value in entries.items():
        shown.append(key)
        assert value == key
        for other in range(10):
            if other != key:
                entries.pop(other, None)
    assert len(shown) == 1


# Views, stripes, arguments


def test_views_that_are_dropped_are_forgotten(entries: StripedDict[Any, Any]) -> None:
    """Making and dropping views leaves nothing behind."""
    for _ in range(1_000):
        entries.view()
    assert registered_views(entries) <= 3
    for _ in range(50):
        in_thread(lambda: entries.view().read("k"))
    assert len(views_of(entries)) == 1
    assert registered_views(entries) <= 3


def test_dict_lives_on_in_its_views(make: Maker, stripes: int) -> None:
    """A view keeps what it shows, though the object that it was made from is gone."""
    view = StripedDict[str, int](stripes, clock=make.clock).view()
    view["k"] = 1
    again = view.view()
    assert (view["k"], again["k"], again.clear()) == (1, 1, 1)


@pytest.mark.parametrize("stripes", [0, -1, 3, 6, 63, 65, 8192, MAX_STRIPES + 1])
def test_number_of_stripes_is_refused(stripes: int) -> None:
    """Stripes are a power of two from 1 to 4,096."""
    with pytest.raises(ValueError, match=rf"power of two from 1 to 4096, not {stripes}"):
        StripedDict(stripes)


@pytest.mark.parametrize("many", [1, 2, 64, 4096])
def test_number_of_stripes_is_accepted(make: Maker, many: int) -> None:
    """Every power of two in that range works."""
    entries = make.striped(many)
    entries["k"] = 1
    assert entries["k"] == 1
    assert len(stripes_of(entries)) == many


def test_cost_and_growth_together_are_refused() -> None:
    """One follows from the other, so two could contradict each other."""
    with pytest.raises(ValueError, match="one follows"):
        StripedDict(cost=lambda _key, _entry: 1, growth=lambda _key, _old, _new: 1)


def test_budget_without_cost_is_refused() -> None:
    """A limit on bytes means nothing where nothing counts them."""
    with pytest.raises(ValueError, match="cost"):
        StripedDict(budget=Budget(1_000))


def test_defaults_need_no_argument() -> None:
    """Without arguments it is a dict with the time of day and 64 stripes."""
    entries = StripedDict[str, int]()
    assert written(entries.put("k", 1, ttl=1_000)).version > WALL * 1e6
    assert len(stripes_of(entries)) == DEFAULT_STRIPES
    assert entries["k"] == 1


COUNT = 10_000
KEYS: dict[str, Callable[[int], object]] = {
    "numbers": lambda n: n,
    "negative numbers": lambda n: n - COUNT,
    "multiples of 64": lambda n: n * 64,
    "multiples of 4096": lambda n: n * 4096,
    "multiples of 2**32": lambda n: n * 2**32,
    "multiples of 2**40": lambda n: n * 2**40,
    "multiples of 2**61": lambda n: n * 2**61,
    "fractions": lambda n: n / 1024,
    "texts": lambda n: f"key{n}",
    "long texts": lambda n: f"{'x' * 50}{n:010}",
    "bytes": lambda n: b"%d" % n,
    "pairs": lambda n: (n % 200, n // 200),
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("many", [64, 4096])
def test_keys_spread_over_the_stripes(make: Maker, kind: str, many: int) -> None:
    """Whatever the keys, no stripe has far more than its share of them."""
    entries = make.striped(many)
    for number in range(COUNT):
        entries.put(KEYS[kind](number), None)
    share = COUNT / many
    assert max(len(stripe.entries()) for stripe in stripes_of(entries)) <= 3 * share + 12


def test_stripe_says_nothing_about_the_place_in_its_dict(make: Maker) -> None:
    """Keys of one stripe differ in the bits by which a dict finds them: no collisions are made."""
    entries = make.striped(64)
    for number in range(COUNT):
        entries[f"key{number}"] = 0
    for stripe in stripes_of(entries):
        places = Counter(hash(key) & 63 for key in stripe.entries())
        assert max(places.values()) <= len(stripe.entries()) / 8 + 8
