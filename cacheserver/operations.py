"""The verbs: one function each, typed arguments in, an outcome out.

Whatever speaks to the store from outside speaks through these functions and nothing else, so that
all ways in check the same things and mean the same by them. They are synchronous and wait for
nothing but a lock, and a few milliseconds in all for others who are quicker. `view` is the calling
thread's own (`Store.view`).

Each raises what `cacheserver.errors` has below InvalidInput for words that are off, below
LimitExceeded where a limit is in the way, and below WrongValue where the value is of no use for it;
nothing is changed then. `ConditionRequired` where the namespace wants a condition and there is none.

`incr` and `append` read, compute and write on condition that nothing has changed, again and again until
that holds: no lock is held meanwhile, and none is lost. `Contention` where others are always quicker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from cacheserver.errors import (
    Contention,
    IntegerOverflow,
    NamespaceGone,
    NotAnInteger,
    ValueTooLarge,
)
from cacheserver.store.entry import (
    CONTENT_TYPE,
    DEADLINE,
    DEFAULT_CONTENT_TYPE,
    KEEP,
    VALUE,
    VERSION,
    Entry,
    Keep,
)
from cacheserver.store.names import check_key, check_namespace, check_ttl
from cacheserver.store.namespace import NamespaceConfig, NamespaceStatistics
from cacheserver.store.optimistic import retry, unchanged
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Touched, Written
from cacheserver.store.store import Store, StoreView

COUNTER_CONTENT_TYPE: Final = "text/plain"
"""The content type of a counter that `incr` makes."""

_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_LEAST: Final = -(2**63)
_MOST: Final = 2**63 - 1


class Counted(NamedTuple):
    """The number was changed."""

    value: int
    version: int


class Appended(NamedTuple):
    """The value was made longer."""

    length: int
    version: int


def get(view: StoreView, namespace: str, key: str) -> Entry[bytes] | Missing:
    """Return what is kept for the key, or what is missing: the key or the namespace."""
    tries = 0
    while True:
        try:
            found = view.find(namespace)
            if found is not None:
                entry = found.entries.read(key)
                if entry is not None:  # so the key is one that is allowed
                    return entry
        except NamespaceGone:
            tries = _look_again(view, namespace, tries)
        else:
            check_key(key)
            if found is None:
                check_namespace(namespace)
                return Missing("namespace")
            return Missing()


def put(
    view: StoreView,
    namespace: str,
    key: str,
    value: bytes,
    *,
    content_type: str = DEFAULT_CONTENT_TYPE,
    ttl: float | Keep | None = None,
    condition: Condition | None = None,
) -> Written | Conflict[bytes]:
    """Write the key if `condition` holds.

    The key is gone after `ttl` seconds, 0: never, None: what the namespace has as its default, KEEP:
    when it would be anyhow. The namespace is made if there is none, unless the condition asks for what
    cannot be there then.
    """
    check_key(key)
    if ttl is not None and ttl is not KEEP:
        check_ttl(ttl)
    if len(value) > view.max_value_size:
        raise _too_large(view, len(value))
    tries = 0
    while True:
        try:
            found = view.find(namespace)
            if found is None:
                check_namespace(namespace)
                if condition is not None and not condition.holds(0):
                    return Conflict(None)
                view.store.check_room(key, value, content_type)
                found = view.open(namespace)
            return found.put(key, value, ttl, content_type, condition)
        except NamespaceGone:
            tries = _look_again(view, namespace, tries)


def delete(
    view: StoreView, namespace: str, key: str, *, condition: Condition | None = None
) -> Deleted | Missing | Conflict[bytes]:
    """Delete the key if it is there and `condition` holds."""
    check_key(key)
    tries = 0
    while True:
        try:
            found = view.find(namespace)
            if found is None:
                return _no_namespace(namespace, condition)
            return found.delete(key, condition)
        except NamespaceGone:
            tries = _look_again(view, namespace, tries)


def compare_and_set(
    view: StoreView,
    namespace: str,
    key: str,
    expected_version: int,
    value: bytes,
    *,
    content_type: str = DEFAULT_CONTENT_TYPE,
    ttl: float | None = None,
    condition: Condition | None = None,
) -> Written | Conflict[bytes]:
    """Write the key if it has the expected version, or, for 0, if it is not there.

    `condition`, if there is one, must hold besides.
    """
    expected = Condition.version(expected_version)
    return put(
        view,
        namespace,
        key,
        value,
        content_type=content_type,
        ttl=ttl,
        condition=expected if condition is None else expected & condition,
    )


def incr(
    view: StoreView,
    namespace: str,
    key: str,
    *,
    by: int = 1,
    initial: int = 0,
    ttl: float | None = None,
    condition: Condition | None = None,
) -> Counted | Conflict[bytes]:
    """Add `by` to the number that is kept as decimal text, if `condition` holds.

    A key that is not there counts as `initial`. One that is there keeps its deadline and its content
    type; `ttl`, where it is given, starts anew. Of numbers beyond 64 bits, signed, nothing is kept.
    """

    def add(entry: Entry[bytes] | None) -> _Content:
        total = summed(None if entry is None else entry[VALUE], by, initial)
        return b"%d" % total, COUNTER_CONTENT_TYPE if entry is None else entry[CONTENT_TYPE]

    value, outcome = _change(view, namespace, key, add, ttl, condition)
    return outcome if isinstance(outcome, Conflict) else Counted(int(value), outcome.version)


def summed(value: bytes | None, by: int, initial: int) -> int:
    """Return the number that `incr` makes of a value, None where there is none.

    NotAnInteger where it is no number, IntegerOverflow where the sum doesn't fit in 64 bits.
    """
    total = by + (initial if value is None else _integer(value))
    if not _LEAST <= total <= _MOST:
        raise IntegerOverflow(f"the sum would be {total}, which does not fit in 64 bits")
    return total


def append(
    view: StoreView,
    namespace: str,
    key: str,
    more: bytes,
    *,
    content_type: str = DEFAULT_CONTENT_TYPE,
    ttl: float | None = None,
    condition: Condition | None = None,
) -> Appended | Conflict[bytes]:
    """Add bytes to the end of the value, if `condition` holds.

    A key that is not there is made, with `content_type`. One that is there keeps its own, and its
    deadline; `ttl`, where it is given, starts anew.
    """
    if len(more) > view.max_value_size:
        raise _too_large(view, len(more))

    def extend(entry: Entry[bytes] | None) -> _Content:
        if entry is None:
            return more, content_type
        size = len(entry[VALUE]) + len(more)
        if size > view.max_value_size:  # which is known before so much is copied
            raise _too_large(view, size)
        return entry[VALUE] + more, entry[CONTENT_TYPE]

    value, outcome = _change(view, namespace, key, extend, ttl, condition)
    return outcome if isinstance(outcome, Conflict) else Appended(len(value), outcome.version)


def touch(
    view: StoreView,
    namespace: str,
    key: str,
    *,
    ttl: float | None = None,
    condition: Condition | None = None,
) -> Touched | Missing | Conflict[bytes]:
    """Have the key gone after `ttl` seconds, if it is there and `condition` holds.

    Value and version stay. 0: never gone, None: what the namespace has as its default.
    """
    check_key(key)
    if ttl is not None:
        check_ttl(ttl)
    tries = 0
    while True:
        try:
            found = view.find(namespace)
            if found is None:
                return _no_namespace(namespace, condition)
            return found.touch(key, ttl, condition)
        except NamespaceGone:
            tries = _look_again(view, namespace, tries)


def put_namespace(
    store: Store, name: str, fields: Mapping[str, Any]
) -> tuple[NamespaceStatistics, bool]:
    """Have a namespace configured like this; returns what it is now, and whether it was made for that.

    Fields that are not given, or None, are as in namespaces that nobody configured.
    """
    check_namespace(name)
    usual = store.default_config
    namespace, created = _outliving_drops(
        store, name, lambda: store.create(name, replace(usual, **_given(fields, usual)))
    )
    return namespace.statistics(), created


def patch_namespace(
    store: Store, name: str, fields: Mapping[str, Any]
) -> NamespaceStatistics | Missing:
    """Change these fields of a namespace's configuration; None stands for what is usual."""
    check_namespace(name)

    def change() -> NamespaceStatistics | Missing:
        namespace = store.get(name)
        if namespace is None:
            return Missing("namespace")
        namespace.change(**_given(fields, store.default_config))
        return namespace.statistics()

    return _outliving_drops(store, name, change)


