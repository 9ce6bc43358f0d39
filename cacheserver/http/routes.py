"""The one table of routes. The app is made from it, and so is whatever else needs to know them.

A path is matched as raw bytes, before percent-decoding: `{namespace}` is one segment, `{key}` is all
the rest, and what else stands there must be there letter by letter. Nothing here knows the framework.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple


class Route(NamedTuple):
    """What can be asked: one method on one path."""

    method: str
    """GET answers HEAD too."""
    path: str
    operation: str
    """The name of the handler."""
    statuses: tuple[int, ...]
    """What it may answer, beside 401, 403, 405 and 500, which every route may."""
    summary: str
    query: tuple[str, ...] = ()
    """The query parameters that it knows: any other is refused."""
    headers: tuple[str, ...] = ()
    """The request headers that change what it does."""
    needs_token: bool = True
    """Whether a token must be shown, where the server has any."""

    @property
    def is_measured(self) -> bool:
        """Whether it takes `?timing=1`, and stands in the slow log where it was slow."""
        return self.path.startswith("/v1/")


KV: Final = "/v1/kv/{namespace}/{key}"
CAS: Final = "/v1/cas/{namespace}/{key}"
INCR: Final = "/v1/incr/{namespace}/{key}"
APPEND: Final = "/v1/append/{namespace}/{key}"
TOUCH: Final = "/v1/touch/{namespace}/{key}"
NAMESPACES: Final = "/v1/namespaces"
NAMESPACE: Final = "/v1/namespaces/{namespace}"
CLEAR: Final = "/v1/namespaces/{namespace}/clear"
PAGE: Final = "/ui"
EVENTS: Final = "/ui/events"
PAGE_FILES: Final = (
    "app.js",
    "style.css",
    "uplot.js",
    "uplot.css",
    "icon.svg",
    "LICENSE-uplot.txt",
)
"""What the live page loads, below it."""
CONDITIONS: Final = ("If-Match", "If-None-Match")

ROUTES: Final = (
    Route(
        "GET",
        KV,
        "get",
        (200, 304, 400, 404, 412, 414),
        "Read a value",
        headers=CONDITIONS,
    ),
    Route(
        "PUT",
        KV,
        "put",
        (201, 204, 400, 412, 413, 414, 415, 428, 507),
        "Write a value, on condition if one is given",
        query=("cas", "ttl"),
        headers=(*CONDITIONS, "Content-Type"),
    ),
    Route(
        "DELETE",
        KV,
        "delete",
        (204, 400, 404, 412, 414, 428),
        "Delete a value, on condition if one is given",
        query=("cas",),
        headers=CONDITIONS,
    ),
    Route(
        "POST",
        CAS,
        "compare_and_set",
        (200, 400, 412, 413, 414, 415, 507),
        "Write a value if the key still has the version that is expected",
        headers=(*CONDITIONS, "Content-Type"),
    ),
    Route(
        "POST",
        INCR,
        "incr",
        (200, 400, 409, 412, 413, 414, 428, 503, 507),
        "Add to a number",
        query=("by", "cas", "initial", "ttl"),
        headers=CONDITIONS,
    ),
    Route(
        "POST",
        APPEND,
        "append",
        (200, 400, 412, 413, 414, 415, 428, 503, 507),
        "Add to the end of a value",
        query=("cas", "ttl"),
        headers=(*CONDITIONS, "Content-Type"),
    ),
    Route(
        "POST",
        TOUCH,
        "touch",
        (204, 400, 404, 412, 414),
        "Give a value a new time to live",
        query=("cas", "ttl"),
        headers=CONDITIONS,
    ),
    Route("GET", NAMESPACES, "list_namespaces", (200, 400), "Tell of all namespaces"),
    Route("GET", NAMESPACE, "get_namespace", (200, 400, 404), "Tell of a namespace"),
    Route(
        "PUT",
        NAMESPACE,
        "put_namespace",
        (200, 201, 400, 413, 415, 507),
        "Make a namespace, or give it another configuration",
        headers=("Content-Type",),
    ),
    Route(
        "PATCH",
        NAMESPACE,
        "patch_namespace",
        (200, 400, 404, 413, 415),
        "Change parts of a namespace's configuration",
        headers=("Content-Type",),
    ),
    Route(
        "DELETE",
        NAMESPACE,
        "delete_namespace",
        (204, 400, 404),
        "Drop a namespace and all it holds",
    ),
    Route("POST", CLEAR, "clear_namespace", (200, 400, 404), "Delete all keys of a namespace"),
    Route("GET", "/healthz", "health", (200,), "Tell that the process lives", needs_token=False),
    Route(
        "GET",
        "/readyz",
        "readiness",
        (200, 503),
        "Tell whether requests are welcome",
        needs_token=False,
    ),
    Route("GET", "/v1/info", "info", (200, 400), "Tell what runs here and how"),
    Route(
        "GET", "/v1/locks", "locks", (200, 400), "Tell where locks wait, and what to do about it"
    ),
    Route("GET", "/v1/hotkeys", "hotkeys", (200, 400), "Tell which keys are used most"),
    Route("GET", "/v1/slowlog", "slowlog", (200, 400), "Tell which operations took long lately"),
    Route("GET", "/metrics", "metrics", (200,), "Metrics for Prometheus", headers=("Accept",)),
    Route("GET", EVENTS, "events", (200, 400), "All figures, again and again, as events"),
    *(
        Route(
            "GET",
            path,
            "page",
            (200, 304, 400),
            "The live page and its files",
            headers=("If-None-Match",),
            needs_token=False,
        )
        for path in (PAGE, *(f"{PAGE}/{name}" for name in PAGE_FILES))
    ),
    Route("GET", f"{PAGE}/", "page_itself", (308,), "Lead to the live page", needs_token=False),
)


class Resource(NamedTuple):
    """A path with everything that can be done to it."""

    routes: dict[str, Route]
    """By method, HEAD included."""

    @property
    def allow(self) -> str:
        """The value of `Allow`."""
        return ", ".join(self.routes)


class Found(NamedTuple):
    """A resource and the raw segments that name what is meant."""

    resource: Resource
    namespace: bytes = b""
    key: bytes = b""


class RouteTable:
    """Finds the resource of a raw path. Immutable once made."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[bytes, Resource] = {}
        self._named: dict[tuple[bytes, ...], Resource] = {}  # by what stands around the namespace
        self._keyed: dict[bytes, Resource] = {}  # by the segment between /v1/ and the namespace
        for route in routes:
            methods = self._resource(route.path).routes
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route

    def find(self, path: bytes) -> Found | None:
        """Return what lies at a raw path, None where nothing does."""
        if path in self._fixed:
            return Found(self._fixed[path])
        segments = path.split(b"/", 4)
        if len(segments) < 4 or segments[0] or segments[1] != b"v1":
            return None
        _, _, verb, namespace, *behind = segments
        if behind and verb in self._keyed:
            return Found(self._keyed[verb], namespace, behind[0])
        around = (verb, *behind)
        return Found(self._named[around], namespace) if around in self._named else None

    def _resource(self, path: str) -> Resource:
        literal, _, variable = path.partition("{namespace}")
        if not variable and literal == path:
            return self._fixed.setdefault(path.encode(), Resource({}))
        _, version, verb, end = literal.split("/")
        assert (version, end) == ("v1", ""), path
        if variable == "/{key}":
            return self._keyed.setdefault(verb.encode(), Resource({}))
        assert variable.count("/") <= 1, path
        around = (verb.encode(), *variable.encode().split(b"/")[1:])
        return self._named.setdefault(around, Resource({}))
