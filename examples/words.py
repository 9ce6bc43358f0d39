"""Load a list of words into a running server through keep-alive connections, and read all back.

    .venv/bin/python examples/words.py /usr/share/dict/american-english

Prints how many were written and read, how fast, and how many came back wrong: 0, else the exit
status is 1. Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

NAMESPACE = "words"


class Client:
    """One keep-alive connection to the server."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def request(self, method: str, word: str, body: bytes | None = None) -> tuple[int, str, bytes]:
        """Send one request. Returns status, ETag and body of the answer."""
        target = f"/v1/kv/{NAMESPACE}/{quote(word, safe='')}"
        self._connection.request(method, target, body, self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.headers.get("ETag", ""), answer.read()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def value_of(word: str) -> bytes:
    """What is stored under a word: something that no other word has."""
    return f"{word[::-1]} has {len(word)} letters".encode()


def store(client: Client, words: Sequence[str]) -> dict[str, str]:
    """Write the words. Returns the ETag of each that the server took."""
    etags = {}
    for word in words:
        status, etag, _ = client.request("PUT", word, value_of(word))
        if status in {201, 204}:
            etags[word] = etag
    return etags


def check(client: Client, etags: dict[str, str]) -> int:
    """Read the words back. Returns how many did not come back as they were written."""
    return sum(
        client.request("GET", word) != (200, etag, value_of(word)) for word, etag in etags.items()
    )


def in_parallel[T, R](
    clients: list[Client], work: Callable[[Client, T], R], parts: list[T]
) -> list[R]:
    """Give each connection, in a thread of its own, its part of the work."""
    with ThreadPoolExecutor(len(clients)) as threads:
        return list(threads.map(work, clients, parts))


def main() -> int:
    """Do what the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Load a list of words, read all back, compare.")
    parser.add_argument("path", type=Path, help="a file with one word a line")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args()

    words = list(dict.fromkeys(arguments.path.read_text(encoding="utf-8").split()))
    token = os.environ.get("CACHESERVER_TOKEN")
    clients = [Client(arguments.url, token) for _ in range(arguments.connections)]
    shares = [words[start :: len(clients)] for start in range(len(clients))]

    started = time.perf_counter()
    written = in_parallel(clients, store, shares)
    between = time.perf_counter()
    mismatches = sum(in_parallel(clients, check, written))
    ended = time.perf_counter()
    for client in clients:
        client.close()

    stored = sum(map(len, written))
    mismatches += len(words) - stored
    print(f"words       {len(words):>10,}")
    print(f"connections {len(clients):>10,}")
    print(f"written     {stored:>10,} {stored / (between - started):>10,.0f} a second")
    print(f"read        {stored:>10,} {stored / (ended - between):>10,.0f} a second")
    print(f"mismatches  {mismatches:>10,}")
    return 1 if mismatches or not words else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        sys.exit(f"words.py: {error}; is the server running? make run starts one")
