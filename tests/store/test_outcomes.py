"""Conditions and what comes back from a write."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Written

VERSIONS = range(4)  # 0: not there; no condition below names 3
SETS = [frozenset(some) for size in range(3) for some in combinations((1, 2), size)]
CONDITIONS = [
    Condition(match, none_match, must_exist, must_be_absent)
    for match, none_match, must_exist, must_be_absent in product(
        [None, *SETS], SETS, (False, True), (False, True)
    )
]
"""All that there are, of two versions."""


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (Condition(), [0, 1, 2, 3]),
        (Condition(must_exist=True), [1, 2, 3]),
        (Condition(must_be_absent=True), [0]),
        (Condition(must_exist=True, must_be_absent=True), []),
        (Condition(match=frozenset({2})), [2]),
        (Condition(match=frozenset({1, 3})), [1, 3]),
        (Condition(match=frozenset()), []),
        (Condition(none_match=frozenset({2})), [0, 1, 3]),
        (Condition(none_match=frozenset({1, 2, 3})), [0]),
        (Condition(match=frozenset({1, 2}), none_match=frozenset({2})), [1]),
        (Condition(match=frozenset({2}), must_be_absent=True), []),
        (Condition(none_match=frozenset({2}), must_exist=True), [1, 3]),
        (Condition(none_match=frozenset({2}), must_be_absent=True), [0]),
        (Condition.version(0), [0]),
        (Condition.version(2), [2]),
        (Condition.version(-1), []),
    ],
)
def test_condition_holds_for_exactly_these_versions(condition: Condition, holds: list[int]) -> None:
    """Of a missing key (0) and the versions 1 to 3, a condition holds for those listed."""
    assert [version for version in range(4) if condition.holds(version)] == holds


@pytest.mark.parametrize("version", VERSIONS)
def test_condition_means_what_its_fields_say(version: int) -> None:
    """A condition holds when each of its fields, read by itself, holds."""
    there = version != 0
    for condition in CONDITIONS:
        parts = [
            condition.match is None or (there and version in condition.match),
            not there or version not in condition.none_match,
            there or not condition.must_exist,
            not there or not condition.must_be_absent,
        ]
        assert condition.holds(version) == all(parts), condition


@pytest.mark.parametrize("version", VERSIONS)
def test_two_conditions_at_once_both_hold(version: int) -> None:
    """`one & other` holds exactly where both do."""
    for one, other in product(CONDITIONS, repeat=2):
        expected = one.holds(version) and other.holds(version)
        assert (one & other).holds(version) == expected, (one, other)


def test_no_condition_adds_nothing() -> None:
    """The empty condition changes none that it is put together with."""
    for one in CONDITIONS:
        assert one & Condition() == Condition() & one == one & one == one


def test_outcomes_are_told_apart_by_type() -> None:
    """The four outcomes carry what a caller needs to go on without reading again."""
    assert Written(7, True) == (7, True)
    assert Deleted(8).version == 8
    assert Missing().reason == "key"
    assert Missing("namespace").reason == "namespace"
    assert Conflict(None).current is None
    outcomes: list[object] = [Written(1, True), Deleted(1), Missing(), Conflict(None)]
    assert len({type(outcome) for outcome in outcomes}) == 4
