"""Namespaces that are made, configured, changed and dropped while they are used."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from dataclasses import replace
from typing import Any

import pytest

from cacheserver import operations
from cacheserver.errors import (
    ConditionRequired,
    InvalidConfig,
    InvalidNamespace,
    NamespaceGone,
    NeverFits,
    StoreFull,
    TooManyNamespaces,
)
from cacheserver.store.entry import DEADLINE, DEFAULT_CONTENT_TYPE, VALUE, VERSION
from cacheserver.store.eviction.policy import POLICIES
from cacheserver.store.namespace import Namespace, NamespaceConfig
from cacheserver.store.outcomes import Condition, Deleted, Put, Touched, Written
from cacheserver.store.store import Store
from tests.conftest import Maker
from tests.support.clock import ManualClock
from tests.support.inside import budget_of, dicts_of, stripes_of
from tests.support.outcomes import written
from tests.support.threads import call_before, frequent_switches, in_thread, run_threads

BAD: list[tuple[str, Any]] = [
    *(
        (field, value)
        for field in ("max_bytes", "max_entries")
        for value in (0, -1, 1.5, True, "7", 1 << 70)
    ),
    *(("policy", value) for value in ("", "mru", "SIEVE", None, 7, ["lru"])),
    *(("default_ttl", value) for value in (-1, -1e-9, float("nan"), float("inf"), 4e8, "5", None)),
    ("default_ttl", True),
    *(("stripes", value) for value in (0, -1, 3, 8192, 2.0, True, "8", None)),
    *(("require_cas", value) for value in (0, 1, None, "true")),
]
GOOD = NamespaceConfig(
    max_bytes=50_000, max_entries=20, policy="lru", default_ttl=50, stripes=4, require_cas=True
)


@pytest.mark.parametrize(("field", "value"), BAD)
def test_bad_configuration_changes_nothing(make: Maker, field: str, value: Any) -> None:
    """The error names the field and is a ValueError; no namespace is made, and none is changed."""
    bad = replace(GOOD, **{field: value})
    store = make.store()
    with pytest.raises(InvalidConfig, match=field):
        bad.check()
    with pytest.raises(ValueError, match=field):
        store.create("new", bad)
    with pytest.raises(InvalidConfig, match=field):
        Namespace("new", bad)
    assert store.names() == []
    there, _ = store.create("there", NamespaceConfig())
    there.put("k", b"v")
    for change in (lambda: store.create("there", bad), lambda: there.configure(bad)):
        with pytest.raises(InvalidConfig, match=field):
            change()
    assert there.config == NamespaceConfig()
    assert isinstance(there.put("k", b"w"), Written)
    assert len(stripes_of(dicts_of(there)[0])) == NamespaceConfig().stripes


@pytest.mark.parametrize(
    "config",
    [
        NamespaceConfig(),
        GOOD,
        *(NamespaceConfig(policy=policy) for policy in POLICIES),
        NamespaceConfig(max_bytes=1, max_entries=1, default_ttl=0.001, stripes=1),
        NamespaceConfig(default_ttl=10 * 365 * 86400, stripes=4096),
    ],
)
def test_good_configuration_is_obeyed(make: Maker, config: NamespaceConfig) -> None:
    """What can be is accepted, by a new namespace and by one that is there."""
    store = make.store()
    made, created = store.create("a", config)
    assert created
    assert made.config == made.statistics().config == config
    assert store.get("a") is made
    other = store.namespace("b")
    same, created = store.create("b", config)
    assert (same, created) == (other, False)
    assert other.config == config
    assert len(stripes_of(dicts_of(other)[0])) == config.stripes


def test_default_configuration_is_the_stores(make: Maker) -> None:
    """A namespace that its first write makes has the store's stripes and policy."""
    store = make.store(stripes=8, policy="lfu")
    assert store.default_config == NamespaceConfig(stripes=8, policy="lfu")
    assert store.namespace("a").config == store.default_config
    assert store.get("b") is None
    for bad in ({"policy": "mru"}, {"stripes": 3}):
        with pytest.raises(ValueError, match=r"mru|power of two"):
            Store(**bad)


