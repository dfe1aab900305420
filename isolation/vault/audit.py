"""The audit log: JSON lines, each chained to all before it.

h_0 is 32 zero bytes; h_n = SHA-256(h_{n-1} || canonical_json(row_n)). A changed, removed, inserted or moved row breaks
every hash after it (Schneier, Kelsey, "Secure Audit Logs to Support Computer Forensics", TISSEC 1999). A bare chain
can be recomputed by whoever owns the file, and rows cut off at its end leave a valid chain: export `head` now and then.

A power cut can leave a last line without its newline. Such a row was never acknowledged: opening the log cuts it off,
`verify` reports it as torn, not as a break.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isolation.vault.durable import FILE_MODE, storage_error, sync_folder
from partywall.clock import Clock, SystemClock
from partywall.errors import Conflict, DataLoss, InvalidInput

MAX_ROW_BYTES: Final = 16 << 10
_GENESIS: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What `verify` found: sound rows, the hash of the last one, the first broken line (from 1; None: none), and when
    the first and the last sound row were written (ISO 8601, UTC; empty: no row)."""

    rows: int
    head: str
    first_break: int | None
    torn: bool
    first_at: str = ""
    last_at: str = ""


class AuditLog:
    """Appends to one log; one writer at a time, held by a lock on the file. Methods block; thread-safe.

    Raises:
        Conflict: Another process writes to it.
        DataLoss: Its last row does not fit the format; move the file away and keep it as evidence.
        Unavailable: The file cannot be opened.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise storage_error(error, f"audit log {str(path)!r}") from error
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sync_folder(path.parent)
            self._end, self._rows, self._head = _recover(self._file.fileno(), path)
        except BlockingIOError:
            self._file.close()
            raise Conflict(f"audit log {str(path)!r} has another writer; stop it first") from None
        except BaseException:
            self._file.close()
            raise

    @property
    def head(self) -> str:
        """Hash of the last row, hex: what to export."""
        return self._head.hex()

    @property
    def rows(self) -> int:
        return self._rows

    def append(self, event: str, fields: Mapping[str, str]) -> str:
        """Adds a row and makes it durable; returns its hash. Fields must hold no secret.

        Raises:
            InvalidInput: The row is above 16 KiB.
            Unavailable: The disk is full or failed; the log is as before.
        """
        with self._lock:
            row = {
                "n": self._rows + 1,
                "at": self._clock.now().isoformat(timespec="microseconds"),
                "event": event,
                "fields": dict(fields),
            }
            digest = _chain(self._head, row)
            line = _canonical_json({"hash": digest.hex(), "row": row}) + b"\n"
            if len(line) > MAX_ROW_BYTES:
                raise InvalidInput(
                    f"audit row {event!r} has {len(line)} bytes, at most {MAX_ROW_BYTES} are kept; shorten its fields",
                    fields={"field": "fields"},
                )
            self._write(line)
            self._end, self._rows, self._head = self._end + len(line), self._rows + 1, digest
            return digest.hex()

    def close(self) -> None:
        """Releases the file; may be called again."""
        self._file.close()

    def _write(self, line: bytes) -> None:
        descriptor, view, position = self._file.fileno(), memoryview(line), self._end
        try:
            while view:
                count = os.pwrite(descriptor, view, position)
                position, view = position + count, view[count:]
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, self._end)
            raise storage_error(error, "audit log") from error


def verify(path: Path, each: Callable[[Mapping[str, Any], str], None] = lambda row, digest: None) -> AuditReport:
    """Reads a whole log and checks the chain up to the first break. Takes no lock and writes nothing, so a log may be
    read while it is written: a row that is just being written shows as torn.

    Args:
        each: Gets every sound row (`n`, `at`, `event`, `fields`) and its hash, oldest first.

    Raises:
        OSError: There is no log, or it cannot be read.
    """
    head, rows, first_at, last_at = _GENESIS, 0, "", ""
    first_break, torn = None, False
    with path.open("rb") as source:
        for line in iter(lambda: source.readline(MAX_ROW_BYTES + 1), b""):
            if not line.endswith(b"\n"):
                torn = len(line) <= MAX_ROW_BYTES
                first_break = None if torn else rows + 1
                break
            parsed = _parse(line)
            if parsed is None or parsed[0] != _chain(head, parsed[1]) or parsed[1].get("n") != rows + 1:
                first_break = rows + 1
                break
            head, rows, last_at = parsed[0], rows + 1, str(parsed[1].get("at", ""))
            first_at = first_at or last_at
            each(parsed[1], head.hex())
    return AuditReport(rows, head.hex(), first_break, torn, first_at, last_at)


def _recover(descriptor: int, path: Path) -> tuple[int, int, bytes]:
    """Cuts off a torn last line; returns the end, the number of rows and the head."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - 2 * MAX_ROW_BYTES)
    tail = os.pread(descriptor, size - start, start)
    whole = tail[: tail.rfind(b"\n") + 1]
    end = start + len(whole)
    if end < size:
        os.ftruncate(descriptor, end)
        os.fsync(descriptor)
    if not whole and start == 0:
        return 0, 0, _GENESIS
    parsed = _parse(whole[whole.rfind(b"\n", 0, len(whole) - 1) + 1 :])
    if parsed is None or not isinstance(parsed[1].get("n"), int):
        raise DataLoss(
            f"the last row of audit log {str(path)!r} is damaged; keep it as evidence: see where "
            "with `partywall audit verify`, move it away, and the next start begins a new one",
            fields={"path": str(path)},
        )
    return end, parsed[1]["n"], parsed[0]


def _parse(line: bytes) -> tuple[bytes, dict[str, Any]] | None:
    """Hash and row of a line written in exactly the one way there is; None: it is not one."""
    try:
        document = json.loads(line)
        digest, row = bytes.fromhex(document["hash"]), document["row"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(row, dict) or _canonical_json(document) + b"\n" != line:
        return None
    return digest, row


def _chain(previous: bytes, row: Mapping[str, object]) -> bytes:
    return hashlib.sha256(previous + _canonical_json(row)).digest()


def _canonical_json(value: Mapping[str, object]) -> bytes:
    """Keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