def get_namespace(store: Store, name: str) -> NamespaceStatistics | Missing:
    """Return a namespace's figures and its configuration."""
    check_namespace(name)
    namespace = store.get(name)
    return Missing("namespace") if namespace is None else namespace.statistics()


def list_namespaces(store: Store) -> tuple[NamespaceStatistics, ...]:
    """Return figures and configurations of all namespaces, in order of their names."""
    return store.statistics().namespaces


def clear_namespace(store: Store, name: str) -> int | Missing:
    """Delete all keys of a namespace at one instant. Returns how many went."""
    check_namespace(name)

    def clear() -> int | Missing:
        namespace = store.get(name)
        return Missing("namespace") if namespace is None else namespace.clear()

    return _outliving_drops(store, name, clear)


def delete_namespace(store: Store, name: str) -> int | Missing:
    """Drop a namespace, its configuration and all keys. Returns how many keys went."""
    check_namespace(name)
    gone = store.drop(name)
    return Missing("namespace") if gone is None else gone


def seconds_left(view: StoreView, entry: Entry[bytes]) -> float | None:
    """Return how long the entry stays, in seconds, None where it stays for good."""
    if not entry[DEADLINE]:
        return None
    return max(0.0, entry[DEADLINE] - view.store.clock.monotonic())


