"""What each route does: a request in, an answer out.

Where several things are wrong with a request, this is the order in which they are found: no token,
no such route, a method that is not allowed, an announced body that is too large, the media type,
the key, the query, the condition's form, the body itself, and then what the store says of it.
"""

from __future__ import annotations

import asyncio
import base64
import contextvars
import platform
import sys
import sysconfig
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final

from starlette.types import ASGIApp

import cacheserver
from cacheserver import operations
from cacheserver.http import bodies, codec, conditions, kv, namespaces, problems
from cacheserver.http.errors import MalformedHeader, MalformedJSON, UnsupportedMediaType
from cacheserver.http.events import EventStream
from cacheserver.http.messages import JSON, Answer, RawHeaders, Request, problem
from cacheserver.http.pages import Pages
from cacheserver.http.status import ServiceStatus
from cacheserver.http.target import Parameters
from cacheserver.insight.history import History
from cacheserver.metrics import Exposition, Metrics
from cacheserver.store.entry import CONTENT_TYPE, VALUE, Entry
from cacheserver.store.namespace import NamespaceStatistics
from cacheserver.store.outcomes import Condition, Conflict, Missing
from cacheserver.store.store import Store

type Handler = Callable[[Request], Awaitable[ASGIApp]]
"""What it returns sends the answer: an `Answer`, but where that has no end."""

_ENVELOPE_BYTES: Final = 64 * 1024
"""What a JSON body may need around its value, or without one."""


