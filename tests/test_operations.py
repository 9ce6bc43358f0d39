"""The verbs: what they check, what they answer, and that a refusal changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from cacheserver import operations
from cacheserver.errors import (
    CacheServerError,
    ConditionRequired,
    Contention,
    IntegerOverflow,
    InvalidConfig,
    InvalidKey,
    InvalidNamespace,
    InvalidTTL,
    KeyTooLong,
    NamespaceGone,
    NeverFits,
    NotAnInteger,
    StoreFull,
    TooManyNamespaces,
    ValueTooLarge,
)
from cacheserver.store.entry import (
    CONTENT_TYPE,
    DEADLINE,
    DEFAULT_CONTENT_TYPE,
    VALUE,
    VERSION,
    Entry,
)
from cacheserver.store.namespace import NamespaceStatistics
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Touched, Written
from cacheserver.store.store import Store, StoreView
from tests.conftest import Maker
from tests.support.clock import ManualClock
from tests.support.outcomes import written
from tests.support.threads import frequent_switches, run_threads


@pytest.fixture
def store(make: Maker, stripes: int) -> Store:
    """An empty store, once with one stripe a namespace and once with many."""
    return make.store(stripes=stripes, max_value_size=1_000, max_memory=10_000_000)


@pytest.fixture
def view(store: Store) -> StoreView:
    """This thread's way into it."""
    return store.view()


def kept(view: StoreView, namespace: str, key: str) -> Entry[bytes]:
    """The entry, which must be there."""
    entry = operations.get(view, namespace, key)
    assert not isinstance(entry, Missing)
    return entry


def test_get_tells_what_is_missing(view: StoreView, store: Store) -> None:
    """A miss says whether the key or the whole namespace is missing, and makes neither."""
    assert operations.get(view, "users", "k") == Missing("namespace")
    assert store.names() == []
    operations.put(view, "users", "other", b"v")
    assert operations.get(view, "users", "k") == Missing("key")


def test_put_then_get(view: StoreView, store: Store) -> None:
    """The first write makes the namespace, and a get gives everything back."""
    written = operations.put(view, "users", "k", b"v", content_type="text/plain")
    assert isinstance(written, Written)
    assert written.created
    entry = kept(view, "users", "k")
    assert entry[VALUE] == b"v"
    assert entry[VERSION] == written.version
    assert entry[CONTENT_TYPE] == "text/plain"
    assert operations.seconds_left(view, entry) is None
    assert store.names() == ["users"]


def test_put_has_a_default_content_type(view: StoreView) -> None:
    """Bytes of no known kind are an octet stream."""
    operations.put(view, "users", "k", b"")
    entry = kept(view, "users", "k")
    assert entry[CONTENT_TYPE] == DEFAULT_CONTENT_TYPE == "application/octet-stream"


def test_delete(view: StoreView, store: Store) -> None:
    """A deletion deletes once; after that, and without a namespace, it tells what is missing."""
    assert operations.delete(view, "users", "k") == Missing("namespace")
    assert store.names() == []
    operations.put(view, "users", "k", b"v")
    assert isinstance(operations.delete(view, "users", "k"), Deleted)
    assert operations.delete(view, "users", "k") == Missing("key")


def test_delete_under_a_condition(view: StoreView) -> None:
    """A condition that doesn't hold is a conflict, with or without key and namespace."""
    one = Condition.version(1)
    assert operations.delete(view, "users", "k", condition=one) == Conflict(None)
    absent = Condition.version(0)
    assert operations.delete(view, "users", "k", condition=absent) == Missing("namespace")
    written = operations.put(view, "users", "k", b"v")
    assert isinstance(written, Written)
    there = kept(view, "users", "k")
    assert operations.delete(view, "users", "k", condition=one) == Conflict(there)
    current = Condition.version(written.version)
    assert isinstance(operations.delete(view, "users", "k", condition=current), Deleted)
    assert operations.delete(view, "users", "k", condition=current) == Conflict(None)


