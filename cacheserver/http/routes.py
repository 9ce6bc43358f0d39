"""The one table of routes. The app is made from it, and so is whatever else needs to know them.

A path is matched as raw bytes, before percent-decoding: `{namespace}` is one segment, `{key}` is all
the rest. Nothing here knows the framework.
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
    """What it may answer, beside 401, 405 and 500, which every route may."""
    summary: str
    query: tuple[str, ...] = ()
    """The query parameters that it knows: any other is refused."""
    headers: tuple[str, ...] = ()
    """The request headers that change what it does."""
    needs_token: bool = True
    """Whether a token must be shown, where the server has any."""


KV: Final = "/v1/kv/{namespace}/{key}"
CAS: Final = "/v1/cas/{namespace}/{key}"
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
        (201, 204, 400, 412, 413, 414, 415, 507),
        "Write a value, on condition if one is given",
        query=("cas", "ttl"),
        headers=(*CONDITIONS, "Content-Type"),
    ),
    Route(
        "DELETE",
        KV,
        "delete",
        (204, 400, 404, 412, 414),
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
    Route("GET", "/healthz", "health", (200,), "Tell that the process lives", needs_token=False),
    Route(
        "GET",
        "/readyz",
        "readiness",
        (200, 503),
        "Tell whether requests are welcome",
        needs_token=False,
    ),
    Route("GET", "/v1/info", "info", (200,), "Tell what runs here and how"),
    Route("GET", "/metrics", "metrics", (200,), "Metrics for Prometheus", headers=("Accept",)),
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
        if len(segments) < 5 or segments[0] or segments[1] != b"v1":
            return None
        _, _, verb, namespace, key = segments
        if verb not in self._keyed:
            return None
        return Found(self._keyed[verb], namespace, key)

    def _resource(self, path: str) -> Resource:
        literal, _, variable = path.partition("{")
        if not variable:
            return self._fixed.setdefault(path.encode(), Resource({}))
        _, version, verb, end = literal.split("/")
        assert (version, end, variable) == ("v1", "", "namespace}/{key}"), path
        return self._keyed.setdefault(verb.encode(), Resource({}))
