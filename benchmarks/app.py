"""The cache's ASGI app as other servers load it: `uvicorn --factory benchmarks.app:create`."""

from __future__ import annotations

from starlette.applications import Starlette

from cacheserver.http import create_app


def create() -> Starlette:
    """Return the app over a store of its own."""
    return create_app()
