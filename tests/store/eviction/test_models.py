"""Every policy against a simple model, by long random sequences."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cacheserver.store.eviction.lru import Lru
from cacheserver.store.eviction.policy import POLICIES
from tests.store.eviction.rig import Rig

READERS = 2
KEYS = st.integers(min_value=0, max_value=150)


class Machine(RuleBasedStateMachine):
    """A policy and its model, told the same. Here the model only knows which entries there are."""

    policy = "random"

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(self.make(), readers=READERS)

    def make(self) -> Any:
        return self.policy

    # What a model learns.

    def came(self, key: int) -> None:
        """A new entry."""

    def used(self, key: int) -> None:
        """A hit, or a write in place."""

    def went(self, key: int) -> None:
        """Deleted."""

    def allowed(self) -> set[int]:
        """Return the keys of which one has to go now."""
        return set(self.rig.where)

    # What happens.

    @rule(key=KEYS, deadline=st.sampled_from([0, 0, 5, 7, 9]))
    def put(self, key: int, deadline: float) -> None:
        old = key in self.rig.where
        self.rig.put(key, deadline=deadline)
        if old:
            self.used(key)
        else:
            self.came(key)

    @rule(start=KEYS, number=st.integers(min_value=1, max_value=150))
    def put_many(self, start: int, number: int) -> None:
        for key in range(start, start + number):
            self.put(key, 0)

    @rule(reader=st.integers(min_value=0, max_value=READERS - 1), data=st.data())
    @precondition(lambda self: self.rig.where)
    def hit(self, reader: int, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.rig.where)))
        self.rig.hit(key, reader=reader)
        self.used(key)

    @rule(reader=st.integers(min_value=0, max_value=READERS - 1), step=st.integers(1, 9))
    def hit_many(self, reader: int, step: int) -> None:
        for key in sorted(self.rig.where)[::step]:
            self.rig.hit(key, reader=reader)
            self.used(key)

    @rule(data=st.data())
    @precondition(lambda self: self.rig.where)
    def delete(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.rig.where)))
        self.rig.delete(key)
        self.went(key)

    @rule(number=st.integers(min_value=1, max_value=100))
    def evict(self, number: int) -> None:
        for _ in range(number):
            allowed = self.allowed()
            key = self.rig.evict()
            assert key in allowed if allowed else key is None
            if key is not None:
                self.went(key)

    @invariant()
    def sound(self) -> None:
        self.rig.check()


class FifoMachine(Machine):
    """Order of arrival, and nothing else."""

    policy = "fifo"

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[int] = []

    def came(self, key: int) -> None:
        self.arrived.append(key)

    def went(self, key: int) -> None:
        self.arrived.remove(key)

    def allowed(self) -> set[int]:
        return set(self.arrived[:1])


class NoEvictionMachine(Machine):
    """Nothing goes."""

    policy = "none"

    def allowed(self) -> set[int]:
        return set()


class TtlMachine(FifoMachine):
    """Soonest deadline first, then order of arrival."""

    policy = "ttl"

    def allowed(self) -> set[int]:
        soonest = self.rig.deadlines.soonest()
        if not soonest:
            return super().allowed()
        return {key for key in self.arrived if self.rig.where[key] == soonest}


class SieveMachine(FifoMachine):
    """A list from the oldest to the newest, the keys hit, and the key at which the hand is."""

    policy = "sieve"

    def __init__(self) -> None:
        super().__init__()
        self.hits: set[int] = set()
        self.hand: int | None = None  # the oldest, where it is None

    def used(self, key: int) -> None:
        self.hits.add(key)

    def went(self, key: int) -> None:
        if key == self.hand:
            following = self.arrived[self.arrived.index(key) + 1 :]
            self.hand = following[0] if following else None
        super().went(key)
        self.hits.discard(key)

    def allowed(self) -> set[int]:
        if not self.arrived:
            return set()
        place = 0 if self.hand is None else self.arrived.index(self.hand)
        while self.arrived[place] in self.hits:
            self.hits.remove(self.arrived[place])
            place = (place + 1) % len(self.arrived)
        chosen = self.hand = self.arrived[place]  # and when that goes, the next
        return {chosen}


class LruMachine(Machine):
    """The epoch in which each key was used last: one of the earliest has to go."""

    def __init__(self) -> None:
        self.epochs: dict[int, int] = {}
        super().__init__()

    def make(self) -> Any:
        epochs = self.epochs

        class Watched(Lru):
            def _merge(self) -> None:
                before = self.order()
                super()._merge()
                merged = {number: before[age // 2] for age, number in enumerate(before)}
                for key, number in epochs.items():
                    epochs[key] = merged[number]

        return Watched

    def came(self, key: int) -> None:
        self.epochs[key] = self.rig.policy.head[0]

    def used(self, key: int) -> None:
        self.epochs[key] = self.rig.policy.head[0]

    def went(self, key: int) -> None:
        del self.epochs[key]

    def allowed(self) -> set[int]:
        for number in self.rig.policy.order():
            if found := {key for key, epoch in self.epochs.items() if epoch == number}:
                return found
        return set()


class S3FifoMachine(Machine):
    """Any entry may go; queues and counts are right."""

    policy = "s3fifo"


class LfuMachine(Machine):
    """Likewise."""

    policy = "lfu"


class ChangingMachine(Machine):
    """One policy after the other over the same entries."""

    @rule(name=st.sampled_from(POLICIES))
    def switch(self, name: str) -> None:
        before = set(self.rig.where)
        self.rig.switch(name)
        assert set(self.rig.where) == before

    def allowed(self) -> set[int]:
        return set() if self.rig.policy.name == "none" else super().allowed()


TestFifo = FifoMachine.TestCase
TestNoEviction = NoEvictionMachine.TestCase
TestTtl = TtlMachine.TestCase
TestSieve = SieveMachine.TestCase
TestLru = LruMachine.TestCase
TestS3Fifo = S3FifoMachine.TestCase
TestLfu = LfuMachine.TestCase
TestRandom = Machine.TestCase
TestChanging = ChangingMachine.TestCase

for case in (
    TestFifo,
    TestNoEviction,
    TestTtl,
    TestSieve,
    TestLru,
    TestS3Fifo,
    TestLfu,
    TestRandom,
    TestChanging,
):
    case.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
