"""StripedDict and Namespace against a plain dict, by long random sequences of all that they can do.

What a policy evicts is learned from the dict itself: which keys those are is up to the policy, but
that room was needed, that what was written stays, and all that is left is told by the model. Under
`fifo`, in one stripe, it tells the victims too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cacheserver.errors import NeverFits, StoreFull
from cacheserver.store.budget import Budget
from cacheserver.store.entry import (
    DEADLINE,
    DEFAULT_CONTENT_TYPE,
    KEEP,
    NEVER,
    VALUE,
    VERSION,
    Entry,
    Keep,
)
from cacheserver.store.eviction.policy import POLICIES
from cacheserver.store.namespace import Namespace, NamespaceConfig
from cacheserver.store.outcomes import (
    Condition,
    Conflict,
    Deleted,
    Missing,
    Put,
    Refused,
    Touched,
    Written,
)
from cacheserver.store.record import cost, pack
from cacheserver.store.striped import StripedDict
from tests.support.clock import ManualClock
from tests.support.inside import dicts_of, quota_of, stripes_of
from tests.support.invariants import check_invariants

KEYS = st.sampled_from(["0", "1", "64", "4096", "k", "key", "\u00e9", "-1", "-2", "x" * 40])
TTLS = st.sampled_from([0, 0, 1, 2.5, 10, KEEP])
LIVES = st.sampled_from([0, 1, 2.5, 10])
EXPECTED = st.sampled_from(["current", "last", "older", "absent"])
VALUES = st.integers(min_value=0, max_value=22)  # each costs as many bytes as it is
WISHES = st.dictionaries(KEYS, st.none() | st.tuples(VALUES, TTLS), max_size=4)


class Kept(NamedTuple):
    """What the model keeps for a key."""

    value: int
    version: int
    deadline: float


class Machine(RuleBasedStateMachine):
    """The real thing and its model, side by side."""

    policy = "none"
    stripes = 1
    limit = 60
    changes = True
    """Whether stripes and policy are changed too."""

    @initialize(views=st.integers(min_value=1, max_value=3))
    def begin(self, views: int) -> None:
        self.clock = ManualClock()
        self.now_policy = self.policy
        self.max_bytes: int | None = None
        self.max_entries: int | None = None
        self.model: dict[str, Kept] = {}  # in the order in which they came
        self.highest: dict[str, int] = {}
        self.turn = 0
        self.make(Budget(self.limit), views)

    def make(self, budget: Budget, views: int) -> None:
        real: StripedDict[str, int] = StripedDict(
            self.stripes,
            clock=self.clock,
            cost=lambda key, entry: self.size(key, entry[VALUE], entry[DEADLINE]),
            budget=budget,
            policy=self.policy,
        )
        self.real: Any = real
        self.views: list[Any] = [real, *(real.view() for _ in range(views))]

    # What differs where it is a namespace

    def value(self, number: int) -> Any:
        """What is written where the model has a number."""
        return number

    def size(self, _key: str, value: int, deadline: float) -> int:
        return value + bool(deadline)

    @property
    def entries(self) -> Any:
        """One of the views, in turn."""
        self.turn += 1
        return self.views[self.turn % len(self.views)]

    @property
    def kept(self) -> StripedDict[Any, Any]:
        return dicts_of(self.real)[0]

    # The model

    def live(self, key: str) -> Kept | None:
        kept = self.model.get(key)
        if kept is None or (kept.deadline and kept.deadline <= self.clock.monotonic()):
            return None
        return kept

    def same(self, entry: Entry[Any] | None, kept: Kept | None) -> None:
        seen = None if entry is None else (entry[VALUE], entry[VERSION], entry[DEADLINE])
        assert seen == (
            None if kept is None else (self.value(kept.value), kept.version, kept.deadline)
        )

    def version(self, key: str, which: str) -> int:
        kept = self.live(key)
        last = self.highest.get(key, 1)
        current = kept.version if kept else last
        return {"current": current, "last": last, "older": current - 1, "absent": 0}[which]

    def deadline(self, key: str, ttl: float | Keep) -> float:
        if isinstance(ttl, Keep):
            kept = self.live(key)
            return kept.deadline if kept else NEVER
        return self.clock.monotonic() + ttl if ttl else NEVER

    def rises(self, key: str, version: int) -> None:
        assert self.highest.get(key, 0) < version < 2**53
        self.highest[key] = version

    def meet(self, key: str) -> None:
        """Whoever touches an expired key removes it."""
        if self.live(key) is None:
            self.model.pop(key, None)

    def sizes(self, keys: Collection[str]) -> int:
        return sum(
            self.size(key, kept.value, kept.deadline)
            for key, kept in self.model.items()
            if key in keys
        )

    def bounds(self) -> list[tuple[int, int]]:
        """Bytes and entries that each limit allows; of a large limit shards keep a little back."""
        infinite = 1 << 60
        limits = [(self.limit, infinite)]
        if self.max_bytes is not None:
            limits.append((self.max_bytes, infinite))
        if self.max_entries is not None:
            limits.append((infinite, self.max_entries))
        return limits

    def fits(self, size: int, entries: int) -> bool:
        return all(size <= most and entries <= many for most, many in self.bounds())

    def plan(self, wishes: Mapping[str, Kept | None]) -> tuple[int, int, bool]:
        """The bytes and entries that it takes to write these, and whether there is room for them."""
        more = created = 0
        for key, wish in wishes.items():
            before = self.model.get(key)
            more -= self.size(key, before.value, before.deadline) if before else 0
            more += self.size(key, wish.value, wish.deadline) if wish else 0
            created += (wish is not None) - (before is not None)
        size, number = self.sizes(self.model), len(self.model)
        slack = 32 * (self.limit // 1024)
        room = all(
            (more <= 0 or size + more <= most) and (created <= 0 or number + created <= many)
            for most, many in self.bounds()
        )
        tight = any(
            (more > 0 and size + more > most - slack) or (created > 0 and number + created > many)
            for most, many in self.bounds()
        )
        self.tight = tight
        return more, created, room

    def whole(self, wishes: Mapping[str, Kept | None]) -> tuple[int, int]:
        there = {key: wish for key, wish in wishes.items() if wish is not None}
        return sum(self.size(k, w.value, w.deadline) for k, w in there.items()), len(there)

    def learn(self, written: Collection[str]) -> None:
        """Find out what was evicted, and that it may have been."""
        there = {key for stripe in stripes_of(self.kept) for key in stripe.entries()}
        gone = self.model.keys() - there
        assert not gone & set(written), "what is written was evicted"
        if gone:
            assert self.now_policy != "none", "something was evicted"
            assert self.tight, "something was evicted though there was room"
            if self.policy == "fifo" and self.stripes == 1 and not self.changes:
                order = [key for key in self.model if key not in written]
                assert gone == set(order[: len(gone)]), "not the oldest were evicted"
        for key in gone:
            del self.model[key]

    def write(self, key: str, number: int, ttl: float | Keep, condition: Condition | None) -> None:
        self.meet(key)
        before = self.live(key)
        expected = condition is None or condition.holds(before.version if before else 0)
        wish = {key: Kept(number, 0, self.deadline(key, ttl))}
        _, _, room = self.plan(wish)
        never = not self.fits(*self.whole(wish))
        try:
            outcome = self.entries.put(key, self.value(number), ttl=ttl, condition=condition)
        except NeverFits:
            assert expected
            assert never
            self.learn(self.model)
            return
        except StoreFull:
            assert expected
            assert not room
            assert self.now_policy == "none"
            self.learn(self.model)
            return
        if not expected:
            assert isinstance(outcome, Conflict)
            self.same(outcome.current, before)
            self.learn(self.model)
            return
        assert isinstance(outcome, Written)
        assert room or self.now_policy != "none"
        assert outcome.created == (before is None)
        self.rises(key, outcome.version)
        self.learn([key])
        self.model[key] = wish[key]._replace(version=outcome.version)

    def remove(self, key: str, condition: Condition | None) -> None:
        self.meet(key)
        before = self.live(key)
        outcome = self.entries.delete(key, condition=condition)
        if condition is not None and not condition.holds(before.version if before else 0):
            assert isinstance(outcome, Conflict)
            self.same(outcome.current, before)
        else:
            self.deleted(key, outcome)

    # What is done

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        self.same(self.entries.read(key), self.live(key))
        self.meet(key)

    @rule(key=KEYS, value=VALUES, ttl=TTLS)
    def put(self, key: str, value: int, ttl: float | Keep) -> None:
        self.write(key, value, ttl, None)

    @rule(key=KEYS, value=VALUES, ttl=TTLS, which=EXPECTED)
    def compare_and_set(self, key: str, value: int, ttl: float | Keep, which: str) -> None:
        self.write(key, value, ttl, Condition.version(self.version(key, which)))

    @rule(key=KEYS, value=VALUES, one=EXPECTED, other=EXPECTED, exists=st.booleans())
    def put_under_conditions(
        self, key: str, value: int, one: str, other: str, exists: bool
    ) -> None:
        condition = Condition(
            frozenset({self.version(key, one), 7}) if one != "absent" else None,
            frozenset({self.version(key, other)}) if other != "absent" else frozenset(),
            must_exist=exists,
        )
        self.write(key, value, 0, condition)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.remove(key, None)

    @rule(key=KEYS, which=EXPECTED)
    def delete_under_condition(self, key: str, which: str) -> None:
        self.remove(key, Condition.version(self.version(key, which)))

    @rule(key=KEYS, ttl=LIVES, which=EXPECTED | st.none())
    def touch(self, key: str, ttl: float, which: str | None) -> None:
        condition = None if which is None else Condition.version(self.version(key, which))
        self.meet(key)
        before = self.live(key)
        after = before and before._replace(deadline=self.deadline(key, ttl))
        _, _, room = self.plan({key: after} if after else {})
        try:
            outcome = self.entries.touch(key, ttl, condition=condition)
        except (StoreFull, NeverFits):
            assert not room
            self.learn([key])
            return
        self.learn([key])
        if condition is not None and not condition.holds(before.version if before else 0):
            assert isinstance(outcome, Conflict)
            self.same(outcome.current, before)
        elif after is None:
            assert outcome == Missing()
        else:
            assert outcome == Touched(after.version)
            self.model[key] = after

    @rule(wishes=WISHES, expected=st.dictionaries(KEYS, EXPECTED, max_size=2))
    def transaction(
        self, wishes: dict[str, tuple[int, float | Keep] | None], expected: dict[str, str]
    ) -> None:
        involved = wishes.keys() | expected.keys()
        conditions = {
            key: Condition.version(self.version(key, which)) for key, which in expected.items()
        }
        for key in involved:
            self.meet(key)
        before = {key: self.live(key) for key in involved}
        planned = {
            key: wish and Kept(wish[0], 0, self.deadline(key, wish[1]))
            for key, wish in wishes.items()
        }
        _, _, room = self.plan(planned)
        never = not self.fits(*self.whole(planned))
        writes = {key: wish and Put(self.value(wish[0]), wish[1]) for key, wish in wishes.items()}
        failed = {
            key
            for key, condition in conditions.items()
            if not condition.holds(kept.version if (kept := before[key]) else 0)
        }
        try:
            outcome = self.entries.transaction(writes, conditions)
        except NeverFits:
            assert never
            assert not failed
            self.tight = False
            self.learn(involved)
            return
        except StoreFull:
            assert not room
            assert not failed
            self.learn(involved)
            return
        if failed:
            self.learn(involved)
            assert isinstance(outcome, Refused)
            assert outcome.conflicts.keys() == failed
            for key, entry in outcome.conflicts.items():
                self.same(entry, before[key])
            return
        assert outcome.keys() == wishes.keys()
        for key, wish in planned.items():
            if wish is None:
                self.deleted(key, outcome[key])
        self.learn(involved & self.model.keys())
        for key, wish in planned.items():
            if wish is not None:
                done = outcome[key]
                assert done == Written(done.version, before[key] is None)
                self.rises(key, done.version)
                self.model[key] = wish._replace(version=done.version)

    def deleted(self, key: str, outcome: Deleted | Missing) -> None:
        if key not in self.model:
            assert outcome == Missing()
        else:
            assert isinstance(outcome, Deleted)
            self.rises(key, outcome.version)
            del self.model[key]

    @rule()
    def clear(self) -> None:
        assert self.entries.clear() == len(self.model)
        self.model.clear()

    @rule(seconds=st.sampled_from([0.5, 1, 9]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        """What is over for long enough goes; nothing else does."""
        gone = sum(self.entries.sweep())
        there = {key for stripe in stripes_of(self.kept) for key in stripe.entries()}
        swept = self.model.keys() - there
        assert len(swept) == gone
        assert all(self.live(key) is None for key in swept)
        now = self.clock.monotonic()
        for key in swept:
            del self.model[key]
        assert all(not k.deadline or now < k.deadline + 0.25 for k in self.model.values())

    @rule(max_bytes=st.sampled_from([None, 40, 20]), max_entries=st.sampled_from([None, 6, 3]))
    def set_limits(self, max_bytes: int | None, max_entries: int | None) -> None:
        self.max_bytes = None if max_bytes is None else max_bytes * self.limit // 60
        self.max_entries = max_entries
        self.tight = not self.fits(self.sizes(self.model), len(self.model))
        self.apply_limits()
        self.learn([])
        assert self.now_policy == "none" or self.fits(self.sizes(self.model), len(self.model))

    def apply_limits(self) -> None:
        self.real.set_limits(max_bytes=self.max_bytes, max_entries=self.max_entries)

    @precondition(lambda self: self.changes)
    @rule(stripes=st.sampled_from([1, 2, 64]))
    def reshape(self, stripes: int) -> None:
        self.real.reshape(stripes)

    @precondition(lambda self: self.changes)
    @rule(policy=st.sampled_from(POLICIES))
    def set_policy(self, policy: str) -> None:
        self.real.set_policy(policy)
        self.now_policy = policy

    @invariant()
    def everything_is_the_same(self) -> None:
        if not hasattr(self, "real"):
            return
        live = {key: kept for key in self.model if (kept := self.live(key)) is not None}
        snapshot = self.entries.snapshot()
        assert snapshot.keys() == live.keys()
        for key, entry in snapshot.items():
            self.same(entry, live[key])
        size = self.sizes(self.model)
        assert self.entries.totals() == (len(self.model), size)
        quota = quota_of(self.kept)
        assert quota is not None
        assert quota.memory is not None
        assert quota.memory.used() == size <= self.limit

    def teardown(self) -> None:
        if hasattr(self, "real"):
            self.max_bytes = self.max_entries = None
            self.apply_limits()
            check_invariants(self.real)


class DictMachine(Machine):
    """With what a namespace hasn't: it reads like a dict."""

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        kept = self.live(key)
        assert self.entries.get(key, -1) == (kept.value if kept else -1)
        assert (key in self.entries) == (kept is not None)
        self.meet(key)

    @rule(key=KEYS)
    def pop(self, key: str) -> None:
        kept = self.live(key)
        assert self.entries.pop(key, -1) == (kept.value if kept else -1)
        self.model.pop(key, None)

    @rule(key=KEYS)
    def setdefault(self, key: str) -> None:
        self.meet(key)
        kept = self.live(key)
        wish = {} if kept else {key: Kept(0, 0, NEVER)}
        _, _, room = self.plan(wish)
        try:
            assert self.entries.setdefault(key, 0) == (kept.value if kept else 0)
        except StoreFull:
            assert not room
            return
        self.learn([key])
        if kept is None:
            entry = self.real.read(key)
            self.rises(key, entry[VERSION])
            self.model[key] = Kept(0, entry[VERSION], NEVER)

    @invariant()
    def it_is_a_dict(self) -> None:
        if hasattr(self, "real"):
            live = [key for key in self.model if self.live(key) is not None]
            assert sorted(self.entries) == sorted(live)
            assert len(self.entries) == len(self.model)
            assert bool(self.entries) == bool(self.model)


