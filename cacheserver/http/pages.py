"""The live page and its files: read once, sent as they are, with headers that keep them to themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from cacheserver.errors import StartupError
from cacheserver.http import conditions
from cacheserver.http.messages import Answer
from cacheserver.http.routes import PAGE, PAGE_FILES

_CONTENT_TYPES: Final = {
    "css": b"text/css; charset=utf-8",
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
    "txt": b"text/plain; charset=utf-8",
}
_SECURITY: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Pages:
    """The files of the live page, by the path of their route. Immutable once made.

    Raises StartupError where one is missing.
    """

    def __init__(self, folder: Traversable | None = None) -> None:
        folder = folder or resources.files("cacheserver.http") / "ui"
        self._files: Mapping[str, _File] = {
            PAGE: _File(folder / "index.html"),
            **{f"{PAGE}/{name}": _File(folder / name) for name in PAGE_FILES},
        }

    def answer(self, path: str, if_none_match: bytes | None) -> Answer:
        """Give a file, or tell that the client has it. Raises MalformedCondition."""
        file = self._files[path]
        news = conditions.if_none_match(if_none_match)
        if news is not None and not news.holds(file.version):
            return Answer(304, file.headers)
        return Answer(200, (*file.headers, *_SECURITY, file.content_type), file.content)


class _File:
    def __init__(self, file: Traversable) -> None:
        try:
            self.content: Final = file.read_bytes()
        except OSError as error:
            raise StartupError(
                f"a file of the live page cannot be read, so this installation is not whole: {error}"
            ) from None
        self.version: Final = int.from_bytes(hashlib.sha256(self.content).digest()[:6])
        """A number that stands for the content: below 2^48, and so one that `conditions` knows."""
        self.headers: Final = (
            (b"etag", conditions.etag(self.version)),
            (b"cache-control", b"no-cache"),
        )
        self.content_type: Final = (
            b"content-type",
            _CONTENT_TYPES[file.name.rpartition(".")[2]],
        )
