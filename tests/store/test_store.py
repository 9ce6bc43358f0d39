"""Store: names to namespaces, and the limits that all of them share."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import fields

import pytest

from cacheserver.errors import InvalidNamespace, StoreFull, TooManyNamespaces
from cacheserver.store.namespace import Namespace, NamespaceStatistics
from cacheserver.store.outcomes import Missing, Written
from cacheserver.store.store import (
    DEFAULT_MAX_MEMORY,
    DEFAULT_MAX_NAMESPACES,
    DEFAULT_MAX_VALUE_SIZE,
    OTHERS,
    REPORTED,
    Store,
)
from cacheserver.store.striped import DEFAULT_STRIPES
from tests.conftest import Maker
from tests.support.inside import budget_of, dicts_of, stripes_of
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


def test_store_makes_namespaces_on_demand(make: Maker) -> None:
    """A namespace is there from the first time that it is asked for, and stays the same."""
    store = make.store()
    assert store.names() == []
    assert "users" not in store
    users = store.namespace("users")
    assert store.namespace("users") is users
    assert in_thread(lambda: store.namespace("users")) is users
    assert "users" in store
    store.namespace("carts")
    assert store.names() == ["carts", "users"]


def test_namespaces_keep_their_keys_apart(make: Maker) -> None:
    """One key in two namespaces is two keys."""
    store = make.store()
    store.namespace("a").put("k", b"in a")
    assert store.namespace("b").read("k") is None
    assert store.namespace("b").delete("k") == Missing("key")
    assert store.namespace("a").read("k") is not None


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a/b", "\u00e9"])
def test_bad_name_is_refused(make: Maker, name: str) -> None:
    """A name that none may have makes no namespace."""
    store = make.store()
    with pytest.raises(InvalidNamespace):
        store.namespace(name)
    assert store.names() == []


def test_namespaces_are_limited(make: Maker) -> None:
    """One more than allowed is refused; those that are there go on."""
    store = make.store(max_namespaces=2)
    store.namespace("a")
    store.namespace("b")
    with pytest.raises(TooManyNamespaces, match="2 namespaces"):
        store.namespace("c")
    assert store.names() == ["a", "b"]
    assert written(store.namespace("a").put("k", b"v")).version


def test_limit_on_namespaces_holds_for_racing_creators(make: Maker) -> None:
    """Threads that make namespaces at once never make too many, or two of one name."""
    for _ in range(20):
        store = make.store(max_namespaces=5, stripes=1)

        def create(first: int, store: Store = store) -> dict[str, int]:
            made = {}
            for number in range(8):
                name = f"n{(first + number) % 8}"
                try:
                    made[name] = id(store.namespace(name))
                except TooManyNamespaces:
                    pass
                assert len(store.names()) <= 5
            return made

        with frequent_switches():
            made = run_threads([lambda n=n: create(n) for n in range(6)])  # type: ignore[misc]
        assert len(store.names()) == 5
        for name in store.names():
            ids = {each[name] for each in made if name in each}
            assert ids == {id(store.namespace(name))}


def test_view_finds_only_what_is_there(make: Maker) -> None:
    """`find` makes nothing, `open` does; both give the thread's own view."""
    store = make.store()
    view = store.view()
    assert store.view() is view
    assert in_thread(store.view) is not view
    assert view.find("users") is None
    assert store.names() == []
    opened = view.open("users")
    assert view.find("users") is opened is view.open("users") is store.namespace("users").view()
    assert in_thread(lambda: store.view().find("users")) is not opened


def test_view_finds_what_another_thread_made(make: Maker) -> None:
    """A namespace that another thread made is found at once, though it was missing before."""
    store = make.store()
    view = store.view()
    assert view.find("users") is None
    in_thread(lambda: store.view().open("users").put("k", b"v", 0, "", None))
    found = view.find("users")
    assert found is not None
    assert found.read("k") is not None


def test_view_refuses_what_the_store_refuses(make: Maker) -> None:
    """A bad name and one namespace too many are errors in `open`, and nothing in `find`."""
    store = make.store(max_namespaces=0)
    view = store.view()
    assert view.find("a b") is None
    with pytest.raises(InvalidNamespace):
        view.open("a b")
    with pytest.raises(TooManyNamespaces):
        view.open("a")


