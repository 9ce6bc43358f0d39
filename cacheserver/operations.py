"""The verbs: one function each, typed arguments in, an outcome out.

Whatever speaks to the store from outside speaks through these functions and nothing else, so that
all ways in check the same things and mean the same by them. They are synchronous and wait for
nothing but a lock. `view` is the calling thread's own (`Store.view`).

Each raises what `cacheserver.errors` has below InvalidInput for words that are off, and below
LimitExceeded where a limit is in the way; nothing is changed then.
"""

from __future__ import annotations

from cacheserver.errors import ValueTooLarge
from cacheserver.store.entry import DEADLINE, DEFAULT_CONTENT_TYPE, Entry
from cacheserver.store.names import check_key, check_namespace, check_ttl
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Written
from cacheserver.store.store import StoreView


def get(view: StoreView, namespace: str, key: str) -> Entry[bytes] | Missing:
    """Return what is kept for the key, or what is missing: the key or the namespace."""
    found = view.find(namespace)
    if found is not None:
        entry = found.read(key)
        if entry is not None:  # so the key is one that is allowed
            return entry
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
    ttl: float | None = None,
    condition: Condition | None = None,
) -> Written | Conflict[bytes]:
    """Write the key if `condition` holds.

    The key is gone after `ttl` seconds, 0: never, None: what the namespace has as its default. The
    namespace is made if there is none, unless the condition asks for what cannot be there then.
    """
    check_key(key)
    if ttl is not None:
        check_ttl(ttl)
    if len(value) > view.max_value_size:
        raise ValueTooLarge(
            f"a value has at most {view.max_value_size} bytes; this one has {len(value)}"
        )
    found = view.find(namespace)
    if found is None:
        check_namespace(namespace)
        if condition is not None and not condition.holds(0):
            return Conflict(None)
        view.store.check_room(key, value, content_type)
        found = view.open(namespace)
    return found.put(key, value, ttl, content_type, condition)


def delete(
    view: StoreView, namespace: str, key: str, *, condition: Condition | None = None
) -> Deleted | Missing | Conflict[bytes]:
    """Delete the key if it is there and `condition` holds."""
    check_key(key)
    found = view.find(namespace)
    if found is None:
        check_namespace(namespace)
        if condition is not None and not condition.holds(0):
            return Conflict(None)
        return Missing("namespace")
    return found.delete(key, condition)


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


def seconds_left(view: StoreView, entry: Entry[bytes]) -> float | None:
    """Return how long the entry stays, in seconds, None where it stays for good."""
    if not entry[DEADLINE]:
        return None
    return max(0.0, entry[DEADLINE] - view.store.clock.monotonic())
