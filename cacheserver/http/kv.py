"""What GET, PUT and DELETE of a key answer, whichever way the request came in.

The ASGI app and the fast path ask `cacheserver.operations` and come here with the outcome, so that
their answers cannot differ.
"""

from __future__ import annotations

from cacheserver import operations
from cacheserver.http import conditions, problems
from cacheserver.http.messages import Answer, problem
from cacheserver.store.entry import CONTENT_TYPE, VALUE, VERSION, Entry
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Written
from cacheserver.store.store import StoreView


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
        return _missing(found, namespace, key)
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
        return _missing(outcome, namespace, key)
    return Answer(204)


def value(etag: bytes, caching: bytes, content_type: bytes, body: bytes) -> Answer:
    """Give the value."""
    headers = [(b"etag", etag), (b"cache-control", caching), (b"content-type", content_type)]
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


def _missing(missing: Missing, namespace: str, key: str) -> Answer:
    if missing.reason == "key":
        detail = f"there is no key {key!r} in namespace {namespace!r}"
    else:
        detail = f"there is no namespace {namespace!r}; the first write makes it"
    return problem(problems.NOT_FOUND, detail, reason=missing.reason)
