"""What can be wrong with a request before the store is asked, as a branch of the package's tree.

    CacheServerError
    `-- RequestError
        |-- MalformedTarget         percent-encoding or UTF-8 that is none, in path or query
        |-- MalformedQuery          a parameter unknown here, given twice, or with a bad value
        |-- MalformedCondition      If-Match or If-None-Match that is no list of entity tags
        |-- MalformedHeader         another header that cannot be used
        |-- MalformedBody           a body that is not what the request needs
        |   `-- MalformedJSON       not JSON at all
        |-- UnsupportedMediaType    a body of another media type than the request needs
        |-- BodyTooLarge            a body that is not read to its end
        `-- ClientGone              the client left before its request was complete

The statuses are in `cacheserver.http.problems`.
"""

from __future__ import annotations

from cacheserver.errors import CacheServerError


class RequestError(CacheServerError):
    """The request is at fault, and the store was not asked."""


class MalformedTarget(RequestError):
    """A path or query whose percent-encoding is broken, or that is not UTF-8 once decoded."""


class MalformedQuery(RequestError):
    """A query parameter that is unknown here, given twice, or has an unusable value."""


class MalformedCondition(RequestError):
    """An `If-Match` or `If-None-Match` that is neither `*` nor a list of entity tags."""


class MalformedHeader(RequestError):
    """Another header whose value cannot be used."""


class MalformedBody(RequestError):
    """A body that is not what the request needs."""


class MalformedJSON(MalformedBody):
    """Text that is not JSON as RFC 8259 has it, or nested too deep."""


class UnsupportedMediaType(RequestError):
    """A body of another media type than the request needs."""


class BodyTooLarge(RequestError):
    """A body longer than is read here: the rest of it may still be on its way."""


class ClientGone(RequestError):
    """The client left before its request was complete: nobody waits for an answer."""
