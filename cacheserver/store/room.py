"""Room for what is written: who evicts what when a limit is reached.

A write first tries to take what it needs from the quota. Where that is used up, entries of its own stripe
go, whose lock it has; the policy says which. A stripe with few entries would give up what happens to be
there, so that another one is drawn for it then, and so it is where a namespace next to it is to give way.
For that the write lets go of its own lock first, and begins anew when there is room: nobody holds the
locks of two stripes to evict, and no lock is held for longer than some 64 entries take.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from cacheserver.errors import Contention, NeverFits, StoreFull
from cacheserver.store.budget import REASONS, Budget, Quota, Reason, check_limit
from cacheserver.store.entry import Record
from cacheserver.store.stripe import STEP, Growth, Stripe

FEW: Final = 16
"""A stripe with fewer entries than these doesn't evict its own for a newcomer: what would go is too much
a matter of chance. One is drawn, all stripes with at least as many being alike."""

AHEAD: Final = 8
"""A neighbour makes room for so many small writes at once: to get its lock takes longer than to evict."""
SMALL: Final = 4096

SLICE: Final = 0.0005
"""Seconds after which who evicts lets go of a stripe's lock, to go on later."""
PATIENCE: Final = 40
"""How often a write looks again, where others hold just now what could be evicted."""
CANDIDATES: Final = 8

type Neighbour = Callable[[Room[Any, Any], bool], Room[Any, Any]]
"""Names who is to make room in the memory that several dicts share; it may be who asks. Told True, because who
was named had nothing, it looks at all of them anew."""


class Full(NamedTuple):
    """Why a write found no room."""

    reason: Reason
    where: Room[Any, Any]
    """Who is to make some."""
    need: int
    """Bytes, or entries, that are to go there."""
    hint: int
    """The number of the stripe that needs them."""


