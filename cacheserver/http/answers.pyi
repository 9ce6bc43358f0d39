from collections.abc import Iterable

class Answers:
    def refresh(self, default_headers: Iterable[tuple[bytes, bytes]]) -> None: ...
