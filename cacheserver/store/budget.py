"""A limit on memory that all stripes of all namespaces share, and that they seldom ask for."""

from __future__ import annotations

import threading

from cacheserver.errors import StoreFull


class Budget:
    """Bytes that may be used, handed out in pieces.

    A stripe keeps the piece that it got as credit and comes back when that is used up, so that most
    writes touch nothing shared. What is handed out counts as used: the limit is never passed.
    """

    def __init__(self, limit: int, piece: int | None = None) -> None:
        self.limit = limit
        self.piece = min(4096, limit // 4096) if piece is None else piece
        self._lock = threading.Lock()  # guards _used; the last lock in the order, nothing under it
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes handed out."""
        return self._used

    def take(self, need: int) -> int:
        """Return at least `need` bytes, and more where there are. StoreFull where there are not."""
        with self._lock:
            left = self.limit - self._used
            granted = need if need + self.piece > left else need + self.piece
            if granted <= left:
                self._used += granted
                return granted
        raise StoreFull(
            f"no memory left: this write needs {need} bytes, {left} of {self.limit} are free; "
            "delete something or raise --max-memory"
        )

    def give_back(self, size: int) -> None:
        """Return bytes that are no longer used."""
        with self._lock:
            self._used -= size
