"""The slow operations, ready for JSON."""

from __future__ import annotations

from datetime import UTC, datetime

from cacheserver.slowlog import SLOW_LOG_SIZE, SlowLog, SlowOperation


def slow_log_report(log: SlowLog, limit: int = SLOW_LOG_SIZE) -> dict[str, object]:
    """Return the latest operations, the newest first, and how many there were in all."""
    return {
        "threshold_seconds": log.threshold,
        "capacity": log.size,
        "total": log.total,
        "operations": [_render(operation) for operation in log.latest(limit)],
    }


def _render(of: SlowOperation) -> dict[str, object]:
    at = datetime.fromtimestamp(of.at, UTC).isoformat(timespec="milliseconds")
    return {
        "id": of.id,
        "at": at.replace("+00:00", "Z"),
        "operation": of.operation,
        "method": of.method,
        "namespace": of.namespace,
        "key": of.key,
        "status": of.status,
        "seconds": round(of.seconds, 9),
        "requests": of.requests,
        "lock_wait_seconds": round(of.lock_wait_seconds, 9),
        "waits": [
            {
                "lock": wait.lock,
                "stripe": wait.stripe if wait.stripe >= 0 else None,
                "seconds": wait.nanoseconds / 1e9,
                "cause": wait.cause,
            }
            for wait in of.waits
        ],
        "thread": of.thread,
        "trace_id": of.trace_id or None,
    }
