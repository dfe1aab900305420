"""Bad command lines: each ends with the code of its kind, names what is wrong and the next step, and traces nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partywall.cli.main import run

KEY = "pw_abcdefgh_" + "x" * 43
DEAD = ["--address", "127.0.0.1:1", "--timeout", "2s"]
KEYED = [*DEAD, "--api-key", KEY]
DEVICES = ["--gpus", "1", "--gpu-memory-gb", "16", "--slo-scale", "5"]
SIMULATE = ["load", "simulate", "--arrivals", "arrivals.csv", "--models", "models.json"]
PUSH = ["models", "push", "m", "folder", "--engine", "module", "--slo-ms", "50"]
LOAD = ["load", "run", *DEAD, "--duration", "1s", "--tenant"]

CASES: dict[str, tuple[list[str], int, str]] = {
    "no such file": (["load", "run", "--spec", "nope.toml"], 1, "--spec nope.toml: cannot be read"),
    "no such folder": (["models", "push", "m", "nope", *PUSH[4:], *KEYED], 1, "folder 'nope' does not exist"),
    "missing option": (["models", "push", "m", "folder", "--engine", "module"], 2, "Missing option '--slo-ms'"),
    "missing directory": (["audit", "verify"], 1, "data_dir is missing"),
    "no number": ([*PUSH, "--max-batch", "many", *KEYED], 2, "--max-batch"),
    "negative": (["infer", "m", "--text", "x", "--deadline-ms", "-5", *KEYED], 1, "--deadline-ms must be above zero"),
    "not a number": (["infer", "m", "--text", "x", "--deadline-ms", "nan", *KEYED], 1, "--deadline-ms must be above"),
    "memory": ([*SIMULATE, *DEVICES, "--gpu-memory-gb", "nan"], 1, "--gpu-memory-gb must be a finite number"),
    "infinite": ([*SIMULATE, *DEVICES, "--slo-scale", "inf"], 1, "slo_scale must be a finite number above zero"),
    "too large": ([*SIMULATE, *DEVICES, "--gpus", "9" * 20], 2, "--gpus"),
    "too large a share": ([*PUSH, "--share", "101", *KEYED], 2, "--share"),
    "not a size": ([*PUSH, "--memory", "1ZiB", *KEYED], 2, "'1ZiB' is not a size"),
    "broken CSV": ([*SIMULATE, *DEVICES], 1, "line 3 'x,a' is not 'seconds,model'"),
    "binary CSV": (
        ["load", "simulate", "--arrivals", "binary", *SIMULATE[4:], *DEVICES],
        1,
        "binary is not a text file",
    ),
    "unknown policy": ([*SIMULATE, *DEVICES, "--policy", "magic"], 1, "use one of partywall, round-robin"),
    "dead router": (["infer", "m", "--text", "x", *KEYED], 6, "nobody answers at 127.0.0.1:1"),
    "dead router under load": ([*LOAD, "name=a,key-file=key,model=m,random=auto,rate=1"], 6, "nobody answers at"),
    "no address": (["infer", "m", "--text", "x", *KEYED, "--address", "x"], 1, "address 'x': use host:port"),
    "no credential": (["models", "list"], 4, "no API key was given"),
    "no operator": (["fleet", "show"], 4, "no admin key was given"),
    "empty key": (["models", "list", *DEAD, "--api-key-file", "empty"], 1, "api_key_file 'empty' is empty"),
    "no array": (
        ["infer", "m", "--input", "x=@bad.npy", *KEYED],
        1,
        "'bad.npy' cannot be read (it is no .npy file of numbers)",
    ),
    "too many requests": (
        [*LOAD, "name=a,key-file=key,model=m,random=auto,rate=1e9"],
        1,
        "rate makes about 1e+09 requests",
    ),
    "too many channels": ([*LOAD, "name=a,key-file=key,model=m,random=auto,rate=1,channels=inf"], 1, "from 1 to 1,024"),
    "damaged weights": ([*PUSH, *KEYED], 1, "'model.safetensors' is truncated or no safetensors file"),
    "unknown key": (["--config", "unknown.toml", "doctor"], 1, "unknown key 'adress'"),
    "unknown command": (["models", "nonsense"], 2, "No such command 'nonsense'"),
    "unknown option": (["models", "list", "--nonsense"], 2, "No such option: --nonsense"),
    "bad node": (["fleet", "token", "Bad Node", *DEAD, "--admin-key-file", "key"], 1, "node 'Bad Node'"),
    "bad tenant": (["tenants", "create", "Bad Name", *DEAD, "--admin-key-file", "key"], 1, "tenant 'Bad Name'"),
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"xx")
    (tmp_path / "models.json").write_text(json.dumps([{"name": "a", "weights_gb": 1, "latency_ms": 10}]))
    (tmp_path / "arrivals.csv").write_text("seconds,model\n0,a\nx,a\n")
    (tmp_path / "bad.npy").write_text("hello")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "unknown.toml").write_text("adress = 'x'\n")
    (tmp_path / "empty").touch()
    (tmp_path / "key").write_text(KEY)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_named_with_the_next_step(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, code, words = CASES[name]
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert "unexpected" not in err
    assert "hint: " in err.splitlines()[-1]


def test_the_hint_names_the_commands_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--margin", "2", "--profiles", "x", "--demand", "y"]) == 1
    assert "hint: see partywall plan --help" in capsys.readouterr().err
