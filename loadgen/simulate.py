"""Replays recorded arrivals through a scheduling policy over simulated devices, in virtual time.

What counts. Attainment is requests finished within their objective over all arrivals; a refused request is a miss.
The plan is given each model's mean rate and the variation of its gaps, never the arrivals themselves.
"""

from __future__ import annotations

import enum
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadgen.baselines.alpaserve_sr import AlpaServeSR
from loadgen.baselines.clockwork import Clockwork
from loadgen.baselines.dedicated import Dedicated
from loadgen.baselines.gpulet import GpuletPolicy
from loadgen.baselines.least_loaded import LeastLoaded
from loadgen.baselines.round_robin import RoundRobin
from loadgen.baselines.shepherd import Shepherd
from loadgen.partywall_policy import PartywallPolicy
from loadgen.spec_values import finite
from loadgen.world import FleetChange, Hardware, SchedulingPolicy, World
from partywall.errors import InvalidInput
from router.policy.catalog import ServedModel, Traffic, batch_times_s


class PolicyName(enum.StrEnum):
    """Who schedules."""

    PARTYWALL = "partywall"
    ROUND_ROBIN = "round-robin"
    LEAST_LOADED = "least-loaded"
    DEDICATED = "dedicated"
    GPULET = "gpulet"
    CLOCKWORK = "clockwork"
    SHEPHERD = "shepherd"
    ALPASERVE_SR = "alpaserve-sr"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests in order of time: seconds since the start, and an index into the models."""

    seconds: Sequence[float]
    models: Sequence[int]

    def traffic(self, models: int) -> list[Traffic]:
        """Mean rate and variation of gaps of each model, over the whole record."""
        times, owner = np.asarray(self.seconds), np.asarray(self.models)
        span = float(times[-1]) if times.size else 0.0
        return [_traffic(times[owner == model], span) for model in range(models)]


def _traffic(times: np.ndarray[Any, np.dtype[np.float64]], span_s: float) -> Traffic:
    if times.size == 0:
        return Traffic(0.0)
    gaps = np.diff(times)
    mean = float(gaps.mean()) if gaps.size > 1 else 0.0
    cv = float(gaps.std()) / mean if mean > 0 else 1.0
    return Traffic(times.size / max(span_s, 1e-3), cv)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. `p99_ms` is of served requests, None when none was; so is `goodput` without a time span."""

    attainment: float
    goodput: float | None
    p99_ms: float | None
    requests: int
    refused: int
    gpu_seconds: float


def make_policy(name: PolicyName, traffic: Sequence[Traffic]) -> SchedulingPolicy:
    """A fresh policy; `traffic` is all it may know of the future."""
    plain: Mapping[PolicyName, type[Any]] = {
        PolicyName.ROUND_ROBIN: RoundRobin,
        PolicyName.LEAST_LOADED: LeastLoaded,
        PolicyName.CLOCKWORK: Clockwork,
    }
    planned: Mapping[PolicyName, type[Any]] = {
        PolicyName.PARTYWALL: PartywallPolicy,
        PolicyName.DEDICATED: Dedicated,
        PolicyName.GPULET: GpuletPolicy,
        PolicyName.SHEPHERD: Shepherd,
        PolicyName.ALPASERVE_SR: AlpaServeSR,
    }
    policy: SchedulingPolicy = plain[name]() if name in plain else planned[name](traffic)
    return policy


def simulate(
    arrivals: Arrivals,
    models: Sequence[ServedModel],
    hardware: Hardware,
    policy: PolicyName,
    *,
    batching: bool = True,
    swap: bool = True,
    seed: int = 0,
    changes: Sequence[FleetChange] = (),
) -> Outcome:
    """One run; the same arguments give the same outcome."""
    world = World(models, hardware, batching=batching, swap=swap, seed=seed)
    world.run(arrivals.seconds, arrivals.models, make_policy(policy, arrivals.traffic(len(models))), changes)
    return outcome(world, arrivals)


