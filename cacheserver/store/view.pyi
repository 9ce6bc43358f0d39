from cacheserver.store.counts import Counts
from cacheserver.store.entry import Entry, Keep
from cacheserver.store.heat import Sampler
from cacheserver.store.namespace import NamespaceConfig
from cacheserver.store.outcomes import (
    Condition,
    Conflict,
    Deleted,
    Missing,
    Put,
    Refused,
    Touched,
    Written,
)
from cacheserver.store.striped import StripedDict

class NamespaceView:
    @property
    def entries(self) -> StripedDict[str, bytes]: ...
    @property
    def _counts(self) -> Counts: ...
    def __init__(
        self,
        entries: StripedDict[str, bytes],
        counts: Counts,
        sampler: Sampler,
        config: NamespaceConfig,
    ) -> None: ...
    def obey(self, config: NamespaceConfig) -> None: ...
    def check_condition(self, condition: Condition | None) -> None: ...
    def read(self, key: str) -> Entry[bytes] | None: ...
    def put(
        self,
        key: str,
        value: bytes,
        ttl: float | Keep | None,
        content_type: str,
        condition: Condition | None,
    ) -> Written | Conflict[bytes]: ...
    def delete(
        self, key: str, condition: Condition | None
    ) -> Deleted | Missing | Conflict[bytes]: ...
    def touch(
        self, key: str, ttl: float | None, condition: Condition | None
    ) -> Touched | Missing | Conflict[bytes]: ...
    def transaction(
        self, writes: dict[str, Put[bytes] | None], conditions: dict[str, Condition]
    ) -> dict[str, Written | Deleted | Missing] | Refused[str, bytes]: ...
