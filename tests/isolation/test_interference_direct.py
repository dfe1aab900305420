"""Slowdowns from two profiles alone, on simulated and on recorded devices."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isolation.interference import dataset, splits
from isolation.interference.direct import DirectModel
from isolation.interference.model import Basis
from isolation.interference.profiler import ProfilePlan, profile
from isolation.interference.rows import Colocation, Group
from isolation.interference.simulated import Phase, ResourceTruth
from isolation.interference.simulated_bench import SimulatedBench
from partywall.domain.profiles import ProbePoint, ProbeSetting, Profile, Resident, Resource

DRAM, POWER = ProbeSetting(Resource.DRAM), ProbeSetting(Resource.POWER)
LOW = ProbeSetting(Resource.DRAM, 0.4)
AT = ProbePoint(DRAM, 50, 50)
DATA = Path(__file__).resolve().parents[2] / "benchmarks" / "data" / "h100-colocation.json"


def made(name: str, suffers: float, presses: float) -> Profile:
    return Profile(name, "gpu", {50: 1.0}, {50: 1.0}, {AT: suffers}, {AT: presses}, probe_self={AT: 2.0})


def predict(model: DirectModel, victim: str, *neighbours: str) -> float:
    row = Colocation(Resident(victim, 50), tuple(Resident(n, 50) for n in neighbours))
    return model.predict([row])[0].slowdown


MODEL = DirectModel(
    {"soft": made("soft", 1.5, 1.0), "probe-like": made("probe-like", 1.0, 2.0), "idle": made("idle", 1.0, 1.0)}
)


def test_a_neighbour_like_the_probe_slows_as_the_probe_does() -> None:
    assert predict(MODEL, "soft", "probe-like") == pytest.approx(1.5)
    assert predict(MODEL, "soft", "idle") == 1.0
    assert predict(MODEL, "probe-like", "soft") == 1.0


def test_neighbours_add_up_in_the_logarithm() -> None:
    assert predict(MODEL, "soft", "probe-like", "probe-like") == pytest.approx(1.5**2)


def test_the_dial_is_interpolated() -> None:
    half = replace(made("half", 1.0, math.sqrt(2.0)))
    curved = made("curved", 1.5, 1.0)
    low = ProbePoint(LOW, 50, 50)
    curved = replace(curved, sensitivity={AT: 1.5, low: 1.01})
    model = DirectModel({"half": half, "curved": curved})
    assert 1.01 < predict(model, "curved", "half") < math.sqrt(1.5)


def test_without_a_profile_the_bound_is_infinite() -> None:
    row = Colocation(Resident("soft", 50), (Resident("stranger", 50),))
    (found,) = MODEL.predict([row])
    assert found.basis is Basis.CONSTANT
    assert math.isinf(found.upper)


def test_a_noisy_profile_has_a_wider_bound() -> None:
    row = Colocation(Resident("soft", 50), (Resident("probe-like", 50),))
    noisy = DirectModel({**MODEL.profiles, "soft": replace(MODEL.profiles["soft"], spread=0.2)})
    assert noisy.predict([row])[0].upper > MODEL.predict([row])[0].upper


def test_simulated_devices_are_predicted_from_profiles(tmp_path: Path) -> None:
    truth = ResourceTruth(
        {
            "stream": (Phase(2e-5, dram_bytes=6e7, watts=300, width=0.5),),
            "mild": (Phase(2e-5, dram_bytes=2e7, watts=300, width=0.5),),
            DRAM.name: (Phase(2e-5, dram_bytes=1.8e8, watts=300, width=0.5),),
            POWER.name: (Phase(6e-5, dram_bytes=1e6, watts=600),),
        },
        batches=10,
    )
    plan = ProfilePlan((DRAM, POWER), shares=(50,), probe_self=True)
    known = {n: profile(n, SimulatedBench(n, truth), plan, tmp_path / n) for n in ("stream", "mild")}
    model = DirectModel(known)
    for victim, neighbour in (("stream", "mild"), ("mild", "stream")):
        real = truth.slowdowns([Resident(victim, 50), Resident(neighbour, 50)])[0]
        assert predict(model, victim, neighbour) == pytest.approx(real, rel=0.15)


def test_recorded_pairs_are_better_than_the_constant_without_any_co_run() -> None:
    measured = dataset.load(DATA)
    study = splits.one_file(measured, splits.Split.MODEL_OUT).study
    atlas = study.atlas
    # The probes beside themselves were completed from probe runs (atlas.py); no co-run of two models is read.
    own = {
        ProbePoint(probe, *shares): float(np.exp(atlas.sensitivity[atlas.models + i, c, i]))
        for i, probe in enumerate(atlas.probes)
        for c, shares in enumerate(atlas.grid)
    }
    known = {name: replace(p, probe_self=own) for name, p in dataset.profiles(measured).items()}
    rows = [r for r in study.rows if r.group is Group.PAIRS]
    found = DirectModel(known).predict(rows)
    actual = np.array([r.slowdown for r in rows])
    errors = np.abs(np.array([p.slowdown for p in found]) / actual - 1.0)
    constant = np.abs(actual.mean() / actual - 1.0)
    assert np.quantile(errors, 0.5) < 0.7 * np.quantile(constant, 0.5)
    assert np.quantile(errors, 0.9) < np.quantile(constant, 0.9)
    assert np.mean(actual <= np.array([p.upper for p in found])) >= 0.95