# Reading, computing, and writing on condition.

type _Content = tuple[bytes, str]
"""A value and its content type."""


def _change(
    view: StoreView,
    namespace: str,
    key: str,
    compute: Callable[[Entry[bytes] | None], _Content],
    ttl: float | None,
    condition: Condition | None,
) -> tuple[bytes, Written | Conflict[bytes]]:
    """Put what `compute` makes of what is there in its place. Returns the value, and what became of it."""
    check_key(key)
    if ttl is not None:
        check_ttl(ttl)
    _check_condition(view, namespace, condition)

    def read() -> Entry[bytes] | None:
        found = get(view, namespace, key)
        return None if isinstance(found, Missing) else found

    def attempt(
        entry: Entry[bytes] | None,
    ) -> tuple[bytes, Written | Conflict[bytes]] | Conflict[bytes]:
        allowed = _holds(condition, entry)
        value, content_type = compute(entry) if allowed else (b"", DEFAULT_CONTENT_TYPE)
        expected = unchanged(entry) if condition is None else unchanged(entry) & condition
        kept = KEEP if ttl is None and entry is not None else ttl
        # What is not allowed is asked for all the same, so that the conflict is counted.
        outcome = put(
            view, namespace, key, value, content_type=content_type, ttl=kept, condition=expected
        )
        if isinstance(outcome, Conflict) and _holds(condition, outcome.current):
            return outcome  # somebody was quicker: again, with what is there now
        return value, outcome

    return retry(read, attempt)


def _check_condition(view: StoreView, namespace: str, condition: Condition | None) -> None:
    """Raise ConditionRequired where the namespace, if there is one, wants a condition."""
    tries = 0
    while True:
        try:
            there = view.find(namespace)
            return None if there is None else there.check_condition(condition)
        except NamespaceGone:
            tries = _look_again(view, namespace, tries)


def _holds(condition: Condition | None, entry: Entry[bytes] | None) -> bool:
    return condition is None or condition.holds(0 if entry is None else entry[VERSION])


def _given(fields: Mapping[str, Any], usual: NamespaceConfig) -> dict[str, Any]:
    """Return fields of a configuration; None stands for what is usual."""
    return {
        name: getattr(usual, name) if value is None else value for name, value in fields.items()
    }


def _integer(text: bytes) -> int:
    if _INTEGER.fullmatch(text) and _LEAST <= (number := int(text)) <= _MOST:
        return number
    raise NotAnInteger(
        f"the value, of {len(text)} bytes, is no number to add to: that would be decimal digits "
        "alone, with a - before them if it is negative, of an integer that fits in 64 bits"
    )


def _too_large(view: StoreView, size: int) -> ValueTooLarge:
    return ValueTooLarge(f"a value has at most {view.max_value_size} bytes; this one has {size}")


# Namespaces that are dropped while somebody works with them.

_MOST_TRIES: Final = 12


def _no_namespace(namespace: str, condition: Condition | None) -> Missing | Conflict[bytes]:
    check_namespace(namespace)
    if condition is not None and not condition.holds(0):
        return Conflict(None)
    return Missing("namespace")


def _look_again(view: StoreView, namespace: str, tries: int) -> int:
    """Forget a namespace that turned out to be gone. Returns the number of tries, this one included."""
    view.forget(namespace)
    return _once_more(tries)


def _once_more(tries: int) -> int:
    if tries == _MOST_TRIES:
        raise Contention("the namespace was dropped each time that it was found; try again")
    return tries + 1


def _outliving_drops[R](store: Store, name: str, function: Callable[[], R]) -> R:
    tries = 0
    while True:
        try:
            return function()
        except NamespaceGone:
            store.forget(name)
            tries = _once_more(tries)
