"""The app: the one place where routes, handlers, middleware and store are put together."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, ExceptionHandler, Receive, Scope, Send

from cacheserver.http import problems
from cacheserver.http.access import AccessMiddleware, SameSiteMiddleware, Tokens
from cacheserver.http.errors import BodyTooLarge, ClientGone
from cacheserver.http.handlers import Handler, Handlers
from cacheserver.http.messages import Answer, Request, problem, raw_path
from cacheserver.http.metering import FOUND, MeteringMiddleware
from cacheserver.http.routes import ROUTES, Found, RouteTable
from cacheserver.http.status import ServiceStatus
from cacheserver.metrics import Metrics
from cacheserver.store.store import Store


def create_app(
    store: Store | None = None,
    *,
    tokens: Tokens | str | None = None,
    status: ServiceStatus | None = None,
    metrics: Metrics | None = None,
) -> Starlette:
    """Return an ASGI app that serves `store`, a new one where none is given.

    It can be served as it is or mounted in another app under a prefix, and be called from any
    number of event loops in as many threads: nothing in it belongs to a loop, and nothing is built
    by the first request. `tokens` are those that are asked for, none: everybody may do everything.
    `status` and `metrics` are what the server that serves the app tells about itself.

    Behind Starlette's `Mount`, which matches no path with a line feed, a key that has one cannot be
    reached. The app needs no lifespan. The two threads that it starts, for `/metrics` and for the live
    page, end when the app is garbage, or with the interpreter; a process that forks makes the app
    after the fork. StartupError where the package lacks a file.
    """
    store = Store() if store is None else store
    metrics = Metrics() if metrics is None else metrics
    status = ServiceStatus() if status is None else status
    handlers = Handlers(store, status, metrics)
    middleware = [Middleware(MeteringMiddleware, metrics=metrics)]
    if tokens is not None:
        known = Tokens([tokens]) if isinstance(tokens, str) else tokens
        middleware.append(Middleware(AccessMiddleware, tokens=known, routes=ROUTES))
    else:
        middleware.append(Middleware(SameSiteMiddleware))
    app = Starlette(
        routes=[TableRoute(RouteTable(ROUTES), handlers)],
        middleware=middleware,
        exception_handlers=_EXCEPTION_HANDLERS,
    )
    app.router.redirect_slashes = False
    app.state.store = store
    app.middleware_stack = app.build_middleware_stack()
    return app


class TableRoute(BaseRoute):
    """All routes of the table as one route of Starlette's, matched on raw paths.

    Starlette's own routes match decoded paths, in which `%2F` and `/` cannot be told apart, and no
    line feed.
    """

    def __init__(self, table: RouteTable, handlers: Handlers) -> None:
        self._table = table
        self._handlers: Mapping[str, Handler] = {
            route.operation: getattr(handlers, route.operation) for route in ROUTES
        }

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Tell Starlette whether a request is for one of the routes."""
        found = self._table.find(raw_path(scope)) if scope["type"] == "http" else None
        return (Match.NONE, {}) if found is None else (Match.FULL, {FOUND: found})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for which `matches` found a resource."""
        found: Found = scope[FOUND]
        method, routes = scope["method"], found.resource.routes
        answer: ASGIApp
        if method in routes:
            request = Request(scope, receive, routes[method], found)
            try:
                answer = await self._handlers[routes[method].operation](request)
            except ClientGone:
                return
        else:
            answer = _method_not_allowed(method, found.resource.allow)
        await answer(scope, receive, send)


def _method_not_allowed(method: str, allow: str) -> Answer:
    detail = f"{method} is not allowed here; allowed: {allow}"
    return problem(problems.METHOD_NOT_ALLOWED, detail, [(b"allow", allow.encode())])


async def _answer_error(request: StarletteRequest, error: Exception) -> Answer:
    return problem(problems.kind_of(error), str(error))


async def _answer_too_large(request: StarletteRequest, error: Exception) -> Answer:
    # The rest of the body would have to be read before another request could be.
    return problem(problems.kind_of(error), str(error), [(b"connection", b"close")])


async def _answer_unexpected(request: StarletteRequest, error: Exception) -> Answer:
    return problem(problems.INTERNAL, problems.UNEXPECTED)


async def _answer_http_exception(request: StarletteRequest, error: Exception) -> Response:
    """Give a problem for what Starlette itself raises: an unknown route, mostly."""
    assert isinstance(error, HTTPException)
    if error.status_code == problems.NOT_FOUND.status:
        return problem(
            problems.NOT_FOUND,
            "there is no such route; values are at /v1/kv/{namespace}/{key}",
            reason="route",
        )
    status = HTTPStatus(error.status_code)
    kind = problems.Kind(status, status.name.lower().replace("_", "-"), status.phrase)
    headers = [(name.encode(), value.encode()) for name, value in (error.headers or {}).items()]
    return problem(kind, error.detail, headers)


_EXCEPTION_HANDLERS: dict[type[Exception], ExceptionHandler] = {
    **{
        error: _answer_error
        for error, kind in problems.KINDS.items()
        if kind is not problems.INTERNAL
    },
    BodyTooLarge: _answer_too_large,
    HTTPException: _answer_http_exception,
    Exception: _answer_unexpected,
}
