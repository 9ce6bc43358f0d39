"""Requests and answers as the handlers see them, over plain ASGI."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cacheserver.http import problems, target
from cacheserver.http.errors import BodyTooLarge, ClientGone, MalformedBody, MalformedHeader
from cacheserver.http.problems import Kind
from cacheserver.http.routes import Found, Route
from cacheserver.http.target import Parameters
from cacheserver.store.names import check_key, check_namespace

type RawHeaders = Iterable[tuple[bytes, bytes]]

JSON: Final = (b"content-type", b"application/json")
PROBLEM: Final = (b"content-type", problems.MEDIA_TYPE.encode())

_BODILESS: Final = frozenset((204, 304))


class Answer(Response):
    """A response whose body is known. It sends none to HEAD, but all the headers."""

    def __init__(self, status: int, headers: RawHeaders = (), body: bytes = b"") -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = list(headers)
        if status not in _BODILESS:
            self.raw_headers.append((b"content-length", b"%d" % len(body)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        body = b"" if scope["method"] == "HEAD" else self.body
        await send({"type": "http.response.body", "body": body})


def problem(kind: Kind, detail: str, headers: RawHeaders = (), **fields: object) -> Answer:
    """Return the answer for a problem; `fields` go into its body."""
    if kind.retry_after is not None:
        headers = (*headers, (b"retry-after", b"%d" % kind.retry_after))
    return Answer(kind.status, (PROBLEM, *headers), kind.render(detail, **fields))


def raw_path(scope: Scope) -> bytes:
    """Return the raw path below the place where the app is mounted."""
    path: bytes = scope.get("raw_path") or target.encode_path(scope["path"])
    return target.relative_path(path, scope.get("root_path", ""))


class Request:
    """One request: its target, its headers, and its body, which is read only when asked for."""

    def __init__(self, scope: Scope, receive: Receive, route: Route, found: Found) -> None:
        self._scope = scope
        self._receive = receive
        self._route = route
        self._found = found

    @property
    def path(self) -> str:
        """The path of its route."""
        return self._route.path

    def address(self) -> tuple[str, str]:
        """Return namespace and key. Raises where one is not valid."""
        namespace = target.decode(self._found.namespace)
        key = target.decode(self._found.key)
        check_namespace(namespace)
        check_key(key)
        return namespace, key

    def namespace(self) -> str:
        """Return the namespace. Raises where it is not valid."""
        namespace = target.decode(self._found.namespace)
        check_namespace(namespace)
        return namespace

    def parameters(self) -> Parameters:
        """Return what the query asks for. Raises MalformedQuery for what the route doesn't know."""
        untold = ("timing",) if self._route.is_measured else ()
        return target.parse_parameters(self._scope["query_string"], self._route.query, untold)

    def header(self, name: bytes) -> bytes | None:
        """Return a header, its lines joined with commas, None where it is absent."""
        lines = [value for header, value in self._scope["headers"] if header == name]
        return b", ".join(lines) if lines else None

    def refuse_larger(self, limit: int) -> None:
        """Raise BodyTooLarge where the request announces a body of more than `limit` bytes."""
        announced = self.header(b"content-length")
        if announced is None:
            return
        if not announced.isdigit():
            raise MalformedHeader("Content-Length must be a number of bytes, given once")
        if len(announced) > 18 or int(announced) > limit:
            raise _too_large(limit)

    async def refuse_body(self, instead: str) -> None:
        """Raise MalformedBody where there is a body; `instead` says what should be sent."""
        announced = self.header(b"content-length") or b"0"
        if announced.strip(b"0") or await self._has_body():
            raise MalformedBody(f"this request takes no body: {instead}")

    async def body(self, limit: int) -> bytes:
        """Read the body. Raises BodyTooLarge beyond `limit` bytes, ClientGone if it breaks off."""
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            chunk, more = await self._chunk()
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
        return b"".join(chunks)

    async def _has_body(self) -> bool:
        chunk, more = b"", True
        while more and not chunk:
            chunk, more = await self._chunk()
        return bool(chunk)

    async def _chunk(self) -> tuple[bytes, bool]:
        """Return the next piece of the body, and whether there is more."""
        message = await self._receive()
        if message["type"] != "http.request":
            raise ClientGone("the client left before its request was complete")
        return message.get("body", b""), message.get("more_body", False)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is longer than the {limit} bytes that are allowed here")
