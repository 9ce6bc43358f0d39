"""The verbs: what they check, what they answer, and that a refusal changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from cacheserver import operations
from cacheserver.errors import (
    CacheServerError,
    InvalidKey,
    InvalidNamespace,
    InvalidTTL,
    KeyTooLong,
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
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Written
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
    """A write without room leaves the key as it was."""
    store = make.store(max_memory=2_000)
    view = store.view()
    operations.put(view, "a", "k", b"v")
    before = operations.get(view, "a", "k")
    with pytest.raises(StoreFull):
        operations.put(view, "a", "k", bytes(3_000))
    with pytest.raises(StoreFull):
        operations.put(view, "a", "l", bytes(3_000))
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
    """A write that finds no room leaves no empty namespace behind."""
    store = make.store(max_memory=10_000)
    with pytest.raises(StoreFull):
        operations.put(store.view(), "new", "k", bytes(10_000))
    assert store.names() == []
    assert operations.get(store.view(), "new", "k") == Missing("namespace")


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
