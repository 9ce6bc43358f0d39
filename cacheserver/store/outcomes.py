"""What comes back from a write, and the condition that a write may carry.

A failed compare-and-set and a missing key are answers, so they are values here and not exceptions.
Each is made anew for its caller: an object that all threads share would cost every operation an
atomic reference count.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from cacheserver.store.entry import DEFAULT_CONTENT_TYPE, Entry, Keep


class Written(NamedTuple):
    """The write happened."""

    version: int
    """The key's new version."""
    created: bool
    """Whether the key was not there before."""


class Deleted(NamedTuple):
    """The key was there and is gone."""

    version: int
    """The version that the deletion itself got: higher than any the key had."""


class Missing(NamedTuple):
    """There was nothing to act on."""

    reason: str = "key"
    """What was not there: `key` or `namespace`."""


class Conflict[V](NamedTuple):
    """The condition did not hold and nothing was written."""

    current: Entry[V] | None
    """What is there instead, None where the key is gone."""


class Touched(NamedTuple):
    """The key has a new deadline, or none."""

    version: int
    """The version that it has, and had."""


class Put[V](NamedTuple):
    """What a transaction writes under a key."""

    value: V
    ttl: float | Keep = 0
    """Seconds, 0: never gone."""
    content_type: str = DEFAULT_CONTENT_TYPE


class Refused[K, V](NamedTuple):
    """Conditions of a transaction did not hold and nothing was written."""

    conflicts: dict[K, Entry[V] | None]
    """What is there instead, by each key whose condition failed; None where it is gone."""


class Condition(NamedTuple):
    """What must be true of a key, at the instant of the operation, for it to go ahead.

    All that is set must hold: conditions given twice are both checked.
    """

    match: frozenset[int] | None = None
    """The key's version is one of these."""
    none_match: frozenset[int] = frozenset()
    """The key's version is none of these."""
    must_exist: bool = False
    must_be_absent: bool = False

    @classmethod
    def version(cls, expected: int) -> Self:
        """The key has this version; 0: the key is not there."""
        return cls(match=frozenset((expected,))) if expected else cls(must_be_absent=True)

    def holds(self, current: int) -> bool:
        """Tell whether it is true of a key whose version is `current`, 0 where it is not there."""
        if current == 0:
            return self.match is None and not self.must_exist
        if self.must_be_absent or current in self.none_match:
            return False
        return self.match is None or current in self.match

    def __and__(self, other: Condition) -> Condition:
        """Both conditions at once."""
        if self.match is None or other.match is None:
            match = self.match if other.match is None else other.match
        else:
            match = self.match & other.match
        return Condition(
            match,
            self.none_match | other.none_match,
            self.must_exist or other.must_exist,
            self.must_be_absent or other.must_be_absent,
        )
