"""The server: one process, event loops in threads over one store.

`run` is the whole program behind `cacheserver serve`; `Server` is the same without signals, for
whoever wants to run one inside a program of their own.
"""

from __future__ import annotations

from cacheserver.server.server import Hooks, Server
from cacheserver.server.supervisor import run

__all__ = ["Hooks", "Server", "run"]