def test_configuration_of_a_full_namespace_changes_at_once(make: Maker, clock: ManualClock) -> None:
    """Each field, one after the other, with the entries staying as far as the limits let them."""
    things, _ = make.store().create("things", NamespaceConfig(stripes=2, policy="fifo"))
    view = things.view()
    for number in range(100):
        things.put(f"key{number}", bytes(100))
    config = NamespaceConfig(stripes=16, policy="fifo")
    things.configure(config)
    assert things.totals()[0] == 100
    things.configure(replace(config, policy="lru"))
    assert things.totals()[0] == 100
    things.configure(config := replace(config, policy="lru", max_entries=60))
    assert things.totals()[0] == 60
    things.configure(config := replace(config, max_bytes=5_000))
    assert things.totals()[1] <= 5_000
    things.configure(config := replace(config, default_ttl=10))
    view.put("k", b"v", None, DEFAULT_CONTENT_TYPE, None)
    entry = in_thread(lambda: things.read("k"))
    assert entry is not None
    assert entry[DEADLINE] == clock.monotonic() + 10
    things.configure(config := replace(config, require_cas=True))
    with pytest.raises(ConditionRequired):
        view.put("k", b"w", None, DEFAULT_CONTENT_TYPE, None)
    things.configure(replace(config, policy="none", max_bytes=None, require_cas=False))
    while things.totals()[0] < 60:
        things.put(f"new{things.totals()[0]}", b"v")
    with pytest.raises(StoreFull):
        things.put("one too many", b"v")
    evictions = things.statistics().evictions
    assert evictions["max_entries"] == 40
    assert evictions["max_bytes"] > 0


def test_namespace_that_requires_conditions(make: Maker) -> None:
    """Writes without one are refused and change nothing, those with one go on; touches need none."""
    things = make.namespace(require_cas=True)
    version = written(things.put("k", b"v", condition=Condition.version(0))).version
    put = Put(b"x")
    for write in (
        lambda: things.put("k", b"w"),
        lambda: things.put("new", b"w"),
        lambda: things.delete("k"),
        lambda: things.transaction({"k": put}),
        lambda: things.transaction({"k": put, "l": put}, {"k": Condition.version(version)}),
        lambda: things.transaction({"k": None}, {"l": Condition()}),
    ):
        with pytest.raises(ConditionRequired, match="If-Match"):
            write()
    entry = things.read("k")
    assert entry is not None
    assert entry[VERSION] == version
    assert things.touch("k", 5) == Touched(version)
    both = {"k": Condition.version(version), "l": Condition.version(0)}
    assert isinstance(things.transaction({"k": put, "l": None}, both), dict)
    assert isinstance(things.transaction({}, {"l": Condition.version(0)}), dict)
    entry = things.read("k")
    assert entry is not None
    condition = Condition.version(entry[VERSION])
    assert isinstance(things.delete("k", condition=condition), Deleted)
    assert things.statistics().writes == 3


def test_default_ttl_is_for_touches_and_writes_that_name_none(
    make: Maker, clock: ManualClock
) -> None:
    """None is the default of the moment; 0 for ever."""
    things = make.namespace(default_ttl=10)
    things.put("k", b"v")
    clock.advance(5)
    things.touch("k")
    entry = things.read("k")
    assert entry is not None
    assert entry[DEADLINE] == clock.monotonic() + 10
    things.touch("k", 0)
    clock.advance(1_000)
    assert things.read("k") is not None


# The end of a namespace


def test_drop_frees_name_and_memory(make: Maker) -> None:
    """It tells how many went; the name is free, the memory too; one that isn't there is None."""
    store = make.store(max_memory=100_000, max_namespaces=1)
    assert store.drop("a") is None
    things = store.namespace("a")
    for number in range(20):
        things.put(f"key{number}", bytes(1_000))
    assert store.drop("a") == 20
    assert store.drop("a") is None
    assert ("a" in store, store.names(), store.get("a")) == (False, [], None)
    assert budget_of(store).used() == 0
    assert store.statistics().entries == 0
    assert written(store.namespace("b").put("k", bytes(90_000))).created
    with pytest.raises(TooManyNamespaces):
        store.namespace("a")


