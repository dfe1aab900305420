"""Which predictor speaks for a device: the fit of its type where there is one, else profiles alone.

A fit is opened only once a profile of its type of device is there, and every answer of it is worked out aside
(`catch_up`): until then, and for profiles that cannot join it, `DirectModel` answers. Answers say what they rest on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import structlog

from isolation.interference.direct import DirectModel
from isolation.interference.fits import Fit
from isolation.interference.fitted import FittedModel
from isolation.interference.model import Basis, Prediction
from isolation.interference.rows import Colocation
from partywall.domain.profiles import Profile
from partywall.errors import NotFound, PartywallError

log = structlog.get_logger(__name__)
T = TypeVar("T")

MOST_AT_ONCE = 20
"""Pairs that are worked out between two looks."""
FILES_EVERY = 15
"""Calls of `catch_up` from one look at the fits' files to the next: half a minute."""


class Aside(Protocol):
    """Runs a call where it is in nobody's way: a thread; in tests, at once."""

    async def __call__(self, call: Callable[[], T], /) -> T: ...


def no_fit(device_type: str) -> Fit:
    """Where there are none.

    Raises:
        NotFound: Always.
    """
    raise NotFound(f"no fit for {device_type}")


@dataclass(slots=True)
class Predictors:
    """Called with the profiles of a device's residents by name, answers their predictor.

    Attributes:
        fits: Opens the fit of one of `types`; may take long and is called aside.
        types: Types of device that have a fit.
        look: Types whose fit is another since the last call, each with whether there still is one; called aside.
    """

    fits: Callable[[str], Fit] = no_fit
    types: frozenset[str] = frozenset()
    look: Callable[[], Mapping[str, bool]] = dict
    _calls: int = 0
    _past: int = 0
    _models: dict[str, FittedModel] = field(default_factory=dict)
    _opening: set[str] = field(default_factory=set)
    _failed: dict[str, str] = field(default_factory=dict)

    def __call__(self, profiles: Mapping[str, Profile]) -> BestPredictor:
        return BestPredictor(self, profiles, DirectModel(profiles))

    @property
    def generation(self) -> int:
        """Grows whenever an answer may have changed."""
        return self._past + sum(model.generation + 1 for model in self._models.values())

    def fitted(self, device_type: str) -> FittedModel | None:
        """The fit of a type of device, once it is open."""
        model = self._models.get(device_type)
        if model is None and device_type in self.types and device_type not in self._failed:
            self._opening.add(device_type)
        return model

    def basis(self, profile: Profile) -> tuple[Basis, str]:
        """What predictions about a profile rest on, and why not on more."""
        if not profile.probed:
            return Basis.CONSTANT, "no run beside a probe: it stays apart until it is measured"
        if profile.device_type not in self.types:
            return Basis.PROFILES, "no fit for this type of device (partywall interference fit)"
        model = self.fitted(profile.device_type)
        if model is None:
            return Basis.PROFILES, self._failed.get(profile.device_type, "the fit is being opened")
        why = model.refusal(profile)
        return (Basis.PROFILES, f"it cannot join the fit: {why}") if why else (Basis.FIT, "")

    async def catch_up(self, aside: Aside, most: int = MOST_AT_ONCE) -> None:
        """Opens fits and works out pairs that were asked for since; `aside` runs a slow call out of the way.

        A fit that took the place of another is opened first; the one before answers until then.
        """
        if self._calls % FILES_EVERY == 0:
            self._take(await aside(self.look))
        self._calls += 1
        for device_type in sorted(self._opening):
            try:
                fresh = await aside(partial(self._open, device_type))
                self._forget(device_type)
                self._models[device_type] = fresh
            except PartywallError as error:
                self._failed[device_type] = f"the fit cannot be used: {error.message}"
                log.warning("fit not usable", device_type=device_type, error=error.message)
            self._opening.discard(device_type)
        for model in list(self._models.values()):
            wanted = model.wanted(most)
            if wanted:
                model.learn(await aside(partial(model.believe, wanted)))

    def _take(self, changed: Mapping[str, bool]) -> None:
        for device_type, there in changed.items():
            self._failed.pop(device_type, None)
            self._opening.discard(device_type)
            if not there:
                self.types -= {device_type}
                self._forget(device_type)
                continue
            self.types |= {device_type}
            if device_type in self._models:
                self._opening.add(device_type)

    def _forget(self, device_type: str) -> None:
        old = self._models.pop(device_type, None)
        if old is not None:
            # The generation never falls.
            self._past += old.generation + 2

    def _open(self, device_type: str) -> FittedModel:
        return FittedModel(self.fits(device_type).model())


@dataclass(slots=True)
class BestPredictor:
    """One device's residents; satisfies `isolation.interference.model.Predictor`."""

    predictors: Predictors
    profiles: Mapping[str, Profile]
    direct: DirectModel

    def predict(self, rows: Sequence[Colocation]) -> list[Prediction]:
        """By the fit where it has an answer, else by profiles alone."""
        return [self._fitted(row) or self.direct.predict([row])[0] for row in rows]

    def _fitted(self, row: Colocation) -> Prediction | None:
        known = [self.profiles.get(n) for n in sorted(row.names)]
        types = {p.device_type if p is not None else "" for p in known}
        model = self.predictors.fitted(types.pop()) if len(types) == 1 else None
        return model.predict(row, self.profiles) if model is not None else None
