"""What the time of a request went to, and whom the request belongs to, as HTTP has it.

`Server-Timing` (W3C, Server Timing) tells a client where its time went, `traceparent` (W3C, Trace
Context) tells us of which trace a request is a part.
"""

from __future__ import annotations

import re
from typing import Final

from cacheserver.store.locks import Wait, WaitLog

TRACEPARENT: Final = b"traceparent"

_TRACE: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[^\r\n]*)?"
)


def server_timing(seconds: float, waits: WaitLog) -> bytes:
    """Return the header for a request that took so long and waited for these locks meanwhile.

    `lock` is all waits together, and describes the longest; `app` is the whole, waits included.
    """
    lock = f"lock;dur={waits.nanoseconds / 1e6:.3f}"
    latest = waits.waits
    if latest:
        longest = max(latest, key=lambda wait: wait.nanoseconds)
        lock += f';desc="{_describe(longest)}"'
    return f"{lock}, app;dur={seconds * 1e3:.3f}".encode("ascii")


def trace_id(traceparent: bytes) -> str:
    """Return the trace that a `traceparent` names, 32 hexadecimal digits, "" where it is malformed."""
    match = _TRACE.fullmatch(traceparent.strip(b" \t"))
    if match is None or (traceparent.startswith(b"00") and len(match[0]) != 55):
        return ""
    return match[1].decode("ascii")


def _describe(wait: Wait) -> str:
    lock = wait.lock if wait.stripe < 0 else f"{wait.lock} {wait.stripe}"
    return f"{lock}, {wait.cause}" if wait.cause else lock
