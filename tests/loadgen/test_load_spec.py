"""What users write: --tenant and TOML."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.arrivals import Constant, Gamma, OnOff, Poisson, Replay
from loadgen.spec import LoadSpec, parse_tenant, read_spec
from partywall.errors import InvalidInput

BASE = "name=acme,key=k,model=minilm,random=auto"


def test_all_keys() -> None:
    spec = parse_tenant(
        "name=acme,key-file=acme.key,model=minilm,version=2,text=lines.txt,rate=20,arrivals=gamma:4,slo-ms=50,"
        "deadline-ms=250,batch=8,channels=2,input=text"
    )
    assert (spec.name, spec.model, spec.version, spec.input) == ("acme", "minilm", "2", "text")
    assert (spec.key_file, spec.text) == (Path("acme.key"), Path("lines.txt"))
    assert (spec.rate, spec.slo_ms, spec.deadline_ms, spec.batch, spec.channels) == (20, 50, 250, 8, 2)
    assert spec.process() == Gamma(20, 4)


@pytest.mark.parametrize(
    ("arrivals", "process"),
    [
        ("poisson", Poisson(20)),
        ("constant", Constant(20)),
        ("gamma:0.5", Gamma(20, 0.5)),
        ("onoff:2:8", OnOff(20, 2, 8)),
    ],
)
def test_arrivals(arrivals: str, process: object) -> None:
    assert parse_tenant(f"{BASE},rate=20,arrivals={arrivals}").process() == process


def test_traces_are_filtered_cut_and_scaled(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("seconds,model\n0,a\n1,b\n2,a\n3,a\n9,a\n")
    process = parse_tenant(f"{BASE},arrivals=trace:{path},trace-model=a,trace-window=1-4,trace-speed=2").process()
    assert isinstance(process, Replay)
    assert process.recorded_s.tolist() == [0.5, 1.0]
    scaled = parse_tenant(f"{BASE},arrivals=trace:{path},rate=10").process()
    assert isinstance(scaled, Replay)
    assert scaled.recorded_s[-1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("name=acme", "model"),
        ("model=m,key=k,random=auto", "name"),
        ("name=a,model=m,random=auto", "key-file"),
        (f"{BASE},key-file=f", "key-file"),
        ("name=a,model=m,key=k", "text"),
        (f"{BASE},text=f", "text"),
        (f"{BASE},rate=-1", "rate"),
        (f"{BASE},rate=fast", "rate"),
        (f"{BASE},batch=1.5", "batch"),
        (f"{BASE},channels=0", "channels"),
        (f"{BASE},slo=5", "slo"),
        (f"{BASE},model=again", "model"),
        (f"{BASE},nonsense", "nonsense"),
        (f"{BASE},input=", "input"),
        ("name=a,model=m,key=k,random=FP32[2]", "random"),
    ],
)
def test_errors_name_the_field(text: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_tenant(text)
    assert caught.value.fields["field"] == field
    assert caught.value.message.startswith(f"--tenant: {field} ")


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ("", "rate"),
        ("rate=1,arrivals=weekly", "arrivals"),
        ("rate=1,arrivals=gamma", "arrivals"),
        ("rate=1,arrivals=gamma:0", "arrivals"),
        ("rate=1,arrivals=onoff:1", "arrivals"),
        ("rate=1,arrivals=poisson:3", "arrivals"),
    ],
)
def test_processes_name_the_field(extra: str, field: str) -> None:
    spec = parse_tenant(f"{BASE},{extra}".rstrip(","))
    with pytest.raises(InvalidInput) as caught:
        spec.process()
    assert caught.value.fields["field"] == field


@pytest.mark.parametrize("window", ["5", "5-1", "a-b", "-3"])
def test_bad_windows(tmp_path: Path, window: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("seconds\n0\n1\n")
    with pytest.raises(InvalidInput, match="trace-window must be START-END"):
        parse_tenant(f"{BASE},arrivals=trace:{path},trace-window={window}").process()


@pytest.mark.parametrize(
    ("random", "expected"),
    [("auto", ("", ())), ("FP32", ("FP32", ())), ("INT64:8x16", ("INT64", (8, 16)))],
)
def test_random(random: str, expected: tuple[str, tuple[int, ...]]) -> None:
    assert parse_tenant(f"name=a,key=k,model=m,random={random}").random_tensor() == expected


def test_keys_come_from_files(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("pw-secret\n")
    spec = parse_tenant(f"name=a,key-file={path},model=m,random=auto")
    assert spec.api_key() == "pw-secret"
    path.unlink()
    with pytest.raises(InvalidInput, match=r"^--tenant: key-file .* cannot be read"):
        spec.api_key()


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "load.toml"
    path.write_text(
        'address = "127.0.0.1:1"\nduration = "2m"\nseed = 7\n'
        '[[tenant]]\nname = "acme"\nkey = "k"\nmodel = "m"\nrandom = "auto"\nrate = 2.5\nslo-ms = 40\n'
    )
    found = read_spec(path)
    assert (found.address, found.seed, found.duration_s, found.warmup_s) == ("127.0.0.1:1", 7, 120, 0)
    (tenant,) = found.tenants
    assert (tenant.rate, tenant.slo_ms) == (2.5, 40)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adress = 1", "adress is unknown; known: address"),
        ("tenant = 3", "tenant must be"),
        ("[[tenant]]\nname = 'a'\nrate = true", r"tenant\[0\]: rate must be a number"),
        ("[[tenant]]\nname = []", r"tenant\[0\]: name must be text"),
        ("seed = -1", "seed must be a whole number"),
        ("duration = 'soon'", "duration must be a duration such as"),
        ("= 3", "cannot be read"),
    ],
)
def test_toml_errors(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "load.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=said):
        read_spec(path)


def test_runs_need_tenants_with_different_names_and_time() -> None:
    tenant = parse_tenant(BASE)
    with pytest.raises(InvalidInput, match="--tenant is missing"):
        LoadSpec("a:1", ())
    with pytest.raises(InvalidInput, match="used twice"):
        LoadSpec("a:1", (tenant, tenant))
    with pytest.raises(InvalidInput, match="duration"):
        LoadSpec("a:1", (tenant,), duration_s=0)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("500ms", 0.5), ("1.5m", 90), ("1h", 3600), ("7", 7)])
def test_durations(tmp_path: Path, text: str, seconds: float) -> None:
    path = tmp_path / "load.toml"
    path.write_text(f'duration = "{text}"')
    assert read_spec(path).duration_s == pytest.approx(seconds)
