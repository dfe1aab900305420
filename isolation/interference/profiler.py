"""Profiling one model version: solo latencies and co-runs with probes, about twenty short runs, resumable.

The profiler decides what to measure and keeps what was measured; a `Bench` measures. Cost is linear in models: no model
meets another. A run is a dictionary of numbers under the step's key, so that what is kept between tries is plain data:

| step | values |
| --- | --- |
| solo | `alone_ms`, `spread`, and on GPUs with GPM the fields of `domain.profiles.Counters` |
| beside | `alone_ms`, `latency_ms`, `probe_slowdown`, `spread`, `probe_spread` |
| probe beside itself | `probe_slowdown`, `probe_spread` |
"""

from __future__ import annotations

import enum
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from isolation.interference.rounds import CoRun
from partywall.domain.profiles import Counters, ProbePoint, ProbeSetting, Profile
from partywall.errors import InvalidInput, NotReady, Reason

Values = Mapping[str, float]
COUNTER_NAMES = tuple(f.name for f in fields(Counters))


class StepKind(enum.StrEnum):
    SOLO = "solo"
    BESIDE = "beside"
    PROBE_SELF = "probe-self"


@dataclass(frozen=True, slots=True)
class Step:
    """One run. `key` names it where a profile is resumed from."""

    kind: StepKind
    own_percent: int
    rows: int = 1
    probe: ProbeSetting | None = None
    probe_percent: int = 0

    @property
    def key(self) -> str:
        if self.probe is None:
            return f"@{self.own_percent}x{self.rows}"
        name = self.probe.name if self.kind is StepKind.PROBE_SELF else f"x{self.rows}"
        return f"{name}@{self.own_percent}+{self.probe.name}@{self.probe_percent}"


class Bench(Protocol):
    """Measures one model on one device. Every call blocks for one run."""

    @property
    def device_type(self) -> str: ...

    def busy(self) -> str:
        """Why the device is not free to measure on; empty when it is."""
        ...

    def run(self, step: Step) -> Values:
        """One step's values."""
        ...


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """What to measure: solos at `shares` and `batches`, then every probe at every pair of shares that fits the device.

    Attributes:
        probes: At all pairs.
        rows: Batch of the co-runs; it is measured alone too.
        more_probes: Further settings, measured at the pair nearest to half and half only.
        probe_self: Also each of `probes` beside itself at that pair, which is what pressure is told against.
    """

    probes: tuple[ProbeSetting, ...]
    shares: tuple[int, ...] = (25, 50, 75, 100)
    batches: tuple[int, ...] = (1,)
    rows: int = 1
    more_probes: tuple[ProbeSetting, ...] = ()
    probe_self: bool = False

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of shares (model's, probe's) that fit beside each other."""
        return tuple((own, other) for own in self.shares for other in self.shares if own + other <= 100)

    def steps(self) -> tuple[Step, ...]:
        """By the model's share, so that a worker is started once for each; probes beside themselves last."""
        found: list[Step] = []
        middle = min(self.pairs, key=lambda p: abs(p[0] - 50) + abs(p[1] - 50), default=None)
        for own in self.shares:
            rows = sorted({self.rows, *(self.batches if own == max(self.shares) or len(self.shares) <= 2 else ())})
            found += [Step(StepKind.SOLO, own, r) for r in rows]
            for a, other in self.pairs:
                if a == own:
                    more = self.more_probes if (a, other) == middle else ()
                    found += [Step(StepKind.BESIDE, own, self.rows, p, other) for p in (*self.probes, *more)]
        if self.probe_self and middle is not None:
            found += [Step(StepKind.PROBE_SELF, middle[0], 1, p, middle[1]) for p in self.probes]
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Facts:
    """What needs no run: sizes in bytes of one batch's tensors, memory and load time."""

    memory_bytes: int = 0
    load_seconds: float = 0.0
    input_bytes: int = 0
    output_bytes: int = 0


Ticker = Callable[[int, int, Step], None]


def profile(
    model: str, bench: Bench, plan: ProfilePlan, state: Path, *, anyway: bool = False, tick: Ticker | None = None
) -> Profile:
    """Runs the steps that `state` does not hold yet, saves after each, and returns the profile.

    For models that are nobody's secret: `state` is plain. A served version's runs are kept sealed by the router.

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
    refuse_busy(bench.busy(), anyway=anyway)
    head = {"model": model, "device_type": bench.device_type}
    done = _load(state, head)
    steps = plan.steps()
    for number, step in enumerate(steps, start=1):
        if step.key not in done:
            done[step.key] = dict(bench.run(step))
            _save(state, {**head, "steps": done})
        if tick is not None:
            tick(number, len(steps), step)
    return assemble(model, bench.device_type, plan, done)


def refuse_busy(reason: str, *, anyway: bool) -> None:
    """Raises NotReady where the device is busy for this `reason` and nobody said `anyway`."""
    if reason and not anyway:
        raise NotReady(
            f"the device is busy ({reason}); wait until it is idle, or profile with --anyway",
            reason=Reason.WRONG_STATE,
            fields={"busy": reason},
        )


def assemble(
    model: str, device_type: str, plan: ProfilePlan, done: Mapping[str, Values], facts: Facts | None = None
) -> Profile:
    """The profile of finished steps; InvalidInput names the first step that is missing."""
    known = facts or Facts()
    sensitivity: dict[ProbePoint, float] = {}
    pressure: dict[ProbePoint, float] = {}
    probe_self: dict[ProbePoint, float] = {}
    beside: dict[int, list[float]] = {}
    counters: dict[int, Counters] = {}
    solo_at: dict[tuple[int, int], float] = {}
    spreads: list[float] = []
    for step in plan.steps():
        if step.key not in done:
            raise InvalidInput(f"run {step.key} of {model} is missing; profile again to measure it")
        found = done[step.key]
        if step.probe is None:
            solo_at[step.rows, step.own_percent] = found["alone_ms"]
            if step.rows == plan.rows and "sm_util" in found:
                counters[step.own_percent] = Counters(**{n: found[n] for n in COUNTER_NAMES if n in found})
            continue
        point = ProbePoint(step.probe, step.own_percent, step.probe_percent)
        if step.kind is StepKind.PROBE_SELF:
            probe_self[point] = found["probe_slowdown"]
            continue
        sensitivity[point] = found["latency_ms"] / found["alone_ms"]
        pressure[point] = found["probe_slowdown"]
        beside.setdefault(step.own_percent, []).append(found["alone_ms"])
        spreads += [found.get("spread", 0.0), found.get("probe_spread", 0.0)]
    return Profile(
        model=model,
        device_type=device_type,
        solo_ms={share: ms for (rows, share), ms in solo_at.items() if rows == plan.rows},
        beside_probes_ms={s: sum(v) / len(v) for s, v in beside.items()},
        sensitivity=sensitivity,
        pressure=pressure,
        counters=counters,
        batch=plan.rows,
        memory_bytes=known.memory_bytes,
        load_seconds=known.load_seconds,
        input_bytes=known.input_bytes,
        output_bytes=known.output_bytes,
        solo_at_ms=solo_at,
        probe_self=probe_self,
        spread=statistics.median(spreads) if spreads else 0.0,
    )


def co_run_values(found: CoRun) -> dict[str, float]:
    """A co-run as a step's values."""
    return {
        "alone_ms": found.alone_ms,
        "latency_ms": found.latency_ms,
        "probe_slowdown": found.probe_slowdown,
        "spread": found.spread,
        "probe_spread": found.probe_spread,
    }


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
