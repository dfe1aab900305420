"""`partywall audit`: what it says of a sound log, of one in use, and of one that somebody changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isolation.vault.audit import AuditLog
from partywall.cli.main import run
from partywall.cli.output import ExitCode
from partywall.clock import VirtualClock

FIRST, LAST = "2026-01-01T00:00:00.000000+00:00", "2026-01-01T00:03:00.000000+00:00"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    """Of four rows, its writer still there."""
    clock = VirtualClock()
    made = AuditLog(tmp_path / "audit.log", clock)
    for event, fields in (
        ("tenant.created", {"tenant_id": "t-1", "name": "acme"}),
        ("tenant.created", {"tenant_id": "t-2", "name": "globex"}),
        ("key.issued", {"tenant_id": "t-1", "key": "k-1"}),
        ("node.enrolled", {"tenant_id": "", "node": "n-1"}),
    ):
        made.append(event, fields)
        clock.advance(60)
    yield made
    made.close()


def asked(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> tuple[int, Any, dict[str, Any]]:
    """Exit code, what was printed, and the error."""
    code = run(["audit", *arguments, "--data-dir", str(folder), "-o", "json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, json.loads(err)["error"] if err else {}


def test_a_sound_log_is_said_to_be_so_while_it_is_written(
    log: AuditLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found, _ = asked(capsys, tmp_path, "verify")
    assert code == ExitCode.OK
    assert (found["sound"], found["entries"], found["first_at"], found["last_at"]) == (True, 4, FIRST, LAST)
    assert (found["head"], found["first_broken_line"], found["unfinished_last_line"]) == (log.head, None, False)
    log.append("router.started", {})
    assert run(["audit", "verify", "--data-dir", str(tmp_path)]) == ExitCode.OK
    assert "entries" in capsys.readouterr().out


def test_a_row_that_is_being_written_is_no_break(
    log: AuditLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "audit.log").open("ab") as out:
        out.write(b'{"hash":"12')
    before = (tmp_path / "audit.log").read_bytes()
    code, found, _ = asked(capsys, tmp_path, "verify")
    assert (code, found["sound"], found["unfinished_last_line"]) == (ExitCode.OK, True, True)
    assert (tmp_path / "audit.log").read_bytes() == before


@pytest.mark.parametrize("verb", ["verify", "list"])
def test_a_break_has_its_line_and_fails(
    log: AuditLog, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    path = tmp_path / "audit.log"
    path.write_text(path.read_text().replace("k-1", "k-9"))
    code, found, error = asked(capsys, tmp_path, verb)
    assert code == ExitCode.FAILURE
    assert error["fields"]["line"] == "3"
    assert "line 3" in error["message"]
    assert "evidence" in error["hint"]
    if verb == "verify":
        assert (found["sound"], found["entries"], found["first_broken_line"]) == (False, 2, 3)
    else:
        assert [row["n"] for row in found] == [2, 1]


def test_cut_off_rows_show_against_a_head_that_was_noted(
    log: AuditLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noted = log.head
    log.append("router.started", {})
    for head in (noted, noted.upper(), "00" * 32):
        assert asked(capsys, tmp_path, "verify", "--head", head)[0] == ExitCode.OK
    path = tmp_path / "audit.log"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    code, found, error = asked(capsys, tmp_path, "verify", "--head", noted)
    assert (code, found["sound"], found["first_broken_line"]) == (ExitCode.FAILURE, False, None)
    assert "cut off" in error["message"]


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ((), [4, 3, 2, 1]),
        (("--limit", "2"), [4, 3]),
        (("--tenant", "acme"), [3, 1]),
        (("--tenant", "t-2"), [2]),
        (("--tenant", "nobody"), []),
    ],
)
def test_rows_are_listed_newest_first(
    log: AuditLog, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], numbers: list[int]
) -> None:
    code, rows, _ = asked(capsys, tmp_path, "list", *arguments)
    assert (code, [row["n"] for row in rows]) == (ExitCode.OK, numbers)
    if not arguments:
        assert rows[1] == {
            "n": 3,
            "at": "2026-01-01T00:02:00.000000+00:00",
            "event": "key.issued",
            "tenant": "acme",
            "tenant_id": "t-1",
            "fields": {"key": "k-1"},
        }


def test_no_log_and_no_right_to_read_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = asked(capsys, tmp_path, "verify")
    assert (code, "no audit log" in error["message"]) == (ExitCode.NOT_FOUND, True)
    (tmp_path / "audit.log").mkdir()
    code, _, error = asked(capsys, tmp_path, "verify")
    assert (code, "cannot be read" in error["message"]) == (ExitCode.FAILURE, True)
