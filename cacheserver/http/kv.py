"""What requests for a key are answered, whichever way they came in.

The ASGI app and the fast path ask `cacheserver.operations` and come here with the outcome, so that
their answers cannot differ.
"""

from __future__ import annotations

import re
from typing import Final

from cacheserver import operations
from cacheserver.http import conditions, problems
from cacheserver.http.messages import JSON, Answer, problem
from cacheserver.operations import Appended, Counted
from cacheserver.store.entry import CONTENT_TYPE, VALUE, VERSION, Entry
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Touched, Written
from cacheserver.store.store import StoreView

_ACTIVE: Final = re.compile(rb"(?i)text/html|[a-z]+/(?:[^;\s]+\+)?xml")
"""Content types of documents that browsers run scripts of."""
_SANDBOX: Final = (
    (b"content-security-policy", b"sandbox"),
    (b"x-content-type-options", b"nosniff"),
)
"""They would run them as if they came from the live page, which is at the same origin."""


def answer_get(
    view: StoreView,
    found: Entry[bytes] | Missing,
    namespace: str,
    key: str,
    wanted: Condition | None,
    news: Condition | None,
) -> Answer:
    """Answer GET and HEAD; `wanted` is what `If-Match` asks for, `news` what `If-None-Match` does."""
    entry = None if isinstance(found, Missing) else found
    version = entry[VERSION] if entry else 0
    if wanted is not None and not wanted.holds(version):
        return conflict(entry)
    if isinstance(found, Missing):
        return missing(found, namespace, key)
    etag = conditions.etag(version)
    caching = cache_control(operations.seconds_left(view, found))
    if news is not None and not news.holds(version):
        return Answer(304, [(b"etag", etag), (b"cache-control", caching)])
    return value(etag, caching, found[CONTENT_TYPE].encode("ascii"), found[VALUE])


def answer_put(outcome: Written | Conflict[bytes]) -> Answer:
    """Answer PUT."""
    if isinstance(outcome, Conflict):
        return conflict(outcome.current)
    return written(outcome.created, conditions.etag(outcome.version))


def answer_delete(outcome: Deleted | Missing | Conflict[bytes], namespace: str, key: str) -> Answer:
    """Answer DELETE."""
    if isinstance(outcome, Conflict):
        return conflict(outcome.current)
    if isinstance(outcome, Missing):
        return missing(outcome, namespace, key)
    return Answer(204)


def answer_incr(outcome: Counted | Conflict[bytes]) -> Answer:
    """Answer POST /v1/incr."""
    if isinstance(outcome, Conflict):
        return conflict(outcome.current)
    return _changed(b"value", *outcome)


def answer_append(outcome: Appended | Conflict[bytes]) -> Answer:
    """Answer POST /v1/append."""
    if isinstance(outcome, Conflict):
        return conflict(outcome.current)
    return _changed(b"length", *outcome)


def answer_touch(outcome: Touched | Missing | Conflict[bytes], namespace: str, key: str) -> Answer:
    """Answer POST /v1/touch."""
    if isinstance(outcome, Conflict):
        return conflict(outcome.current)
    if isinstance(outcome, Missing):
        return missing(outcome, namespace, key)
    return written(False, conditions.etag(outcome.version))


def value(etag: bytes, caching: bytes, content_type: bytes, body: bytes) -> Answer:
    """Give the value."""
    headers = [(b"etag", etag), (b"cache-control", caching), (b"content-type", content_type)]
    if _ACTIVE.match(content_type):
        headers += _SANDBOX
    return Answer(200, headers, body)


def written(created: bool, etag: bytes) -> Answer:
    """Tell the new version."""
    return Answer(201 if created else 204, [(b"etag", etag)])


def cache_control(seconds_left: float | None) -> bytes:
    """Tell caches on the way how long the value stays, None being for good."""
    return b"no-cache" if seconds_left is None else b"max-age=%d" % seconds_left


def conflict(current: Entry[bytes] | None, **fields: object) -> Answer:
    """Tell what is there instead; `current_version` is null where nothing is."""
    if current is None:
        detail = "the key is not there, and the condition asks that it is"
        return problem(problems.CONDITION_FAILED, detail, (), current_version=None, **fields)
    version = current[VERSION]
    return problem(
        problems.CONDITION_FAILED,
        f"the key has version {version}, which the condition rules out",
        [(b"etag", conditions.etag(version))],
        current_version=version,
        **fields,
    )


def missing(found: Missing, namespace: str, key: str = "") -> Answer:
    """Tell what is not there."""
    if found.reason == "key":
        detail = f"there is no key {key!r} in namespace {namespace!r}"
    else:
        detail = f"there is no namespace {namespace!r}; the first write makes it"
    return problem(problems.NOT_FOUND, detail, reason=found.reason)


def _changed(what: bytes, number: int, version: int) -> Answer:
    body = b'{"%b":%d,"version":%d}' % (what, number, version)
    return Answer(200, [JSON, (b"etag", conditions.etag(version))], body)
