"""Small sealed records: what belongs to an artifact and is stored beside it, whole in one message.

A record has a key of its own, HKDF-SHA256 (RFC 5869) of the artifact's data key under a random salt with the record's
purpose and context as `info`; AES-256-GCM authenticates the same context. So it opens under no other tenant, model,
version or purpose, and whoever destroys the data key has destroyed it.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from partywall.errors import DataLoss
from partywall.sealed.format import canonical
from partywall.sealed.keys import KEY_BYTES, Key, derive, wipe

_FORMAT: Final = 1
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEAD: Final = struct.Struct(f">B{_SALT_BYTES}s{_NONCE_BYTES}s")


def seal_record(key: Key, plain: bytes, *context: str) -> bytes:
    """u8 format, salt[16], nonce[12], ciphertext with its tag. `context`: purpose first, then whose it is.

    Raises:
        InvalidInput: The data key is not 32 bytes.
    """
    head = _HEAD.pack(_FORMAT, os.urandom(_SALT_BYTES), nonce := os.urandom(_NONCE_BYTES))
    info = _info(context)
    return head + _cipher(key, head[1 : 1 + _SALT_BYTES], info).encrypt(nonce, plain, info)


def open_record(key: Key, sealed: bytes, *context: str) -> bytes:
    """The inverse of `seal_record`.

    Raises:
        DataLoss: Damaged, of another format, or sealed under another key or context.
    """
    if len(sealed) < _HEAD.size + _TAG_BYTES or sealed[0] != _FORMAT:
        raise _broken(context)
    _, salt, nonce = _HEAD.unpack_from(sealed)
    info = _info(context)
    try:
        return _cipher(key, salt, info).decrypt(nonce, sealed[_HEAD.size :], info)
    except InvalidTag:
        raise _broken(context) from None


def _info(context: tuple[str, ...]) -> bytes:
    return canonical(["partywall/v1/record", *context])


def _cipher(key: Key, salt: bytes, info: bytes) -> AESGCM:
    derived = derive(key, salt, info, KEY_BYTES)
    try:
        return AESGCM(derived)
    finally:
        wipe(derived)


def _broken(context: tuple[str, ...]) -> DataLoss:
    return DataLoss(f"the sealed record {'/'.join(context)} does not authenticate; make it again")
