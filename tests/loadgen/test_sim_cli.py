"""`partywall load simulate`, `load compare` and `plan` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partywall.cli.main import run

KEYS = {"attainment", "goodput", "p99_ms", "requests", "refused", "gpu_seconds"}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "a.csv").write_text("seconds,model\n" + "".join(f"{i / 20},m{i % 3}\n" for i in range(200)))
    models = [{"name": f"m{i}", "weights_gb": 2, "latency_ms": 40} for i in range(3)]
    (tmp_path / "m.json").write_text(json.dumps(models))
    options = {
        "arrivals": tmp_path / "a.csv",
        "models": tmp_path / "m.json",
        "gpus": 2,
        "gpu-memory-gb": 4.5,
        "slo-scale": 3,
    }
    return [text for key, value in options.items() for text in (f"--{key}", str(value))]


def test_json_is_alone_on_standard_output(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    switches = ["--policy", "clockwork", "--no-batching", "--no-swap", "--seed", "3", "-o", "json"]
    assert run(["load", "simulate", *files, *switches]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == KEYS
    assert result["requests"] == 200
    assert 0 < result["attainment"] <= 1


def test_an_unknown_policy_is_a_usage_error_that_lists_the_known(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["load", "simulate", *files, "--policy", "magic"]) != 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "alpaserve-sr" in said.err


def test_compare_gives_a_row_per_policy(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--policy", "partywall", "--policy", "dedicated", "--out", str(tmp_path / "out"), "-o", "json"]
    assert run(["load", "compare", *files, *chosen]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in rows] == ["partywall", "dedicated"]
    assert (tmp_path / "out" / "attainment.svg").exists()


def test_plan_counts_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = "Mig instance,Batch size,Workload Number,Throughput,Latency\n"
    (tmp_path / "m.csv").write_text(header + "1,1,1,10,0.02\n7,1,1,90,0.01\n")
    demand = tmp_path / "demand" / "demand.csv"
    demand.parent.mkdir()
    demand.write_text("model,rate_per_s,objective_ms\nm,75,100\n")
    profiles = tmp_path / "a100"
    profiles.mkdir()
    (tmp_path / "m.csv").rename(profiles / "m.csv")
    assert run(["plan", "--profiles", str(profiles), "--demand", str(demand), "-o", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["gpus"], result["kind"], result["compute_slices"], result["optimal"]) == (1, "a100", 7, True)
    assert [held["slice"] for held in result["slices"]] == [7]


@pytest.mark.parametrize(
    ("option", "value"), [("--margin", "0"), ("--margin", "nan"), ("--margin", "2"), ("--budget-s", "-1")]
)
def test_plan_names_the_option_that_is_out_of_bounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    asked = ["plan", "--profiles", str(tmp_path), "--demand", str(tmp_path / "demand.csv")]
    assert run([*asked, option, value]) == 1
    assert f"{option} must be above zero and at most" in capsys.readouterr().err
