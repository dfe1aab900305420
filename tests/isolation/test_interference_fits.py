"""Fits: files, who may join, and that joining is as good as having been there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isolation.interference import dataset, fits
from isolation.interference.atlas import build
from isolation.interference.fits import Fit
from isolation.interference.fitted import FittedModel
from isolation.interference.model import Basis, InterferenceModel, Study
from isolation.interference.plans import PROBES
from isolation.interference.rows import Colocation, Group
from isolation.interference.splits import rows_of
from partywall.cli.main import run
from partywall.domain.profiles import ProbePoint, Profile, Resident
from partywall.errors import InvalidInput

DATA = Path(__file__).resolve().parents[2] / "benchmarks" / "data" / "h100-colocation.json"
OUT = "resnet50"
FEW = ("bert", "decode", "mobilenet", "swin", OUT)


@pytest.fixture(scope="module")
def shipped() -> Fit:
    ((name, content),) = fits.shipped()
    return fits.parse(content, name)


@pytest.fixture(scope="module")
def profiles(shipped: Fit) -> dict[str, Profile]:
    """With the probes beside themselves, as the profiler measures them; completed from probe runs (atlas.py)."""
    known = dataset.profiles(shipped.data)
    atlas = build(known, dataset.probe_slowdowns(shipped.data))
    own = {
        ProbePoint(probe, *shares): float(np.exp(atlas.sensitivity[atlas.models + i, c, i]))
        for i, probe in enumerate(atlas.probes)
        for c, shares in enumerate(atlas.grid)
    }
    return {name: replace(p, probe_self=own) for name, p in known.items()}


def few(fit: Fit, *names: str) -> Fit:
    """The fit of some of its models: seconds become a fraction of one."""
    runs = tuple(r for r in fit.data.runs if all(dataset.is_probe(n) or n in names for n in r.names))
    solo = {r: ms for r, ms in fit.data.solo_ms.items() if dataset.is_probe(r.name) or r.name in names}
    return replace(fit, data=replace(fit.data, runs=runs, solo_ms=solo))


@pytest.fixture(scope="module")
def without(shipped: Fit) -> InterferenceModel:
    return few(shipped, *FEW[:-1]).model()


def test_a_file_is_what_was_fitted(shipped: Fit) -> None:
    again = fits.parse(fits.text(shipped), "again")
    assert again == shipped
    assert shipped.device_type == "NVIDIA H100 80GB HBM3"
    assert shipped.judged["p90"] < 0.06
    assert shipped.judged["coverage"] > 0.93


def test_the_shipped_file_is_of_the_recorded_measurements(shipped: Fit) -> None:
    recorded = dataset.load(DATA)
    held = {r.partners for r in shipped.data.runs if not r.has_probe}
    assert held == {r.partners for r in recorded.runs if not r.has_probe}
    assert all(recorded.solo_ms[r] == ms for r, ms in shipped.data.solo_ms.items())
    probes = {p.name for r in shipped.data.runs for p in r.partners if dataset.is_probe(p.name)}
    assert probes <= {p.name for p in PROBES}, "the profiler measures every probe of it"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("{}", "is no fit"),
        (json.dumps({"format": fits.FORMAT, "version": 99}), "fit again"),
        (json.dumps({"format": fits.FORMAT, "version": 1}), "device_type"),
        (json.dumps({"format": fits.FORMAT, "version": 1, "device_type": "x", "judged": {}}), "solo"),
    ],
)
def test_what_is_no_fit_says_why(content: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        fits.parse(content, "file")


def test_too_little_to_fit_is_refused(shipped: Fit) -> None:
    with pytest.raises(InvalidInput, match="probes"):
        fits.make(shipped.data, "x", PROBES[:1])
    with pytest.raises(InvalidInput, match="models"):
        fits.make(few(shipped, *FEW[:3]).data, "x", PROBES)


def test_a_fit_is_judged_by_models_that_join(shipped: Fit) -> None:
    made = fits.make(few(shipped, *FEW).data, "some GPU", PROBES)
    assert made.device_type == made.data.device == "some GPU"
    assert made.judged["models"] == len(FEW)
    assert made.judged["p90"] < 0.15


def test_joining_is_as_good_as_having_been_there(
    shipped: Fit, without: InterferenceModel, profiles: dict[str, Profile]
) -> None:
    rows = rows_of([(r, shipped.data) for r in few(shipped, *FEW).data.runs if not r.has_probe])
    judged = [r for r in rows if OUT in r.names and r.group is Group.PAIRS]
    joined = without.joined({OUT: profiles[OUT]}).predict(judged)
    seen = [i for i, r in enumerate(rows) if OUT not in r.names]
    there = Study.of(build({n: profiles[n] for n in FEW}, dataset.probe_slowdowns(shipped.data)), rows).fit(seen)
    actual = np.array([r.slowdown for r in judged])
    by_joined = np.abs(np.array([p.slowdown for p in joined]) / actual - 1)
    by_there = np.abs(np.array([p.slowdown for p in there.predict(judged)]) / actual - 1)
    assert np.quantile(by_joined, 0.9) < np.quantile(by_there, 0.9) + 0.01
    with pytest.raises(InvalidInput, match="taken"):
        without.joined({FEW[0]: profiles[FEW[0]]})


def test_only_profiles_with_its_probes_join(without: InterferenceModel, profiles: dict[str, Profile]) -> None:
    good, atlas = profiles[OUT], without.atlas
    assert fits.refusal(atlas, good) == ""
    assert "lacks runs" in fits.refusal(atlas, replace(good, sensitivity={}))
    assert "beside itself" in fits.refusal(atlas, replace(good, probe_self={}))
    stronger = {p: s * 1.5 for p, s in good.probe_self.items()}
    assert "presses otherwise" in fits.refusal(atlas, replace(good, probe_self=stronger))


def test_a_fitted_model_answers_what_it_was_given_time_for(
    without: InterferenceModel, profiles: dict[str, Profile]
) -> None:
    model = FittedModel(without)
    known = {"a": profiles[OUT], "b": profiles["unet"], "c": profiles["search"]}
    pair = Colocation(Resident("a", 50), (Resident("b", 25),))
    three = Colocation(Resident("a", 50), (Resident("b", 25), Resident("c", 25)))
    assert model.predict(pair, known) is None
    assert model.predict(three, known) is None
    wanted = model.wanted(10)
    assert len(wanted) == 2
    assert len(model.wanted(1)) == 1
    model.learn(model.believe(wanted))
    assert model.generation == 1
    assert model.wanted(10) == []
    two, crowd = model.predict(pair, known), model.predict(three, known)
    assert two is not None
    assert crowd is not None
    assert two.basis is crowd.basis is Basis.FIT
    assert 1.0 <= two.slowdown < two.upper
    assert crowd.slowdown >= two.slowdown
    assert model.believe(wanted) == model.believe(wanted), "the same question, the same answer"
    uncapped = Colocation(Resident("a", 100), (Resident("b", 100),))
    assert model.predict(uncapped, known) is None, "the fit does not speak of devices without caps"
    assert model.wanted(10) == []


def test_the_command_writes_what_a_router_reads(
    shipped: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data.json", tmp_path / "fit.json"
    data.write_text(json.dumps(dataset.as_json(few(shipped, *FEW[:-1]).data)))
    asked = ["-o", "json", "interference", "fit", "--data", str(data), "--device-type", "my GPU", "--out", str(out)]
    assert run([*asked, "--probes", "dram:1.0"]) != 0
    assert "at least 3 of the probes" in capsys.readouterr().err
    assert run([*asked[:-1], str(tmp_path / "none" / "fit.json")]) != 0
    assert "there is no such folder; name a file in a folder" in capsys.readouterr().err
    assert run(asked) == 0
    told = json.loads(capsys.readouterr().out)
    made = fits.load(out)
    assert made.device_type == told["device_type"] == "my GPU"
    assert {k: told[k] for k in made.judged} == dict(made.judged)
    with pytest.raises(InvalidInput, match="not readable"):
        fits.load(tmp_path / "none.json")


def test_the_command_judges_in_the_form_that_is_asked_before_or_after_its_name(
    shipped: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = tmp_path / "train.json", tmp_path / "test.json"
    train.write_text(json.dumps(dataset.as_json(few(shipped, *FEW[:-1]).data)))
    test.write_text(json.dumps(dataset.as_json(few(shipped, *FEW).data)))
    asked = ["interference", "evaluate", "--train", str(train), "--test", str(test)]
    assert run(["-o", "json", *asked]) == 0
    first = json.loads(capsys.readouterr().out)
    assert {"pairs", "bound"} <= set(first)
    assert run([*asked, "-o", "json"]) == 0
    assert first == json.loads(capsys.readouterr().out)
    assert run(asked) == 0
    assert capsys.readouterr().out.startswith("group ")
