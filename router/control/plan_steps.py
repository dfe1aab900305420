"""What the live planner makes of one model, and how that is written down."""

from __future__ import annotations

from dataclasses import dataclass

from partywall.domain.models import Version
from partywall.domain.placements import Alternative
from router.control.catalog import ModelEntry
from router.policy.scaling import Observed, Verdict


@dataclass(frozen=True, slots=True)
class Step:
    """What the planner makes of one model. `place` is where another replica would go; `blocked` why there is none.

    `seen` is what the verdict was made from.
    """

    entry: ModelEntry
    version: Version
    now: int
    ready: int
    verdict: Verdict
    place: str = ""
    blocked: str = ""
    seen: Observed | None = None
    wake_bytes_per_s: float = 0.0
    """At which its weights came back from host memory; 0.0: they never did."""

    @property
    def action(self) -> str:
        if self.blocked:
            return "blocked"
        if self.verdict.replicas > self.now:
            return "add"
        return "remove" if self.verdict.replicas < self.now else "keep"


def alternatives(step: Step) -> tuple[Alternative, ...]:
    """The numbers of replicas that were looked at, and what each would bring."""
    chosen = step.now if step.blocked else step.verdict.replicas
    return tuple(
        Alternative(
            f"{one.replicas} replica(s)",
            one.replicas == chosen,
            f"expected attainment {one.attainment:.4f}, {one.utilisation:.0%} of their time in use",
        )
        for one in step.verdict.options
    )


def inputs(step: Step) -> dict[str, str]:
    """What the verdict was made from."""
    verdict = step.verdict
    return {
        "trigger": verdict.trigger.value if verdict.trigger else "",
        "rate_bound_per_s": f"{verdict.rate_per_s:.2f}",
        "burstiness_cv": f"{verdict.burstiness:.2f}",
        "objective_ms": str(step.version.manifest.slo_ms),
        "replicas_needed": str(verdict.need),
        "replicas_ready": str(step.ready),
        "load_seconds": f"{step.version.load_seconds:.3f}",
        "load_bytes_per_s": f"{_load_rate(step.version):.0f}",
        "wake_bytes_per_s": f"{step.wake_bytes_per_s:.0f}",
        "memory_bytes": str(step.version.memory_bytes),
    }


def _load_rate(version: Version) -> float:
    """Weights over the time of the last load, decryption and building included; 0.0 where none was measured."""
    return version.plain_bytes / version.load_seconds if version.load_seconds else 0.0
