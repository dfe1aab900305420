"""Who holds the tenants' keys: root key -> a tenant's versioned key-encryption keys (KEK) -> an artifact's data key.

Destroying a tenant's KEKs makes every wrapped data key of it, wherever a copy of it lies, worth nothing
(crypto-shredding: Boneh, Lipton, "A Revocable Backup System", USENIX Security 1996).
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from isolation.vault.durable import check_id
from isolation.vault.wrapping import fingerprint, kek_version_of, unwrap_data_key, wrap_data_key
from partywall.errors import AlreadyExists, DataLoss, InvalidInput, Reason
from partywall.sealed.keys import KEY_BYTES, wipe


@dataclass(frozen=True, slots=True)
class ShredReceipt:
    """What a shredding destroyed: the KEKs' fingerprints, oldest version first; empty when nothing was left."""

    tenant_id: str
    fingerprints: tuple[str, ...]


class KeyProvider(Protocol):
    """Makes, opens and destroys keys. Methods block (disk or network): call them in a thread; they are thread-safe."""

    def create_tenant(self, tenant_id: str) -> None:
        """First KEK of a tenant.

        Raises:
            AlreadyExists: It has one.
        """
        ...

    def new_data_key(self, tenant_id: str, artifact_id: str) -> tuple[bytearray, bytes]:
        """A fresh data key and its wrapped record (65 bytes); the caller wipes the first and stores the second.

        Raises:
            DataLoss: KEYS_DESTROYED, the tenant has no keys.
        """
        ...

    def unwrap(self, tenant_id: str, artifact_id: str, wrapped: bytes) -> bytearray:
        """The data key of a record; the caller wipes it.

        Raises:
            DataLoss: KEYS_DESTROYED when the tenant's keys are gone; SEAL_BROKEN when the record is not this
                artifact's or was damaged.
        """
        ...

    def rotate(self, tenant_id: str) -> int:
        """Adds a KEK version, which wraps from now on; returns it. Older ones still unwrap.

        Raises:
            DataLoss: KEYS_DESTROYED.
        """
        ...

    def rewrap(self, tenant_id: str, artifact_id: str, wrapped: bytes) -> bytes:
        """The same data key under the newest KEK version; the sealed files stay as they are.

        Raises:
            DataLoss: As `unwrap`.
        """
        ...

    def retire(self, tenant_id: str, oldest_kept: int) -> ShredReceipt:
        """Destroys the KEK versions below `oldest_kept`, once no record is wrapped under them.

        Raises:
            InvalidInput: `oldest_kept` is above the newest version.
            DataLoss: KEYS_DESTROYED.
        """
        ...

    def shred(self, tenant_id: str) -> ShredReceipt:
        """Destroys all keys of a tenant, durably, at once; may be called again."""
        ...