def outcome(world: World, arrivals: Arrivals) -> Outcome:
    """Reads the figures off a world whose run is over."""
    count = len(arrivals.seconds)
    finish = np.asarray(world.finish_s)
    served = finish >= 0
    in_time = int(np.count_nonzero(served & (finish <= np.asarray(world.deadline_s))))
    latency_ms = np.sort(1000 * (finish - np.asarray(arrivals.seconds))[served])
    last_s = arrivals.seconds[-1] if count else 0.0
    return Outcome(
        attainment=in_time / count if count else 1.0,
        goodput=in_time / last_s if last_s > 0 else None,
        p99_ms=float(latency_ms[math.ceil(0.99 * latency_ms.size) - 1]) if latency_ms.size else None,
        requests=count,
        refused=count - int(np.count_nonzero(served)),
        gpu_seconds=world.busy_s,
    )


def read_models(path: Path, slo_scale: float) -> list[ServedModel]:
    """Models from a JSON list of `{name, weights_gb, latency_ms}` with an optional `latency_by_batch`.

    `latency_by_batch` is an object of batch size to milliseconds, or a list for batches 1, 2, 3, ...

    Raises:
        InvalidInput: Names the file, the entry and the field.
    """
    if not 0 < slo_scale < math.inf:
        raise InvalidInput(
            f"slo_scale must be a finite number above zero, got {slo_scale}", fields={"field": "slo_scale"}
        )
    try:
        entries = json.loads(path.read_text())
    except OSError as error:
        raise InvalidInput(f"models: cannot read {path}: {error.strerror}", fields={"field": "models"}) from error
    except ValueError as error:
        raise InvalidInput(f"models: {path} is not JSON: {error}", fields={"field": "models"}) from error
    if not isinstance(entries, list) or not entries:
        raise InvalidInput(f"models: {path} must hold a JSON list with at least one model", fields={"field": "models"})
    models = [_model(entry, slo_scale, f"models[{at}]") for at, entry in enumerate(entries)]
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise InvalidInput("models: every name must be there once", fields={"field": "name"})
    return models


def _model(entry: Any, slo_scale: float, where: str) -> ServedModel:
    try:
        latency_ms = float(entry["latency_ms"])
        table = entry.get("latency_by_batch")
        if isinstance(table, list):
            table = dict(enumerate(table, 1))
        by_batch = {int(b): float(ms) for b, ms in table.items()} if table else None
        return ServedModel(
            str(entry["name"]),
            float(entry["weights_gb"]),
            batch_times_s(latency_ms, by_batch),
            slo_scale * latency_ms / 1000,
        )
    except KeyError as error:
        raise InvalidInput(f"{where} has no {error.args[0]!r}", fields={"field": str(error.args[0])}) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"{where} must be an object with name, weights_gb and latency_ms as numbers: {error}",
            fields={"field": where},
        ) from error


def read_arrivals(path: Path, models: Sequence[ServedModel]) -> Arrivals:
    """Arrivals from CSV `seconds,model`; rows out of order are put in order.

    Raises:
        InvalidInput: Names the line.
    """
    try:
        lines = path.read_text().split("\n")
    except OSError as error:
        raise InvalidInput(f"arrivals: cannot read {path}: {error.strerror}", fields={"field": "arrivals"}) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"arrivals: {path} is not a text file: {error}", fields={"field": "arrivals"}) from error
    if lines[0].strip().replace(" ", "") != "seconds,model":
        raise InvalidInput(f"arrivals: {path} must begin with the line 'seconds,model'", fields={"field": "arrivals"})
    index = {model.name: at for at, model in enumerate(models)}
    seconds: list[float] = []
    owners: list[int] = []
    for number, line in enumerate(lines[1:], 2):
        at, _, name = line.partition(",")
        try:
            owners.append(index[name.strip()])
            seconds.append(finite(at))
        except (KeyError, ValueError) as error:
            if not line.strip():
                continue
            raise InvalidInput(
                f"arrivals: line {number} {line[:80]!r} is not 'seconds,model' with a model of the models file",
                fields={"field": "arrivals", "line": str(number)},
            ) from error
    if any(late < early for early, late in itertools.pairwise(seconds)) or (seconds and seconds[0] < 0):
        order = sorted(range(len(seconds)), key=seconds.__getitem__)
        seconds, owners = [seconds[i] for i in order], [owners[i] for i in order]
        if seconds[0] < 0:
            raise InvalidInput("arrivals: seconds must not be negative", fields={"field": "seconds"})
    return Arrivals(seconds, owners)
