"""Count with compare-and-set: many clients increment one counter, and no increment is lost.

    .venv/bin/python examples/counter.py

Each client reads the counter, and writes it back increased by one with `If-Match` and the ETag that
it read. Where another client was quicker the server answers 412; then it waits a moment, longer
each time and never the same as the others (exponential backoff with full jitter), and tries again.
Prints the end value, which must be clients times increments, else the exit status is 1, and how
many attempts conflicted. Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

TARGET = "/v1/kv/examples/counter"
FIRST_WAIT = 0.0002
LONGEST_WAIT = 0.02


class Counter:
    """One client's connection to the counter."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.conflicts = 0

    def read(self) -> tuple[int, str | None]:
        """Return the value and its ETag; 0 and None where there is no counter yet."""
        status, etag, body = self._request("GET")
        if status == 404:
            return 0, None
        if status != 200:
            raise RuntimeError(f"GET answered {status}: {body.decode()}")
        return int(body), etag

    def increment(self) -> None:
        """Add one, as often as it takes until nobody came between."""
        wait = FIRST_WAIT
        while not self._try_increment():
            self.conflicts += 1
            time.sleep(random.uniform(0, wait))
            wait = min(2 * wait, LONGEST_WAIT)

    def reset(self) -> None:
        """Delete the counter."""
        self._request("DELETE")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _try_increment(self) -> bool:
        value, etag = self.read()
        condition = {"If-Match": etag} if etag else {"If-None-Match": "*"}
        status, _, body = self._request("PUT", str(value + 1).encode(), condition)
        if status not in {201, 204, 412}:
            raise RuntimeError(f"PUT answered {status}: {body.decode()}")
        return status != 412

    def _request(
        self, method: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str | None, bytes]:
        self._connection.request(method, TARGET, body, self._headers | (headers or {}))
        answer = self._connection.getresponse()
        return answer.status, answer.headers.get("ETag"), answer.read()


def increment_often(counter: Counter, increments: int) -> int:
    """Increment so often. Returns how many attempts conflicted."""
    for _ in range(increments):
        counter.increment()
    return counter.conflicts


def main() -> int:
    """Do what the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Increment one counter from many clients.")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--increments", type=int, default=1000, help="by each client")
    arguments = parser.parse_args()

    token = os.environ.get("CACHESERVER_TOKEN")
    counters = [Counter(arguments.url, token) for _ in range(arguments.clients)]
    counters[0].reset()
    started = time.perf_counter()
    with ThreadPoolExecutor(len(counters)) as threads:
        conflicts = sum(
            threads.map(increment_often, counters, [arguments.increments] * len(counters))
        )
    seconds = time.perf_counter() - started
    value, _ = counters[0].read()
    for counter in counters:
        counter.close()

    expected = arguments.clients * arguments.increments
    attempts = expected + conflicts
    print(f"clients    {arguments.clients:>8,}")
    print(f"end value  {value:>8,} (expected {expected:,})")
    print(f"attempts   {attempts:>8,} in {seconds:.1f} s")
    print(f"conflicts  {conflicts:>8,} ({100 * conflicts / attempts:.1f} % of the attempts)")
    return 0 if value == expected else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        sys.exit(f"counter.py: {error}; is the server running? make run starts one")
