"""The server frees what has expired without being asked for it."""

from __future__ import annotations

import http.client
from contextlib import closing

from tests.support.server import RunningServer, running_server, wait_until


def request(server: RunningServer, method: str, path: str, body: bytes | None = None) -> bytes:
    """Send one request and return the body of an answer that is no error."""
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=30)) as connection:
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status < 400, (answer.status, text)
        return text


def test_memory_of_expired_entries_comes_back() -> None:
    """Entries that expire and are never asked for again leave, and make room for others."""
    with running_server("--max-memory", "1m") as server:
        for number in range(8):
            request(server, "PUT", f"/v1/kv/short/k{number}?ttl=0.2", bytes(100_000))
        wait_until(
            lambda: (
                b'cacheserver_entries{namespace="short"} 0.0' in request(server, "GET", "/metrics")
            ),
            "the expired entries are gone",
        )
        metrics = request(server, "GET", "/metrics")
        assert b'cacheserver_expirations_total{namespace="short"} 8.0' in metrics
        request(server, "PUT", "/v1/kv/short/large", bytes(900_000))