@pytest.mark.parametrize(
    "condition",
    [
        Condition.version(5),
        Condition(must_exist=True),
        Condition(must_exist=True, must_be_absent=True),
    ],
)
def test_condition_that_fails_makes_no_namespace(
    view: StoreView, store: Store, condition: Condition
) -> None:
    """What can't hold in a namespace that isn't there is a conflict, and none is made for it."""
    assert operations.put(view, "users", "k", b"v", condition=condition) == Conflict(None)
    assert store.names() == []


def test_create_only_makes_the_namespace(view: StoreView, store: Store) -> None:
    """A condition that holds where nothing is makes namespace and key."""
    created = operations.compare_and_set(view, "users", "k", 0, b"v")
    assert isinstance(created, Written)
    assert created.created
    assert store.names() == ["users"]


def test_compare_and_set(view: StoreView) -> None:
    """It writes for the version that is there and tells what is there otherwise."""
    created = operations.compare_and_set(view, "users", "k", 0, b"one", content_type="text/plain")
    assert isinstance(created, Written)
    there = kept(view, "users", "k")
    assert there[CONTENT_TYPE] == "text/plain"
    assert operations.compare_and_set(view, "users", "k", 0, b"two") == Conflict(there)
    assert operations.compare_and_set(view, "users", "k", 7, b"two") == Conflict(there)
    updated = operations.compare_and_set(view, "users", "k", created.version, b"two")
    assert isinstance(updated, Written)
    assert not updated.created
    assert updated.version > created.version
    assert operations.compare_and_set(view, "users", "gone", 7, b"v") == Conflict(None)
    assert operations.compare_and_set(view, "nowhere", "k", 7, b"v") == Conflict(None)


@pytest.mark.parametrize("version", [-1, 2**53, 10**400])
def test_version_that_no_key_can_have_is_a_conflict(view: StoreView, version: int) -> None:
    """However odd the number, it is compared and nothing else."""
    operations.put(view, "users", "k", b"v")
    there = kept(view, "users", "k")
    assert operations.compare_and_set(view, "users", "k", version, b"w") == Conflict(there)


def test_ttl_is_exact(view: StoreView, clock: ManualClock) -> None:
    """The entry is there until its seconds are over, and `seconds_left` counts them down."""
    operations.put(view, "users", "k", b"v", ttl=1.5)
    entry = kept(view, "users", "k")
    assert operations.seconds_left(view, entry) == 1.5
    clock.advance(1.25)
    assert operations.seconds_left(view, entry) == 0.25
    assert operations.get(view, "users", "k") == entry
    clock.set(entry[DEADLINE])
    assert operations.get(view, "users", "k") == Missing("key")
    clock.advance(5)
    assert operations.seconds_left(view, entry) == 0


def test_ttl_of_nothing_is_for_ever(view: StoreView, clock: ManualClock) -> None:
    """None (no default is set) and 0 keep the entry for good; compare-and-set takes a ttl too."""
    operations.put(view, "users", "a", b"v")
    operations.put(view, "users", "b", b"v", ttl=0)
    operations.compare_and_set(view, "users", "c", 0, b"v", ttl=5)
    clock.advance(1e8)
    assert [operations.get(view, "users", key) != Missing() for key in "abc"] == [True, True, False]


