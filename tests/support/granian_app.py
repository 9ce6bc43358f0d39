"""The app under granian, a server of another make: `python -m tests.support.granian_app`.

It takes the same environment variables as the server, of which those count that the store and the
app know, and says where it listens in the same words, so that `running_server` can start it.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
import threading
from importlib.metadata import version
from typing import Final

from granian import Granian
from granian.constants import HTTPModes, Interfaces, RuntimeModes
from starlette.applications import Starlette

from cacheserver import Store
from cacheserver.http import create_app
from cacheserver.settings import settings_from
from tests.support.server import wait_until

_HOST: Final = "127.0.0.1"


def make_app() -> Starlette:
    """Return the app. Called in the process that serves it, which may be granian's child."""
    settings = settings_from({}, os.environ)
    store = Store(
        stripes=settings.stripes,
        max_memory=settings.max_memory,
        max_namespaces=settings.max_namespaces,
        max_value_size=settings.max_value_size,
    )
    return create_app(store, tokens=settings.token)


def main() -> None:
    """Serve on a free port until SIGTERM."""
    with socket.socket() as reserved:
        # granian cannot say which port it was given. It shares one that is bound and not listened
        # on, so nobody else gets it meanwhile.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((_HOST, 0))
        port: int = reserved.getsockname()[1]
        threading.Thread(target=_tell_when_listening, args=(port,), daemon=True).start()
        server = Granian(
            "tests.support.granian_app:make_app",
            factory=True,
            address=_HOST,
            port=port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            runtime_mode=RuntimeModes.st,
        )
        if not sys._is_gil_enabled():
            server.on_startup(_end_at_once)
        server.serve()


def _end_at_once() -> None:
    """Have SIGTERM end the process: stopped in order, granian's threads at times hang or abort it."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def _tell_when_listening(port: int) -> None:
    wait_until(lambda: _accepts(port), "granian to listen")
    stripes = settings_from({}, os.environ).stripes
    server = f"granian {version('granian')} on CPython {platform.python_version()}"
    print(f"listening on http://{_HOST}:{port} (1 thread, {stripes} stripes, {server})", flush=True)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_HOST, port)) == 0


if __name__ == "__main__":
    main()
