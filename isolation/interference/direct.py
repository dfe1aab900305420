"""A slowdown from two profiles alone, for fleets whose co-runs nobody has measured.

The neighbour's pressure on a resource is told in units of the probe: how much it slows the probe / how much the probe
slows itself. The victim then slows as it does beside the probe at that dial (Bubble-Up, Mars et al., MICRO 2011, with
the bubble reporting back). Resources are not added up, because one neighbour's bytes show in several probes at once:
the worst counts, which errs to the safe side. Nothing is fitted to co-runs; `InterferenceModel` does better where
co-runs of the device type are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from isolation.interference.model import Basis, Prediction
from isolation.interference.rows import Colocation
from partywall.domain.profiles import ProbePoint, ProbeSetting, Profile, Resident, Resource

_LEAST_SELF = 0.03
"""Log slowdown below which a probe does not contend with itself: the resource is not shared at these shares."""
_MOST = 1.5
_FLOOR = 0.04
_RELATIVE = 0.3
_DEVIATIONS = 2.0
_UNKNOWN = 0.5


@dataclass(frozen=True, slots=True)
class DirectModel:
    """Predictions from `profiles` by name; a resident without a probed profile is unknown, with an infinite bound.

    The deviation of a log slowdown is `_FLOOR`, the profiles' own spread and a part of the log slowdown itself,
    together as a root sum of squares; the bound lies two of them above the mean (docs/interference.md: coverage).
    """

    profiles: Mapping[str, Profile]
    _pairs: dict[tuple[Resident, Resident], float] = field(default_factory=dict, compare=False, repr=False)
    """log slowdowns by (victim, neighbour): sets of neighbours ask for the same pairs again and again."""

    def predict(self, rows: Sequence[Colocation]) -> list[Prediction]:
        """One prediction per row; several neighbours add up in the logarithm."""
        return [self._row(row) for row in rows]

    def _row(self, row: Colocation) -> Prediction:
        victim = self._probed(row.victim)
        neighbours = [(n, self._probed(n)) for n in row.neighbours]
        if victim is None or any(p is None for _, p in neighbours):
            return Prediction(1.0, math.inf, _UNKNOWN, Basis.CONSTANT)
        mean, variance = 0.0, _FLOOR**2 + victim.spread**2
        for resident, profile in neighbours:
            assert profile is not None  # noqa: S101 - checked above
            mean += self._pair(victim, row.victim, profile, resident)
            variance += profile.spread**2
        deviation = math.sqrt(variance + (_RELATIVE * mean) ** 2)
        return Prediction(math.exp(mean), math.exp(mean + _DEVIATIONS * deviation), deviation, Basis.PROFILES)

    def _pair(self, victim: Profile, ours: Resident, neighbour: Profile, theirs: Resident) -> float:
        found = self._pairs.get((ours, theirs))
        if found is None:
            found = self._pairs[ours, theirs] = _pair(victim, ours, neighbour, theirs)
        return found

    def _probed(self, resident: Resident) -> Profile | None:
        profile = self.profiles.get(resident.name)
        return profile if profile is not None and profile.probed else None


def _pair(victim: Profile, ours: Resident, neighbour: Profile, theirs: Resident) -> float:
    """log slowdown of the victim by the resource that it suffers from most beside this neighbour."""
    resources = {p.probe.resource for p in victim.sensitivity} & {p.probe.resource for p in neighbour.pressure}
    logs = (_response(victim, ours, theirs, r, _intensity(victim, neighbour, ours, theirs, r)) for r in resources)
    return max(logs, default=0.0)


def _intensity(victim: Profile, neighbour: Profile, ours: Resident, theirs: Resident, resource: Resource) -> float:
    """The neighbour's pressure as a dial: 1.0 presses as the probe does flat out."""
    full = ProbeSetting(resource)
    pressure = _nearest(neighbour.pressure, full, theirs.share_percent, ours.share_percent)
    own = _nearest({**neighbour.probe_self, **victim.probe_self}, full, ours.share_percent, theirs.share_percent)
    if pressure is None:
        return 0.0
    if own is None:
        # Nobody measured the probe beside itself: half as much again is what a saturated resource shared by two costs.
        own = 1.5
    if math.log(own) < _LEAST_SELF:
        return 0.0
    return min(max(math.log(pressure) / math.log(own), 0.0), _MOST)


def _response(victim: Profile, ours: Resident, theirs: Resident, resource: Resource, intensity: float) -> float:
    """log slowdown at a dial: linear between the measured dials, through nothing at zero, on beyond the last."""
    levels = sorted({p.probe.level for p in victim.sensitivity if p.probe.resource is resource})
    below, low = 0.0, 0.0
    for level in levels:
        found = _nearest(victim.sensitivity, ProbeSetting(resource, level), ours.share_percent, theirs.share_percent)
        high = max(math.log(found), 0.0) if found is not None else 0.0
        if intensity <= level or level == levels[-1]:
            return low + (high - low) * (intensity - below) / (level - below)
        below, low = level, high
    return 0.0


def _nearest(curve: Mapping[ProbePoint, float], probe: ProbeSetting, own: int, other: int) -> float | None:
    """The point measured nearest to two shares."""
    points = [p for p in curve if p.probe == probe]
    if not points:
        return None
    return curve[min(points, key=lambda p: (abs(p.own_percent - own) + abs(p.probe_percent - other), p))]
