"""The noisy neighbour: the same seeded arrivals with walls and without, in interleaved rounds."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from machine import usage
from models import Digits
from slowdown import Sight, profile_models, watching
from terminal import DemoError
from tour import ACME, GLOBEX, GLOBEX_OBJECTIVE_MS, IMAGES_PER_REQUEST, MODEL_OF, Site

from loadgen import payloads
from loadgen.arrivals import FloatArray, Poisson, rng_for
from loadgen.closed import closed_loop
from loadgen.payloads import Addressee
from loadgen.report import in_time_mask, percent
from loadgen.results import Requests, concatenate
from loadgen.runner import OpenLoopRun, Stream
from loadgen.targets import Target
from partywall.client.endpoint import open_endpoint

SENTENCES = Path(__file__).with_name("sentences.txt")
ROUNDS = 3
UTILISATION = 0.12
OBJECTIVE_FACTOR = 3.0
FLOOD_FACTOR = 3.0
QUOTA_SHARE = 0.45
QUOTA_BURST = 6
"""Small, so that the quota is used evenly and not in one run of work each second."""
REQUESTS_PER_ARM = 1060
"""Of acme, over all rounds."""
SOLO_S = 7.5
"""Of each round, in parts before, between and after its arms: the speed of a rented machine changes within a round."""
SOLO_PARTS = 3
_ARM_S = (10.0, 28.0)
_ACME_MAX_RATE_PER_S = 60.0
_ACME_DEADLINE_S = 10.0
_GLOBEX_DEADLINE_S = 2.0
_FLOOD_MAX_PER_S = 1000.0
"""What one client process can send beside the servers."""
_OTHERS_WORTH_SAYING = 0.05
_SETTLE_S = 0.5
_CAPACITY_CONCURRENCY = 4


class Arm(enum.StrEnum):
    SOLO = "solo"
    WITHOUT = "without walls"
    WITH = "with walls"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What each model does alone on its partition: acme's latency, globex's requests per second."""

    acme_service_ms: float
    globex_capacity_per_s: float

    @property
    def acme_rate_per_s(self) -> float:
        """About `UTILISATION` of acme's partition, and enough for `REQUESTS_PER_ARM` within the time there is."""
        wanted = max(UTILISATION / (self.acme_service_ms / 1e3), REQUESTS_PER_ARM / ROUNDS / _ARM_S[1])
        return min(wanted, _ACME_MAX_RATE_PER_S)

    @property
    def arm_s(self) -> float:
        """How long one arm of one round lasts."""
        return min(max(REQUESTS_PER_ARM / ROUNDS / self.acme_rate_per_s, _ARM_S[0]), _ARM_S[1])

    @property
    def quota_per_s(self) -> float:
        """Globex's quota, to two digits after the point as it is typed."""
        return math.floor(QUOTA_SHARE * self.globex_capacity_per_s * 100) / 100

    @property
    def flood_per_s(self) -> float:
        """What globex offers."""
        return min(FLOOD_FACTOR * self.globex_capacity_per_s, _FLOOD_MAX_PER_S)


@dataclass(frozen=True, slots=True)
class Round:
    """One round: acme alone, then both tenants in each arm. `objective_ms` holds for both arms."""

    objective_ms: float
    order: tuple[Arm, Arm]
    solo: Requests
    arms: dict[Arm, dict[str, Requests]]
    others: dict[Arm, float]
    """Share of the machine that other programs used meanwhile."""
    sights: Mapping[str, Sequence[Sight]] = field(default_factory=dict)
    """What the router said of slowdowns behind the walls, by tenant."""


def _caution(others: float) -> str:
    return f" (other programs used {others:.0%} of the machine)" if others >= _OTHERS_WORTH_SAYING else ""


