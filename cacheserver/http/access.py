"""Who may come in: `Authorization: Bearer <token>` (RFC 6750), as ASGI middleware.

And where nobody has to show one, that no web page from elsewhere changes anything: a browser sends many
requests for any page, also to a server on the loopback address of the machine it runs on.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from cacheserver.http import problems
from cacheserver.http.messages import Answer, problem, raw_path
from cacheserver.http.routes import Route

_CHALLENGE: Final = b'Bearer realm="cacheserver"'


class Tokens:
    """The tokens that are accepted, each with all rights."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = tuple(token.encode("utf-8") for token in tokens)
        if not all(self._tokens):
            raise ValueError("a token must not be empty")

    def __iter__(self) -> Iterator[bytes]:
        """Yield the tokens."""
        return iter(self._tokens)

    def __contains__(self, token: bytes) -> bool:
        """Tell whether `token` is accepted, in a time that tells nothing about the tokens."""
        accepted = [hmac.compare_digest(token, known) for known in self._tokens]
        return any(accepted)

    def admit(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Tell whether a request with these headers shows a token that is accepted."""
        given = [value for name, value in headers if name == b"authorization"]
        return len(given) == 1 and _bearer_token(given[0]) in self


class AccessMiddleware:
    """Lets requests through that show a token, or that ask for a route which needs none.

    It stands before routing: without a token nobody learns which routes there are.
    """

    def __init__(self, app: ASGIApp, *, tokens: Tokens, routes: Iterable[Route]) -> None:
        self._app = app
        self._tokens = tokens
        self._open = frozenset(route.path.encode() for route in routes if not route.needs_token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, or refuse it."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Answer | None:
        if self._tokens.admit(scope["headers"]) or raw_path(scope) in self._open:
            return None
        if not any(name == b"authorization" for name, _ in scope["headers"]):
            return _unauthorized(_CHALLENGE, "no token: send Authorization: Bearer <token>")
        return _unauthorized(
            _CHALLENGE + b', error="invalid_token"',
            "the Authorization header is not Bearer with a token that is known here",
        )


class SameSiteMiddleware:
    """Refuses requests that change something and that a browser sends for a page of another site.

    Browsers say so by `Sec-Fetch-Site` (W3C, Fetch Metadata), older ones by an `Origin` that isn't the
    `Host`. Who is no browser sends neither. It stands where no token does: nobody sends those by accident.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, or refuse it."""
        refused = (
            scope["type"] == "http" and scope["method"] not in _SAFE and _is_from_elsewhere(scope)
        )
        await (_CROSS_SITE if refused else self._app)(scope, receive, send)


_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_CROSS_SITE: Final = problem(
    problems.CROSS_SITE,
    "a browser sends this for a page that does not come from this server; start the server with a token if "
    "other pages are to use it",
)


def _is_from_elsewhere(scope: Scope) -> bool:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        return site.lower() not in (b"same-origin", b"none")
    return origin is not None and origin.partition(b"://")[2].lower() != (
        headers.get(b"host", b"").lower()
    )


def _bearer_token(authorization: bytes) -> bytes:
    scheme, _, token = authorization.partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else b""


def _unauthorized(challenge: bytes, detail: str) -> Answer:
    return problem(problems.UNAUTHORIZED, detail, [(b"www-authenticate", challenge)])
