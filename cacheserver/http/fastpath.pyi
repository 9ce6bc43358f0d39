import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from cacheserver.http.access import Tokens
from cacheserver.recording import RequestCounts
from cacheserver.slowlog import SlowLog
from cacheserver.store.store import Store

LARGE: Final[int]
OPERATIONS: Final[tuple[str, ...]]

class Wish: ...

class Connection:
    transport: asyncio.Transport
    now: Callable[[], float]
    send: Callable[[bytes], object] | None
    socket: int
    answered_at: float
    ready: bool
    fast_path: FastPath | None
    @property
    def kept_since(self) -> float: ...
    def data_received(self, data: bytes) -> None: ...
    def accept(self, data: bytes) -> None: ...
    def take_kept(self) -> tuple[bytes, memoryview]: ...

class FastPath:
    def __init__(
        self, store: Store, tokens: Tokens | None, recorder: RequestCounts, slowlog: SlowLog
    ) -> None: ...
    def refresh(self, default_headers: Iterable[tuple[bytes, bytes]]) -> None: ...
