"""Slowdowns of the replicas that stand now: predicted from profiles, corrected by the replies, turned into a bound.

The request's road adds one number per batch (`service_window`); everything else happens here, every `period_s`, on
the control plane's time. Per replica and period: how busy were its neighbours on the device (service seconds /
period), what slowdown do the profiles predict beside them, and what did its own batches take against their solo?

Live inputs are not the profiler's: longer texts, other batches. So batches that ran while no neighbour was busy tell
how much work this traffic is (`workload`), and slowdowns are measured against that. What is left is the residual of
(victim, busy neighbours, isolation), which `TaughtCorrector` shrinks, forgets and watches. Without a profile nothing is
corrected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from isolation.interference.activity import MAX_NEIGHBOURS, mean_prediction
from isolation.interference.direct import DirectModel
from isolation.interference.live import Setting
from isolation.interference.model import Basis, Prediction, Predictor
from isolation.interference.taught import TaughtCorrector
from partywall.domain.fleet import Device
from partywall.domain.placements import Placement
from partywall.domain.profiles import Profile, Resident
from router.gateway.correction_state import CorrectionPolicy, Standing, State
from router.gateway.profiled_bounds import Profiles
from router.gateway.replicas import Replica
from router.gateway.service_window import Taken, together
from router.gateway.slowdown import Activity, SlowdownNow
from router.gateway.solo import rows_factor, share_of, solo_ratio, solos_s, version_name

_MOST_PERIODS = 5.0
"""A look that comes later than this was held up; what it brings is taken as of so many periods."""
_ALONE = Prediction(1.0, 1.0, 0.0, Basis.PROFILES)


@dataclass(slots=True)
class Corrections:
    """One look at the whole fleet per `tick`; answers are dictionary look-ups.

    Attributes:
        replicas: All replicas, as the membership has them.
        devices: Devices of a node that is here.
        profiles: Finished profiles.
        device_type: How profiles name a device's type.
        predictor: Makes a predictor of profiles by resident name.
        generation: Grows whenever the predictor may answer otherwise than before.
        measuring: Whether a profile is taken on a node now; its replicas teach nothing meanwhile.
    """

    replicas: Callable[[], Iterable[Replica]]
    devices: Callable[[str], Sequence[Device]]
    profiles: Profiles
    device_type: Callable[[Device], str]
    policy: CorrectionPolicy = field(default_factory=CorrectionPolicy)
    corrector: TaughtCorrector = field(default_factory=TaughtCorrector)
    predictor: Callable[[Mapping[str, Profile]], Predictor] = DirectModel
    generation: Callable[[], int] = lambda: 0
    measuring: Callable[[str], bool] = lambda node: False
    _states: dict[str, State] = field(default_factory=dict)
    _wanting: frozenset[str] = frozenset()
    _looked_s: float = -math.inf
    _models: dict[tuple[str, str], tuple[Mapping[str, Profile], Predictor]] = field(default_factory=dict)

    def now(self, placement_id: str) -> SlowdownNow | None:
        """As of the last look; None where no profile tells anything."""
        state = self._states.get(placement_id)
        return state.now if state is not None else None

    def activity(self, placement_id: str) -> Activity:
        """As of the last look; one that was never looked at may be always busy."""
        state = self._states.get(placement_id)
        return state.activity if state is not None else Activity()

    def all_now(self) -> list[SlowdownNow]:
        """Of every replica with a profile."""
        return [s.now for s in self._states.values() if s.now is not None]

    def factors(self) -> dict[str, float]:
        """`slowdown_factor` by placement, of those that are not 1."""
        return {r.placement.id: r.slowdown_factor for r in self.replicas() if r.slowdown_factor != 1.0}

    def solos(self, placement_id: str) -> Mapping[int, float]:
        """Seconds alone by rows, by the profile; empty without one."""
        replica = next((r for r in self.replicas() if r.placement.id == placement_id), None)
        device = self._device_of(replica) if replica is not None else None
        if replica is None or device is None:
            return {}
        profile = self._profile_of(replica, device)
        return solos_s(profile, share_of(replica.placement, device)) if profile is not None else {}

    def tick(self, at_s: float, elsewhere: Mapping[str, Taken] = MappingProxyType({})) -> None:
        """One look; `at_s` is monotonic time."""
        for _ in self.looks(at_s, elsewhere):
            pass

    def skip(self, at_s: float) -> None:
        """Lets go of what came since the last look, without judging it: not all of it is known."""
        self._looked_s = at_s
        for replica in self.replicas():
            replica.window.take()

    def looks(self, at_s: float, elsewhere: Mapping[str, Taken] = MappingProxyType({})) -> Iterator[None]:
        """One look, device by device: whoever iterates lets other work run in between.

        `elsewhere` is what other processes of this router saw of each placement in the same time.
        """
        period_s = min(max(at_s - self._looked_s, self.policy.period_s), _MOST_PERIODS * self.policy.period_s)
        self._looked_s = at_s
        groups: dict[tuple[str, str], list[Standing]] = {}
        alive: set[str] = set()
        for replica in self.replicas():
            placement = replica.placement
            alive.add(placement.id)
            device = self._device_of(replica)
            if device is not None:
                taken = together((replica.window.take(), elsewhere.get(placement.id, {})))
                groups.setdefault((placement.node, device.id), []).append(self._look(replica, device, taken, period_s))
        for gone in self._states.keys() - alive:
            del self._states[gone]
        self._models = {place: model for place, model in self._models.items() if place in groups}
        self.corrector.prune(at_s)
        self._wanting = frozenset(self.corrector.wants_profile())
        for place, standings in groups.items():
            model = self._model_of(place, {s.resident.name: s.profile for s in standings if s.profile is not None})
            for standing in standings:
                self._judge(standing, standings, model, at_s)
            yield

    def _model_of(self, place: tuple[str, str], known: Mapping[str, Profile]) -> Predictor:
        """The same predictor as long as the profiles on a device are the same: it remembers its pairs."""
        held = self._models.get(place)
        if held is not None and held[0].keys() == known.keys() and all(held[0][n] is known[n] for n in known):
            return held[1]
        model = self.predictor(known)
        self._models[place] = known, model
        return model

    def new_profile(self, model_id: str, version: int) -> None:
        """Residuals and workload against the old profile say nothing any more."""
        name = version_name(model_id, version)
        self.corrector.forget([name])
        for replica in self.replicas():
            placement = replica.placement
            if (placement.model_id, placement.version) == (model_id, version):
                self._states.pop(placement.id, None)

    def _device_of(self, replica: Replica) -> Device | None:
        placement = replica.placement
        return next((d for d in self.devices(placement.node) if d.id == placement.partition.device_id), None)

    def _profile_of(self, replica: Replica, device: Device) -> Profile | None:
        placement = replica.placement
        return self.profiles.profile(placement.model_id, placement.version, self.device_type(device))

    def _look(self, replica: Replica, device: Device, taken: Taken, period_s: float) -> Standing:
        policy, placement = self.policy, replica.placement
        state = self._state(placement)
        share = share_of(placement, device)
        profile = self._profile_of(replica, device)
        state.see(taken, period_s, policy, rows_factor(taken, profile, share))
        if profile is not None and not replica.service.known:
            replica.service.seed(solos_s(profile, share))
        ratio = None if self.measuring(placement.node) else solo_ratio(taken, profile, share, policy.least_batches)
        resident = Resident(version_name(placement.model_id, placement.version), share)
        return Standing(replica, state, resident, profile, ratio)

    def _state(self, placement: Placement) -> State:
        state = self._states.get(placement.id)
        if state is None:
            state = self._states[placement.id] = State()
            before = self._states.get(placement.replaces)
            if before is not None:
                state.take_over(before)
        return state

    def _judge(self, mine: Standing, all_here: Sequence[Standing], model: Predictor, at_s: float) -> None:
        state, policy = mine.state, self.policy
        if mine.profile is None:
            state.now, mine.replica.slowdown_factor = None, 1.0
            return
        busy = self._busy_neighbours(mine, all_here)
        active = {n.resident: n.state.busy for n in busy if n.state.busy >= policy.busy}
        if mine.ratio is not None and not active:
            self._learn_work(state, mine.ratio)
        if not busy:
            mine.replica.slowdown_factor = 1.0
            self._show(mine, (), _ALONE, _ALONE)
            return
        neighbours, kind = frozenset(n.resident for n in busy), mine.replica.placement.partition.kind
        setting = Setting(mine.resident, neighbours, kind, mine.profile.device_type)
        if mine.ratio is not None and active:
            state.observed = mine.ratio / math.exp(state.workload)
            then = mean_prediction(model, mine.resident, active)
            if state.weight and then.known:
                self.corrector.observe(setting, then, state.observed, at_s)
        predicted = mean_prediction(model, mine.resident, {n.resident: n.state.lately for n in busy})
        corrected = self.corrector.correct(setting, predicted, at_s)
        self._show(mine, busy, predicted, corrected)
        sampled = bool(active) and mine.ratio is not None
        mine.replica.slowdown_factor = self._factor(mine, corrected, sampled=sampled)

    def _factor(self, mine: Standing, corrected: Prediction, *, sampled: bool) -> float:
        """How much longer than its recent batches a replica's next ones may take.

        Service times already hold what was observed, so only what may come on top counts: of batches that ran beside
        today's neighbours the bound's distance from its mean, before such batches the whole way to the bound. A profile
        that no longer fits says nothing against samples that are there.
        """
        if not math.isfinite(corrected.upper) or (sampled and mine.resident.name in self._wanting):
            return 1.0
        known = corrected.slowdown if sampled else mine.state.observed or corrected.slowdown
        return min(max(corrected.upper / max(known, 1.0), 1.0), self.policy.most)

    def _learn_work(self, state: State, ratio: float) -> None:
        """Batches that ran while nobody beside them did tell what this traffic asks for, against the profiler's."""
        keep = 0.5 ** (self.policy.period_s / self.policy.workload_half_life_s)
        state.weight = state.weight * keep + 1.0
        state.workload_sum = state.workload_sum * keep + math.log(ratio)
        state.observed = 1.0

    def _busy_neighbours(self, mine: Standing, all_here: Sequence[Standing]) -> tuple[Standing, ...]:
        """Those of other workers: replicas of one worker take turns and are never beside each other."""
        worker = mine.replica.placement.worker_id
        others = [s for s in all_here if s.replica.placement.worker_id != worker and s.state.lately >= self.policy.busy]
        by_resident = {s.resident: s for s in sorted(others, key=lambda s: s.state.lately)}
        chosen = sorted(by_resident.values(), key=lambda s: s.state.lately, reverse=True)
        return tuple(chosen[:MAX_NEIGHBOURS])

    def _show(self, mine: Standing, busy: Sequence[Standing], predicted: Prediction, corrected: Prediction) -> None:
        mine.state.now = SlowdownNow(
            placement=mine.replica.placement,
            share_percent=mine.resident.share_percent,
            neighbours=tuple(n.replica.placement for n in busy),
            predicted=predicted.slowdown,
            corrected=corrected.slowdown,
            bound=corrected.upper,
            observed=mine.state.observed,
            basis=corrected.basis,
            wants_profile=mine.resident.name in self._wanting,
        )
