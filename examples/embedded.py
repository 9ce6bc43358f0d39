"""A cache inside an app of your own: your threads and your HTTP clients use one store.

    python examples/embedded.py            # serves on 127.0.0.1:8000 until Ctrl-C

The cache is mounted under /cache. Two threads of the app count in the key `ticks`, with
compare-and-set; so they go on from whatever a client writes there:

    curl -i http://127.0.0.1:8000/ticks                        # the app's own route
    curl -i http://127.0.0.1:8000/cache/v1/kv/demo/ticks       # the same value as a key of the cache
    curl -i -T - http://127.0.0.1:8000/cache/v1/kv/demo/ticks <<< 1000000
    curl -i http://127.0.0.1:8000/ticks                        # goes on from there
    curl -i -T - http://127.0.0.1:8000/cache/v1/kv/demo/hello <<< world
    curl -i http://127.0.0.1:8000/cache/v1/kv/demo/hello
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from cacheserver import Namespace, Store, Written
from cacheserver.http import create_app

THREADS = 2
PAUSE = 0.01
"""Seconds between two ticks of a thread."""


def read_number(namespace: Namespace, key: str) -> tuple[int, int]:
    """Return the number in `key` and its version: 0 where there is none, whatever else is there."""
    entry = namespace.read(key)
    if entry is None:
        return 0, 0
    value, version = entry[0].strip(), entry[1]
    return (int(value) if value.isdigit() and len(value) < 20 else 0), version


def tick(namespace: Namespace, key: str) -> None:
    """Add one to the number in `key`, whoever else writes to it meanwhile."""
    while True:
        number, version = read_number(namespace, key)
        if isinstance(namespace.compare_and_set(key, version, b"%d" % (number + 1)), Written):
            return


class Tickers:
    """Threads that tick until they are stopped."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"ticker-{number}") for number in range(THREADS)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads and wait until they have ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE):
            tick(self._namespace, "ticks")


def make_app() -> Starlette:
    """Return the app: the cache under /cache, and a route of its own."""
    store = Store()
    demo = store.namespace("demo")

    async def ticks(request: Request) -> JSONResponse:
        number, _version = read_number(demo, "ticks")
        return JSONResponse({"ticks": number})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        tickers = Tickers(demo)
        tickers.start()
        yield
        tickers.stop()

    return Starlette(
        routes=[Route("/ticks", ticks), Mount("/cache", create_app(store))], lifespan=lifespan
    )


def main() -> None:
    """Serve the app until it is interrupted."""
    parser = argparse.ArgumentParser(description="A cache inside an app of your own.")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one")
    uvicorn.run(
        make_app(),
        port=parser.parse_args().port,
        access_log=False,
        timeout_graceful_shutdown=2,  # for the live page's stream has no end by itself
    )


if __name__ == "__main__":
    main()
