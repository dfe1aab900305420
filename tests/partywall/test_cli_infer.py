"""`partywall infer`: what a value on the command line becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_fakes import FakeServer
from fakes_support import KEY, Cli


def infer(cli: Cli, server: FakeServer, *arguments: str) -> Any:
    code, out, err = cli("infer", "echo", *arguments, "--address", server.address, "--api-key", KEY, "-o", "json")
    assert code == 0, err
    return json.loads(out)["outputs"]


def test_infer_takes_the_declared_datatype(cli: Cli, server: FakeServer) -> None:
    outputs = infer(cli, server, "--input", "x=[[1, 2]]")
    assert outputs["x"] == {"datatype": "FP32", "shape": [1, 2], "data": [[1.0, 2.0]]}


def test_infer_values_without_a_declaration(cli: Cli, server: FakeServer) -> None:
    server.inference.signature = []
    outputs = infer(
        cli, server, "--text", "a", "--text", "b", "--input", "n=[1]", "--input", "f=1.5", "--input", "w=hi"
    )
    found = {name: (o["datatype"], o["data"]) for name, o in outputs.items()}
    expected = {"text": ("BYTES", ["a", "b"]), "n": ("INT64", [1]), "f": ("FP32", [1.5]), "w": ("BYTES", ["hi"])}
    assert found == expected
    assert infer(cli, server, "--input", "n:INT32=[1]")["n"]["datatype"] == "INT32"


def test_infer_from_files(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 2), np.float32))
    (tmp_path / "t.txt").write_text("one\ntwo\n")
    outputs = infer(cli, server, "--input", f"x=@{tmp_path}/x.npy", "--input", f"t=@{tmp_path}/t.txt")
    assert outputs["x"]["data"] == [[1.0, 1.0], [1.0, 1.0]]
    assert outputs["t"]["data"] == ["one", "two"]
    code, out, _ = cli("infer", "echo", "--input", "x=[[1,2]]", "--address", server.address, "--api-key", KEY)
    assert code == 0
    assert "FP32" in out


@pytest.mark.parametrize(
    ("given", "text"), [("x=[[1,2],[3]]", "one length"), ("x:FP99=1", "FP99"), ("x=@none.npy", "cannot be read")]
)
def test_infer_refuses_what_it_cannot_read(cli: Cli, server: FakeServer, given: str, text: str) -> None:
    code, _, err = cli("infer", "echo", "--input", given, "--address", server.address, "--api-key", KEY)
    assert code == 1
    assert text in err
