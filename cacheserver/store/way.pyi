from collections.abc import Callable
from typing import Final

from cacheserver.store.budget import Quota
from cacheserver.store.counts import Counts
from cacheserver.store.entry import Entry, Keep, Record
from cacheserver.store.eviction.policy import Policy
from cacheserver.store.eviction.slots import Slots
from cacheserver.store.expiry import Deadlines
from cacheserver.store.heat import Sampler
from cacheserver.store.latch import Latch
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Touched, Written
from cacheserver.store.room import Room
from cacheserver.store.shared import Shared
from cacheserver.store.stripe import Growth, Stripe

MAX_STRIPES: Final = 4096

def stripe_number(key: object, mask: int) -> int: ...

class StripeBase[K, V](Latch):
    number: int
    version: int
    bytes: int
    expirations: int
    data: dict[K, Record[V]] | None
    slots: Slots[K]
    deadlines: Deadlines
    policy: Policy
    def draw_on(self, quota: Quota | None) -> None: ...

class Bound: ...

class Way[K, V]:
    @property
    def _shared(self) -> Shared[K, V]: ...
    @property
    def _room(self) -> Room[K, V]: ...
    @property
    def _growth(self) -> Growth[K, V] | None: ...
    @property
    def _monotonic(self) -> Callable[[], float]: ...
    @property
    def _sampler(self) -> Sampler: ...
    @property
    def _counts(self) -> Counts: ...
    @property
    def marks(self) -> list[bytearray]: ...
    def _lead(self, shared: Shared[K, V], counts: Counts, sampler: Sampler) -> None: ...
    def _mark_first(self, at: int, slot: int) -> None: ...
    def bind(self, marks: list[bytearray] | None) -> None: ...
    def read_freely(self) -> None: ...
    def divert(self) -> None: ...
    def reads_freely(self) -> bool: ...
    def leads_to(self) -> tuple[tuple[Stripe[K, V], ...], tuple[dict[K, Record[V]], ...]]: ...
    def read(self, key: K) -> Entry[V] | None: ...
    def put(
        self,
        key: K,
        value: V,
        *,
        ttl: float | Keep = 0,
        content_type: str = ...,
        condition: Condition | None = None,
    ) -> Written | Conflict[V]: ...
    def delete(
        self, key: K, *, condition: Condition | None = None
    ) -> Deleted | Missing | Conflict[V]: ...
    def touch(
        self, key: K, ttl: float, *, condition: Condition | None = None
    ) -> Touched | Missing | Conflict[V]: ...
