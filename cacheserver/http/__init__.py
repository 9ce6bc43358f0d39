"""The cache over HTTP: an ASGI app on Starlette. `create_app` is all that others need of it."""

from __future__ import annotations

from cacheserver.http.app import create_app
from cacheserver.http.status import ServiceStatus

__all__ = ["ServiceStatus", "create_app"]
