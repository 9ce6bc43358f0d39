from collections.abc import Iterable, Sequence

from cacheserver.http.messages import Answer

class Document:
    def __init__(
        self, answer: Answer, in_head: Sequence[bytes], in_body: Sequence[bytes]
    ) -> None: ...

class Answers:
    def refresh(self, default_headers: Iterable[tuple[bytes, bytes]]) -> None: ...