class Handlers:
    """The handlers, each named as the operation in the table of routes.

    A namespace as a whole is changed in a thread that ends with the change. For what a thread has made is
    freed by that thread alone, as long as it lives: an idle one would keep what others delete.
    """

    def __init__(self, store: Store, status: ServiceStatus, metrics: Metrics) -> None:
        self._store = store
        self._status = status
        self._metrics = metrics
        self._pages = Pages()
        self._exposition = Exposition(store, metrics)
        self._history = History(store, metrics, status.tell)
        self._changes = ThreadPoolExecutor(4, thread_name_prefix="cacheserver-changes")
        self._max_value_size = store.max_value_size
        # In base64 four characters stand for three bytes.
        self._max_json_size = (store.max_value_size + 2) // 3 * 4 + _ENVELOPE_BYTES

    async def get(self, request: Request) -> Answer:
        """Read a value, unless the client's conditions say that it does not want it."""
        namespace, key = request.address()
        request.parameters()
        wanted = conditions.if_match(request.header(b"if-match"))
        news = conditions.if_none_match(request.header(b"if-none-match"))
        view = self._store.view()
        found = operations.get(view, namespace, key)
        return kv.answer_get(view, found, namespace, key, wanted, news)

    async def put(self, request: Request) -> Answer:
        """Write a value if every condition holds."""
        request.refuse_larger(self._max_value_size)
        _refuse_coding(request)
        if request.header(b"content-range") is not None:  # RFC 9110, section 14.5
            raise MalformedHeader("Content-Range: a value is written whole; send all of it")
        namespace, key = request.address()
        query = request.parameters()
        condition = _condition(request, query)
        content_type = bodies.parse_content_type(request.header(b"content-type"))
        value = await request.body(self._max_value_size)
        outcome = operations.put(
            self._store.view(),
            namespace,
            key,
            value,
            content_type=content_type,
            ttl=query.ttl,
            condition=condition,
        )
        return kv.answer_put(outcome)

    async def delete(self, request: Request) -> Answer:
        """Delete a value if every condition holds."""
        namespace, key = request.address()
        condition = _condition(request, request.parameters())
        outcome = operations.delete(self._store.view(), namespace, key, condition=condition)
        return kv.answer_delete(outcome, namespace, key)

    async def incr(self, request: Request) -> Answer:
        """Add to a number if every condition holds."""
        namespace, key = request.address()
        query = request.parameters()
        condition = _condition(request, query)
        await request.refuse_body("by, initial and ttl stand in the query, as in ?by=5")
        outcome = operations.incr(
            self._store.view(),
            namespace,
            key,
            by=query.by,
            initial=query.initial,
            ttl=query.ttl,
            condition=condition,
        )
        return kv.answer_incr(outcome)

    async def append(self, request: Request) -> Answer:
        """Add to the end of a value if every condition holds."""
        request.refuse_larger(self._max_value_size)
        _refuse_coding(request)
        namespace, key = request.address()
        query = request.parameters()
        condition = _condition(request, query)
        content_type = bodies.parse_content_type(request.header(b"content-type"))
        more = await request.body(self._max_value_size)
        outcome = operations.append(
            self._store.view(),
            namespace,
            key,
            more,
            content_type=content_type,
            ttl=query.ttl,
            condition=condition,
        )
        return kv.answer_append(outcome)

    async def touch(self, request: Request) -> Answer:
        """Give a value a new time to live if every condition holds."""
        namespace, key = request.address()
        query = request.parameters()
        condition = _condition(request, query)
        await request.refuse_body("ttl stands in the query, as in ?ttl=60")
        outcome = operations.touch(
            self._store.view(), namespace, key, ttl=query.ttl, condition=condition
        )
        return kv.answer_touch(outcome, namespace, key)

    async def compare_and_set(self, request: Request) -> Answer:
        """Write a value if the key has the version that the JSON body expects."""
        request.refuse_larger(self._max_json_size)
        _refuse_coding(request)
        _refuse_other_than_json(request, bodies.JSON_CONTENT_TYPE)
        namespace, key = request.address()
        condition = _condition(request, request.parameters())
        wish = bodies.parse_compare_and_set(await request.body(self._max_json_size))
        outcome = operations.compare_and_set(
            self._store.view(),
            namespace,
            key,
            wish.expected_version,
            wish.value,
            content_type=wish.content_type,
            ttl=wish.ttl,
            condition=condition,
        )
        if isinstance(outcome, Conflict):
            return kv.conflict(outcome.current, **_current_value(outcome.current))
        etag = [(b"etag", conditions.etag(outcome.version))]
        return _json(200, {"version": outcome.version}, etag)

    # Namespaces. Figures are collected, and whatever may take long is done, off the event loop.

    async def list_namespaces(self, request: Request) -> Answer:
        """Tell of all namespaces, in order of their names."""
        request.parameters()
        found = await asyncio.to_thread(operations.list_namespaces, self._store)
        return _json(200, {"namespaces": [namespaces.render(each) for each in found]})

    async def get_namespace(self, request: Request) -> Answer:
        """Tell of a namespace: its configuration and its figures."""
        name = _namespace(request)
        return _told(name, await asyncio.to_thread(operations.get_namespace, self._store, name))

    async def put_namespace(self, request: Request) -> Answer:
        """Make a namespace, or have it configured like this and no different."""
        request.refuse_larger(_ENVELOPE_BYTES)
        _refuse_coding(request)
        _refuse_other_than_json(request, bodies.JSON_CONTENT_TYPE)
        name, fields = await _configuration(request)
        found, created = await self._apart(operations.put_namespace, self._store, name, fields)
        return _json(201 if created else 200, namespaces.render(found))

    async def patch_namespace(self, request: Request) -> Answer:
        """Change those parts of a configuration that are given."""
        request.refuse_larger(_ENVELOPE_BYTES)
        _refuse_coding(request)
        _refuse_other_than_json(request, bodies.MERGE_PATCH, bodies.JSON_CONTENT_TYPE)
        name, fields = await _configuration(request)
        found = await self._apart(operations.patch_namespace, self._store, name, fields)
        return _told(name, found)

    async def delete_namespace(self, request: Request) -> Answer:
        """Drop a namespace and all that it holds."""
        name = _namespace(request)
        gone = await self._apart(operations.delete_namespace, self._store, name)
        return kv.missing(gone, name) if isinstance(gone, Missing) else Answer(204)

    async def clear_namespace(self, request: Request) -> Answer:
        """Delete all keys of a namespace at one instant, and say how many there were."""
        name = _namespace(request)
        await request.refuse_body("all keys of the namespace go")
        gone = await self._apart(operations.clear_namespace, self._store, name)
        if isinstance(gone, Missing):
            return kv.missing(gone, name)
        return _json(200, {"entries": gone})

    async def health(self, request: Request) -> Answer:
        """Tell that the process lives and its event loop turns."""
        return _json(200, {"status": "ok"})

    async def readiness(self, request: Request) -> Answer:
        """Tell whether requests are welcome."""
        state = self._status.state
        if state == "serving":
            return _json(200, {"status": "ready"})
        return problem(
            problems.NOT_READY,
            f"the server is {state}: ask again in a moment, or ask another one",
            state=state,
        )

    async def info(self, request: Request) -> Answer:
        """Tell what runs here and how."""
        request.parameters()
        status = self._status
        return _json(
            200,
            {
                "version": cacheserver.__version__,
                "python": platform.python_version(),
                "implementation": platform.python_implementation(),
                "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
                "gil_enabled": sys._is_gil_enabled(),
                "json": codec.CODEC.name,
                "threads": status.threads,
                "fast_path": status.fast_path,
                "stripes": self._store.stripes,
                "max_memory": self._store.max_memory,
                "max_value_size": self._store.max_value_size,
                "max_namespaces": self._store.max_namespaces,
                "slow_threshold_seconds": self._metrics.slowlog.threshold,
                "state": status.state,
                "started_at": datetime.fromtimestamp(status.started_at, UTC).isoformat(),
                "uptime_seconds": round(status.uptime, 3),
                "loops": [
                    {
                        "thread": recorder.thread,
                        "lag_seconds": round(lag, 6),
                        "connections": recorder.connections,
                    }
                    for recorder in self._metrics.recorders()
                    if (lag := recorder.worst_lag()) is not None
                ],
            },
        )

    # What the figures mean is worked out off the event loop.

    async def locks(self, request: Request) -> Answer:
        """Tell where locks are waited for, and what to do about it."""
        request.parameters()
        return _json(200, await asyncio.to_thread(self._history.locks))

    async def hotkeys(self, request: Request) -> Answer:
        """Tell which keys are used, and waited for, most."""
        request.parameters()
        return _json(200, await asyncio.to_thread(self._history.hotkeys))

    async def slowlog(self, request: Request) -> Answer:
        """Tell which operations took long lately, and what they waited for."""
        request.parameters()
        return _json(200, await asyncio.to_thread(self._history.slowlog))

    async def events(self, request: Request) -> EventStream:
        """Tell all figures, again and again."""
        request.parameters()
        return EventStream(self._history, self._status)

    async def page(self, request: Request) -> Answer:
        """Give the live page, or one of its files."""
        return self._pages.answer(request.path, request.header(b"if-none-match"))

    async def page_itself(self, request: Request) -> Answer:
        """Lead to the page, whose links would lead elsewhere from here."""
        return Answer(308, [(b"location", b"../ui")])

    async def _apart[R](self, function: Callable[..., R], *arguments: object) -> R:
        """Call what may take seconds, off the event loop and in a thread that ends with it.

        A few at a time, and not by the threads that tell figures.
        """
        context = contextvars.copy_context()  # which says where to note what is waited for

        def call() -> R:
            with ThreadPoolExecutor(1, thread_name_prefix="cacheserver-change") as own:
                return own.submit(context.run, function, *arguments).result()

        return await asyncio.get_running_loop().run_in_executor(self._changes, call)

    async def metrics(self, request: Request) -> Answer:
        """Render the metrics in a thread of their own, so that no request waits for them."""
        accept = (request.header(b"accept") or b"").decode("latin-1")
        future = self._exposition.render_soon(accept)
        text, content_type = await asyncio.wrap_future(future)
        return Answer(200, [(b"content-type", content_type.encode("latin-1"))], text)


