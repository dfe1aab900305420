"""Quotas over several processes of one router: one book in shared memory, so that the sum holds to the request.

A share of the rate per process would refuse a tenant with a single connection most of its quota, and shares that move
by need are exceeded while they move. So the processes keep one state per tenant: the theoretical arrival time of the
generic cell rate algorithm (ITU-T I.371), which is a token bucket written as one number, and a count of requests in
flight per process. Over any T seconds a tenant is granted at most burst + rate x T requests.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from pathlib import Path

from partywall.clock import Clock
from partywall.domain.tenants import Quota
from partywall.errors import Overloaded, Reason
from router.gateway.throttle import over_rate, too_many_in_flight

SLOTS = 1 << 16
KEY_BYTES = 16
WINDOW = 64
"""Slots in which a tenant may lie, from its hash on."""
IDLE_S = 600.0
"""After so long without a grant a tenant's slot may go to another one: its bucket has long been full."""


class QuotaBook:
    """A table of tenants in one file that every process maps.

    A slot is a key of 16 bytes, a time as a double, and one 8-byte count per process. It is changed under a lock on its
    bytes; the kernel lets go of the lock when its holder dies, and each field is written in one store, so a death in
    between leaves at worst one grant that nobody used.
    """

    def __init__(self, folder: Path, index: int, count: int, slots: int = SLOTS) -> None:
        """Opens the book of `folder`, and makes it where it is not there; `index` is this process among `count`."""
        self._slot_bytes = KEY_BYTES + 8 * (1 + count)
        self._slots = slots
        self._count = count
        self._column = KEY_BYTES // 8 + 1 + index
        self._fd = os.open(folder / "quotas", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, slots * self._slot_bytes)
        self._map = mmap.mmap(self._fd, slots * self._slot_bytes)
        self._bytes = memoryview(self._map)
        self._times = self._bytes.cast("d")
        self._counts = self._bytes.cast("q")

    def lock(self, slot: int) -> None:
        """Waits, microseconds, until no other process works on the slot."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, self._slot_bytes, slot * self._slot_bytes)

    def unlock(self, slot: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, self._slot_bytes, slot * self._slot_bytes)

    def holds(self, slot: int, key: bytes) -> bool:
        """Whether the slot is still this tenant's."""
        start = slot * self._slot_bytes
        return self._bytes[start : start + KEY_BYTES] == key

    def find(self, key: bytes, now_s: float) -> int:
        """The tenant's slot, made if it has none.

        Raises:
            Overloaded: All slots it could have are in use.
        """
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            first = int.from_bytes(key[:8], "little") % self._slots
            window = [(first + step) % self._slots for step in range(WINDOW)]
            slot = next((s for s in window if self.holds(s, key)), None)
            if slot is None:
                slot = next((s for s in window if self._unused(s, now_s)), None)
                if slot is None:
                    raise Overloaded("too many tenants with quotas are active at once", reason=Reason.QUEUE_FULL)
                start = slot * self._slot_bytes
                self._bytes[start : start + self._slot_bytes] = key + bytes(self._slot_bytes - KEY_BYTES)
            return slot
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def arrival_s(self, slot: int) -> float:
        """The theoretical arrival time."""
        return self._times[self._at(slot)]

    def set_arrival_s(self, slot: int, value: float) -> None:
        self._times[self._at(slot)] = value

    def in_flight(self, slot: int) -> int:
        """Requests of all processes."""
        first = self._at(slot) + 1
        return sum(self._counts[first : first + self._count])

    def add_in_flight(self, slot: int, change: int) -> None:
        """Changes this process's count; no other process writes it."""
        place = slot * self._slot_bytes // 8 + self._column
        self._counts[place] = max(0, self._counts[place] + change)

    def forget_process(self) -> None:
        """Takes back what this process index had in flight: the process is gone, and its requests with it."""
        for slot in range(self._slots):
            if self._counts[slot * self._slot_bytes // 8 + self._column]:
                self._counts[slot * self._slot_bytes // 8 + self._column] = 0

    def close(self) -> None:
        self._times.release()
        self._counts.release()
        self._bytes.release()
        self._map.close()
        os.close(self._fd)

    def _at(self, slot: int) -> int:
        return (slot * self._slot_bytes + KEY_BYTES) // 8

    def _unused(self, slot: int, now_s: float) -> bool:
        return self.holds(slot, bytes(KEY_BYTES)) or (
            self.arrival_s(slot) < now_s - IDLE_S and self.in_flight(slot) == 0
        )


class SharedThrottle:
    """Rate and concurrency limits by tenant id, over all processes that share a book. Satisfies `Limits`."""

    def __init__(self, clock: Clock, book: QuotaBook) -> None:
        """`clock` is the machine's monotonic one, which all processes read alike."""
        self._clock = clock
        self._book = book
        self._slots: dict[str, tuple[int, bytes]] = {}
        self._counted: dict[str, int] = {}

    async def enter(self, tenant_id: str, quota: Quota) -> None:
        """See `Limits.enter`."""
        rate, limit = quota.requests_per_s, quota.max_in_flight
        if rate is None and limit is None:
            return
        book, now_s = self._book, self._clock.monotonic()
        slot = self._locked(tenant_id, now_s)
        try:
            if limit is not None:
                in_flight = book.in_flight(slot)
                if in_flight >= limit:
                    raise too_many_in_flight(in_flight, limit)
            if rate is not None:
                arrival_s = max(book.arrival_s(slot), now_s)
                wait_s = arrival_s - now_s - (quota.effective_burst - 1) / rate
                # A tenth of a nanosecond: sums of intervals are not exact.
                if wait_s > 1e-10:
                    raise over_rate(quota, wait_s)
                book.set_arrival_s(slot, arrival_s + 1.0 / rate)
            book.add_in_flight(slot, 1)
        finally:
            book.unlock(slot)
        self._counted[tenant_id] = self._counted.get(tenant_id, 0) + 1

    def leave(self, tenant_id: str) -> None:
        """See `Limits.leave`."""
        counted = self._counted.get(tenant_id, 0)
        if not counted:
            return
        if counted > 1:
            self._counted[tenant_id] = counted - 1
        else:
            del self._counted[tenant_id]
        # Only this process writes its count, and a slot with a count is nobody else's: no lock.
        self._book.add_in_flight(self._slots[tenant_id][0], -1)

    def forget(self, tenant_id: str) -> None:
        """See `Limits.forget`; the slot in the book frees itself once it has been idle."""
        if tenant_id not in self._counted:
            self._slots.pop(tenant_id, None)

    def _locked(self, tenant_id: str, now_s: float) -> int:
        """The tenant's slot, locked."""
        known = self._slots.get(tenant_id)
        if known is None:
            key = hashlib.sha256(tenant_id.encode()).digest()[:KEY_BYTES]
            known = self._slots[tenant_id] = (self._book.find(key, now_s), key)
        while True:
            self._book.lock(known[0])
            if self._book.holds(*known):
                return known[0]
            self._book.unlock(known[0])
            known = self._slots[tenant_id] = (self._book.find(known[1], now_s), known[1])
