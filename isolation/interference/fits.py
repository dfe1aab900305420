"""Fits: what co-runs of one type of device teach, kept as a file that models measured later join by their profiles.

A fit is the measurements it learns from and how it was judged. Nothing learned is stored: a Gaussian process *is* its
rows, the rest follows from them in seconds, and a file of plain numbers can be read by a person and by every later
release. It holds for the type of device that it was measured on, and for profiles with its own probes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from isolation.interference import dataset
from isolation.interference.atlas import Atlas, build
from isolation.interference.dataset import Measurements
from isolation.interference.model import InterferenceModel, Study
from isolation.interference.rows import Colocation, Group
from isolation.interference.splits import rows_of
from partywall.domain.profiles import ProbeSetting, Profile
from partywall.errors import InvalidInput

FORMAT, VERSION = "partywall.interference-fit", 1
SHIPPED = "shipped_fits"
PROBE_TOLERANCE = 0.25
"""Log slowdown by which a probe beside itself may differ between fit and profile: beyond it, it is another probe."""
_LEAST_PROBES, _LEAST_MODELS = 3, 4


@dataclass(frozen=True, slots=True)
class Fit:
    """`judged`: errors as fractions and coverage, leave-model-out, the left-out model having joined."""

    device_type: str
    data: Measurements
    judged: Mapping[str, float]

    def model(self) -> InterferenceModel:
        """Learns from all co-runs; takes seconds. The same file gives the same model."""
        return _learn(self.data, dataset.profiles(self.data))


def make(data: Measurements, device_type: str, probes: Sequence[ProbeSetting]) -> Fit:
    """A fit that profiles with these probes can join, judged by leaving out each model in turn.

    Args:
        data: Co-runs, solo runs and probe runs.
        device_type: As profiles name it (`partywall models profile`).
        probes: Those of later profiles; what `data` does not hold of them is left out.

    Raises:
        InvalidInput: Too few models or probes, or a solo is missing.
    """
    wanted = {p.name for p in probes}
    runs = [r for r in data.runs if all(not dataset.is_probe(p.name) or p.name in wanted for p in r.partners)]
    held = {p.name for r in runs for p in r.partners if dataset.is_probe(p.name)}
    if len(held) < _LEAST_PROBES:
        raise InvalidInput(
            f"--data must hold runs of at least {_LEAST_PROBES} of the probes {sorted(wanted)}, got {sorted(held)}"
        )
    names = {n for r in runs if not r.has_probe for n in r.names}
    if len(names) < _LEAST_MODELS:
        raise InvalidInput(f"--data must hold co-runs of at least {_LEAST_MODELS} models, got {len(names)}")
    kept = replace(
        data,
        device=device_type,
        runs=tuple(runs),
        solo_ms={r: ms for r, ms in data.solo_ms.items() if not dataset.is_probe(r.name) or r.name in held},
    )
    return Fit(device_type, kept, _judge(kept, sorted(names)))


def text(fit: Fit) -> str:
    """The file, one run per line."""
    data = dataset.as_json(fit.data)
    head = {"format": FORMAT, "version": VERSION, "device_type": fit.device_type, "judged": dict(fit.judged)}
    parts = []
    for key, value in data.items():
        if isinstance(value, dict):
            lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            parts.append(f"{json.dumps(key)}: {{\n{lines}\n}}")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
    body = ",\n".join(parts)
    return f'{json.dumps(head)[:-1]}, "data": {{\n{body}\n}}}}\n'


def parse(content: str, where: str) -> Fit:
    """A fit of a file's text.

    Raises:
        InvalidInput: It is no fit, or one of a later release.
    """
    try:
        found: Any = json.loads(content)
    except ValueError as error:
        raise InvalidInput(f"{where} is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InvalidInput(f"{where} is no fit; make one with `partywall interference fit`")
    if found.get("version") != VERSION:
        raise InvalidInput(
            f"{where} has version {found.get('version')!r} and this release reads {VERSION}; fit again with it"
        )
    if not isinstance(found.get("device_type"), str) or not isinstance(found.get("judged"), dict):
        raise InvalidInput(f"{where} must hold device_type and judged; make it with `partywall interference fit`")
    return Fit(found["device_type"], dataset.parse(found.get("data"), where), found["judged"])


def load(path: Path) -> Fit:
    """As `parse`, of a file."""
    try:
        return parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not readable: {error}") from error


def shipped() -> Iterable[tuple[str, str]]:
    """Names and texts of the fits that come with this release."""
    folder = resources.files(__package__ or "isolation.interference") / SHIPPED
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return [(f.name, f.read_text()) for f in files]


def refusal(atlas: Atlas, profile: Profile) -> str:
    """Why a profile cannot join a fit; empty when it can."""
    if not atlas.covers(profile):
        return "it lacks runs with the fit's probes at the fit's shares"
    place = np.flatnonzero(atlas.is_probe)
    for number, probe in enumerate(atlas.probes):
        own = [(p.own_percent, p.probe_percent, s) for p, s in profile.probe_self.items() if p.probe == probe]
        if not own:
            return f"the probe {probe.name} was not measured beside itself"
        fitted = atlas.sensitivity[place[number], :, number]
        away = [abs(math.log(s) - float(fitted @ atlas.weights((a, b)))) for a, b, s in own]
        if min(away) > PROBE_TOLERANCE:
            return f"the probe {probe.name} presses otherwise than the fit's"
    return ""


def _learn(data: Measurements, profiles: Mapping[str, Profile], without: str = "") -> InterferenceModel:
    runs = [(r, data) for r in data.runs if not r.has_probe and without not in r.names]
    rows = rows_of(runs)
    return Study.of(build(profiles, dataset.probe_slowdowns(data)), rows).fit(range(len(rows)))


def _judge(data: Measurements, names: Sequence[str]) -> dict[str, float]:
    profiles, errors, coverage = dataset.profiles(data), [], []
    rows = rows_of([(r, data) for r in data.runs if not r.has_probe])
    for out in names:
        known = {n: p for n, p in profiles.items() if n != out}
        model = _learn(data, known, without=out).joined({out: profiles[out]})
        judged: list[Colocation] = [r for r in rows if out in r.names and r.group is Group.PAIRS]
        found = model.predict(judged)
        errors += [abs(p.slowdown / r.slowdown - 1) for p, r in zip(found, judged, strict=True)]
        coverage.append([p.upper >= r.slowdown for p, r in zip(found, judged, strict=True)])
    p50, p90, p95, worst = (float(np.quantile(errors, q)) for q in (0.5, 0.9, 0.95, 1.0))
    return {
        "models": len(names),
        "rows": len(errors),
        "p50": round(p50, 4),
        "p90": round(p90, 4),
        "p95": round(p95, 4),
        "max": round(worst, 4),
        "coverage": round(float(np.mean(np.concatenate(coverage))), 4),
        "least_coverage": round(min(float(np.mean(c)) for c in coverage), 4),
    }