class TenantKeyring(ABC):
    """The part that every local provider shares: which KEK wraps what. Sides say where KEKs lie."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def create_tenant(self, tenant_id: str) -> None:
        check_id(tenant_id, "tenant_id")
        with self._lock:
            if self._load(tenant_id):
                raise AlreadyExists(
                    f"tenant {tenant_id!r} has keys already; use a new tenant id", fields={"tenant_id": tenant_id}
                )
            self._save_wiping(tenant_id, {1: bytearray(os.urandom(KEY_BYTES))})

    def new_data_key(self, tenant_id: str, artifact_id: str) -> tuple[bytearray, bytes]:
        check_id(artifact_id, "artifact_id")
        with self._lock:
            keks = self._existing(tenant_id)
        key = bytearray(os.urandom(KEY_BYTES))
        try:
            newest = max(keks)
            return key, wrap_data_key(keks[newest], key, tenant_id, artifact_id, newest)
        finally:
            _wipe_all(keks)

    def unwrap(self, tenant_id: str, artifact_id: str, wrapped: bytes) -> bytearray:
        check_id(artifact_id, "artifact_id")
        with self._lock:
            keks = self._existing(tenant_id)
        try:
            version = kek_version_of(wrapped)
            if version not in keks:
                raise self._destroyed(tenant_id, f"key version {version} of tenant {tenant_id!r} is")
            return unwrap_data_key(keks[version], wrapped, tenant_id, artifact_id)
        finally:
            _wipe_all(keks)

    def rotate(self, tenant_id: str) -> int:
        with self._lock:
            keks = self._existing(tenant_id)
            newest = max(keks) + 1
            self._save_wiping(tenant_id, {**keks, newest: bytearray(os.urandom(KEY_BYTES))})
            return newest

    def rewrap(self, tenant_id: str, artifact_id: str, wrapped: bytes) -> bytes:
        key = self.unwrap(tenant_id, artifact_id, wrapped)
        with self._lock:
            keks = self._existing(tenant_id)
        try:
            newest = max(keks)
            return wrap_data_key(keks[newest], key, tenant_id, artifact_id, newest)
        finally:
            wipe(key)
            _wipe_all(keks)

    def retire(self, tenant_id: str, oldest_kept: int) -> ShredReceipt:
        with self._lock:
            keks = self._existing(tenant_id)
            if oldest_kept > max(keks):
                _wipe_all(keks)
                raise InvalidInput(
                    f"oldest_kept {oldest_kept} is above the newest key version; rotate first",
                    fields={"field": "oldest_kept", "tenant_id": tenant_id},
                )
            gone = {v: k for v, k in keks.items() if v < oldest_kept}
            receipt = _receipt(tenant_id, gone)
            _wipe_all(gone)
            self._save_wiping(tenant_id, {v: k for v, k in keks.items() if v >= oldest_kept})
            return receipt

    def shred(self, tenant_id: str) -> ShredReceipt:
        check_id(tenant_id, "tenant_id")
        with self._lock:
            # A damaged file must not keep keys alive: fingerprints are told where they can be.
            try:
                keks = self._load(tenant_id)
            except DataLoss:
                keks = {}
            receipt = _receipt(tenant_id, keks)
            _wipe_all(keks)
            self._destroy(tenant_id)
            return receipt

    def _existing(self, tenant_id: str) -> dict[int, bytearray]:
        keks = self._load(check_id(tenant_id, "tenant_id"))
        if not keks:
            raise self._destroyed(tenant_id, f"the keys of tenant {tenant_id!r} are")
        return keks

    def _save_wiping(self, tenant_id: str, keks: Mapping[int, bytearray]) -> None:
        try:
            self._save(tenant_id, keks)
        finally:
            _wipe_all(keks)

    @staticmethod
    def _destroyed(tenant_id: str, subject: str) -> DataLoss:
        return DataLoss(
            f"{subject} destroyed or not in this key store: what was sealed under them cannot be opened again by "
            "anyone; push the model again under a living tenant",
            reason=Reason.KEYS_DESTROYED,
            fields={"tenant_id": tenant_id},
        )

    @abstractmethod
    def _load(self, tenant_id: str) -> dict[int, bytearray]:
        """Copies of a tenant's KEKs by version, to be wiped by the caller; empty: there are none."""

    @abstractmethod
    def _save(self, tenant_id: str, keks: Mapping[int, bytearray]) -> None:
        """Stores a tenant's KEKs in one durable step."""

    @abstractmethod
    def _destroy(self, tenant_id: str) -> None:
        """Destroys what is stored of a tenant; fine when there is nothing."""


class MemoryKeyProvider(TenantKeyring):
    """The simulated side: keys that live as long as the object."""

    def __init__(self) -> None:
        super().__init__()
        self._keks: dict[str, dict[int, bytearray]] = {}

    def _load(self, tenant_id: str) -> dict[int, bytearray]:
        return {version: bytearray(kek) for version, kek in self._keks.get(tenant_id, {}).items()}

    def _save(self, tenant_id: str, keks: Mapping[int, bytearray]) -> None:
        self._keks[tenant_id] = {version: bytearray(kek) for version, kek in keks.items()}

    def _destroy(self, tenant_id: str) -> None:
        _wipe_all(self._keks.pop(tenant_id, {}))


def _receipt(tenant_id: str, keks: Mapping[int, bytearray]) -> ShredReceipt:
    return ShredReceipt(tenant_id, tuple(fingerprint(keks[version]) for version in sorted(keks)))


def _wipe_all(keks: Mapping[int, bytearray]) -> None:
    for kek in keks.values():
        wipe(kek)