def _refuse_coding(request: Request) -> None:
    coding = request.header(b"content-encoding")
    if coding is not None and coding.strip().lower() != b"identity":
        raise UnsupportedMediaType(
            "Content-Encoding: the coding of a value would be forgotten; send it without one, or "
            "with a Content-Type that names the compressed format"
        )


def _refuse_other_than_json(request: Request, *media_types: str) -> None:
    if not bodies.is_of(request.header(b"content-type"), media_types):
        raise UnsupportedMediaType(
            f"the body must be JSON: send Content-Type: {' or '.join(media_types)}"
        )


def _condition(request: Request, query: Parameters) -> Condition | None:
    return conditions.all_of(
        conditions.if_match(request.header(b"if-match")),
        conditions.if_none_match(request.header(b"if-none-match")),
        None if query.cas is None else Condition.version(query.cas),
    )


def _namespace(request: Request) -> str:
    name = request.namespace()
    request.parameters()
    return name


async def _configuration(request: Request) -> tuple[str, dict[str, Any]]:
    name = _namespace(request)
    return name, namespaces.parse(await request.body(_ENVELOPE_BYTES))


def _told(name: str, found: NamespaceStatistics | Missing) -> Answer:
    if isinstance(found, Missing):
        return kv.missing(found, name)
    return _json(200, namespaces.render(found))


def _json(status: int, content: object, headers: RawHeaders = ()) -> Answer:
    return Answer(status, (JSON, *headers), codec.dumps(content))


def _current_value(current: Entry[bytes] | None) -> dict[str, object]:
    """Return the fields that spare the client a read: JSON as JSON, all else in base64."""
    if current is None:
        return {}
    value, content_type = current[VALUE], current[CONTENT_TYPE]
    if bodies.is_json(content_type):
        try:
            return {"current_value": codec.loads(value)}
        except MalformedJSON:
            pass
    encoded = base64.b64encode(value).decode("ascii")
    return {"current_value_base64": encoded, "content_type": content_type}