def test_dropped_namespace_is_gone_for_every_view(make: Maker) -> None:
    """Whoever still has it gets NamespaceGone, by its old view and by one that is made after."""
    store = make.store()
    things = store.namespace("a")
    things.put("k", b"v")
    view = things.view()
    store.drop("a")
    again = store.namespace("a")
    again.put("k", b"new")
    for use in (
        lambda: things.read("k"),
        lambda: things.put("k", b"w"),
        lambda: things.delete("k"),
        lambda: things.touch("k", 5),
        lambda: things.transaction({"k": None}),
        things.clear,
        things.snapshot,
        lambda: view.read("k"),
        lambda: view.put("k", b"w", None, "", None),
    ):
        for where in (lambda use=use: use(), lambda use=use: in_thread(use)):
            with pytest.raises(NamespaceGone):
                where()
    entry = again.read("k")
    assert entry is not None
    assert entry[0] == b"new"


def test_namespace_made_again_has_higher_versions(make: Maker) -> None:
    """No key of it ever has a version that one of the same name had, though the clock stands still."""
    store = make.store(stripes=4)
    highest = 0
    for _ in range(5):
        things = store.namespace("a")
        versions = [written(things.put(f"key{n}", b"v")).version for n in range(50)]
        versions += [things.delete(f"key{n}").version for n in range(50)]  # type: ignore[union-attr]
        assert min(versions) > highest
        highest = max(versions)
        store.drop("a")


def test_views_of_dropped_namespaces_do_not_pile_up(make: Maker) -> None:
    """A thread that works with thousands of short-lived namespaces remembers a few of them."""
    store = make.store(max_namespaces=4, stripes=1)
    view = store.view()
    for number in range(200):
        name = f"n{number}"
        view.open(name).put("k", b"v", None, "", None)
        assert view.find(name) is not None
        store.drop(name)
    views = view.find.__self__  # type: ignore[attr-defined]
    assert len(views) <= 4


def test_look_up_makes_nothing_though_the_namespace_goes_meanwhile(make: Maker) -> None:
    """`find` of a name that is dropped between two of its steps gives nothing or what is gone."""
    store = make.store()
    store.namespace("a").put("k", b"v")
    call_before(store, "namespace", lambda: store.drop("a"))
    call_before(store, "get", lambda: store.drop("a"))
    found = in_thread(lambda: store.view().find("a"))
    assert store.names() == []
    if found is not None:
        with pytest.raises(NamespaceGone):
            found.read("k")


def test_creation_beside_a_drop_gives_a_namespace_that_is_there(make: Maker) -> None:
    """Whoever creates one that is dropped at that moment gets one that works, or a new one."""
    for field in ({"default_ttl": 5}, {"stripes": 2}, {"policy": "lru"}, {}):
        store = make.store()
        store.namespace("a").put("k", b"v")
        first = store.get("a")
        dropped: list[int | None] = []

        def drop(store: Store = store, dropped: list[int | None] = dropped) -> None:
            if not dropped:
                dropped.append(None)
                dropped[0] = in_thread(lambda: store.drop("a"))

        call_before(first, "configure", drop)
        made, created = store.create("a", replace(store.default_config, **field))
        assert made is store.get("a")
        assert created == (made is not first)
        assert isinstance(made.put("k", b"v"), Written)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a/b"])
def test_creation_under_a_bad_name_is_refused(make: Maker, name: str) -> None:
    """The name is looked at before anything is made."""
    store = make.store()
    with pytest.raises(InvalidNamespace):
        store.create(name, NamespaceConfig())
    assert store.names() == []


def test_too_many_creations_are_refused(make: Maker) -> None:
    """One more than allowed is refused; to configure those that are there is no creation."""
    store = make.store(max_namespaces=1)
    store.create("a", NamespaceConfig())
    with pytest.raises(TooManyNamespaces):
        store.create("b", NamespaceConfig())
    assert store.create("a", GOOD)[1] is False


