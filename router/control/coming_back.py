"""How long a version takes to serve that is asked for now: its last load, or the way back of its parked weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from partywall.domain.fleet import ReplicaState
from partywall.domain.models import Version
from router.gateway.replicas import Replica


class ComingBack:
    """Asks the replicas as agents report them."""

    def __init__(self, replicas: Callable[[], Iterable[Replica]]) -> None:
        self._replicas = replicas

    def __call__(self, version: Version) -> float:
        """Seconds; 0.0 where nothing was measured, or nothing has to move."""
        waits = [
            one.status.wake_seconds
            for one in self._replicas()
            if (one.placement.model_id, one.placement.version) == (version.model_id, version.number)
            and one.session is not None
            and one.status is not None
            and one.status.state is ReplicaState.STOPPED
            and one.status.memory_bytes
        ]
        return min(waits, default=version.load_seconds)


def wake_rates(replicas: Iterable[Replica]) -> Mapping[tuple[str, int], float]:
    """Bytes a second at which parked weights came back onto their devices, by model id and version; the least of a
    version's replicas. Those that were never parked are left out."""
    found: dict[tuple[str, int], float] = {}
    for one in replicas:
        status = one.status
        if status is not None and status.wake_bytes and status.wake_seconds:
            key = one.placement.model_id, one.placement.version
            rate = status.wake_bytes / status.wake_seconds
            found[key] = min(rate, found.get(key, rate))
    return found
