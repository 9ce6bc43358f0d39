"""Listening sockets: which addresses a host name means, and what to say when one can't be had."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from cacheserver.errors import StartupError

BACKLOG: Final = 2048
"""Connections that the kernel keeps for us until they are accepted."""

_ABSENT: Final = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT))
"""An address that this machine lacks: no fault where the host name means others too."""
_ATTEMPTS: Final = 10
"""Free ports to try until one is free on all addresses."""
_WHY: Final = {
    errno.EADDRINUSE: "the port is in use: stop what listens there or choose another --port",
    errno.EACCES: "not permitted: ports below 1024 need a privilege, choose another --port",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose another --host",
}


class _Address(NamedTuple):
    family: int
    sockaddr: tuple[Any, ...]

    def at(self, port: int) -> _Address:
        host, _, *rest = self.sockaddr
        return _Address(self.family, (host, port, *rest))


def listen(host: str, port: int) -> list[socket.socket]:
    """Return a non-blocking listening socket for each address that `host` means.

    Port 0 picks one that is free on all of them. Raises StartupError where that can't be done.
    """
    addresses = _resolve(host, port)
    for attempt in range(_ATTEMPTS):
        try:
            return _listen_on_all(addresses, port)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE or attempt == _ATTEMPTS - 1:
                raise _cannot(host, port, error) from error
    raise AssertionError("unreachable")


def bracketed(host: str) -> str:
    """Return `host` as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def _resolve(host: str, port: int) -> list[_Address]:
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE, proto=socket.IPPROTO_TCP
        )
    except (OSError, UnicodeError) as error:
        raise StartupError(
            f"--host: {host} is no address and no name known here: {error}"
        ) from error
    return list(dict.fromkeys(_Address(family, address) for family, _, _, _, address in found))


def _listen_on_all(addresses: Iterable[_Address], port: int) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    absent = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    try:
        for address in addresses:
            try:
                listeners.append(_listen_on(address.at(port)))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
            else:
                port = listeners[-1].getsockname()[1]
        if not listeners:
            raise absent
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listen_on(address: _Address) -> socket.socket:
    listener = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it lets two programs share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address.sockaddr)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _cannot(host: str, port: int, error: OSError) -> StartupError:
    why = _WHY.get(error.errno or 0, error.strerror or str(error))
    return StartupError(f"cannot listen on {bracketed(host)}:{port}: {why}")