def test_statistics_add_the_namespaces_up(make: Maker) -> None:
    """Entries and bytes of the store are those of its namespaces, which come by name."""
    store = make.store()
    store.namespace("b").put("k", b"v")
    store.namespace("a").put("k", b"v")
    store.namespace("a").put("l", b"v" * 10)
    statistics = store.statistics()
    assert [one.name for one in statistics.namespaces] == ["a", "b"]
    assert statistics.entries == 3
    assert statistics.bytes == sum(one.bytes for one in statistics.namespaces) > 0


def test_memory_limit_is_shared_and_holds_under_threads(make: Maker) -> None:
    """Writers in several namespaces together never keep more than the store allows."""
    limit = 200_000
    store = make.store(max_memory=limit, policy="none")

    def work(number: int) -> int:
        refused = 0
        namespace = store.namespace(f"n{number % 3}")
        for turn in range(200):
            try:
                namespace.put(f"key{number}-{turn % 60}", bytes(turn * 17 % 2_000))
            except StoreFull:
                refused += 1
                namespace.delete(f"key{number}-{turn % 7}")
            assert budget_of(store).used() <= limit
        return refused

    with frequent_switches():
        assert sum(run_threads([lambda n=n: work(n) for n in range(6)])) > 0  # type: ignore[misc]
    assert store.statistics().bytes <= limit


def test_defaults(make: Maker) -> None:
    """Without arguments a store has the limits that the manual names."""
    store = Store()
    assert store.max_memory == DEFAULT_MAX_MEMORY == 1 << 30
    assert store.max_value_size == DEFAULT_MAX_VALUE_SIZE == 8 << 20
    assert store.max_namespaces == DEFAULT_MAX_NAMESPACES == 1024
    assert store.stripes == DEFAULT_STRIPES == 64
    assert isinstance(store.namespace("a").put("k", b"v"), Written)


@pytest.mark.parametrize("stripes", [0, 3, 8192])
def test_bad_number_of_stripes_is_refused_at_once(stripes: int) -> None:
    """A store that could make no namespace isn't made."""
    with pytest.raises(ValueError, match="power of two"):
        Store(stripes=stripes)


# Places in metrics


def crowded(make: Maker, more: int = 5) -> tuple[Store, list[str]]:
    """A store with so many more namespaces than have a place, and the names of those that have none."""
    store = make.store(stripes=1)
    for number in range(REPORTED + more):
        store.namespace(f"n{number}").put("k", b"v")
    return store, [f"n{number}" for number in range(REPORTED, REPORTED + more)]


def reported(store: Store) -> set[str]:
    return {each.name for each in store.statistics().namespaces if each.reported}


def test_first_hundred_namespaces_are_reported(make: Maker) -> None:
    """They have figures of their own, the rest a sum; where all have a place there is no such sum."""
    store, rest = crowded(make, 0)
    assert store.statistics().others is None
    assert len(reported(store)) == REPORTED
    store, rest = crowded(make)
    figures = store.statistics()
    assert reported(store) == {f"n{number}" for number in range(REPORTED)}
    assert not store.namespace(rest[0]).reported
    assert len(figures.namespaces) == REPORTED + 5
    assert figures.others is not None
    assert (figures.others.name, figures.others.reported) == (OTHERS, False)
    assert_sums(figures.others, [store.namespace(name).statistics() for name in rest])
    assert figures.entries == REPORTED + 5


def assert_sums(others: NamespaceStatistics, parts: list[NamespaceStatistics]) -> None:
    assert others.writes == sum(each.writes for each in parts)
    assert others.hits == sum(each.hits for each in parts)
    assert others.entries == sum(each.entries for each in parts)
    assert others.bytes == sum(each.bytes for each in parts)
    for lock, numbers in others.locks.items():
        assert numbers.acquisitions == sum(each.locks[lock].acquisitions for each in parts)


def test_place_is_given_again_when_its_namespace_is_dropped(make: Maker) -> None:
    """To the next that is made, and to none that is there without one; a name made again is a new one."""
    store, rest = crowded(make)
    store.drop("n7")
    assert len(reported(store)) == REPORTED - 1
    assert not reported(store) & set(rest)
    store.namespace("new").put("k", b"v")
    assert "new" in reported(store)
    store.namespace("n7").put("k", b"v")
    assert "n7" not in reported(store)
    store.drop(rest[0])
    store.namespace(rest[0]).put("k", b"v")
    assert rest[0] not in reported(store)
    store.drop("n3")
    store.drop(rest[1])
    store.namespace(rest[1]).put("k", b"v")
    assert rest[1] in reported(store)
    assert len(reported(store)) == REPORTED


