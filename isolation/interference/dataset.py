"""Co-location measurements as a file: solo runs, probe runs, counters and co-runs of one device type.

The format is described in docs/interference.md. Latencies are means of one batch in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from partywall.domain.profiles import Counters, ProbePoint, ProbeSetting, Profile, Resident, Resource
from partywall.errors import InvalidInput

_PROBE_PREFIX = "probe:"


@dataclass(frozen=True, slots=True)
class Run:
    """All partners at once, each with its mean latency in milliseconds."""

    partners: tuple[Resident, ...]
    latency_ms: tuple[float, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(p.name for p in self.partners)

    @property
    def has_probe(self) -> bool:
        return any(is_probe(p.name) for p in self.partners)

    def others(self, index: int) -> tuple[Resident, ...]:
        return self.partners[:index] + self.partners[index + 1 :]


@dataclass(frozen=True, slots=True)
class Measurements:
    """One file. `beside_probes_ms` are the solo runs of the processes that ran beside the probes."""

    device: str
    solo_ms: Mapping[Resident, float]
    beside_probes_ms: Mapping[Resident, float]
    counters: Mapping[Resident, Counters]
    runs: tuple[Run, ...]

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(r.name for r in self.solo_ms if not is_probe(r.name)))


def is_probe(name: str) -> bool:
    return name.startswith(_PROBE_PREFIX)


def parse_probe(name: str) -> ProbeSetting:
    """`probe:dram:0.4` as a setting; InvalidInput names what is wrong."""
    parts = name.split(":")
    try:
        return ProbeSetting(Resource(parts[1]), float(parts[2]))
    except (IndexError, ValueError) as exc:
        raise InvalidInput(f"probe name {name!r} must read probe:RESOURCE:LEVEL with a known resource") from exc


def load(path: Path) -> Measurements:
    """Reads a file; InvalidInput names the key that does not fit."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"{path} is not a readable measurement file: {exc}") from exc
    return parse(data, str(path))


def parse(data: Any, where: str) -> Measurements:
    """Measurements of decoded JSON; InvalidInput names the key of `where` that does not fit."""
    if not isinstance(data, dict) or not isinstance(data.get("solo"), dict):
        raise InvalidInput(f"{where} must be a JSON object with the keys solo and co")
    return Measurements(
        device=str(data.get("device", "unknown")),
        solo_ms={_resident(k): _mean(k, v) for k, v in data["solo"].items()},
        beside_probes_ms={_resident(k): _mean(k, v) for k, v in _section(data, "solo_with_probes", where)},
        counters={_resident(k): _counters(k, v) for k, v in _section(data, "gpm_solo", where)},
        runs=tuple(_run(k, v) for k, v in _section(data, "co", where)),
    )


def as_json(data: Measurements) -> dict[str, Any]:
    """What `parse` reads, with means alone."""

    def key(resident: Resident) -> str:
        return f"{resident.name}@{resident.share_percent}"

    return {
        "device": data.device,
        "solo": {key(r): {"mean": ms} for r, ms in data.solo_ms.items()},
        "solo_with_probes": {key(r): {"mean": ms} for r, ms in data.beside_probes_ms.items()},
        "gpm_solo": {key(r): asdict(counters) for r, counters in data.counters.items()},
        "co": {"+".join(map(key, r.partners)): [{"mean": ms} for ms in r.latency_ms] for r in data.runs},
    }


def profiles(measurements: Measurements) -> dict[str, Profile]:
    """One profile per model of the file; probe runs without a solo to divide by are left out."""
    curves: dict[str, tuple[dict[ProbePoint, float], dict[ProbePoint, float]]] = {
        m: ({}, {}) for m in measurements.models
    }
    for run in measurements.runs:
        if len(run.partners) == 2 and sum(is_probe(p.name) for p in run.partners) == 1:
            _add_probe_run(measurements, run, curves)
    return {m: _profile(measurements, m, *curves[m]) for m in measurements.models}


def probe_slowdowns(measurements: Measurements) -> dict[tuple[Resident, Resident], float]:
    """Slowdown of a probe beside another probe: (victim, neighbour) to latency beside it / alone."""
    table: dict[tuple[Resident, Resident], float] = {}
    for run in measurements.runs:
        if len(run.partners) == 2 and all(is_probe(p.name) for p in run.partners):
            for i, victim in enumerate(run.partners):
                solo = measurements.solo_ms.get(victim)
                if solo:
                    table[victim, run.others(i)[0]] = run.latency_ms[i] / solo
    return table


def _add_probe_run(
    data: Measurements, run: Run, curves: Mapping[str, tuple[dict[ProbePoint, float], dict[ProbePoint, float]]]
) -> None:
    m = 1 if is_probe(run.partners[0].name) else 0
    model, probe = run.partners[m], run.partners[1 - m]
    alone = data.beside_probes_ms.get(model) or data.solo_ms.get(model)
    probe_alone = data.solo_ms.get(probe)
    if model.name not in curves or not alone or not probe_alone:
        return
    point = ProbePoint(parse_probe(probe.name), model.share_percent, probe.share_percent)
    curves[model.name][0][point] = run.latency_ms[m] / alone
    curves[model.name][1][point] = run.latency_ms[1 - m] / probe_alone


def _profile(
    data: Measurements, model: str, sensitivity: dict[ProbePoint, float], pressure: dict[ProbePoint, float]
) -> Profile:
    def by_share(values: Mapping[Resident, Any]) -> dict[int, Any]:
        return {r.share_percent: v for r, v in values.items() if r.name == model}

    return Profile(
        model=model,
        device_type=data.device,
        solo_ms=by_share(data.solo_ms),
        beside_probes_ms=by_share(data.beside_probes_ms),
        sensitivity=sensitivity,
        pressure=pressure,
        counters=by_share(data.counters),
    )


def _section(data: Mapping[str, Any], name: str, where: str) -> Iterable[tuple[str, Any]]:
    section = data.get(name, {})
    if not isinstance(section, dict):
        raise InvalidInput(f"{where}: {name} must be an object, got {section!r:.60}")
    return section.items()


def _resident(key: str) -> Resident:
    name, _, share = key.strip().rpartition("@")
    if not name or not share.isdigit():
        raise InvalidInput(f"key {key!r} must read NAME@SHARE with a share in percent")
    return Resident(name, int(share))


def _mean(key: str, value: Any) -> float:
    mean = value.get("mean") if isinstance(value, dict) else None
    if not isinstance(mean, int | float) or not mean > 0:
        raise InvalidInput(f"{key!r} must hold a positive mean in milliseconds, got {mean!r}")
    return float(mean)


def _counters(key: str, value: Any) -> Counters:
    names = ("sm_util", "sm_occupancy", "tensor", "dram_bw", "watts", "sm_mhz", "fp32", "fp16")
    if not isinstance(value, dict):
        raise InvalidInput(f"gpm_solo of {key!r} must be an object of numbers")
    try:
        return Counters(**{n: float(value.get(n, 0.0)) for n in names})
    except (TypeError, ValueError) as exc:
        raise InvalidInput(f"gpm_solo of {key!r} must be an object of numbers: {exc}") from exc


def _run(key: str, value: Any) -> Run:
    partners = tuple(_resident(k) for k in key.split("+"))
    if not isinstance(value, list) or len(value) != len(partners):
        raise InvalidInput(f"co-run {key!r} must hold one entry for each of its {len(partners)} partners")
    return Run(partners, tuple(_mean(key, v) for v in value))
