"""Errors as clients see them: RFC 9457 problem details, and which exception gives which.

`KINDS` is the one table from exceptions to statuses. An exception that is in none of its classes is
a defect of ours: the client gets INTERNAL, which tells nothing of the inside, and the log the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cacheserver import errors
from cacheserver.http import codec
from cacheserver.http import errors as http_errors

MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: what stays the same each time it occurs."""

    status: int
    slug: str
    """Names the kind in `type`, for programs; it never changes."""
    title: str
    retry_after: int | None = None
    """Seconds until asking again may help, None where it would not."""
    beginning: bytes = field(init=False, repr=False)
    """The body as far as it is always the same."""

    def __post_init__(self) -> None:
        """Write what is always the same, once."""
        same = {"type": f"urn:cacheserver:problem:{self.slug}", "title": self.title}
        beginning = codec.dumps({**same, "status": self.status}).removesuffix(b"}")
        object.__setattr__(self, "beginning", beginning)

    def render(self, detail: str, **fields: object) -> bytes:
        """Return the body: `detail` says what was wrong this time and what would be right."""
        # Value by value: the standard library writes text in a tenth of the time of a dict.
        more = [b',"%b":%b' % (name.encode(), _dumps(value)) for name, value in fields.items()]
        return b'%b,"detail":%b%b}' % (self.beginning, codec.dumps(detail), b"".join(more))


def _dumps(value: object) -> bytes:
    return b"%d" % value if type(value) is int else codec.dumps(value)


MALFORMED_TARGET: Final = Kind(400, "malformed-target", "The request target is malformed")
MALFORMED_QUERY: Final = Kind(400, "malformed-query", "The query is malformed")
MALFORMED_CONDITION: Final = Kind(400, "malformed-condition", "The condition is malformed")
MALFORMED_HEADER: Final = Kind(400, "malformed-header", "A header is malformed")
MALFORMED_BODY: Final = Kind(400, "malformed-body", "The body is malformed")
MALFORMED_JSON: Final = Kind(400, "malformed-json", "The body is not JSON")
INVALID_KEY: Final = Kind(400, "invalid-key", "The key is not valid")
INVALID_NAMESPACE: Final = Kind(400, "invalid-namespace", "The namespace is not valid")
INVALID_TTL: Final = Kind(400, "invalid-ttl", "The time to live is not valid")
INVALID_CONFIG: Final = Kind(400, "invalid-config", "The configuration is not valid")
INVALID_INPUT: Final = Kind(400, "invalid-input", "The input is not valid")
BAD_REQUEST: Final = Kind(400, "bad-request", "The request is malformed")
UNAUTHORIZED: Final = Kind(401, "unauthorized", "A token is needed")
CROSS_SITE: Final = Kind(403, "cross-site", "Pages of other sites may change nothing")
NOT_FOUND: Final = Kind(404, "not-found", "There is nothing here")
METHOD_NOT_ALLOWED: Final = Kind(405, "method-not-allowed", "The method is not allowed here")
NOT_AN_INTEGER: Final = Kind(409, "not-an-integer", "The value is no integer")
INTEGER_OVERFLOW: Final = Kind(409, "integer-overflow", "The integer would be too large")
CONDITION_FAILED: Final = Kind(412, "condition-failed", "The condition does not hold")
TOO_LARGE: Final = Kind(413, "too-large", "The value is too large")
NEVER_FITS: Final = Kind(413, "never-fits", "The value can never fit")
KEY_TOO_LONG: Final = Kind(414, "key-too-long", "The key is too long")
UNSUPPORTED_MEDIA_TYPE: Final = Kind(
    415, "unsupported-media-type", "The media type is not supported"
)
CONDITION_REQUIRED: Final = Kind(428, "condition-required", "A condition is required")
UNEXPECTED: Final = "the request failed for a reason that the log of the server tells"
"""The detail where a request failed for no fault of its own."""
INTERNAL: Final = Kind(500, "internal", "The server made a mistake")
NOT_READY: Final = Kind(503, "not-ready", "The server is not ready", retry_after=1)
CONTENTION: Final = Kind(
    503, "contention", "Too many others write this key right now", retry_after=1
)
FULL: Final = Kind(507, "full", "The cache is full")

KINDS: Final[dict[type[Exception], Kind]] = {
    errors.InvalidInput: INVALID_INPUT,
    errors.InvalidKey: INVALID_KEY,
    errors.KeyTooLong: KEY_TOO_LONG,
    errors.InvalidNamespace: INVALID_NAMESPACE,
    errors.InvalidTTL: INVALID_TTL,
    errors.InvalidConfig: INVALID_CONFIG,
    errors.LimitExceeded: FULL,
    errors.ValueTooLarge: TOO_LARGE,
    errors.NeverFits: NEVER_FITS,
    errors.StoreFull: FULL,
    errors.TooManyNamespaces: FULL,
    errors.ConditionRequired: CONDITION_REQUIRED,
    errors.NotAnInteger: NOT_AN_INTEGER,
    errors.IntegerOverflow: INTEGER_OVERFLOW,
    errors.Contention: CONTENTION,
    errors.LockMisuse: INTERNAL,
    http_errors.RequestError: BAD_REQUEST,
    http_errors.MalformedTarget: MALFORMED_TARGET,
    http_errors.MalformedQuery: MALFORMED_QUERY,
    http_errors.MalformedCondition: MALFORMED_CONDITION,
    http_errors.MalformedHeader: MALFORMED_HEADER,
    http_errors.MalformedBody: MALFORMED_BODY,
    http_errors.MalformedJSON: MALFORMED_JSON,
    http_errors.UnsupportedMediaType: UNSUPPORTED_MEDIA_TYPE,
    http_errors.BodyTooLarge: TOO_LARGE,
}

WITHOUT_STATUS: Final = frozenset(
    {
        errors.CacheServerError,  # the root: never raised itself
        errors.WrongValue,  # never raised itself either
        errors.NamespaceGone,  # whoever meets it tries again
        errors.SettingsError,  # raised before anybody listens
        errors.StartupError,  # likewise
        http_errors.ClientGone,  # nobody is there to read an answer
    }
)
"""The classes of the tree that no client ever meets."""


def kind_of(error: BaseException) -> Kind:
    """Return the kind of the nearest class of `error` that has one, INTERNAL where none has."""
    for cls in type(error).__mro__:
        if cls in KINDS:
            return KINDS[cls]
    return INTERNAL
