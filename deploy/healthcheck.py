"""The image's HEALTHCHECK: asks the server in this container whether it lives.

It asks where CACHESERVER_HOST and CACHESERVER_PORT say, as they were given to the container: a port
given as a flag of the server is not known here.
"""

from __future__ import annotations

import http.client
import os
import sys


def main() -> str | None:
    """Return what is wrong, or None."""
    host = os.environ.get("CACHESERVER_HOST", "127.0.0.1")  # 0.0.0.0 and :: reach this host too
    port = os.environ.get("CACHESERVER_PORT", "8080")
    try:
        connection = http.client.HTTPConnection(host, int(port), timeout=2)
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no answer from {host}:{port}: {error!r}"
    return None if status == http.client.OK else f"{host}:{port} answered {status}"


if __name__ == "__main__":
    sys.exit(main())
