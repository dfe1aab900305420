"""Profiling one model version: solo latencies and co-runs with probes, about twenty short runs, resumable.

The profiler decides what to measure and keeps what was measured; a `Bench` measures. Two benches are shipped: real
cores under a loaded engine (`bench_cpu`), and a simulated device. Cost is linear in models: no model meets another.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from isolation.interference.dataset import parse_probe
from isolation.interference.simulated import SlowdownTruth
from partywall.domain.profiles import ProbePoint, ProbeSetting, Profile, Resident
from partywall.errors import InvalidInput, NotReady, Reason


@dataclass(frozen=True, slots=True)
class Beside:
    """One co-run with a probe: the model's latency, alone just before it and beside the probe; the probe's slowdown."""

    alone_ms: float
    latency_ms: float
    probe_slowdown: float


class Bench(Protocol):
    """Measures one model on one device. Every call blocks for about one window."""

    @property
    def device_type(self) -> str: ...

    def busy(self) -> str:
        """Why the device is not free to measure on; empty when it is."""
        ...

    def solo_ms(self, share_percent: int) -> float:
        """Mean latency of a batch alone at a share."""
        ...

    def beside(self, probe: ProbeSetting, own_percent: int, probe_percent: int) -> Beside: ...


class StepKind(enum.StrEnum):
    SOLO = "solo"
    BESIDE = "beside"


@dataclass(frozen=True, slots=True)
class Step:
    """One run. `key` names it in the file that a profile is resumed from."""

    kind: StepKind
    own_percent: int
    probe: ProbeSetting | None = None
    probe_percent: int = 0

    @property
    def key(self) -> str:
        return f"@{self.own_percent}" + (f"+{self.probe.name}@{self.probe_percent}" if self.probe else "")


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """What to measure: solos at `shares`, then every probe at every pair of shares that fits the device."""

    probes: tuple[ProbeSetting, ...]
    shares: tuple[int, ...] = (25, 50, 75, 100)

    def steps(self) -> tuple[Step, ...]:
        solos = [Step(StepKind.SOLO, s) for s in self.shares]
        beside = [
            Step(StepKind.BESIDE, own, probe, other)
            for probe in self.probes
            for own in self.shares
            for other in self.shares
            if own + other <= 100
        ]
        return (*solos, *beside)


Ticker = Callable[[int, int, Step], None]


def profile(
    model: str, bench: Bench, plan: ProfilePlan, state: Path, *, anyway: bool = False, tick: Ticker | None = None
) -> Profile:
    """Runs the steps that `state` does not hold yet, saves after each, and returns the profile.

    Args:
        model: Name for messages and the profile.
        bench: Where to measure.
        plan: What to measure.
        state: File of finished steps; delete it to start over.
        anyway: Measure on a busy device too; the profile then holds its neighbours' noise.
        tick: Called after each step with (done, all, step).

    Raises:
        NotReady: The device is busy.
        InvalidInput: `state` belongs to another model or device.
    """
    reason = bench.busy()
    if reason and not anyway:
        raise NotReady(f"the device is busy ({reason}); drain it, or profile with --anyway", reason=Reason.WRONG_STATE)
    head = {"model": model, "device_type": bench.device_type}
    done = _load(state, head)
    steps = plan.steps()
    for number, step in enumerate(steps, start=1):
        if step.key not in done:
            done[step.key] = _run(bench, step)
            _save(state, {**head, "steps": done})
        if tick is not None:
            tick(number, len(steps), step)
    return _assemble(model, bench.device_type, steps, done)


def _run(bench: Bench, step: Step) -> dict[str, float]:
    if step.probe is None:
        return {"alone_ms": bench.solo_ms(step.own_percent)}
    found = bench.beside(step.probe, step.own_percent, step.probe_percent)
    return {"alone_ms": found.alone_ms, "latency_ms": found.latency_ms, "probe_slowdown": found.probe_slowdown}


def _load(state: Path, head: Mapping[str, str]) -> dict[str, dict[str, float]]:
    if not state.exists():
        return {}
    try:
        data: Any = json.loads(state.read_text())
        same = {k: data[k] for k in head} == dict(head)
        steps: dict[str, dict[str, float]] = dict(data["steps"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"state file {state} is not readable; delete it and profile again") from error
    if not same:
        raise InvalidInput(f"state file {state} belongs to another model or device; name another file")
    return steps


def _save(state: Path, data: Mapping[str, Any]) -> None:
    """Replaces the file in one step: a crash leaves the old one."""
    part = state.with_name(state.name + ".part")
    part.write_text(json.dumps(data, indent=1, sort_keys=True))
    part.replace(state)


def _assemble(model: str, device_type: str, steps: Sequence[Step], done: Mapping[str, Mapping[str, float]]) -> Profile:
    sensitivity: dict[ProbePoint, float] = {}
    pressure: dict[ProbePoint, float] = {}
    beside: dict[int, list[float]] = {}
    for step in steps:
        if step.probe is not None:
            found = done[step.key]
            point = ProbePoint(parse_probe(step.probe.name), step.own_percent, step.probe_percent)
            sensitivity[point] = found["latency_ms"] / found["alone_ms"]
            pressure[point] = found["probe_slowdown"]
            beside.setdefault(step.own_percent, []).append(found["alone_ms"])
    solo = {s.own_percent: done[s.key]["alone_ms"] for s in steps if s.probe is None}
    means = {s: sum(v) / len(v) for s, v in beside.items()}
    return Profile(model, device_type, solo, means, sensitivity, pressure)


@dataclass(frozen=True, slots=True)
class SimulatedBench:
    """A bench on a simulated device: probes are names (`probe:dram:1.0`) that the truth knows like any model."""

    model: str
    truth: SlowdownTruth
    full_ms: float = 2.0
    device_type: str = "simulated"
    occupant: str = ""

    def busy(self) -> str:
        return self.occupant

    def solo_ms(self, share_percent: int) -> float:
        return self.full_ms * 100 / share_percent

    def beside(self, probe: ProbeSetting, own_percent: int, probe_percent: int) -> Beside:
        pair = (Resident(self.model, own_percent), Resident(probe.name, probe_percent))
        ours, theirs = self.truth.slowdowns(pair)
        alone = self.solo_ms(own_percent)
        return Beside(alone, alone * ours, theirs)
