"""The remote commands against an in-process server: output, exit codes, precedence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from client_fakes import FakeServer
from fakes_support import ADMIN_KEY, KEY, Cli

from partywall import errors
from partywall.errors import Reason


@pytest.fixture
def data_dir(tmp_path: Path, server: FakeServer) -> Path:
    home = tmp_path / "D"
    (home / "run").mkdir(parents=True)
    addresses = dict.fromkeys(("public", "admin", "link", "metrics"), server.address)
    (home / "run" / "addresses.json").write_text(json.dumps(addresses))
    (home / "admin.key").write_text(ADMIN_KEY + "\n")
    return home


def test_tenants_from_birth_to_end(cli: Cli, data_dir: Path, server: FakeServer) -> None:
    at = ("--data-dir", str(data_dir), "-o", "json")
    code, out, _ = cli("tenants", "create", "acme", *at)
    assert code == 0
    assert json.loads(out)["quota"]["trust_policy"] == "process"
    assert server.faults.metadata["authorization"] == f"Bearer {ADMIN_KEY}"
    assert cli("tenants", "create", "acme", *at)[0] == 5
    assert [row["name"] for row in json.loads(cli("tenants", "list", *at)[1])] == ["acme"]
    assert json.loads(cli("tenants", "suspend", "acme", *at)[1])["state"] == "suspended"
    assert json.loads(cli("tenants", "resume", "acme", *at)[1])["state"] == "active"
    assert json.loads(cli("keys", "issue", "acme", *at)[1]) == {"id": "k1", "key": "the-secret"}
    assert "secret" not in cli("keys", "list", "acme", *at)[1]
    assert json.loads(cli("keys", "revoke", "acme", "k1", *at)[1])["revoked_at"] == "2026-01-02T03:04:05Z"
    assert json.loads(cli("tenants", "delete", "acme", "--yes", *at)[1])["keys_shredded"] == 2
    assert cli("tenants", "show", "acme", *at)[0] == 3


def test_deleting_without_a_terminal_needs_yes(cli: Cli, data_dir: Path, server: FakeServer) -> None:
    cli("tenants", "create", "acme", "--data-dir", str(data_dir))
    code, _, err = cli("tenants", "delete", "acme", "--data-dir", str(data_dir))
    assert code == 2
    assert "--yes" in err
    assert "acme" in server.tenants.tenants


def test_lifetimes_and_quotas(cli: Cli, data_dir: Path, server: FakeServer) -> None:
    at = ("--data-dir", str(data_dir))
    cli("tenants", "create", "acme", *at)
    assert cli("keys", "issue", "acme", "--lifetime", "90d", *at)[0] == 0
    assert server.tenants.last.lifetime_s == 90 * 86400
    code, out, _ = cli(
        *("quota", "set", "acme", "--requests-per-s", "12.5", "--model-bytes", "2GiB", "--in-flight", "none"),
        *("--trust-policy", "shared", *at, "-o", "json"),
    )
    assert code == 0
    sent = server.tenants.last.quota
    assert (sent.requests_per_s, sent.model_bytes, sent.max_in_flight) == (12.5, 2 << 30, 0)
    assert sent.HasField("max_in_flight")
    assert not sent.HasField("burst")
    assert json.loads(out)["trust_policy"] == "shared"
    assert cli("quota", "show", "acme", *at)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("quota", "set", "acme"), 1, "nothing to change"),
        (("quota", "set", "acme", "--burst", "0"), 2, "above zero"),
        (("quota", "set", "acme", "--burst", "1.5"), 2, "whole"),
        (("quota", "set", "acme", "--model-bytes", "big"), 2, "not a size"),
        (("keys", "issue", "acme", "--lifetime", "soon"), 2, "not a duration"),
        (("tenants", "create", "Bad Name"), 1, "not a name"),
        (("tenants", "crate", "x"), 2, "create"),
        (("models", "push", "m", "none", "--engine", "identity", "--slo-ms", "5"), 1, "does not exist"),
        (("models", "push", "m", "none", "--engine", "identity"), 2, "--slo-ms"),
        (("infer", "m"), 2, "--text"),
        (("infer", "m", "--input", "x"), 2, "name=VALUE"),
    ],
)
def test_wrong_use_says_what_to_do(cli: Cli, data_dir: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    found, out, err = cli("--data-dir", str(data_dir), "--api-key", KEY, *arguments)
    assert found == code
    assert out == ""
    assert text in err
    assert err.startswith("error: ")
    assert "\nhint: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("x"), 3),
        (errors.Unauthenticated("x"), 4),
        (errors.PermissionDenied("x"), 4),
        (errors.AlreadyExists("x"), 5),
        (errors.Conflict("x"), 5),
        (errors.Unavailable("x", reason=Reason.WORKER_DIED), 6),
        (errors.DeadlineExceeded("x"), 6),
        (errors.Overloaded("x"), 6),
        (errors.QuotaExceeded("x"), 1),
        (errors.InvalidInput("x"), 1),
    ],
)
def test_exit_codes(cli: Cli, data_dir: Path, server: FakeServer, error: errors.PartywallError, code: int) -> None:
    server.faults.add("ListTenants", *[error] * 3)
    found, out, err = cli("tenants", "list", "--data-dir", str(data_dir), "-o", "json")
    assert (found, out) == (code, "")
    body = json.loads(err)["error"]
    assert (body["reason"], body["message"], body["retryable"]) == (error.reason.value, "x", error.retryable)


def test_no_router_and_no_directory(cli: Cli, data_dir: Path, tmp_path: Path) -> None:
    (data_dir / "run" / "addresses.json").unlink()
    code, _, err = cli("tenants", "list", "--data-dir", str(data_dir))
    assert code == 6
    assert "partywall up" in err
    code, _, err = cli("tenants", "list", "--data-dir", str(tmp_path / "none"))
    assert code == 1
    assert "partywall init" in err


def test_a_key_is_asked_for_and_never_shown(cli: Cli, data_dir: Path, server: FakeServer) -> None:
    code, _, err = cli("models", "list", "--data-dir", str(data_dir))
    assert code == 4
    assert "--api-key-file" in err
    code, out, err = cli("models", "list", "--data-dir", str(data_dir), "--api-key", "wrong_one")
    assert code == 4
    assert "wrong_one" not in out + err
    code, _, err = cli("models", "list", "--address", "192.0.2.1:1", "--api-key", "k")
    assert code == 4
    assert "--insecure" in err


def test_push_show_promote_delete(cli: Cli, data_dir: Path, server: FakeServer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.txt").write_text("weights")
    (folder / ".git").mkdir()
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    at = ("--data-dir", str(data_dir), "--api-key-file", str(key_file), "-o", "json")
    push = ("models", "push", "echo", str(folder), "--engine", "identity", "--slo-ms", "50", "--option", "k=v")
    code, out, err = cli(*push, "--wait", "--timeout", "10s", *at)
    assert (code, err) == (0, "")
    row = json.loads(out)
    assert (row["model"], row["version"], row["state"], row["options"]) == ("echo", 1, "ready", {"k": "v"})
    assert server.faults.metadata["authorization"] == f"Bearer {KEY}"
    assert json.loads(cli("models", "promote", "echo", "1", *at)[1])["live_version"] == 1
    assert json.loads(cli("models", "list", *at)[1])[0]["slo_ms"] == 50
    assert json.loads(cli("models", "show", "echo", *at)[1])["versions"][0]["bytes"] == 7
    for verb in (("load", "echo", "--wait"), ("unload", "echo"), ("rollback", "echo")):
        assert cli("models", *verb, *at)[0] == 0
    assert json.loads(cli("explain", "echo", *at)[1])["decisions"][0]["alternatives"][0]["chosen"] is True
    assert json.loads(cli("models", "delete", "echo", "--yes", *at)[1])["versions_removed"] == 1
    assert cli("models", "show", "echo", *at)[0] == 3


def test_tables_for_people(cli: Cli, data_dir: Path, server: FakeServer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.txt").write_text("weights")
    (folder / "sub").mkdir()
    at = ("--data-dir", str(data_dir), "--api-key", KEY)
    _, _, err = cli("models", "push", "echo", str(folder), "--engine", "identity", "--slo-ms", "50", *at)
    assert "skipped" in err
    assert "partywall models promote echo 1" in err
    for command in (("models", "list"), ("models", "show", "echo"), ("explain", "echo"), ("fleet", "show")):
        code, out, _ = cli(*command, *at)
        assert code == 0
        assert "echo" in out
    cli("tenants", "create", "acme", *at)
    for command in (("tenants", "list"), ("tenants", "show", "acme"), ("keys", "list", "acme")):
        assert "2026-01-02T03:04:05Z" in cli(*command, *at)[1]


def test_the_operator_names_the_tenant(cli: Cli, data_dir: Path, server: FakeServer) -> None:
    assert cli("models", "list", "--tenant", "acme", "--data-dir", str(data_dir))[0] == 0
    assert server.faults.metadata["x-partywall-tenant"] == "acme"
    assert server.faults.metadata["authorization"] == f"Bearer {ADMIN_KEY}"


def test_fleet(cli: Cli, data_dir: Path, server: FakeServer) -> None:
    at = ("--data-dir", str(data_dir), "-o", "json")
    fleet = json.loads(cli("fleet", "show", *at)[1])
    assert fleet["nodes"][0]["devices"][0]["kind"] == "cpu"
    assert fleet["replicas"][0]["partition"]["kind"] == "cpuset"
    assert json.loads(cli("fleet", "token", "n1", "--lifetime", "5m", *at)[1])["bundle"] == "bundle-n1-300"
    code, out, err = cli("fleet", "token", "n1", "--lifetime", "5m", "--data-dir", str(data_dir))
    assert (code, out) == (0, "bundle-n1-300\n")
    assert "opens once, for node n1" in err
    assert cli("fleet", "forget", "local", *at)[0] == 0
    assert server.fleet.nodes == []
