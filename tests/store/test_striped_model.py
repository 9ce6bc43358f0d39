"""StripedDict against a plain dict, by long random sequences of everything that it can do."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cacheserver.errors import StoreFull
from cacheserver.store.budget import Budget
from cacheserver.store.entry import DEADLINE, NEVER, VALUE, VERSION, Entry
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Written
from cacheserver.store.striped import StripedDict
from tests.support.clock import ManualClock
from tests.support.invariants import check_invariants

LIMIT = 60

KEYS = st.sampled_from([0, 1, "1", 64, 4096, -1, -2, "key", "\u00e9", ("a", 1)])
VALUES = st.integers(min_value=0, max_value=20)  # each costs as many bytes as it is
TTLS = st.sampled_from([0, 0, 1, 2.5, 10])
EXPECTED = st.sampled_from(["current", "last", "older", "absent"])


class Kept(NamedTuple):
    """What the model keeps for a key."""

    value: int
    version: int
    deadline: float


class Machine(RuleBasedStateMachine):
    """The real thing and its model, side by side."""

    stripes = 1

    @initialize(views=st.integers(min_value=1, max_value=3))
    def begin(self, views: int) -> None:
        self.clock = ManualClock()
        self.budget = Budget(LIMIT)
        self.real: StripedDict[Any, int] = StripedDict(
            self.stripes,
            clock=self.clock,
            cost=lambda _key, entry: entry[VALUE],
            budget=self.budget,
        )
        self.views = [self.real, *(self.real.view() for _ in range(views))]
        self.turn = 0
        self.model: dict[Any, Kept] = {}
        self.highest: dict[Any, int] = {}

    @property
    def entries(self) -> StripedDict[Any, int]:
        """One of the views, in turn."""
        self.turn += 1
        return self.views[self.turn % len(self.views)]

    def live(self, key: Any) -> Kept | None:
        kept = self.model.get(key)
        if kept is None or (kept.deadline and kept.deadline <= self.clock.monotonic()):
            return None
        return kept

    def same(self, entry: Entry[int] | None, kept: Kept | None) -> None:
        seen = None if entry is None else (entry[VALUE], entry[VERSION], entry[DEADLINE])
        assert seen == (None if kept is None else tuple(kept))

    def version(self, key: Any, which: str) -> int:
        kept = self.live(key)
        last = self.highest.get(key, 1)
        current = kept.version if kept else last
        return {"current": current, "last": last, "older": current - 1, "absent": 0}[which]

    def write(self, key: Any, value: int, ttl: float, condition: Condition | None) -> None:
        before = self.live(key)
        expected = condition is None or condition.holds(before.version if before else 0)
        self.meet(key)
        room = LIMIT - sum(kept.value for kept in self.model.values())
        room += before.value if before else 0
        try:
            outcome = self.entries.put(key, value, ttl=ttl, condition=condition)
        except StoreFull:
            assert expected
            assert value > room
            return
        if not expected:
            assert isinstance(outcome, Conflict)
            self.same(outcome.current, before)
            return
        assert isinstance(outcome, Written)
        assert value <= room
        assert outcome.created == (before is None)
        self.rises(key, outcome.version)
        deadline = self.clock.monotonic() + ttl if ttl else NEVER
        self.model[key] = Kept(value, outcome.version, deadline)

    def remove(self, key: Any, condition: Condition | None) -> None:
        before = self.live(key)
        self.meet(key)
        outcome = self.entries.delete(key, condition=condition)
        if condition is not None and not condition.holds(before.version if before else 0):
            assert isinstance(outcome, Conflict)
            self.same(outcome.current, before)
        elif before is None:
            assert outcome == Missing()
        else:
            assert isinstance(outcome, Deleted)
            self.rises(key, outcome.version)
            del self.model[key]

    def rises(self, key: Any, version: int) -> None:
        assert self.highest.get(key, 0) < version < 2**53
        self.highest[key] = version

    def meet(self, key: Any) -> None:
        """Whoever touches an expired key removes it."""
        if self.live(key) is None:
            self.model.pop(key, None)

    @rule(key=KEYS)
    def read(self, key: Any) -> None:
        self.same(self.entries.read(key), self.live(key))
        self.meet(key)

    @rule(key=KEYS)
    def get(self, key: Any) -> None:
        kept = self.live(key)
        assert self.entries.get(key, -1) == (kept.value if kept else -1)
        assert (key in self.entries) == (kept is not None)
        self.meet(key)

    @rule(key=KEYS, value=VALUES, ttl=TTLS)
    def put(self, key: Any, value: int, ttl: float) -> None:
        self.write(key, value, ttl, None)

    @rule(key=KEYS, value=VALUES, ttl=TTLS, which=EXPECTED)
    def compare_and_set(self, key: Any, value: int, ttl: float, which: str) -> None:
        self.write(key, value, ttl, Condition.version(self.version(key, which)))

    @rule(key=KEYS, value=VALUES, one=EXPECTED, other=EXPECTED, exists=st.booleans())
    def put_under_conditions(
        self, key: Any, value: int, one: str, other: str, exists: bool
    ) -> None:
        condition = Condition(
            frozenset({self.version(key, one), 7}) if one != "absent" else None,
            frozenset({self.version(key, other)}) if other != "absent" else frozenset(),
            must_exist=exists,
        )
        self.write(key, value, 0, condition)

    @rule(key=KEYS)
    def delete(self, key: Any) -> None:
        self.remove(key, None)

    @rule(key=KEYS, which=EXPECTED)
    def delete_under_condition(self, key: Any, which: str) -> None:
        self.remove(key, Condition.version(self.version(key, which)))

    @rule(key=KEYS)
    def pop(self, key: Any) -> None:
        kept = self.live(key)
        assert self.entries.pop(key, -1) == (kept.value if kept else -1)
        self.model.pop(key, None)

    @rule(key=KEYS)
    def setdefault(self, key: Any) -> None:
        kept = self.live(key)
        assert self.entries.setdefault(key, 0) == (kept.value if kept else 0)
        if kept is None:
            entry = self.real.read(key)
            assert entry is not None
            self.rises(key, entry[VERSION])
            self.model[key] = Kept(0, entry[VERSION], NEVER)

    @rule()
    def clear(self) -> None:
        assert self.entries.clear() == len(self.model)
        self.model.clear()

    @rule(seconds=st.sampled_from([0.5, 1, 9]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def everything_is_the_same(self) -> None:
        if not hasattr(self, "real"):
            return
        live = {key: kept for key in self.model if (kept := self.live(key)) is not None}
        assert {k: tuple(e[:3]) for k, e in self.real.snapshot().items()} == live
        assert sorted(map(repr, self.entries)) == sorted(map(repr, live))
        size = sum(kept.value for kept in self.model.values())
        assert self.entries.totals() == (len(self.model), size)
        assert len(self.entries) == len(self.model)
        assert bool(self.entries) == bool(self.model)

    def teardown(self) -> None:
        if hasattr(self, "real"):
            check_invariants(self.real)


class ManyStripes(Machine):
    """The same with many stripes."""

    stripes = 64


# Long sequences rather than many: what matters is what operations leave to later ones.
_SETTINGS = settings(max_examples=30, stateful_step_count=50, deadline=None)
TestOneStripe = Machine.TestCase
TestOneStripe.settings = _SETTINGS
TestManyStripes = ManyStripes.TestCase
TestManyStripes.settings = _SETTINGS
