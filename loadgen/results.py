"""What happened to each request, as numpy columns."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadgen.arrivals import FloatArray
from partywall import errors


class Fate(enum.IntEnum):
    """What became of one request."""

    SERVED = 0
    REFUSED = 1
    """The server answered that it would not do the work: quota, admission, credential, bad input."""
    FAILED = 2
    """Accepted and lost, out of time, or nobody answered."""
    UNSENT = 3
    """The client itself could not send it: too many outstanding, or its own delay used up the deadline."""


class ClientReason(enum.StrEnum):
    """Reasons that are the load generator's own, beside `partywall.errors.Reason`."""

    OK = "OK"
    CLIENT_LIMIT = "CLIENT_LIMIT"
    CLIENT_LATE = "CLIENT_LATE"
    CLIENT_STOPPED = "CLIENT_STOPPED"
    ABANDONED = "ABANDONED"


_REFUSALS = (
    errors.QuotaExceeded,
    errors.Overloaded,
    errors.NotReady,
    errors.Unauthenticated,
    errors.PermissionDenied,
    errors.NotFound,
    errors.InvalidInput,
    errors.Unsupported,
)


def fate_of(error: errors.PartywallError) -> Fate:
    """REFUSED where the server chose not to do the work, FAILED otherwise."""
    return Fate.REFUSED if isinstance(error, _REFUSALS) else Fate.FAILED


class Recorder:
    """Columns of one tenant while a run goes on; every request starts as not sent."""

    def __init__(self, intended_s: FloatArray) -> None:
        count = len(intended_s)
        self._intended_s = intended_s
        self._lateness_s = np.full(count, np.nan)
        self._latency_s = np.full(count, np.nan)
        self._fate = np.full(count, Fate.UNSENT, np.int8)
        self._reason = np.zeros(count, np.int16)
        self._reasons: dict[str, int] = {ClientReason.CLIENT_STOPPED: 0}
        self.outstanding = 0
        self.counts = dict.fromkeys(Fate, 0)

    def sending(self, index: int, lateness_s: float) -> None:
        """The request is being sent, this much after it was meant to be."""
        self._lateness_s[index] = lateness_s
        self.outstanding += 1

    def settled(self, index: int, fate: Fate, reason: str, latency_s: float) -> None:
        """The request that was being sent has ended."""
        self.outstanding -= 1
        self._latency_s[index] = latency_s
        self._note(index, fate, reason)

    def unsent(self, index: int, reason: ClientReason) -> None:
        """The client gave this one up before sending."""
        self._note(index, Fate.UNSENT, reason)

    def columns(self, name: str, objective_ms: float | None) -> Requests:
        """The columns so far."""
        return Requests(
            name=name,
            objective_ms=objective_ms,
            intended_s=self._intended_s,
            lateness_s=self._lateness_s,
            latency_s=self._latency_s,
            fate=self._fate,
            reason=self._reason,
            reasons=tuple(self._reasons),
        )

    def _note(self, index: int, fate: Fate, reason: str) -> None:
        self._fate[index] = fate
        self._reason[index] = self._reasons.setdefault(reason, len(self._reasons))
        self.counts[fate] += 1


@dataclass(frozen=True, slots=True)
class Requests:
    """All requests of one tenant; every column has shape [n].

    Attributes:
        objective_ms: The latency the tenant was promised, or None.
        intended_s: When each was to be sent, since the start of the run.
        lateness_s: How much later the client really sent it; NaN: not sent.
        latency_s: From the intended time to the end, whatever the end was; NaN: not sent.
        fate: `Fate` values.
        reason: Index into `reasons`.
    """

    name: str
    objective_ms: float | None
    intended_s: FloatArray
    lateness_s: FloatArray
    latency_s: FloatArray
    fate: npt.NDArray[np.int8]
    reason: npt.NDArray[np.int16]
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.intended_s)

    def after(self, start_s: float) -> Requests:
        """Without what was meant to be sent before `start_s` (the warm-up)."""
        keep = self.intended_s >= start_s
        return Requests(
            name=self.name,
            objective_ms=self.objective_ms,
            intended_s=self.intended_s[keep] - start_s,
            lateness_s=self.lateness_s[keep],
            latency_s=self.latency_s[keep],
            fate=self.fate[keep],
            reason=self.reason[keep],
            reasons=self.reasons,
        )


def concatenate(parts: list[Requests]) -> Requests:
    """Several runs of one tenant as one; times follow each other. Objectives must be looked at per part.

    Raises:
        InvalidInput: No parts, or parts of different tenants.
    """
    if not parts or len({p.name for p in parts}) > 1:
        raise errors.InvalidInput("parts: give at least one run, all of the same tenant", fields={"field": "parts"})
    reasons = tuple(dict.fromkeys(r for p in parts for r in p.reasons))
    starts = np.cumsum([0.0] + [float(p.intended_s[-1]) if len(p) else 0.0 for p in parts[:-1]])
    return Requests(
        name=parts[0].name,
        objective_ms=parts[-1].objective_ms,
        intended_s=np.concatenate([p.intended_s + s for p, s in zip(parts, starts, strict=True)]),
        lateness_s=np.concatenate([p.lateness_s for p in parts]),
        latency_s=np.concatenate([p.latency_s for p in parts]),
        fate=np.concatenate([p.fate for p in parts]),
        reason=np.concatenate([np.array([reasons.index(r) for r in p.reasons], np.int16)[p.reason] for p in parts]),
        reasons=reasons,
    )
