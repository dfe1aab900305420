"""What the neighbours cost each other behind their walls: predicted from profiles, and measured by the router."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from tour import ACME, GLOBEX, IMAGES_PER_REQUEST, MODEL_OF, Site

from partywall.client.endpoint import open_endpoint
from partywall.client.flow import MODELS, Caller
from partywall.client.transport import Transport
from partywall.clock import SystemClock
from partywall.errors import PartywallError
from partywall.v1 import models_pb2

_ROWS = {ACME: 1, GLOBEX: IMAGES_PER_REQUEST}
_EVERY_S = 3.0
_TIMEOUT_S = 2.0
_SHARE = 50


@dataclass(frozen=True, slots=True)
class Sight:
    """One answer of the router about one tenant's model; `observed` is service time beside / alone."""

    predicted: float
    bound: float
    observed: float


@dataclass(frozen=True, slots=True)
class SlowdownRow:
    """One tenant over the rounds: medians of what the router said while both were busy."""

    tenant: str
    predicted: float
    bound: float
    observed: float
    samples: int


def profile_models(site: Site) -> None:
    """The tenants have their models measured, in seconds, on the share that they stand on."""
    for tenant in (ACME, GLOBEX):
        settings = ("--quick", "--shares", str(_SHARE), "--batch", str(_ROWS[tenant]))
        # Nobody else is served yet; whatever else runs on this machine is measured along.
        site.instance.tenant(site.key_files[tenant], "profile", MODEL_OF[tenant], *settings, "--anyway")


@contextlib.asynccontextmanager
async def watching(site: Site) -> AsyncIterator[Callable[[], Mapping[str, Sequence[Sight]]]]:
    """Asks the router now and then while the block runs; the answer gives what it said, by tenant."""
    seen: dict[str, list[Sight]] = {ACME: [], GLOBEX: []}
    transports = {t: Transport(open_endpoint(site.address, credential=site.key(t))) for t in seen}
    task = asyncio.create_task(_watch(transports, seen))
    try:
        yield lambda: seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        for transport in transports.values():
            transport.close()


async def _watch(transports: Mapping[str, Transport], seen: Mapping[str, list[Sight]]) -> None:
    while True:
        await asyncio.sleep(_EVERY_S)
        for tenant, transport in transports.items():
            try:
                seen[tenant] += await asyncio.to_thread(_ask, transport, MODEL_OF[tenant])
            except PartywallError:
                # A router under a flood may be late; the next answer will do.
                continue


def _ask(transport: Transport, model: str) -> list[Sight]:
    caller = Caller(SystemClock(), timeout_s=_TIMEOUT_S)
    request = models_pb2.ExplainModelRequest(name=model)
    answer = transport.run(caller.call(MODELS["ExplainModel"], request, idempotent=True))
    return [Sight(s.predicted, s.bound, s.observed) for s in answer.slowdowns if s.neighbours and s.observed]


def slowdown_rows(rounds: Sequence[Mapping[str, Sequence[Sight]]]) -> tuple[SlowdownRow, ...]:
    """Medians over all rounds, for tenants that were seen beside the other."""
    rows = []
    for tenant in (ACME, GLOBEX):
        sights = [sight for seen in rounds for sight in seen.get(tenant, ())]
        if sights:
            middle = [
                statistics.median(getattr(s, name) for s in sights) for name in ("predicted", "bound", "observed")
            ]
            rows.append(SlowdownRow(tenant, middle[0], middle[1], middle[2], len(sights)))
    return tuple(rows)
