"""Reading measurement files: what they hold, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from isolation.interference import dataset
from partywall.domain.profiles import ProbePoint, ProbeSetting, Resident, Resource
from partywall.errors import InvalidInput

FILE: dict[str, Any] = {
    "device": "test",
    "solo": {"a@50": {"mean": 2.0}, "b@50": {"mean": 1.0}, "probe:dram:1.0@50": {"mean": 0.5}},
    "solo_with_probes": {"a@50": {"mean": 1.6}},
    "gpm_solo": {"a@50": {"sm_util": 30.0, "watts": 200.0}},
    "co": {
        "a@50+b@50": [{"mean": 3.0}, {"mean": 1.1}],
        "probe:dram:1.0@50+a@50": [{"mean": 0.6}, {"mean": 2.4}],
    },
}


def write(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


def test_probe_run_gives_sensitivity_and_pressure(tmp_path: Path) -> None:
    loaded = dataset.load(write(tmp_path / "m.json", FILE))
    profile = dataset.profiles(loaded)["a"]
    point = ProbePoint(ProbeSetting(Resource.DRAM), 50, 50)
    assert profile.sensitivity[point] == pytest.approx(2.4 / 1.6)
    assert profile.pressure[point] == pytest.approx(0.6 / 0.5)
    assert profile.counters[50].watts == 200.0
    assert profile.probed
    assert not dataset.profiles(loaded)["b"].probed


def test_runs_know_their_partners(tmp_path: Path) -> None:
    loaded = dataset.load(write(tmp_path / "m.json", FILE))
    plain, probed = loaded.runs
    assert plain.others(0) == (Resident("b", 50),)
    assert not plain.has_probe
    assert probed.has_probe
    assert loaded.models == ("a", "b")


def read(path: Path) -> None:
    """Loads, and reads the names of all probes as profiles do."""
    for run in dataset.load(path).runs:
        for partner in run.partners:
            if dataset.is_probe(partner.name):
                dataset.parse_probe(partner.name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solo": []}, "solo"),
        ({"solo": {"a": {"mean": 1.0}}}, "NAME@SHARE"),
        ({"solo": {"a@50": {"mean": -1.0}}}, "positive mean"),
        ({"co": {"a@50+b@50": [{"mean": 1.0}]}}, "2 partners"),
        ({"co": {"probe:dram:1.0@50+probe:x:1.0@50": [{"mean": 1.0}, {"mean": 1.0}]}}, "probe:RESOURCE:LEVEL"),
        ({"co": 7}, "co must be an object"),
        ({"gpm_solo": {"a@50": {"watts": [1]}}}, "gpm_solo of .a@50. must be an object of numbers"),
        ({"solo": {"a@150": {"mean": 1.0}}}, "share_percent"),
    ],
)
def test_bad_file_names_the_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "m.json", {**FILE, **change})
    with pytest.raises(InvalidInput, match=message):
        read(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.json"):
        dataset.load(tmp_path / "none.json")