def test_namespaces_come_and_go_under_load(make: Maker) -> None:
    """With makers, droppers, writers and configurers at once, memory adds up and versions rise."""
    store = make.store(max_memory=60_000, max_namespaces=3, stripes=2)
    stop = threading.Event()

    def work(number: int) -> None:
        view = store.view()
        chance = random.Random(number)
        for _ in range(300):
            name = f"n{chance.randrange(3)}"
            try:
                things = view.open(name)
                outcome = things.put(
                    f"key{chance.randrange(40)}", bytes(chance.randrange(1_500)), None, "", None
                )
                assert isinstance(outcome, Written)
                things.read("key1")
                things.transaction({"a": Put(b"1"), "b": None}, {})
            except NamespaceGone:
                view.forget(name)
            assert budget_of(store).used() <= 60_000

    def change() -> None:
        chance = random.Random(0)
        while not stop.is_set():
            name = f"n{chance.randrange(3)}"
            match chance.randrange(4):
                case 0:
                    store.drop(name)
                case 1:
                    config = NamespaceConfig(
                        max_bytes=chance.choice([None, 20_000]),
                        policy=chance.choice(["sieve", "lru", "lfu", "s3fifo", "fifo"]),
                        stripes=chance.choice([1, 2, 8]),
                    )
                    store.create(name, config)
                case 2:
                    there = store.get(name)
                    if there is not None:
                        try:
                            there.clear()
                        except NamespaceGone:
                            assert store.get(name) is not there
                case _:
                    sum(store.sweep())

    def all_work() -> None:
        try:
            run_threads([lambda n=n: work(n) for n in range(3)])  # type: ignore[misc]
        finally:
            stop.set()

    with frequent_switches():
        run_threads([all_work, change])


def test_first_write_of_a_namespace_needs_no_more_room_than_later_ones(make: Maker) -> None:
    """Whether there is room for it is asked of the record that will be kept."""
    store = make.store(max_memory=100_000, policy="none")
    full = store.namespace("full")
    number = 0
    while store._budget.limit - store._budget.used() >= 2 * 252:
        full.put(f"key-{number:012d}", b"x" * 64)
        number += 1
    assert isinstance(operations.put(store.view(), "new", "k", b"v"), Written)


@pytest.mark.parametrize("value", ["text" * 5, "text" * 500, 17, None, [1]])
def test_values_that_are_no_bytes_are_refused(make: Maker, value: Any) -> None:
    """Text and numbers have to be encoded by who writes them, however large they are."""
    store = make.store()
    namespace = store.namespace("n")
    with pytest.raises(TypeError, match="bytes"):
        namespace.put("k", value)
    with pytest.raises(TypeError, match="bytes"):
        namespace.transaction({"k": Put(value)})
    assert namespace.read("k") is None


@pytest.mark.parametrize("size", [10, 5_000])
def test_what_may_still_change_is_copied(make: Maker, size: int) -> None:
    """A bytearray that its owner writes to afterwards changes nothing that is kept."""
    namespace = make.store().namespace("n")
    mine = bytearray(b"a" * size)
    namespace.put("k", mine)  # type: ignore[arg-type]
    mine[0] = 98
    entry = namespace.read("k")
    assert entry is not None
    assert entry[VALUE] == b"a" * size
    assert type(entry[VALUE]) is bytes


def test_touch_that_can_never_fit_says_so(make: Maker) -> None:
    """A deadline takes some bytes, for which a namespace of just this entry may have no room."""
    refused = 0
    for size in range(48, 80):  # of which some are at the end of what the allocator gives
        namespace = make.store().namespace("n")
        namespace.put("k", b"x" * size)
        namespace.change(max_bytes=namespace.totals()[1])
        try:
            assert isinstance(namespace.touch("k", 60), Touched)
        except NeverFits:
            refused += 1
            assert namespace.read("k") is not None
    assert 0 < refused < 32


def test_large_write_takes_no_more_of_a_neighbour_than_it_needs(make: Maker) -> None:
    """Room is made ahead for small writes only."""
    store = make.store(max_memory=64 << 20)
    old, _ = store.create("old", NamespaceConfig(stripes=1))
    for number in range(60):
        old.put(f"k{number}", bytes(1 << 20))
    there = old.totals()[0]
    store.namespace("new").put("large", bytes(7 << 20))
    assert there - old.totals()[0] <= 9


def test_namespace_that_lost_the_race_to_be_made_is_freed_at_once(make: Maker) -> None:
    """Of two that are made for one name at once, the one that isn't used leaves nothing behind."""
    store = make.store()
    made: list[weakref.ref[Namespace]] = []
    original = Namespace.__init__

    def init(namespace: Namespace, *arguments: Any, **named: Any) -> None:
        original(namespace, *arguments, **named)
        made.append(weakref.ref(namespace))
        if len(made) == 1:
            store.namespace("n")  # somebody else is quicker

    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Namespace, "__init__", init)
            kept = store.namespace("n")
        assert [each() for each in made] == [None, kept]
    finally:
        gc.enable()