def test_sum_of_the_others_keeps_what_was_dropped(make: Maker) -> None:
    """Counters stay, entries and bytes go; also when nobody is left without a place."""
    store, rest = crowded(make)
    for name in rest:
        store.namespace(name).read("k")
        store.namespace(name).clear()
        store.namespace(name).put("k", b"v")
    before = store.statistics().others
    assert before is not None
    for name in rest:
        store.drop(name)
    after = store.statistics().others
    assert after is not None
    assert (after.entries, after.bytes) == (0, 0)
    assert (after.hits, after.writes) == (before.hits, before.writes) == (5, 10)
    for lock in ("stripe", "namespace_read"):
        assert after.locks[lock].acquisitions == before.locks[lock].acquisitions
    # Each was cleared, and dropped.
    assert before.locks["namespace_write"].acquisitions == 5
    assert after.locks["namespace_write"].acquisitions == 10
    store.drop("n0")
    assert store.statistics().others == after, "what had a place is none of the others"


def test_sum_of_the_others_never_falls(make: Maker) -> None:
    """While namespaces without a place are written, dropped and made again."""
    store, rest = crowded(make, 4)
    ends = threading.Event()

    def write(name: str) -> Callable[[], None]:
        def work() -> None:
            for number in range(150):
                namespace = store.namespace(name)
                namespace.put(f"{number % 7}", b"v")
                namespace.read("0")
                namespace.clear()
                if number % 3 == 2:
                    store.drop(name)

        return work

    def watch() -> None:
        before = store.statistics().others
        while not ends.is_set() and before is not None:
            now = store.statistics().others
            assert now is not None
            for field in fields(now):
                if field.name in ("hits", "misses", "writes", "cas_conflicts", "expirations"):
                    assert getattr(now, field.name) >= getattr(before, field.name), field.name
            for lock, numbers in now.locks.items():
                assert numbers.acquisitions >= before.locks[lock].acquisitions
                assert numbers.waits.seconds >= before.locks[lock].waits.seconds - 1e-9
                assert numbers.holds.count >= before.locks[lock].holds.count
            before = now

    def work() -> None:
        try:
            run_threads([write(name) for name in rest])
        finally:
            ends.set()

    with frequent_switches():
        run_threads([work, watch])
    others = store.statistics().others
    assert others is not None
    # Who writes a namespace drops it itself: nothing is under way when it goes.
    assert others.writes == 4 * 151
    assert others.hits + others.misses == 4 * 150


def test_view_of_a_dropped_namespace_is_freed_without_the_collector(make: Maker) -> None:
    """Nothing that it tells of hot keys holds it."""
    store = make.store(stripes=4)
    view = store.view()
    view.open("things").put("k", b"v", None, "text/plain", None)
    gone = weakref.ref(view.open("things"))
    gc.disable()
    try:
        store.drop("things")
        view.forget("things")
        eventually(lambda: gone() is None, "the view is freed")
    finally:
        gc.enable()


def test_one_forgotten_in_the_middle_of_its_drop_leaves_no_entries(make: Maker) -> None:
    """Whoever meets it then takes its name away, when it is gone and has not given up its entries yet."""
    store, (name,) = crowded(make, 1)
    namespace = store.namespace(name)
    with Gate() as gate:
        call_before(stripes_of(dicts_of(namespace)[0])[-1], "contents", gate)
        dropping = start(lambda: store.drop(name))
        gate.arrived()
        dicts_of(namespace)[0]._shared.gone = True  # as the next step of the drop does
        store.forget(name)
        others = store.statistics().others
        assert others is not None
        assert (others.entries, others.bytes, others.writes) == (0, 0, 1)
        assert name not in store
    dropping.result()
    assert store.statistics().others == others


def test_what_is_counted_after_a_drop_is_in_no_sum(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor in that which was begun before: the next one, without it, would be a fall."""
    store, (name,) = crowded(make, 1)
    namespace = store.namespace(name)
    count = Namespace.statistics
    late = iter([True])

    def statistics(of: Namespace) -> NamespaceStatistics:
        if of is namespace and next(late, False):
            view = namespace.view()
            store.drop(name)
            view._counts[0] += 1  # as a read does that had found its entry before
        return count(of)

    monkeypatch.setattr(Namespace, "statistics", statistics)
    during, after = store.statistics().others, store.statistics().others
    assert during is not None
    assert after is not None
    assert during.hits == after.hits == 0
    assert during.writes == after.writes == 1
