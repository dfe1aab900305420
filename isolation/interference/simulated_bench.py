"""The simulated side of `Bench`: a device whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

from isolation.interference.profiler import Step, StepKind, Values
from isolation.interference.simulated import SlowdownTruth
from partywall.domain.profiles import Resident


@dataclass(frozen=True, slots=True)
class SimulatedBench:
    """Probes are names (`probe:dram:1.0`) that the truth knows like any model; latency is affine in rows."""

    model: str
    truth: SlowdownTruth
    full_ms: float = 2.0
    row_ms: float = 0.0
    device_type: str = "simulated"
    occupant: str = ""

    def busy(self) -> str:
        return self.occupant

    def run(self, step: Step) -> Values:
        alone = (self.full_ms + self.row_ms * (step.rows - 1)) * 100 / step.own_percent
        if step.probe is None:
            return {"alone_ms": alone, "spread": 0.0}
        name = step.probe.name if step.kind is StepKind.PROBE_SELF else self.model
        pair = (Resident(name, step.own_percent), Resident(step.probe.name, step.probe_percent))
        ours, theirs = self.truth.slowdowns(pair)
        if step.kind is StepKind.PROBE_SELF:
            return {"probe_slowdown": theirs, "probe_spread": 0.0}
        return {
            "alone_ms": alone,
            "latency_ms": alone * ours,
            "probe_slowdown": theirs,
            "spread": 0.0,
            "probe_spread": 0.0,
        }