class Room[K, V]:
    """The limits of one dict, and what is done at them."""

    __slots__ = ("growth", "neighbour", "quota", "stripes")

    def __init__(
        self,
        growth: Growth[K, V] | None,
        budget: Budget | None,
        neighbour: Neighbour | None,
    ) -> None:
        self.growth = growth
        self.neighbour = neighbour
        # Replaced by who has the gate:
        self.quota = None if budget is None else Quota(budget)
        self.stripes: tuple[Stripe[K, V], ...] = ()

    def limit(self, max_bytes: int | None, max_entries: int | None) -> None:
        """Have these limits from now on. Needs the gate. ValueError changes nothing."""
        if max_bytes is not None:
            check_limit("max_bytes", max_bytes)
            if self.growth is None:
                raise ValueError(
                    "a limit on bytes needs a cost function, or nothing would be counted"
                )
        if max_entries is not None:
            check_limit("max_entries", max_entries)
        memory = None if self.quota is None else self.quota.memory
        quota = None
        if memory is not None or max_bytes is not None or max_entries is not None:
            entries, size = self.totals()
            quota = Quota(
                memory,
                None if max_bytes is None else Budget(max_bytes, size),
                None if max_entries is None else Budget(max_entries, entries),
            )
        self.quota = quota
        for stripe in self.stripes:
            stripe.draw_on(quota)

    def totals(self) -> tuple[int, int]:
        """Return how many entries there are, and their bytes: of one instant for who has the gate."""
        stripes = self.stripes
        return (
            sum([len(data) for stripe in stripes if (data := stripe.data)]),
            sum([stripe.bytes for stripe in stripes]),
        )

    def give_back(self, size: int, entries: int) -> None:
        """Tell the quota that so much is free again."""
        if self.quota is not None and entries:
            self.quota.take(-size, -entries, 0, True)

    def evict_own(
        self,
        stripe: Stripe[K, V],
        key: K,
        size: int,
        created: bool,
        reason: Reason,
        freed: list[Record[V]],
    ) -> Full | None:
        """Take what a write needs, by evicting from its own stripe, whose lock it has.

        Returns None where that is done, and else why not, with nothing taken. What goes is added to
        `freed`, for the caller to drop without a lock.
        """
        quota = self.quota
        assert quota is not None
        full = self.full(reason, size, int(created), stripe.number)
        if full.where is not self or (stripe.slots.count < FEW and len(self.stripes) > 1):
            return full
        kept = (key,)
        less = gone = 0
        end = time.perf_counter() + SLICE
        try:
            while gone < STEP and (not gone or time.perf_counter() < end):
                evicted = stripe.evict(kept, self.growth, reason)
                if evicted is None:
                    break
                gone += 1
                freed.append(evicted[0])
                less += evicted[1]
                if quota.take(size + less, created - gone, stripe.number, False) is None:
                    gone = 0
                    return None
        finally:
            if gone:
                quota.take(less, -gone, stripe.number, True)
        return full

    def full(self, reason: Reason, size: int, entries: int, hint: int) -> Full:
        """Return why a write of so much found no room, and who is to make some."""
        where: Room[Any, Any] = self
        if reason == "memory" and self.neighbour is not None:
            where = self.neighbour(self, False)
        return Full(reason, where, entries if reason == "max_entries" else size, hint)

    def make(self, full: Full, tries: int, kept: Collection[K]) -> int:
        """Evict for a write that found no room and holds no lock. Returns 0 where anything went.

        The keys that are written, `kept`, stay. Where nothing went it returns one more than `tries`, the
        tries without success so far; the write is to ask thoroughly then. StoreFull after the first,
        where nothing may be evicted, and Contention after many, where others are quicker each time.
        """
        reason, where, need, hint = full
        ahead = AHEAD * need if need < SMALL else need
        if where is not self and where.evict(reason, ahead, (), hint):
            return 0
        if self.evict(reason, need, kept, hint):
            return 0
        if reason == "memory" and self.neighbour is not None:
            where = self.neighbour(self, True)
            if where is not self and where.evict(reason, need, (), hint):
                return 0
        if tries:
            if not (self.evicts() or where.evicts()) or self._only_kept(reason, kept):
                raise StoreFull(self._full_message(need, reason))
            if tries > PATIENCE:
                if reason == "memory" or self.totals()[0] <= len(kept):
                    raise StoreFull(self._full_message(need, reason))
                raise Contention("others take the room each time that there is some; try again")
            time.sleep(random.random() * 1e-4)  # noqa: S311 (no secret)
        return tries + 1

    def _only_kept(self, reason: Reason, kept: Collection[K]) -> bool:
        """Tell whether all that a limit of this dict's own is used up by are keys that must stay."""
        budget = None if reason == "memory" or self.quota is None else self.quota.budget(reason)
        if budget is None:
            return False
        entries, size = self.totals()
        # Where more is used, somebody is about to write it.
        return entries <= len(kept) and budget.used() == (
            entries if reason == "max_entries" else size
        )

    def evicts(self) -> bool:
        """Tell whether the policy gives anything up."""
        return self.stripes[0].policy.name != "none"

    def evict(self, reason: Reason, size: int, kept: Collection[K] = (), hint: int = 0) -> int:
        """Evict from one stripe, 64 entries at most, until `size` bytes or entries are free.

        Returns how many went, 0 where there is nothing to evict but what is `kept`. Holds no lock before.
        What is free then is at hand for the stripe of the number `hint`.
        """
        stripe = self._draw()
        gone = 0 if stripe is None else self._evict_from(stripe, reason, size, kept, hint)
        if not gone and kept:  # it may be just those that were drawn
            for stripe in self.stripes:
                if not gone and stripe.slots.count and self.evicts():
                    gone = self._evict_from(stripe, reason, size, kept, hint)
        return gone

    def _evict_from(
        self, stripe: Stripe[K, V], reason: Reason, size: int, kept: Collection[K], hint: int
    ) -> int:
        freed: list[Record[V]] = []
        with stripe.held_for("evict"):
            if stripe.data is None:
                return 1  # it was retired just now: look again
            less = 0
            end = time.perf_counter() + SLICE
            try:
                while len(freed) < STEP and (
                    (len(freed) if reason == "max_entries" else -less) < size
                    and (not freed or time.perf_counter() < end)
                ):
                    evicted = stripe.evict(kept, self.growth, reason)
                    if evicted is None:
                        break
                    freed.append(evicted[0])
                    less += evicted[1]
            finally:
                if freed and self.quota is not None:
                    self.quota.take(less, -len(freed), hint, True)
        return len(freed)

    def trim(self) -> None:
        """Evict what limits of this dict's own, lowered since, have no room for. Holds no lock."""
        reasons: tuple[Reason, ...] = ("max_bytes", "max_entries")
        for reason in reasons:
            while (excess := self._excess(reason)) > 0 and self.evict(reason, excess):
                pass

    def _excess(self, reason: Reason) -> int:
        quota = self.quota  # as of now: somebody may have changed it again
        budget = None if quota is None else quota.budget(reason)
        return 0 if budget is None else budget.used() - budget.limit

    def check_fits(self, size: int, entries: int) -> None:
        """Raise NeverFits where so much is more than a limit, were it all that there is."""
        quota = self.quota
        assert quota is not None
        for reason in REASONS:
            budget = quota.budget(reason)
            need = entries if reason == "max_entries" else size
            if budget is not None and need > budget.limit:
                what = "entries" if reason == "max_entries" else "bytes"
                raise NeverFits(
                    f"this needs {need} {what}, and the limit is {budget.limit}: "
                    f"raise {_KNOBS[reason]}"
                )

    def _draw(self) -> Stripe[K, V] | None:
        """Return a stripe that may evict, None where there is none.

        It is drawn from the first few with entries behind one that is chosen by chance, each as often as
        it has entries, except that more than FEW count as FEW.
        """
        stripes = self.stripes
        if not self.evicts():
            return None
        first = int(random.random() * len(stripes))  # noqa: S311 (no secret)
        found: list[Stripe[K, V]] = []
        weights: list[int] = []
        for stripe in (*stripes[first:], *stripes[:first]):
            count = stripe.slots.count
            if count >= FEW and not found:
                return stripe
            if count:
                found.append(stripe)
                weights.append(min(count, FEW))
                if len(found) == CANDIDATES:
                    break
        return random.choices(found, weights)[0] if found else None  # noqa: S311

    def _full_message(self, need: int, reason: Reason) -> str:
        assert self.quota is not None
        budget = self.quota.budget(reason)
        assert budget is not None
        if reason == "max_entries":
            return (
                f"{budget.limit} entries are the most; delete something, or raise {_KNOBS[reason]}"
            )
        return (
            f"no memory left: this write needs {need} bytes and {budget.limit - budget.used()} of "
            f"{budget.limit} are free; delete something, or raise {_KNOBS[reason]}"
        )


_KNOBS: Final[dict[Reason, str]] = {
    "memory": "--max-memory",
    "max_bytes": "the namespace's max_bytes",
    "max_entries": "the namespace's max_entries",
}
