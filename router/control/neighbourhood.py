"""What neighbours cost each other, as placement asks it: profiles, corrected by live traffic, and who is busy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from isolation.interference.live import Setting
from partywall.clock import Clock
from partywall.domain.fleet import PartitionKind
from partywall.domain.profiles import Resident
from router.gateway.correction import Corrections
from router.gateway.profiled_bounds import ProfiledBounds, Profiles
from router.gateway.solo import version_name
from router.policy.neighbour_costs import Occupant, Prediction
from router.policy.sharing_words import Work

_STEP = 0.05


class Book(Profiles, Protocol):
    """Finished profiles; `router.control.profile_book.ProfileBook` is the real side."""

    @property
    def any_probed(self) -> bool: ...


class Neighbourhood:
    """`router.control.scene.Knowledge` over the profile book and live correction. No request asks it anything."""

    def __init__(self, book: Book, corrections: Corrections, clock: Clock) -> None:
        self._book = book
        self._corrections = corrections
        self._clock = clock
        self._bounds = ProfiledBounds(book, corrections.predictor, corrections.generation)

    def informed(self) -> bool:
        """Whether any model has both curves."""
        return self._book.any_probed

    def solo_s(self, device_type: str, model_id: str, version: int, share_percent: int) -> float | None:
        """Of one row; None where no curves were measured."""
        profile = self._book.profile(model_id, version, device_type)
        solo_ms = profile.solo_of(1, share_percent) if profile is not None and profile.probed else None
        return solo_ms / 1e3 if solo_ms is not None else None

    def bound(
        self, device_type: str, victim: Occupant, neighbours: Sequence[Occupant], kind: PartitionKind
    ) -> Prediction:
        """By the profiles; where just these have stood beside each other, as live traffic corrected it."""
        predicted = self._bounds.bound(device_type, victim, neighbours, kind)
        working = frozenset(_resident(n) for n in neighbours if n.busy >= self._corrections.policy.busy)
        if not predicted.known or not working:
            return predicted
        setting = Setting(_resident(victim), working, kind, device_type)
        return self._corrections.corrector.correct(setting, predicted, self._clock.monotonic())

    def work(self, placement_id: str, objective_ms: int) -> Work:
        """In steps of a twentieth, upwards: the same question gets the same answer for a while."""
        seen = self._corrections.activity(placement_id)
        return Work(objective_ms / 1e3, seen.ratio, seen.batches_per_s, _step(seen.busy))

    def seen(self, placement_id: str, objective_ms: int) -> Work:
        """As `work`, with no more than was seen of it."""
        seen = self._corrections.activity(placement_id)
        return Work(objective_ms / 1e3, seen.ratio, seen.batches_per_s, _step(seen.seen))

    def observed(self, placement_id: str) -> float:
        """The slowdown that live traffic shows beside busy neighbours; 0.0 where it shows none."""
        now = self._corrections.now(placement_id)
        return now.observed if now is not None and now.neighbours else 0.0


def _step(busy: float) -> float:
    return min(1.0, math.ceil(busy / _STEP) * _STEP)


def _resident(one: Occupant) -> Resident:
    return Resident(version_name(one.model_id, one.version), one.share_percent)
