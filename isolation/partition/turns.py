"""One worker start at a time on a device: several at once misjudge each other's memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from partywall.errors import NotReady, Reason


class Turns:
    """A turn per device."""

    def __init__(self, device_ids: Iterable[str]) -> None:
        self._turns = {device_id: threading.Lock() for device_id in device_ids}

    @contextmanager
    def take(self, device_id: str, turn_s: float) -> Iterator[None]:
        """Raises `NotReady` where the turn does not come within `turn_s`."""
        turn = self._turns[device_id]
        if not turn.acquire(timeout=turn_s):
            raise NotReady(
                f"another worker has been starting on {device_id} for {turn_s} s; look at it and retry",
                reason=Reason.WRONG_STATE,
                fields={"device": device_id},
                retry_after_s=1.0,
            )
        try:
            yield
        finally:
            turn.release()
