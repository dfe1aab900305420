"""Reading arrivals and models: what is taken and how refusals name their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadgen.compare import compare, write
from loadgen.simulate import PolicyName, read_arrivals, read_models
from loadgen.slice_profiles import read_demand, read_kinds
from loadgen.world import Hardware
from partywall.errors import InvalidInput

ONE = [{"name": "a", "weights_gb": 1, "latency_ms": 10}]


def models_file(tmp_path: Path, entries: object) -> Path:
    path = tmp_path / "models.json"
    path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize(
    ("table", "times"),
    [
        (None, [0.01, 0.02, 0.03]),
        ({"1": 10, "3": 14}, [0.01, 0.012, 0.014]),
        ([10, 11, 12], [0.01, 0.011, 0.012]),
        ({"2": 12}, [0.01, 0.012]),
    ],
)
def test_batch_latencies(tmp_path: Path, table: object, times: list[float]) -> None:
    entry = {**ONE[0], **({} if table is None else {"latency_by_batch": table})}
    (model,) = read_models(models_file(tmp_path, [entry]), 2.0)
    assert list(model.service_s[: len(times)]) == pytest.approx(times)
    assert model.objective_s == pytest.approx(0.02)
    assert model.max_batch == (16 if table is None else len(times))


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([], "at least one"),
        ({"a": 1}, "list"),
        ([{"name": "a", "latency_ms": 1}], "weights_gb"),
        ([{"name": "a", "weights_gb": 1, "latency_ms": 0}], "latency_ms"),
        ([*ONE, *ONE], "once"),
        (["a"], r"models\[0\]"),
    ],
)
def test_bad_models_are_named(tmp_path: Path, entries: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_models(models_file(tmp_path, entries), 2.0)


def test_rows_out_of_order_are_sorted_and_windows_line_ends_taken(tmp_path: Path) -> None:
    models = read_models(models_file(tmp_path, ONE), 2.0)
    path = tmp_path / "a.csv"
    path.write_bytes(b"seconds,model\r\n2.0,a\r\n1.0,a\r\n\r\n")
    assert read_arrivals(path, models).seconds == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("t,m\n", "seconds,model"),
        ("seconds,model\n1,b\n", "line 2"),
        ("seconds,model\nx,a\n", "line 2"),
        ("seconds,model\n1,a\nnan,a\n", "line 3"),
        ("seconds,model\ninf,a\n", "line 2"),
        ("seconds,model\n-1,a\n", "negative"),
    ],
)
def test_bad_arrivals_are_named(tmp_path: Path, text: str, says: str) -> None:
    models = read_models(models_file(tmp_path, ONE), 2.0)
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        read_arrivals(path, models)


def test_no_arrivals_are_no_misses(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("seconds,model\n")
    (row,) = compare(path, models_file(tmp_path, ONE), Hardware(1, 1.0), [PolicyName.PARTYWALL], [2.0])
    assert (row.outcome.requests, row.outcome.p99_ms, row.outcome.goodput) == (0, None, None)


def test_compare_writes_json_and_plots(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("seconds,model\n" + "".join(f"{i / 10},a\n" for i in range(50)))
    models = models_file(tmp_path, ONE)
    policies = [PolicyName.PARTYWALL, PolicyName.ROUND_ROBIN]
    for scales in ([2.0], [2.0, 4.0]):
        rows = compare(path, models, Hardware(1, 1.0), policies, scales)
        written = write(rows, tmp_path / "out")
        assert [p.suffix for p in written] == [".json", ".svg", ".svg"]
        assert len(json.loads(written[0].read_text())) == 2 * len(scales)
        assert all("<svg" in p.read_text() for p in written[1:])


def test_profiles_and_demand(tmp_path: Path) -> None:
    kind = tmp_path / "a100"
    kind.mkdir()
    (kind / "m.csv").write_text(
        "Mig instance,Batch size,Workload Number,Throughput,Latency\n1,4,2,50,0.02\n0,0,0,0,0\n".replace(
            "0,0,0,0,0", "1,8,1,0,0"
        )
    )
    (settings,) = read_kinds(tmp_path)["a100"].values()
    assert [(s.capacity_per_s, s.latency_ms) for s in settings] == [(100.0, 20.0)]
    demand = tmp_path / "demand.csv"
    demand.write_text("model,rate_per_s,objective_ms\nm,10,100\n")
    assert read_demand(demand)[0].rate_per_s == 10
    demand.write_text("model,rate_per_s,objective_ms\nm,x,100\n")
    with pytest.raises(InvalidInput, match="line 2"):
        read_demand(demand)
    with pytest.raises(InvalidInput, match="no CSV"):
        read_kinds(kind / "nothing")


@pytest.mark.parametrize("row", ["m,nan,100", "m,-1,100", "m,inf,100", "m,1,nan", "m,1"])
def test_a_demand_that_is_no_number_is_named_by_its_line(tmp_path: Path, row: str) -> None:
    demand = tmp_path / "demand.csv"
    demand.write_text(f"model,rate_per_s,objective_ms\nm,1,100\n{row}\n")
    with pytest.raises(InvalidInput, match=r"demand\.csv line 3 is not model,rate_per_s,objective_ms"):
        read_demand(demand)


@pytest.mark.parametrize("row", ["5,1,1,50,0.02", "1,1,1,nan,0.02", "1,1,1,50,inf", "1,1"])
def test_a_profile_that_makes_no_sense_is_named_by_its_line(tmp_path: Path, row: str) -> None:
    (tmp_path / "m.csv").write_text(f"Mig instance,Batch size,Workload Number,Throughput,Latency\n{row}\n")
    with pytest.raises(InvalidInput, match=r"profiles: m\.csv line 2"):
        read_kinds(tmp_path)


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    binary = tmp_path / "m.csv"
    binary.write_bytes(b"model,rate_per_s,objective_ms\n\xff\xfe,1,2\n")
    for read in (lambda: read_demand(binary), lambda: read_kinds(tmp_path), lambda: read_arrivals(binary, [])):
        with pytest.raises(InvalidInput, match=r"m\.csv is not a"):
            read()