class Neighbours:
    """Drives both sites; payloads are the same bytes everywhere."""

    def __init__(self, sites: dict[Arm, Site], digits: Digits, seed: int) -> None:
        self._sites = sites
        self._seed = seed
        rng = rng_for(seed, "payloads")
        self._payloads = {
            ACME: payloads.text_file(Addressee(MODEL_OF[ACME], "text"), SENTENCES, 1, rng),
            GLOBEX: [
                payloads.encode(
                    Addressee(MODEL_OF[GLOBEX], "image"),
                    digits.train_images[rng.permutation(len(digits.train_images))[:IMAGES_PER_REQUEST]],
                )
                for _ in range(8)
            ],
        }

    def profile(self) -> None:
        """Has both models measured behind their walls, before anybody serves."""
        profile_models(self._sites[Arm.WITH])

    async def calibrate(self) -> Calibration:
        """Warms both sites up, then measures each model alone behind its wall, before any quota is set."""
        for site in self._sites.values():
            await self._closed(site, ACME, concurrency=1, duration_s=0.7)
            await self._closed(site, GLOBEX, concurrency=1, duration_s=0.7)
        walls = self._sites[Arm.WITH]
        _, acme_ms = await self._closed(walls, ACME, concurrency=1, duration_s=2.5)
        capacity, _ = await self._closed(walls, GLOBEX, concurrency=_CAPACITY_CONCURRENCY, duration_s=4.0)
        if not (capacity > 0 and math.isfinite(acme_ms)):
            raise DemoError("a model answered nothing while it was measured alone")
        return Calibration(acme_ms, capacity)

    async def round(self, number: int, plan: Calibration, say: Callable[[str], None]) -> Round:
        """The two arms on identical arrivals, and acme alone before, between and after them; even rounds begin without
        walls."""
        times = {
            ACME: Poisson(plan.acme_rate_per_s).times_s(rng_for(self._seed + number, ACME), plan.arm_s),
            GLOBEX: Poisson(plan.flood_per_s).times_s(rng_for(self._seed + number, GLOBEX), plan.arm_s),
        }
        order = (Arm.WITHOUT, Arm.WITH) if number % 2 == 0 else (Arm.WITH, Arm.WITHOUT)
        solo = [await self._solo(number, 0, plan)]
        arms: dict[Arm, dict[str, Requests]] = {}
        others: dict[Arm, float] = {}
        sights: Mapping[str, Sequence[Sight]] = {}
        for part, arm in enumerate(order, start=1):
            before = usage()
            offered = {ACME: (times[ACME], None), GLOBEX: (times[GLOBEX], float(GLOBEX_OBJECTIVE_MS))}
            site = self._sites[arm]
            watched = watching(site) if arm is Arm.WITH else contextlib.nullcontext()
            async with watched as seen:
                done = await self._open(site, offered)
            if seen is not None:
                sights = seen()
            arms[arm] = {r.name: r for r in done}
            others[arm] = usage().others_since(before)
            solo.append(await self._solo(number, part, plan))
        alone = concatenate(solo)
        solo_ms = float(np.median(alone.latency_s)) * 1e3
        objective_ms = OBJECTIVE_FACTOR * solo_ms
        say(f"round {number + 1}: acme alone p50 {solo_ms:.1f} ms, so its objective is {objective_ms:.1f} ms")
        for arm in order:
            arms[arm][ACME] = replace(arms[arm][ACME], objective_ms=objective_ms)
            in_time = percent(float(in_time_mask(arms[arm][ACME]).mean()))
            counts = f"{len(times[ACME])} of acme beside {len(times[GLOBEX])} of globex"
            say(f"  {arm:<13} {counts}: {in_time} in time{_caution(others[arm])}")
        return Round(objective_ms, order, alone, arms, others, sights)

    async def _solo(self, number: int, part: int, plan: Calibration) -> Requests:
        rng = rng_for(self._seed + number, f"solo {part}")
        times = Poisson(plan.acme_rate_per_s).times_s(rng, SOLO_S / SOLO_PARTS)
        (solo,) = await self._open(self._sites[Arm.WITH], {ACME: (times, None)})
        return solo

    async def _open(self, site: Site, offered: dict[str, tuple[FloatArray, float | None]]) -> Sequence[Requests]:
        deadlines = {ACME: _ACME_DEADLINE_S, GLOBEX: _GLOBEX_DEADLINE_S}
        streams = []
        async with contextlib.AsyncExitStack() as stack:
            for name, (times, objective_ms) in offered.items():
                target = await stack.enter_async_context(self._target(site, name))
                await target.connect()
                streams.append(Stream(name, target.call, self._payloads[name], times, objective_ms, deadlines[name]))
            result = await OpenLoopRun(streams).run()
        await asyncio.sleep(_SETTLE_S)
        return result.requests

    def _target(self, site: Site, name: str) -> Target:
        return Target(open_endpoint(site.address, credential=site.key(name)))

    async def _closed(self, site: Site, name: str, *, concurrency: int, duration_s: float) -> tuple[float, float]:
        async with self._target(site, name) as target:
            await target.connect()
            result = await closed_loop(
                target.call, self._payloads[name], concurrency=concurrency, duration_s=duration_s, warmup_s=0.3
            )
        return result.rate_per_s, result.p50_ms
