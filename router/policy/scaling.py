"""How many replicas each model should have, from what was observed of it. Pure: time and observations in.

The need is `sizing`'s: the least number at which at most a small part of the requests waits longer than the objective
leaves (Kingman's tail), at the *upper bound* of the forecast rate, the observed burstiness and the upper bound of the
service time. Adding is fast: at once when the objective is missed faster than allowed, after a short confirmation when
only the forecast asks for it. Taking away is slow: one replica at a time, when the rest would be enough with a margin,
without a break for `TriggerSettings.hold_s`. Between the two lies the margin, so steady load changes nothing.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from router.policy.forecast import Forecaster, ForecastSettings
from router.policy.scaling_words import Observed, Option, ScalingLimits, Verdict
from router.policy.sizing import MAX_REPLICAS, miss_probability
from router.policy.triggers import Attainment, SavingWatch, Trigger

RECENT_BINS = 5
"""Seconds that are 'lately'."""
RAMP = 1.5
"""How far above the highest rate of the last minutes the forecast is believed."""


@dataclass(slots=True)
class _Model:
    """What is remembered of one model."""

    attainment: Attainment
    saving: SavingWatch
    forecast: Forecaster
    bins: deque[int]
    in_interval: int = 0
    interval_from_s: float | None = None
    changed_s: float = -math.inf
    short_since_s: float | None = None
    missed_s: float = -math.inf


class FleetScaler:
    """Watches models by name. `observe` about once a second; `decide` whenever an answer is wanted."""

    def __init__(self, limits: ScalingLimits | None = None) -> None:
        self.limits = limits or ScalingLimits()
        self._models: dict[str, _Model] = {}

    def observe(self, now_s: float, observed: Mapping[str, Observed]) -> None:
        """Takes what happened since the last call; models that are not named are forgotten."""
        for gone in self._models.keys() - observed.keys():
            del self._models[gone]
        for name, seen in observed.items():
            model = self._models.get(name) or self._new(name)
            model.bins.append(seen.arrivals)
            if seen.in_time < seen.arrivals:
                model.missed_s = now_s
            model.attainment.observe(now_s, min(seen.in_time, seen.arrivals), seen.arrivals)
            if model.interval_from_s is None:
                model.interval_from_s = now_s
            model.in_interval += seen.arrivals
            elapsed_s = now_s - model.interval_from_s
            if elapsed_s >= self.limits.interval_s:
                model.forecast.observe(model.in_interval * self.limits.interval_s / elapsed_s)
                model.in_interval, model.interval_from_s = 0, now_s

    def decide(self, now_s: float, observed: Mapping[str, Observed]) -> dict[str, Verdict]:
        """What each model should have. Changes nothing but the watches over time; `changed` says what was done."""
        return {name: self._decide(now_s, name, seen) for name, seen in observed.items()}

    def at_risk(self, now_s: float) -> bool:
        """Whether any model misses its objective faster than allowed: a reason to decide now."""
        short_s = self.limits.triggers.short_s
        # Most models miss nothing most of the time: only those that did are looked at closely.
        late = (m for m in self._models.values() if now_s - m.missed_s <= short_s)
        return any(model.attainment.at_risk(now_s) for model in late)

    def missing(self, now_s: float, name: str) -> bool:
        """Whether one model misses its objective faster than allowed."""
        model = self._models.get(name)
        return model is not None and model.attainment.at_risk(now_s)

    def changed(self, now_s: float, name: str) -> None:
        """A model's number was changed; it is left alone for a while."""
        model = self._models.get(name)
        if model is not None:
            model.changed_s, model.short_since_s = now_s, None
            model.saving = SavingWatch(self.limits.triggers)

    def _new(self, name: str) -> _Model:
        limits = self.limits
        # A day of intervals as the season: 17,280 of five seconds. What was an error before the hold is no bound now.
        season = max(1, round(86_400 / limits.interval_s))
        errors = max(12, round(limits.triggers.hold_s / limits.interval_s))
        forecast = Forecaster(ForecastSettings(season=season, quantile=0.9, remembered_errors=errors))
        bins: deque[int] = deque(maxlen=limits.dispersion_bins)
        made = _Model(Attainment(limits.triggers), SavingWatch(limits.triggers), forecast, bins)
        self._models[name] = made
        return made

    def _rate(self, name: str) -> float:
        """Requests a second: the forecast's bound, or what came lately where that is more.

        After a start from nothing the forecast's errors say little, so its bound is held near the highest rate seen.
        """
        model = self._models[name]
        bins = list(model.bins)
        means = [sum(bins[at : at + RECENT_BINS]) / RECENT_BINS for at in range(max(1, len(bins) - RECENT_BINS + 1))]
        bound = model.forecast.next().upper / self.limits.interval_s
        return max(means[-1], min(bound, RAMP * max(means)))

    def _burstiness(self, name: str) -> float:
        """CV of the gaps, from the index of dispersion of counts: for a renewal process CV^2 = var / mean.

        The variance is half the mean squared difference of neighbours (von Neumann, 1941): a rising rate is no burst.
        """
        counts = self._models[name].bins
        mean = sum(counts) / max(1, len(counts))
        if mean <= 0 or len(counts) < 2:
            return 1.0
        steps = [b - a for a, b in itertools.pairwise(counts)]
        dispersion = sum(step * step for step in steps) / len(steps) / 2 / mean
        prior = self.limits.prior_bins
        dispersion = (dispersion * len(counts) + prior) / (len(counts) + prior)
        return min(6.0, max(0.5, math.sqrt(dispersion)))

    def _decide(self, now_s: float, name: str, seen: Observed) -> Verdict:
        if name not in self._models or not seen.batch_s:
            return Verdict(seen.wanted, "no request has been served yet: nothing to size it by", None, 0.0, 1.0, 1)
        if seen.wanted == 1 and not any(self._models[name].bins):
            return Verdict(1, "no requests lately: one replica waits for them", None, 0.0, 1.0, 1)
        rate, cv, margin = self._rate(name), self._burstiness(name), self.limits.margin
        needs = self._need(seen, rate, cv), self._need(seen, rate * margin, cv * margin)
        return self._verdict(now_s, name, seen, rate, cv, needs)

    def _need(self, seen: Observed, rate: float, cv: float) -> int:
        """The least number of replicas that is enough; 0: none is."""
        for count in range(1, MAX_REPLICAS + 1):
            if 1.0 - _option(seen, rate, cv, count).attainment <= self.limits.miss:
                return count
        return 0

    def _lean(self, seen: Observed, rate: float) -> int:
        """The least number of replicas that are not too busy for the rate, whatever the objective says."""
        counts = range(1, MAX_REPLICAS + 1)
        return next((c for c in counts if _option(seen, rate, 1.0, c).utilisation <= self.limits.busy), MAX_REPLICAS)

    def _verdict(
        self, now_s: float, name: str, seen: Observed, rate: float, cv: float, needs: tuple[int, int]
    ) -> Verdict:
        limits, model, have = self.limits, self._models[name], seen.wanted
        need, after = needs
        options = tuple(_option(seen, rate, cv, count) for count in range(max(1, have - 1), have + 2))

        def say(replicas: int, reason: str, trigger: Trigger | None = None) -> Verdict:
            return Verdict(replicas, reason, trigger, rate, cv, need, options)

        since_s = now_s - model.changed_s
        settling = since_s < limits.settle_s or (seen.ready < have and since_s < limits.start_s)
        risk = model.attainment.at_risk(now_s)
        short = need > have
        model.short_since_s = (now_s if model.short_since_s is None else model.short_since_s) if short else None
        if need:
            spare = 0 < after < have and not risk
        else:
            # Beyond what replicas can mend: as many as the work keeps busy, no more.
            after = self._lean(seen, rate * limits.margin)
            spare = after < have
        # Every look counts for the saving's hold, also while the model settles.
        saving = model.saving.observe(now_s, 1.0 if spare else 0.0)
        if settling:
            return say(have, "a change is under way")
        if not need:
            hopeless = "no number of replicas meets the objective: one request alone takes too long or comes too late"
            if saving:
                return say(have - 1, f"{hopeless}; {after} would do for the work", Trigger.SAVING)
            return say(have, hopeless)
        if risk and (short or _option(seen, rate, cv, have).utilisation > limits.busy):
            return self._more(
                have, max(need, have + 1), "the objective is missed faster than allowed", Trigger.AT_RISK, say
            )
        if risk:
            return say(have, "the objective is missed, but the replicas are mostly idle: more of them would not help")
        if model.short_since_s is not None:
            if now_s - model.short_since_s < limits.confirm_s:
                return say(have, f"{need} would be needed; waiting {limits.confirm_s:g} s for that to hold")
            return self._more(have, need, "the forecast asks for more", Trigger.PERIODIC, say)
        if saving:
            return say(
                have - 1,
                f"{after} would do at {limits.margin:g} x the forecast, for {limits.triggers.hold_s:g} s",
                Trigger.SAVING,
            )
        return say(have, "enough, and not too much")

    def _more(self, have: int, need: int, why: str, trigger: Trigger, say: Callable[..., Verdict]) -> Verdict:
        bounded = min(need, self.limits.most)
        if bounded <= have:
            return say(
                have, f"{why}: {need} replicas would be needed and {self.limits.most} are allowed (--max-replicas)"
            )
        return say(bounded, f"{why}: {need} replicas are needed", trigger)


def expected(batch_s: Mapping[int, float], objective_ms: float, rate: float, cv: float, replicas: int) -> Option:
    """What to expect of a number of replicas with these service times, at the batch that serves it best."""
    each = rate / replicas
    best, used = 1.0, math.inf
    for batch, seconds in batch_s.items():
        missed = miss_probability(seconds, batch, each, cv, objective_ms / 1e3)
        if missed < best or used == math.inf:
            best, used = missed, each * seconds / batch
    return Option(replicas, 1.0 - best, min(1.0, used))


def _option(seen: Observed, rate: float, cv: float, replicas: int) -> Option:
    return expected(seen.batch_s, seen.objective_ms, rate, cv, replicas)


__all__ = ["FleetScaler", "Observed", "Option", "ScalingLimits", "Verdict", "expected"]
