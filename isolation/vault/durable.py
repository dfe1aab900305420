"""Writing files so that a power cut leaves the old content or the new one, and destroying them for good.

A name is durable only after an fsync of its folder (Pillai et al., "All File Systems Are Not Created Equal",
OSDI 2014).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import uuid
from pathlib import Path
from typing import Final

from partywall.errors import InvalidInput, Reason, Unavailable

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
# No room on the disk, no quota left, above the process's limit on file size.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_id(value: str, field: str) -> str:
    """An id that becomes a file name: letters, digits, '.', '_', '-', never a folder or a hidden file.

    Raises:
        InvalidInput: Names the field.
    """
    if not _ID.fullmatch(value):
        raise InvalidInput(
            f"{field} {value[:80]!r} is not an id: use 1 to 128 letters, digits, '.', '_', '-', starting with a "
            "letter or digit",
            fields={"field": field},
        )
    return value


def storage_error(error: OSError, what: str) -> Unavailable:
    """The typed error for a disk that said no; STORAGE_FULL when it is full, STORE_UNAVAILABLE otherwise."""
    if error.errno in _FULL:
        return Unavailable(
            f"{what}: the storage is full ({error.strerror}); free space in the server's data directory and try again",
            reason=Reason.STORAGE_FULL,
        )
    return Unavailable(
        f"{what}: the storage answered {error.strerror!r}; check the server's data directory, then try again",
        reason=Reason.STORE_UNAVAILABLE,
    )


def sync_folder(folder: Path) -> None:
    """Makes the names inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Creates a folder for this user alone, durably; fine when it is there."""
    if not folder.is_dir():
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        sync_folder(folder.parent)


def create_file(path: Path, data: bytes) -> None:
    """Writes a new file, 0600, durably; nothing is left when it fails.

    Raises:
        FileExistsError: It is there already.
        OSError: The disk answered with an error.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        with open(descriptor, "wb", buffering=0) as out:
            _write_all(out.fileno(), data)
            os.fsync(out.fileno())
    except OSError:
        path.unlink()
        raise
    sync_folder(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Puts new content under a name in one step; the old content is overwritten with zeros afterwards.

    Raises:
        OSError: The disk answered with an error; the old content stands.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    create_file(temporary, data)
    try:
        old = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        old = -1
    try:
        temporary.replace(path)
        sync_folder(path.parent)
        if old >= 0:
            _overwrite(old)
    finally:
        if old >= 0:
            os.close(old)


def destroy_file(path: Path) -> None:
    """Overwrites with zeros, fsyncs, unlinks, fsyncs the folder; fine when it is gone.

    What was in the file may survive in a copy-on-write file system, a snapshot, or the spare blocks of a flash disk.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _overwrite(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    sync_folder(path.parent)


def readable_by_others(mode: int) -> bool:
    """Whether group or others have any right on a file."""
    return bool(stat.S_IMODE(mode) & (stat.S_IRWXG | stat.S_IRWXO))


def _overwrite(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    os.lseek(descriptor, 0, os.SEEK_SET)
    _write_all(descriptor, bytes(size))
    os.fsync(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