BAD: dict[str, tuple[str, str, bytes, float | None, type[CacheServerError]]] = {
    # what: (namespace, key, value, ttl, error)
    "empty key": ("users", "", b"v", None, InvalidKey),
    "surrogate in the key": ("users", "\ud800", b"v", None, InvalidKey),
    "key too long": ("users", "k" * 1_025, b"v", None, KeyTooLong),
    "key too long in bytes": ("users", "\u00e9" * 513, b"v", None, KeyTooLong),
    "empty namespace": ("", "k", b"v", None, InvalidNamespace),
    "slash in the namespace": ("a/b", "k", b"v", None, InvalidNamespace),
    "namespace too long": ("x" * 65, "k", b"v", None, InvalidNamespace),
    "negative ttl": ("users", "k", b"v", -1, InvalidTTL),
    "endless ttl": ("users", "k", b"v", math.inf, InvalidTTL),
    "ttl that is no number": ("users", "k", b"v", math.nan, InvalidTTL),
    "ttl of eleven years": ("users", "k", b"v", 11 * 366 * 86_400, InvalidTTL),
    "ttl beyond all floats": ("users", "k", b"v", 10**400, InvalidTTL),
    "value too large": ("users", "k", bytes(1_001), None, ValueTooLarge),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_words_are_refused_by_put_and_change_nothing(
    view: StoreView, store: Store, what: str
) -> None:
    """What is off raises its own error, and neither key nor namespace is made."""
    namespace, key, value, ttl, error = BAD[what]
    calls: list[Callable[[], object]] = [
        lambda: operations.put(view, namespace, key, value, ttl=ttl),
        lambda: operations.compare_and_set(view, namespace, key, 0, value, ttl=ttl),
        lambda: operations.compare_and_set(view, namespace, key, 5, value, ttl=ttl),
        lambda: operations.append(view, namespace, key, value, ttl=ttl),
    ]
    for call in calls:
        with pytest.raises(error):
            call()
    assert store.names() == []
    operations.put(view, "users", "there", b"v")
    for call in calls:
        with pytest.raises(error):
            call()
    assert store.statistics().entries == 1


@pytest.mark.parametrize("what", [what for what, bad in BAD.items() if bad[3] is None])
def test_bad_words_are_refused_by_get_and_delete(view: StoreView, what: str) -> None:
    """The same names and keys are refused to whoever reads or deletes."""
    namespace, key, value, _ttl, error = BAD[what]
    if len(value) > 1:
        return
    with pytest.raises(error):
        operations.get(view, namespace, key)
    with pytest.raises(error):
        operations.delete(view, namespace, key)
    with pytest.raises(error):
        operations.delete(view, namespace, key, condition=Condition.version(5))
    with pytest.raises(error):
        operations.touch(view, namespace, key)
    with pytest.raises(error):
        operations.incr(view, namespace, key)


def test_largest_value_and_key_are_accepted(view: StoreView) -> None:
    """The limits themselves are allowed, and so is no value at all."""
    operations.put(view, "x" * 64, "k" * 1_024, bytes(1_000))
    assert operations.get(view, "x" * 64, "k" * 1_024) != Missing("key")
    operations.put(view, "users", "k", b"")
    entry = kept(view, "users", "k")
    assert entry[VALUE] == b""


def test_too_many_namespaces_is_an_error_for_writers_alone(make: Maker) -> None:
    """Where no more namespaces are allowed, a write to a new one fails, and reading is a miss."""
    store = make.store(max_namespaces=1)
    view = store.view()
    operations.put(view, "a", "k", b"v")
    with pytest.raises(TooManyNamespaces):
        operations.put(view, "b", "k", b"v")
    assert operations.get(view, "b", "k") == Missing("namespace")
    assert operations.delete(view, "b", "k") == Missing("namespace")
    assert written(operations.put(view, "a", "k", b"w")).version


def test_full_store_is_an_error_and_changes_nothing(make: Maker) -> None:
    """A write without room leaves the key as it was, and so does one that can never fit."""
    store = make.store(max_memory=10_000, policy="none")
    view = store.view()
    operations.put(view, "a", "k", b"v")
    operations.put(view, "a", "other", bytes(5_000))
    before = operations.get(view, "a", "k")
    for size, error in ((5_000, StoreFull), (12_000, NeverFits)):
        for key in ("k", "l"):
            with pytest.raises(error):
                operations.put(view, "a", key, bytes(size))
            with pytest.raises(error):
                operations.append(view, "a", key, bytes(size))
    assert operations.get(view, "a", "k") == before
    assert operations.get(view, "a", "l") == Missing("key")


def test_content_types_cannot_fill_the_memory(make: Maker) -> None:
    """Content types, which are kept with each value, are within the limit too, or are refused."""
    limit = 200_000
    store = make.store(max_memory=limit)
    view = store.view()
    for number in range(400):
        long = f"text/plain; x={number:02000}"
        try:
            operations.put(view, "a", f"k{number}", b"", content_type=long)
        except CacheServerError:
            break
    found = [operations.get(view, "a", f"k{number}") for number in range(400)]
    sizes = [len(entry[CONTENT_TYPE]) for entry in found if not isinstance(entry, Missing)]
    assert sum(sizes) <= limit


def test_threads_count_without_loss_through_the_verbs(store: Store) -> None:
    """Six threads that add one by get and compare-and-set lose nothing, and the counters agree."""
    operations.put(store.view(), "users", "counter", b"0")

    def work() -> int:
        view = store.view()
        conflicts = 0
        for _ in range(200):
            while True:
                entry = kept(view, "users", "counter")
                value = b"%d" % (int(entry[VALUE]) + 1)
                outcome = operations.compare_and_set(
                    view, "users", "counter", entry[VERSION], value
                )
                if isinstance(outcome, Written):
                    break
                conflicts += 1
        return conflicts

    with frequent_switches():
        conflicts = sum(run_threads([work] * 6))
    entry = kept(store.view(), "users", "counter")
    assert entry[VALUE] == b"1200"
    statistics = store.statistics().namespaces[0]
    assert statistics.cas_conflicts == conflicts
    assert statistics.writes == 1_201
    assert statistics.hits == 1_200 + conflicts + 1
    assert statistics.misses == 0


def test_refused_write_makes_no_namespace(make: Maker) -> None:
    """A write that finds no room leaves no empty namespace behind, whichever verb it is."""
    store = make.store(max_memory=10_000)
    view = store.view()
    with pytest.raises(NeverFits):
        operations.put(view, "new", "k", bytes(10_000))
    with pytest.raises(NeverFits):
        operations.append(view, "new", "k", bytes(10_000))
    with pytest.raises(IntegerOverflow):
        operations.incr(view, "new", "k", initial=2**63 - 1)
    assert store.names() == []
    assert operations.get(view, "new", "k") == Missing("namespace")


def test_compare_and_set_takes_another_condition_besides(view: StoreView) -> None:
    """Both the expected version and the other condition must hold."""
    first = operations.compare_and_set(view, "users", "k", 0, b"1")
    assert isinstance(first, Written)
    never = Condition(must_be_absent=True)
    refused = operations.compare_and_set(view, "users", "k", first.version, b"2", condition=never)
    assert isinstance(refused, Conflict)
    also = Condition(must_exist=True)
    done = operations.compare_and_set(view, "users", "k", first.version, b"2", condition=also)
    assert isinstance(done, Written)


def counted(outcome: operations.Counted | Conflict[bytes]) -> operations.Counted:
    """The outcome of an incr that must have happened."""
    assert isinstance(outcome, operations.Counted)
    return outcome


def test_incr(view: StoreView, clock: ManualClock) -> None:
    """It counts from `initial`, keeps deadline and content type, and each one is a new version."""
    first = counted(operations.incr(view, "users", "n", by=5, initial=10, ttl=60))
    assert first.value == 15
    entry = kept(view, "users", "n")
    assert (entry[VALUE], entry[VERSION]) == (b"15", first.version)
    assert (entry[CONTENT_TYPE], operations.seconds_left(view, entry)) == ("text/plain", 60)
    clock.advance(20)
    second = counted(operations.incr(view, "users", "n", by=-20))
    entry = kept(view, "users", "n")
    assert (second.value, entry[VALUE], entry[VERSION]) == (-5, b"-5", second.version)
    assert second.version > first.version
    assert operations.seconds_left(view, entry) == 40
    operations.incr(view, "users", "n", ttl=0)
    assert operations.seconds_left(view, kept(view, "users", "n")) is None
    clock.advance(1e6)
    assert counted(operations.incr(view, "users", "n")).value == -3


@pytest.mark.parametrize(
    "value", [b"", b"x", b"1.5", b"01", b"-0", b"+1", b" 1", b"9223372036854775808"]
)
def test_incr_of_what_is_no_integer(view: StoreView, value: bytes) -> None:
    """Only what incr itself would have written is counted on; all else stays as it is."""
    operations.put(view, "users", "n", value)
    before = kept(view, "users", "n")
    with pytest.raises(NotAnInteger):
        operations.incr(view, "users", "n")
    assert kept(view, "users", "n") == before


def test_append(view: StoreView, clock: ManualClock) -> None:
    """It makes the value or extends it, whose deadline and content type stay."""
    first = operations.append(view, "users", "k", b"ab", content_type="a/b", ttl=60)
    assert isinstance(first, operations.Appended)
    clock.advance(20)
    second = operations.append(view, "users", "k", b"c", content_type="c/d")
    assert isinstance(second, operations.Appended)
    assert (first.length, second.length) == (2, 3)
    entry = kept(view, "users", "k")
    assert (entry[VALUE], entry[VERSION], entry[CONTENT_TYPE]) == (b"abc", second.version, "a/b")
    assert operations.seconds_left(view, entry) == 40
    with pytest.raises(ValueTooLarge):
        operations.append(view, "users", "k", bytes(998))
    assert kept(view, "users", "k") == entry


def test_touch(view: StoreView, clock: ManualClock) -> None:
    """It gives another deadline and nothing else, and tells what is missing."""
    assert operations.touch(view, "users", "k", ttl=5) == Missing("namespace")
    version = written(operations.put(view, "users", "k", b"v", ttl=10)).version
    assert operations.touch(view, "users", "none") == Missing("key")
    assert operations.touch(view, "users", "k", ttl=60) == Touched(version)
    clock.advance(50)
    entry = kept(view, "users", "k")
    assert (entry[VERSION], operations.seconds_left(view, entry)) == (version, 10)
    assert operations.touch(view, "users", "k") == Touched(version)  # the default: for ever
    assert operations.seconds_left(view, kept(view, "users", "k")) is None
    with pytest.raises(InvalidTTL):
        operations.touch(view, "users", "k", ttl=-1)


def test_conditions_of_other_verbs(view: StoreView) -> None:
    """A condition that does not hold is a conflict, counted as one, and nothing is changed."""
    one, absent = Condition.version(1), Condition.version(0)
    assert operations.incr(view, "users", "n", condition=one) == Conflict(None)
    assert operations.append(view, "users", "n", b"", condition=one) == Conflict(None)
    assert operations.touch(view, "users", "n", condition=one) == Conflict(None)
    assert operations.touch(view, "users", "n", condition=absent) == Missing("namespace")
    assert view.store.names() == []
    first = counted(operations.incr(view, "users", "n", condition=absent))
    there = kept(view, "users", "n")
    for condition in (one, absent, Condition(must_be_absent=True, must_exist=True)):
        assert operations.incr(view, "users", "n", condition=condition) == Conflict(there)
        assert operations.append(view, "users", "n", b"", condition=condition) == Conflict(there)
        assert operations.touch(view, "users", "n", condition=condition) == Conflict(there)
    assert view.store.statistics().namespaces[0].cas_conflicts == 9
    current = Condition.version(first.version)
    assert counted(operations.incr(view, "users", "n", condition=current)).value == 2


def test_required_conditions(view: StoreView, store: Store) -> None:
    """Every verb that writes refuses to do so without one; what is malformed is told first."""
    operations.put_namespace(store, "users", {"require_cas": True})
    writes: list[Callable[[Condition | None], object]] = [
        lambda condition: operations.put(view, "users", "k", b"1", condition=condition),
        lambda condition: operations.incr(view, "users", "k", condition=condition),
        lambda condition: operations.append(view, "users", "k", b"1", condition=condition),
        lambda condition: operations.delete(view, "users", "k", condition=condition),
    ]
    for write in writes:
        with pytest.raises(ConditionRequired, match="If-Match"):
            write(None)
    assert store.statistics().entries == 0
    operations.put(view, "users", "k", b"1", condition=Condition.version(0))
    assert operations.touch(view, "users", "k", ttl=5) == Touched(kept(view, "users", "k")[VERSION])
    for write in writes:
        assert not isinstance(write(Condition(must_exist=True)), Conflict)


def test_a_lost_race_is_tried_again(view: StoreView, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others write between the read and the write is counted on; too many of them give up."""
    operations.put(view, "users", "n", b"0")
    put = operations.put
    rivals = 0

    def put_behind_a_rival(*arguments: Any, **options: Any) -> object:
        nonlocal rivals
        if rivals > 0:
            rivals -= 1
            put(view, "users", "n", b"%d" % (int(kept(view, "users", "n")[VALUE]) + 100))
        return put(*arguments, **options)

    monkeypatch.setattr(operations, "put", put_behind_a_rival)
    rivals = 3
    assert counted(operations.incr(view, "users", "n")).value == 301
    rivals = 3
    appended = operations.append(view, "users", "n", b"0")
    assert isinstance(appended, operations.Appended)
    assert kept(view, "users", "n")[VALUE] == b"6010"
    rivals = 1
    current = Condition.version(kept(view, "users", "n")[VERSION])
    assert isinstance(operations.incr(view, "users", "n", condition=current), Conflict)
    before, rivals = kept(view, "users", "n"), 1_000
    with pytest.raises(Contention):
        operations.incr(view, "users", "n")
    assert (int(kept(view, "users", "n")[VALUE]) - int(before[VALUE])) % 100 == 0


def test_threads_count_and_append_without_loss(store: Store) -> None:
    """Six threads that add to one number and to one log lose nothing, whatever Contention costs."""

    def work(name: int) -> int:
        view = store.view()
        done = 0
        while done < 150:
            try:
                operations.incr(view, "users", "n", by=name)
                done += 1
            except Contention:
                continue
        for turn in range(50):
            operations.append(view, "users", f"log{name % 2}", b"<%d.%d>" % (name, turn))
        return 150 * name

    with frequent_switches():
        total = sum(run_threads([partial(work, name) for name in range(6)]))
    view = store.view()
    assert kept(view, "users", "n")[VALUE] == b"%d" % total
    logs = kept(view, "users", "log0")[VALUE] + kept(view, "users", "log1")[VALUE]
    assert sorted(logs.split(b"<")[1:]) == sorted(
        b"%d.%d>" % (name, turn) for name in range(6) for turn in range(50)
    )


def test_namespaces_as_a_whole(view: StoreView, store: Store) -> None:
    """They are made, changed, told, cleared and dropped by name; what is not there is Missing."""
    missing = Missing("namespace")
    assert operations.patch_namespace(store, "users", {"policy": "lru"}) == missing
    assert operations.get_namespace(store, "users") == missing
    assert operations.clear_namespace(store, "users") == missing
    assert operations.delete_namespace(store, "users") == missing
    assert operations.list_namespaces(store) == ()
    made, created = operations.put_namespace(store, "users", {"max_entries": 5, "policy": None})
    assert (made.name, created, made.config.max_entries) == ("users", True, 5)
    assert made.config.policy == store.default_config.policy
    operations.put(view, "users", "k", b"v")
    changed = operations.patch_namespace(store, "users", {"policy": "lru"})
    assert isinstance(changed, NamespaceStatistics)
    assert (changed.config.max_entries, changed.config.policy) == (5, "lru")
    changed = operations.patch_namespace(store, "users", {"policy": None, "max_entries": None})
    assert isinstance(changed, NamespaceStatistics)
    assert changed.config == store.default_config
    again, created = operations.put_namespace(store, "users", {"default_ttl": 5})
    assert (again.config.default_ttl, created) == (5, False)
    operations.put_namespace(store, "admins", {})
    assert [each.name for each in operations.list_namespaces(store)] == ["admins", "users"]
    assert operations.clear_namespace(store, "users") == 1
    assert operations.delete_namespace(store, "users") == 0
    assert operations.get_namespace(store, "users") == missing


@pytest.mark.parametrize(
    "fields",
    [
        {"policy": "clock"},
        {"policy": ["lru"]},
        {"max_bytes": 0},
        {"max_entries": -1},
        {"max_entries": 1.0},
        {"default_ttl": -1},
        {"default_ttl": math.nan},
        {"default_ttl": 10**400},
        {"stripes": 3},
        {"require_cas": 1},
    ],
)
def test_bad_configurations(store: Store, fields: dict[str, Any]) -> None:
    """They raise InvalidConfig with the field's name, and neither make a namespace nor change one."""
    [name] = fields
    with pytest.raises(InvalidConfig, match=name):
        operations.put_namespace(store, "users", fields)
    assert store.names() == []
    before, _ = operations.put_namespace(store, "users", {"max_entries": 5, "stripes": 4})
    for change in (operations.put_namespace, operations.patch_namespace):
        with pytest.raises(InvalidConfig, match=name):
            change(store, "users", {"max_entries": 7, **fields})
    assert operations.get_namespace(store, "users") == before


def test_bad_names_of_namespaces(store: Store) -> None:
    """What can be no name is refused, whatever is to be done."""
    for name in ("", "a/b", "x" * 65, "\u00e9"):
        for change in (operations.put_namespace, operations.patch_namespace):
            with pytest.raises(InvalidNamespace):
                change(store, name, {})
        for act in (
            operations.get_namespace,
            operations.clear_namespace,
            operations.delete_namespace,
        ):
            with pytest.raises(InvalidNamespace):
                act(store, name)


def test_a_namespace_dropped_between_look_up_and_use(view: StoreView, store: Store) -> None:
    """Whoever still holds it looks again: reads miss, and writes make it anew."""
    operations.put(view, "users", "k", b"v")
    old = view.find("users")
    assert old is not None
    verbs: list[tuple[Callable[[], object], object]] = [
        (lambda: operations.get(view, "users", "k"), Missing("namespace")),
        (lambda: operations.delete(view, "users", "k"), Missing("namespace")),
        (lambda: operations.touch(view, "users", "k"), Missing("namespace")),
        (lambda: type(operations.put(view, "users", "k", b"v")), Written),
        (lambda: type(operations.incr(view, "users", "n")), operations.Counted),
        (lambda: type(operations.append(view, "users", "l", b"v")), operations.Appended),
    ]
    for verb, expected in verbs:
        operations.put(view, "users", "k", b"v")
        operations.delete_namespace(store, "users")
        assert verb() == expected
    with pytest.raises(NamespaceGone):
        old.put("k", b"v", None, DEFAULT_CONTENT_TYPE, None)


def test_a_namespace_that_was_dropped_requires_nothing(view: StoreView, store: Store) -> None:
    """Its configuration goes with it, also for a thread that wrote to it before."""
    verbs: list[tuple[Callable[[], object], object]] = [
        (lambda: operations.delete(view, "users", "k"), Missing("namespace")),
        (lambda: type(operations.put(view, "users", "k", b"v")), Written),
        (lambda: type(operations.incr(view, "users", "n")), operations.Counted),
        (lambda: type(operations.append(view, "users", "l", b"v")), operations.Appended),
    ]
    for verb, expected in verbs:
        operations.put_namespace(store, "users", {"require_cas": True})
        with pytest.raises(ConditionRequired):
            operations.put(view, "users", "k", b"v")
        operations.delete_namespace(store, "users")
        assert verb() == expected
        operations.delete_namespace(store, "users")


def test_a_namespace_that_is_being_dropped_is_waited_for(view: StoreView, store: Store) -> None:
    """Its name is still there for a moment, and who writes waits until it is gone."""
    operations.put(view, "users", "k", b"v")
    namespace = store.get("users")
    assert namespace is not None
    with ThreadPoolExecutor(1) as pool:
        with store._lock:  # as in the middle of a drop
            namespace.drop()
            written = pool.submit(lambda: operations.put(store.view(), "users", "k", b"new"))
            with pytest.raises(TimeoutError):
                written.result(0.05)
            del store._namespaces["users"]
        assert isinstance(written.result(10), Written)
    assert operations.get(view, "users", "k") != Missing()


def test_a_name_whose_namespace_is_gone_is_taken_away(view: StoreView, store: Store) -> None:
    """Whoever meets it finds nothing, and a write makes it anew, with a higher version."""
    for verb, expected in (
        (lambda: operations.get(view, "users", "k"), Missing("namespace")),
        (lambda: operations.clear_namespace(store, "users"), Missing("namespace")),
        (lambda: operations.delete_namespace(store, "users"), Missing("namespace")),
        (lambda: type(operations.put(view, "users", "k", b"v")), Written),
    ):
        before = operations.put(view, "users", "k", b"v")
        namespace = store.get("users")
        assert namespace is not None
        namespace.drop()
        assert verb() == expected
        after = operations.put(view, "users", "k", b"v")
        assert isinstance(before, Written)
        assert isinstance(after, Written)
        assert after.version > before.version
