"""`partywall init`: the data directory with its keys, its certificate authority and an empty state.

The admin key is written last: an init that broke off leaves nothing that looks initialised.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from isolation.vault.durable import FOLDER_MODE, create_file, make_folder
from isolation.vault.keyfile import create_root
from partywall.clock import Clock, SystemClock
from partywall.errors import AlreadyExists, InvalidInput, Reason, Unavailable
from router.control.data_dir import DataDir
from router.control.identities import create_identities
from router.control.rpc import ADMIN_KEY_PREFIX
from router.control.store import SqlStore


def initialise(data_dir: Path, hosts: Iterable[str] = (), *, clock: Clock | None = None) -> None:
    """Makes a data directory. Blocks for about half a second.

    Args:
        hosts: Names or addresses, beside the loopback ones, under which agents reach the router.

    Raises:
        AlreadyExists: There is something in the directory.
        InvalidInput: A host is not a name or an address, or the directory cannot be made there.
        Unavailable: The disk is full or failed.
    """
    data = DataDir(data_dir.absolute())
    try:
        data.root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        occupied = any(data.root.iterdir())
    except OSError as failure:
        raise InvalidInput(
            f"data_dir {str(data_dir)!r} cannot be made: {failure.strerror}; choose a directory you may write to",
            fields={"field": "data_dir", "path": str(data_dir)},
        ) from failure
    if occupied:
        raise _occupied(data, data_dir)
    try:
        data.root.chmod(FOLDER_MODE)
        _fill(data, tuple(hosts), clock or SystemClock())
    except BaseException as failure:
        _clear(data.root)
        if not isinstance(failure, OSError):
            raise
        raise Unavailable(
            f"data_dir {str(data_dir)!r} cannot be written: {failure.strerror}; free space and try again",
            reason=Reason.STORAGE_FULL,
            fields={"field": "data_dir"},
        ) from failure


def _fill(data: DataDir, hosts: tuple[str, ...], clock: Clock) -> None:
    create_identities(data, hosts, clock)
    make_folder(data.keys)
    create_root(data.root_key)
    os.close(os.open(data.state, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    # In a thread of its own, so that a caller may have a loop running.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(_migrate(data.state))).result()
    create_file(data.admin_key, f"{ADMIN_KEY_PREFIX}{secrets.token_urlsafe(32)}\n".encode())


def _occupied(data: DataDir, data_dir: Path) -> AlreadyExists:
    if data.admin_key.exists():
        problem = f"is initialised already; start it with `partywall up --data-dir {data_dir}`, or choose another one"
    else:
        problem = "is not empty; choose another directory, or empty this one if an init broke off in it"
    return AlreadyExists(f"data_dir {str(data_dir)!r} {problem}", fields={"field": "data_dir", "path": str(data_dir)})


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


async def _migrate(path: Path) -> None:
    store = SqlStore.at(path)
    try:
        await store.open()
    finally:
        await store.close()
