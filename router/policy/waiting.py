"""Expected misses of models that share partitions in time, beside neighbours that slow them.

P(miss) of a model = mean over who is busy beside it of P(wait > objective - latency x slowdown bound), with the wait of
a G/G/k queue, P(wait > t) = C(k, rho) exp(-2 k (1 - rho) t / ((ca2 + cs2) E[S])) (Erlang's C; heavy-traffic decay:
Kingman 1962, Koellerstroem 1974). The scatter of neighbours is a fixed set of draws, so the same input gives the same
answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Layout = tuple[int, ...]
"""Shares of one device in percent, falling."""
Members = tuple[tuple[int, ...], ...]
"""Models in the partitions of each distinct share of a layout, shares falling."""
DRAWS = 12
NOT_SERVED = 1.0


class NeighbourCost(Protocol):
    """Profiles and predictions. Models are indices."""

    def solo_s(self, share: int) -> Floats:
        """Latency of each model alone at a share, (models,)."""
        ...

    def log_slowdown(self, share: int, neighbour_share: int) -> tuple[Floats, Floats]:
        """Mean and upper bound of log slowdown, (victims, neighbours), at these shares."""
        ...


@dataclass(frozen=True, slots=True)
class CutDemand:
    """One model: rate (upper bound of the forecast), variation of gaps, objective and memory."""

    rate_per_s: float
    cv: float
    objective_s: float
    memory_gb: float


class WaitEstimate:
    """Misses per second of a number of devices with one layout; every answer is kept."""

    def __init__(self, demands: Sequence[CutDemand], memory_gb: float, cost: NeighbourCost) -> None:
        self.rate = np.array([d.rate_per_s for d in demands])
        self._objective = np.array([d.objective_s for d in demands])
        self._gaps = np.array([d.cv for d in demands]) ** 2
        self._held_gb = [d.memory_gb for d in demands]
        self._memory_gb = memory_gb
        self._cost = cost
        self._draws = np.random.default_rng(0).random((DRAWS, 8))
        self._solo: dict[int, Floats] = {}
        self._slow: dict[tuple[int, int], tuple[Floats, Floats]] = {}
        self._known: dict[tuple[Layout, int, Members], float] = {}

    def solo_s(self, share: int) -> Floats:
        """Latency of each model alone at a share."""
        if share not in self._solo:
            self._solo[share] = self._cost.solo_s(share)
        return self._solo[share]

    def misses_per_s(self, layout: Layout, devices: int, members: Members) -> float:
        """Expected misses; what does not fit the memory misses everything, twice over."""
        key = layout, devices, members
        if key not in self._known:
            self._known[key] = self._misses(layout, devices, members)
        return self._known[key]

    def _misses(self, layout: Layout, devices: int, members: Members) -> float:
        here = [np.array(held, dtype=np.int64) for held in members]
        if sum(self._held_gb[m] for held in members for m in held) > self._memory_gb + 1e-9:
            return 2 * NOT_SERVED * sum(float(self.rate[held].sum()) for held in here)
        shares = sorted(set(layout), reverse=True)
        servers = [layout.count(share) * devices for share in shares]
        busy = np.zeros(len(shares))
        for _ in range(2):  # how busy neighbours are and how slow they run depend on each other
            service = [self._service(at, layout, shares, here, busy) for at in range(len(shares))]
            busy = np.array(
                [min(1.0, float(self.rate[here[at]] @ service[at][0]) / servers[at]) for at in range(len(shares))]
            )
        return sum(self._missed(here[at], servers[at], *service[at]) for at in range(len(shares)))

    def _service(
        self, at: int, layout: Layout, shares: Sequence[int], here: Sequence[NDArray[np.int64]], busy: Floats
    ) -> tuple[Floats, Floats]:
        """Mean seconds of each member, and its seconds at the bound, (members,) and (draws, members)."""
        members, share = here[at], shares[at]
        mean, upper = (np.zeros((DRAWS, len(members))) for _ in range(2))
        column = 0
        for other, other_share in enumerate(shares):
            load = self.rate[here[other]] * self.solo_s(other_share)[here[other]]
            if not load.sum() > 0 or not busy[other] > 0:
                continue
            edges = np.cumsum(load) / load.sum() * busy[other]
            for _ in range(layout.count(other_share) - (other == at)):
                who = np.searchsorted(edges, self._draws[:, column])
                column += 1
                for into, table in zip((mean, upper), self._slowdown(share, other_share), strict=True):
                    with_idle = np.zeros((len(members), len(edges) + 1))
                    with_idle[:, :-1] = table[np.ix_(members, here[other])]
                    into += with_idle[:, who].T
        solo = self.solo_s(share)[members]
        return solo * np.exp(mean).mean(axis=0), solo * np.exp(upper)

    def _slowdown(self, share: int, other_share: int) -> tuple[Floats, Floats]:
        key = share, other_share
        if key not in self._slow:
            self._slow[key] = self._cost.log_slowdown(share, other_share)
        return self._slow[key]

    def _missed(self, members: NDArray[np.int64], servers: int, mean_s: Floats, bound_s: Floats) -> float:
        if not len(members):
            return 0.0
        rate = self.rate[members]
        asked, load = float(rate.sum()), float(rate @ mean_s)
        rho = load / servers
        if not asked or rho >= 1.0:
            return asked * rho
        average = load / asked
        variation = float(rate @ mean_s**2) / asked / average**2 - 1.0 + float(rate @ self._gaps[members]) / asked
        decay = 2 * servers * (1 - rho) / (max(variation, 0.04) * average)
        left = self._objective[members] - bound_s
        waits = erlang_c(servers, load) * np.exp(-decay * np.maximum(left, 0.0))
        return float(np.where(left < 0, NOT_SERVED, waits).mean(axis=0) @ rate)


def erlang_c(servers: int, load: float) -> float:
    """Chance to wait in M/M/k at this load in servers (Erlang 1917), by the stable recursion over Erlang's B."""
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = load * blocked / (k + load * blocked)
    rho = load / servers
    return 1.0 if rho >= 1 else blocked / (1 - rho * (1 - blocked))
