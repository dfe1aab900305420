"""Keys in local files: a root key, and one file per tenant with its KEKs wrapped under the root.

The folder is apart from the state database and the blobs on purpose: a backup of those two holds no KEK, so it cannot
open anything of a tenant whose file here is gone.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from isolation.vault.durable import (
    create_file,
    destroy_file,
    make_folder,
    readable_by_others,
    replace_file,
    storage_error,
)
from isolation.vault.keys import TenantKeyring
from isolation.vault.wrapping import Binding, Purpose, unwrap, wrap
from partywall.errors import AlreadyExists, DataLoss, InvalidInput, NotFound
from partywall.sealed.keys import KEY_BYTES

_FORMAT: Final = 1


def create_root(path: Path) -> None:
    """A new root key: 32 random bytes, 0600, never over an existing one.

    Raises:
        AlreadyExists: There is a file; everything sealed depends on it, so it is left as it is.
        Unavailable: It cannot be written there.
    """
    try:
        create_file(path, os.urandom(KEY_BYTES))
    except FileExistsError:
        raise AlreadyExists(
            f"root_key {str(path)!r} is there already and is kept; use another data directory",
            fields={"field": "root_key", "path": str(path)},
        ) from None
    except OSError as error:
        raise storage_error(error, f"root_key {str(path)!r} cannot be written") from error


def load_root(path: Path) -> bytearray:
    """Reads a root key.

    Raises:
        NotFound: There is none.
        InvalidInput: Others may read it, it is not a plain file of 32 bytes.
    """
    root = bytearray(KEY_BYTES)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            count = os.readv(descriptor, [root]) if stat.S_ISREG(found.st_mode) else 0
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise NotFound(
            f"root_key {str(path)!r} is not there: run `partywall init`, or put the key back from its safe place",
            fields={"field": "root_key", "path": str(path)},
        ) from None
    except OSError as error:
        raise storage_error(error, f"root_key {str(path)!r} cannot be read") from error
    if count != KEY_BYTES or found.st_size != KEY_BYTES:
        raise _bad_root(path, f"must be a plain file of {KEY_BYTES} bytes; put the right one back")
    if readable_by_others(found.st_mode):
        raise _bad_root(path, f"has mode {stat.S_IMODE(found.st_mode):04o}: run `chmod 600` on it")
    return root


class KeyFileProvider(TenantKeyring):
    """Tenants' keys in `folder` (DATA/keys), wrapped under the root key in `root_path`.

    KEKs are read from disk at each use: once a file is destroyed, no call finds a key in a cache.

    Raises:
        NotFound: There is no root key.
        InvalidInput: The root key's file is not as it must be.
    """

    def __init__(self, root_path: Path, folder: Path) -> None:
        super().__init__()
        self._root = load_root(root_path)
        self._folder = folder
        make_folder(folder)

    def _path(self, tenant_id: str) -> Path:
        return self._folder / f"{tenant_id}.json"

    def _load(self, tenant_id: str) -> dict[int, bytearray]:
        try:
            text = self._path(tenant_id).read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise storage_error(error, f"the keys of tenant {tenant_id!r} cannot be read") from error
        # Zeros are a shredding that a power cut interrupted between overwriting and unlinking.
        if not text.strip(b"\x00"):
            return {}
        wrapped = _parse(text, tenant_id)
        return {
            version: unwrap(self._root, blob, Binding(tenant_id, "", version, Purpose.KEY_ENCRYPTION_KEY))
            for version, blob in wrapped.items()
        }

    def _save(self, tenant_id: str, keks: Mapping[int, bytearray]) -> None:
        wrapped = {
            str(version): wrap(self._root, kek, Binding(tenant_id, "", version, Purpose.KEY_ENCRYPTION_KEY)).hex()
            for version, kek in sorted(keks.items())
        }
        text = json.dumps({"format": _FORMAT, "tenant_id": tenant_id, "keks": wrapped}, indent=1) + "\n"
        try:
            replace_file(self._path(tenant_id), text.encode())
        except OSError as error:
            raise storage_error(error, f"the keys of tenant {tenant_id!r} cannot be written") from error

    def _destroy(self, tenant_id: str) -> None:
        try:
            destroy_file(self._path(tenant_id))
            # A rotation that a power cut interrupted leaves its temporary file.
            for left in self._folder.glob(f".{tenant_id}.json." + "[0-9a-f]" * 32):
                destroy_file(left)
        except OSError as error:
            raise storage_error(error, f"the keys of tenant {tenant_id!r} cannot be destroyed") from error


def _parse(text: bytes, tenant_id: str) -> dict[int, bytes]:
    try:
        document = json.loads(text)
        if document["format"] != _FORMAT or document["tenant_id"] != tenant_id:
            raise ValueError("format or tenant_id")
        return {int(version): bytes.fromhex(blob) for version, blob in document["keks"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataLoss(
            f"the key file of tenant {tenant_id!r} is damaged ({error}); restore it from a backup of keys/",
            fields={"tenant_id": tenant_id},
        ) from None


def _bad_root(path: Path, problem: str) -> InvalidInput:
    return InvalidInput(f"root_key {str(path)!r} {problem}", fields={"field": "root_key", "path": str(path)})
