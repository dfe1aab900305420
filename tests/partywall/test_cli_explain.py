"""`explain`, `requests` and `decisions` against an in-process server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from client_fakes import FakeServer
from fakes_support import ADMIN_KEY, KEY, Cli

from partywall.cli.main import run
from partywall.v1 import models_pb2


@pytest.fixture
def server(server: FakeServer) -> FakeServer:
    server.models.models["echo"] = models_pb2.Model(name="echo", tenant="acme", live_version=1)
    return server


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "250")
    (tmp_path / "admin.key").write_text(ADMIN_KEY + "\n")

    def call(*arguments: str, key: str | None = KEY) -> tuple[int, str, str]:
        who = ("--api-key", key) if key else ("--admin-key-file", str(tmp_path / "admin.key"))
        code = run([*arguments, "--address", server.address, "--admin-address", server.address, *who])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_name_or_an_id_finds_its_explanation(cli: Cli, server: FakeServer) -> None:
    model = json.loads(cli("explain", "echo", "-o", "json")[1])
    assert model["decisions"][0]["summary"] == "placed on cpu"
    request = json.loads(cli("explain", "r1", "-o", "json")[1])
    assert request["requests"][0]["predicted_ms"] == 4.0
    assert request["decisions"][0]["kind"] == "standing"
    decision = json.loads(cli("explain", "decision-1", "-o", "json")[1])
    assert decision["inputs"] == {"memory_estimate_bytes": "7"}
    assert "FleetListDecisions" not in server.faults.calls


def test_the_operator_explains_a_decision_without_naming_the_tenant(cli: Cli, server: FakeServer) -> None:
    code, out, _ = cli("explain", "decision-7", "-o", "json", key=None)
    assert code == 0
    assert json.loads(out)["tenant"] == "acme"
    assert server.faults.calls[-1] == "FleetListDecisions"


def test_what_is_nothing_says_where_to_look(cli: Cli) -> None:
    for unknown in ("nosuch", "Not A Model!"):
        code, _, err = cli("explain", unknown)
        assert code == 3
        assert "partywall requests list" in err


def test_lists(cli: Cli, server: FakeServer) -> None:
    rows = json.loads(cli("requests", "list", "-o", "json")[1])
    assert [(row["id"], row["outcome"]) for row in rows] == [("r1", "OK"), ("r2", "QUEUE_FULL")]
    assert [row["id"] for row in json.loads(cli("requests", "list", "--failed", "-o", "json")[1])] == ["r2"]
    assert json.loads(cli("decisions", "list", "-o", "json")[1])[0]["id"] == "decision-1"
    assert json.loads(cli("decisions", "list", "--all", "-o", "json", key=None)[1])[0]["tenant"] == "acme"


def test_tables_for_people_too(cli: Cli) -> None:
    for arguments in (("explain", "r1"), ("explain", "decision-1"), ("requests", "list"), ("decisions", "list")):
        code, out, _ = cli(*arguments)
        assert code == 0
        assert "echo" in out or "placed on cpu" in out


def test_the_live_plan(cli: Cli) -> None:
    code, out, _ = cli("plan", "--dry-run", "-o", "json", key=None)
    assert code == 0
    plan = json.loads(out)
    assert (plan["enabled"], plan["replicas_now"], plan["replicas_planned"]) == (False, 1, 2)
    assert (plan["steps"][0]["action"], plan["steps"][0]["place"]) == ("add", "n2/cpu (cpuset)")
    code, out, err = cli("plan", "--dry-run", key=None)
    assert code == 0
    assert "1 -> 2" in out
    assert "--no-planner" in err


def test_a_plan_needs_something_to_plan_from(cli: Cli) -> None:
    code, _, err = cli("plan", key=None)
    assert code != 0
    assert "--dry-run" in err


def test_a_rollback_says_who_answers_meanwhile(cli: Cli, server: FakeServer) -> None:
    model = server.models.models["echo"]
    model.live_version, model.previous_version = 2, 1
    code, out, err = cli("models", "rollback", "echo", "-o", "json")
    assert code == 0
    assert (json.loads(out)["live_version"], json.loads(out)["serving_version"]) == (1, 2)
    model.live_version, model.previous_version = 2, 1
    _, _, err = cli("models", "rollback", "echo")
    assert "version 2 answers until it is ready" in err
