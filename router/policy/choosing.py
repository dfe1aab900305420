"""Which of the places that fit and are cleared by trust: the one that keeps everybody's objective on fewest devices.

With profiles, by the interference model's bounds (`sharing`): among the acceptable places one on a device that is in
use already, and of those the one with the least predicted finish. Where none is acceptable, the one that is least
known to harm; a strict operator lets the model wait instead. Without any profile, the least predicted finish alone.
Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from partywall.domain.placements import Alternative
from router.policy.candidates import Candidate, as_alternative, place_name
from router.policy.sharing import Tenancy, assess
from router.policy.sharing_words import Assessment, Bounds, Sharing
from router.policy.wants import Chosen, NoPlace, Operator, Placing, Standing, Want

_NAMED = re.compile(r"<model:([^>]*)>")


@dataclass(frozen=True, slots=True)
class Option:
    """A candidate that fits and is cleared, with who stands on its device."""

    candidate: Candidate
    verdict: Chosen
    here: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class Assessed:
    """An option under the interference model."""

    option: Option
    assessment: Assessment

    @property
    def rank(self) -> tuple[int, float, bool, float]:
        """Least is best. Unknown neighbours: the fewer the better. Known harm: the least of it."""
        found, here = self.assessment, self.option.here
        by = {Sharing.ACCEPTABLE: 0.0, Sharing.UNKNOWN: float(len(here)), Sharing.HARMFUL: found.strain}
        return found.sharing, by[found.sharing], found.occupies, self.finish_s

    @property
    def finish_s(self) -> float:
        """By the bound on the slowdown where there is one, else by the crowd."""
        known = self.assessment.finish_s
        return self.option.verdict.predicted_finish_s if known is None else self.backlog_s + known

    @property
    def backlog_s(self) -> float:
        worker = self.option.candidate.worker_id
        return max((s.backlog_s for s in self.option.here if s.placement.worker_id == worker), default=0.0)

    @property
    def alternative(self) -> Alternative:
        candidate = self.option.candidate
        reason = f"{candidate.note}; {self.assessment.reason}"
        return Alternative(place_name(candidate), False, reason, self.finish_s * 1e3)


def choose(
    want: Want,
    options: Sequence[Option],
    looked_at: Sequence[Alternative],
    operator: Operator,
    bounds: Bounds | None,
) -> Chosen | NoPlace:
    """The best of the options; `looked_at` are places that were ruled out before. There is at least one option."""
    if bounds is None or not bounds.informed():
        best = min((o.verdict for o in options), key=lambda v: v.predicted_finish_s)
        seen = [*looked_at, *(as_alternative(o.candidate, o.verdict) for o in options)]
        return replace(best, alternatives=_marked(seen, best))
    assessed = _assessed(want, options, operator, bounds)
    first = min(assessed, key=lambda a: a.rank)
    seen = [*looked_at, *(a.alternative for a in assessed)]
    harm = first.assessment.sharing
    if harm is not Sharing.ACCEPTABLE and operator.placing is Placing.STRICT:
        # No figures: they move with the load, and a new reason is a new decision.
        reason = f"no place keeps everybody's objective (--placement strict){_hint(want, first, bounds)}"
        return NoPlace(reason, False, tuple(seen))
    chosen = first.option.verdict
    return replace(
        chosen,
        predicted_finish_s=first.finish_s,
        reason=_reason(want, first, bounds),
        alternatives=_marked(seen, chosen),
        sharing=harm,
        strain=first.assessment.strain,
    )


def nameless(text: str) -> str:
    """For tenants: a neighbour stays nameless."""
    return with_names(text, {})


def with_names(text: str, names: Mapping[str, str]) -> str:
    """With the names that the reader may know, by model id."""
    return _NAMED.sub(lambda found: names.get(found[1], "a resident"), text)


def model_ids(text: str) -> list[str]:
    """The models that a reason names."""
    return _NAMED.findall(text)


def _assessed(want: Want, options: Sequence[Option], operator: Operator, bounds: Bounds) -> list[Assessed]:
    """Options in a cheap order, occupied devices first; after many, the first acceptable one ends the search."""
    limits = operator.sharing
    out: list[Assessed] = []
    acceptable = False
    for option in sorted(options, key=lambda o: (not o.here, o.verdict.predicted_finish_s)):
        if acceptable and len(out) >= limits.most_assessed:
            break
        candidate = option.candidate
        newcomer = newcomer_of(want, candidate)
        residents = [Tenancy.of(s) for s in option.here]
        found = assess(newcomer, residents, candidate.device, bounds, limits)
        acceptable = acceptable or found.sharing is Sharing.ACCEPTABLE
        out.append(Assessed(option, found))
    return out


def _reason(want: Want, first: Assessed, bounds: Bounds) -> str:
    found, note = first.assessment, first.option.candidate.note
    said = f"{note}; {nameless(found.reason)}"
    if found.sharing is Sharing.HARMFUL:
        said += "; no place keeps everybody's objective, and here the predicted harm is least"
    elif found.sharing is Sharing.UNKNOWN:
        said += "; no other place is free"
    said += _hint(want, first, bounds)
    finish_s = first.finish_s
    return f"{said}; predicted finish {finish_s * 1e3:.1f} ms" if math.isfinite(finish_s) else said


def _hint(want: Want, first: Assessed, bounds: Bounds) -> str:
    candidate = first.option.candidate
    if newcomer_of(want, candidate).solo_s(candidate.device, bounds) is not None:
        return ""
    return "; it is kept apart until it is measured: `partywall profile MODEL` allows sharing"


def newcomer_of(want: Want, candidate: Candidate) -> Tenancy:
    """What would stand there."""
    return Tenancy("", want.model_id, want.version, candidate.partition, candidate.worker_id, want.work)


def _marked(looked_at: Sequence[Alternative], best: Chosen) -> tuple[Alternative, ...]:
    where = f"{best.node}/{best.partition.kind.value}/{best.partition.id}"
    return tuple(replace(a, chosen=True) if a.choice == where else a for a in looked_at)
