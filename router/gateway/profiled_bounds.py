"""Bounds on slowdowns from the profiles that are known now: the real side of `SlowdownBounds`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from isolation.interference.activity import MAX_NEIGHBOURS, mean_prediction
from isolation.interference.direct import DirectModel
from isolation.interference.model import Prediction, Predictor
from partywall.domain.fleet import PartitionKind
from partywall.domain.profiles import Profile, Resident, Resource
from router.gateway.solo import version_name
from router.policy.neighbour_costs import ALONE, Occupant, unknown

BEYOND_MIG = frozenset({Resource.POWER, Resource.LAUNCH, Resource.PCIE})
"""What instances of one GPU still share; memory slices and their part of the L2 are an instance's own (NVIDIA MIG User
Guide, "Partitioning")."""
_MOST_KEPT = 50_000


class Profiles(Protocol):
    """Profiles of versions; `router.control.profile_book.ProfileBook` is the real side."""

    def profile(self, model_id: str, version: int, device_type: str) -> Profile | None: ...


@dataclass(slots=True)
class ProfiledBounds:
    """Answers are kept as long as the profiles behind them stand.

    Attributes:
        profiles: Finished profiles.
        predictor: Makes a predictor of profiles by resident name.
        generation: Grows whenever the predictor may answer otherwise than before.
    """

    profiles: Profiles
    predictor: Callable[[Mapping[str, Profile]], Predictor] = DirectModel
    generation: Callable[[], int] = lambda: 0
    _kept: dict[tuple[object, ...], tuple[tuple[Profile, ...], int, Prediction]] = field(default_factory=dict)

    def bound(
        self, device_type: str, victim: Occupant, neighbours: Sequence[Occupant], kind: PartitionKind
    ) -> Prediction:
        """As `SlowdownBounds`. The six busiest neighbours count: beyond them sets of who is busy at once explode."""
        working = sorted((n for n in neighbours if n.busy > 0), key=lambda n: (-n.busy, n))
        if not working:
            return ALONE
        everybody = (victim, *working)
        found = [self.profiles.profile(o.model_id, o.version, device_type) for o in everybody]
        known = tuple(p for p in found if p is not None and p.probed)
        if len(known) < len(everybody):
            return unknown()
        key = (device_type, kind, *everybody)
        held, generation = self._kept.get(key), self.generation()
        if held is not None and held[1] == generation and all(a is b for a, b in zip(held[0], known, strict=True)):
            return held[2]
        answer = self._predict(victim, working[:MAX_NEIGHBOURS], known, kind)
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[key] = known, generation, answer
        return answer

    def _predict(
        self, victim: Occupant, neighbours: Sequence[Occupant], known: Sequence[Profile], kind: PartitionKind
    ) -> Prediction:
        if kind is PartitionKind.MIG:
            known = [behind_mig(p) for p in known]
        # Two replicas of one version are two neighbours: the second gets a name of its own.
        names = [f"{version_name(o.model_id, o.version)}#{i}" for i, o in enumerate((victim, *neighbours))]
        model = self.predictor(dict(zip(names, known, strict=False)))
        busy = {Resident(n, o.share_percent): o.busy for n, o in zip(names[1:], neighbours, strict=True)}
        return mean_prediction(model, Resident(names[0], victim.share_percent), busy)


def behind_mig(profile: Profile) -> Profile:
    """The profile without what an instance has to itself; unprobed if nothing else was measured."""
    return replace(
        profile,
        sensitivity={p: s for p, s in profile.sensitivity.items() if p.probe.resource in BEYOND_MIG},
        pressure={p: s for p, s in profile.pressure.items() if p.probe.resource in BEYOND_MIG},
    )
