"""Keys under keys: data keys under a tenant's key-encryption key (KEK), KEKs under the root key.

Every wrap is AES-256-GCM with a random nonce; its associated data says whose key it is, for which artifact, under
which KEK version and for which purpose, so that a wrapped key moved to another row opens nothing.
"""

from __future__ import annotations

import enum
import hashlib
import os
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from partywall.errors import DataLoss
from partywall.sealed.format import canonical
from partywall.sealed.keys import KEY_BYTES, Key, wipe

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_WRAP_FORMAT: Final = 1
_WRAPPED_DEK: Final = struct.Struct(f">BI{_NONCE_BYTES}s{KEY_BYTES + _TAG_BYTES}s")


class Purpose(enum.StrEnum):
    KEY_ENCRYPTION_KEY = "kek"
    DATA_KEY = "dek"


@dataclass(frozen=True, slots=True)
class Binding:
    """What a wrapped key is for. `artifact_id` is empty for a KEK."""

    tenant_id: str
    artifact_id: str
    kek_version: int
    purpose: Purpose

    def encode(self) -> bytes:
        return canonical(["partywall/v1/wrap", self.tenant_id, self.artifact_id, self.kek_version, self.purpose.value])


def wrap(wrapping_key: Key, key: Key, binding: Binding) -> bytes:
    """nonce[12] || ciphertext[32] || tag[16]."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(wrapping_key).encrypt(nonce, key, binding.encode())


def unwrap(wrapping_key: Key, wrapped: bytes, binding: Binding) -> bytearray:
    """The key, in memory that the caller can wipe.

    Raises:
        DataLoss: It was wrapped for something else, under another key, or was damaged.
    """
    key = bytearray(KEY_BYTES)
    try:
        if len(wrapped) != _NONCE_BYTES + KEY_BYTES + _TAG_BYTES:
            raise InvalidTag
        AESGCM(wrapping_key).decrypt_into(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], binding.encode(), key)
    except InvalidTag:
        wipe(key)
        raise DataLoss(
            f"the wrapped {binding.purpose.value} of tenant {binding.tenant_id!r} does not authenticate; restore it "
            "from a backup of the same root key and the same tenant",
            fields={"tenant_id": binding.tenant_id, "artifact_id": binding.artifact_id},
        ) from None
    return key


def wrap_data_key(kek: Key, key: Key, tenant_id: str, artifact_id: str, kek_version: int) -> bytes:
    """The record of a data key: u8 format, u32 KEK version, nonce[12], ciphertext[32], tag[16]."""
    body = wrap(kek, key, Binding(tenant_id, artifact_id, kek_version, Purpose.DATA_KEY))
    return _WRAPPED_DEK.pack(_WRAP_FORMAT, kek_version, body[:_NONCE_BYTES], body[_NONCE_BYTES:])


def unwrap_data_key(kek: Key, wrapped: bytes, tenant_id: str, artifact_id: str) -> bytearray:
    """The data key of a record.

    Raises:
        DataLoss: The record is damaged, or another tenant's or artifact's.
    """
    version = kek_version_of(wrapped)
    body = wrapped[_WRAPPED_DEK.size - _NONCE_BYTES - KEY_BYTES - _TAG_BYTES :]
    return unwrap(kek, body, Binding(tenant_id, artifact_id, version, Purpose.DATA_KEY))


def kek_version_of(wrapped: bytes) -> int:
    """Which version of the tenant's KEK wraps a data key.

    Raises:
        DataLoss: Not a wrapped data key.
    """
    if len(wrapped) != _WRAPPED_DEK.size or wrapped[0] != _WRAP_FORMAT:
        raise DataLoss("the record of a wrapped data key is damaged; restore the state database")
    version: int = _WRAPPED_DEK.unpack(wrapped)[1]
    return version


def fingerprint(key: Key) -> str:
    """Names a key in the audit log without telling it: 16 hex digits of a SHA-256 over a label and the key."""
    return hashlib.sha256(b"partywall/v1/fingerprint|" + bytes(key)).hexdigest()[:16]
