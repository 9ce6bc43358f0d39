"""The floor: what a uvloop server costs that reads no request and has its answer ready.

    python -m benchmarks.echo --port 9000 --answer FILE

It writes the bytes of FILE once for each request. What ends a request is an empty line, so a body
must not have one; requests sent ahead are counted in one pass over what was read and answered by one
write. Nothing else is looked at: it's the least that a server on this interpreter and event loop can do.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Final, cast

import uvloop

_END_OF_HEAD: Final = b"\r\n\r\n"


class EchoProtocol(asyncio.Protocol):
    """Answers each end of a head with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._rest = b""  # of what was read: the start of an end, maybe
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer the requests that end in `data`."""
        assert self._transport is not None
        if self._rest:
            data = self._rest + data
        requests = data.count(_END_OF_HEAD)
        self._rest = b"" if data.endswith(_END_OF_HEAD) else data[-3:]
        if requests:
            self._transport.write(self._answer if requests == 1 else self._answer * requests)


async def serve(port: int, answer: bytes) -> None:
    """Serve on loopback until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: EchoProtocol(answer), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Serve what the command line says."""
    parser = argparse.ArgumentParser(description="Answer every request with the same bytes.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", type=Path, required=True)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.answer.read_bytes()))


if __name__ == "__main__":
    main()
