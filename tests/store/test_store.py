"""Store: names to namespaces, and the limits that all of them share."""

from __future__ import annotations

import pytest

from cacheserver.errors import InvalidNamespace, StoreFull, TooManyNamespaces
from cacheserver.store.outcomes import Missing, Written
from cacheserver.store.store import (
    DEFAULT_MAX_MEMORY,
    DEFAULT_MAX_NAMESPACES,
    DEFAULT_MAX_VALUE_SIZE,
    Store,
)
from cacheserver.store.striped import DEFAULT_STRIPES
from tests.conftest import Maker
from tests.support.inside import budget_of
from tests.support.outcomes import written
from tests.support.threads import frequent_switches, in_thread, run_threads


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
