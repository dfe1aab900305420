"""The audit log: what breaks the chain, what a power cut may leave."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from isolation.vault.audit import MAX_ROW_BYTES, AuditLog, verify
from partywall.clock import VirtualClock
from partywall.errors import Conflict, DataLoss, InvalidInput, Reason, Unavailable


def write_rows(path: Path, count: int) -> str:
    log = AuditLog(path, VirtualClock())
    for number in range(count):
        log.append("tenant.created", {"tenant": f"t{number}"})
    head = log.head
    log.close()
    return head


def test_rows_verify_and_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    first = write_rows(path, 3)
    assert path.stat().st_mode & 0o777 == 0o600
    log = AuditLog(path, VirtualClock())
    assert (log.rows, log.head) == (3, first)
    last = log.append("tenant.shredded", {"fingerprints": "aa,bb"})
    log.close()
    report = verify(path)
    assert (report.rows, report.head, report.first_break, report.torn) == (4, last, None, False)
    assert json.loads(path.read_text().splitlines()[3])["row"] == {
        "n": 4,
        "at": "2026-01-01T00:00:00.000000+00:00",
        "event": "tenant.shredded",
        "fields": {"fingerprints": "aa,bb"},
    }


def test_empty_log_is_sound(tmp_path: Path) -> None:
    write_rows(tmp_path / "audit.jsonl", 0)
    report = verify(tmp_path / "audit.jsonl")
    assert (report.rows, report.first_break, report.head) == (0, None, "00" * 32)


TAMPERING: dict[str, tuple[Callable[[list[str]], list[str]], int]] = {
    "a word changed": (lambda lines: [lines[0], lines[1].replace("t1", "t9"), *lines[2:]], 2),
    "a row removed": (lambda lines: [lines[0], *lines[2:]], 2),
    "two rows swapped": (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
    "a row twice": (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
    "a space added": (lambda lines: [lines[0].replace(":", ": ", 1), *lines[1:]], 1),
    "not JSON": (lambda lines: [*lines[:3], "{", lines[3]], 4),
    "an empty line": (lambda lines: [*lines[:3], "", lines[3]], 4),
    "not an object": (lambda lines: [*lines[:3], "[]"], 4),
    "a row that is no object": (lambda lines: [*lines[:3], '{"hash":"00","row":1}'], 4),
    "a line without end": (lambda lines: [*lines[:3], "x" * 2 * MAX_ROW_BYTES], 4),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_first_break_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / "audit.jsonl"
    write_rows(path, 4)
    tamper, line = TAMPERING[name]
    path.write_text("\n".join(tamper(path.read_text().splitlines())) + "\n")
    report = verify(path)
    assert (report.first_break, report.rows) == (line, line - 1)


def test_rows_cut_off_at_the_end_show_only_against_an_exported_head(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    exported = write_rows(path, 4)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    report = verify(path)
    assert report.first_break is None
    assert report.head != exported


@pytest.mark.parametrize("rows", [0, 2])
def test_torn_last_line_is_reported_and_cut_off(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "audit.jsonl"
    head = write_rows(path, rows)
    with path.open("ab") as out:
        out.write(b'{"hash":"12')
    report = verify(path)
    assert (report.rows, report.first_break, report.torn) == (rows, None, True)
    log = AuditLog(path, VirtualClock())
    assert log.head == head
    log.append("router.started", {})
    log.close()
    assert verify(path).rows == rows + 1
    assert not verify(path).torn


def test_damaged_last_row_is_kept_as_evidence(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write_rows(path, 2)
    spoiled = path.read_text()[:-3] + "x}\n"
    path.write_text(spoiled)
    with pytest.raises(DataLoss, match="move it away"):
        AuditLog(path)
    assert path.read_text() == spoiled


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    with pytest.raises(Conflict, match="another writer"):
        AuditLog(tmp_path / "audit.jsonl")
    log.close()
    AuditLog(tmp_path / "audit.jsonl").close()


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="audit log"):
        AuditLog(tmp_path / "absent" / "audit.jsonl")


def test_row_above_the_limit_is_refused(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    with pytest.raises(InvalidInput, match="shorten its fields"):
        log.append("big", {"x": "y" * MAX_ROW_BYTES})
    log.append("big", {"x": "y" * (MAX_ROW_BYTES - 300)})
    log.append("small", {})
    log.close()
    assert verify(tmp_path / "audit.jsonl").rows == 2
    AuditLog(tmp_path / "audit.jsonl").close()


def test_full_disk_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, VirtualClock())
    log.append("first", {})
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(Unavailable) as full:
            log.append("second", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert full.value.reason is Reason.STORAGE_FULL
    assert path.stat().st_size == size
    log.append("third", {})
    log.close()
    assert verify(path).rows == 2