SIZES = [0, 10, 100, 1000, 1011, 1024, 1025, 2000, 3000]


class NamespaceMachine(Machine):
    """Values of bytes, small and large, most of them packed; limits by configuration."""

    limit = 12_000

    def make(self, budget: Budget, views: int) -> None:
        config = NamespaceConfig(stripes=self.stripes, policy=self.policy)
        self.real = Namespace("things", config, clock=self.clock, budget=budget)
        self.views = [self.real]

    def value(self, number: int) -> bytes:
        return bytes([number]) * SIZES[number % len(SIZES)]

    def size(self, key: str, value: int, deadline: float) -> int:
        record = pack(self.value(value), 1, deadline, DEFAULT_CONTENT_TYPE, 64)
        return cost(key, record)

    def apply_limits(self) -> None:
        stripes = len(stripes_of(self.kept))
        config = NamespaceConfig(self.max_bytes, self.max_entries, self.now_policy, 0, stripes)
        self.real.configure(config)
        assert self.real.config == config

    @precondition(lambda self: self.changes)
    @rule(stripes=st.sampled_from([1, 2, 64]))
    def reshape(self, stripes: int) -> None:
        self.real.configure(
            NamespaceConfig(self.max_bytes, self.max_entries, self.now_policy, 0, stripes)
        )

    @precondition(lambda self: self.changes)
    @rule(policy=st.sampled_from(POLICIES))
    def set_policy(self, policy: str) -> None:
        self.now_policy = policy
        self.apply_limits()


# Long sequences rather than many: what matters is what operations leave to later ones.
_SETTINGS = settings(max_examples=20, stateful_step_count=50, deadline=None)


def _machines() -> dict[str, type]:
    """A test case for each policy, with one stripe and with many, with changes of these and without."""
    made = {}
    for kind in (DictMachine, NamespaceMachine):
        for policy in POLICIES:
            for stripes, changes in ((1, False), (8, True)):
                name = f"{kind.__name__}_{policy}_{stripes}"
                options = {"policy": policy, "stripes": stripes, "changes": changes}
                case: Any = type(name, (kind,), options).TestCase  # type: ignore[attr-defined]
                case.settings = _SETTINGS
                made[f"Test{name}"] = case
    return made


globals().update(_machines())
