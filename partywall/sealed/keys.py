"""Keys of one sealed file, derived from the artifact's data key.

The file key is HKDF-SHA256 (RFC 5869) of the data key under a random salt, with the file's context as `info`: a file
relabelled as another tenant's, model's, version's or name's has another key and opens nowhere. AES-GCM by itself does
not commit to its key (Dodis, Grubbs, Ristenpart, Woodage, CRYPTO 2018; Len, Grubbs, Ristenpart, USENIX Security 2021),
so a second HKDF output stands in the header and is compared before anything is decrypted.
"""

from __future__ import annotations

import hmac
from types import TracebackType
from typing import Final, Self, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from partywall.errors import DataLoss, InvalidInput
from partywall.sealed.format import COMMITMENT_BYTES, Context

KEY_BYTES: Final = 32
SEGMENT_INFO: Final = b"partywall/v1/seg|"
COMMITMENT_INFO: Final = b"partywall/v1/commit|"

Key: TypeAlias = bytes | bytearray | memoryview


def wipe(buffer: bytearray | memoryview) -> None:
    """Overwrites a buffer with zeros, in place."""
    view = memoryview(buffer).cast("B")
    view[:] = bytes(len(view))


class DataKey:
    """Holds a data key in memory of its own and overwrites it at the end of a `with` block.

    What this cannot reach: copies that others made (the protobuf field it came in, the cipher's key schedule). Only
    the end of the process clears those; see docs/security.md.
    """

    __slots__ = ("_material",)

    def __init__(self, material: Key) -> None:
        if len(material) != KEY_BYTES:
            raise InvalidInput(
                f"data_key must have {KEY_BYTES} bytes, got {len(material)}", fields={"field": "data_key"}
            )
        self._material = bytearray(material)

    @property
    def material(self) -> bytearray:
        """The key itself; zeros once wiped."""
        return self._material

    def wipe(self) -> None:
        """Overwrites the key; may be called again."""
        wipe(self._material)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return "DataKey(hidden)"


def commitment(key: Key, salt: bytes, context: Context, plain_size: int) -> bytes:
    """What the header holds to commit to key and context: 32 bytes.

    Raises:
        InvalidInput: The data key is not 32 bytes.
    """
    return bytes(derive(key, salt, COMMITMENT_INFO + context.encode(plain_size), COMMITMENT_BYTES))


def check_commitment(found: bytes, key: Key, salt: bytes, context: Context, plain_size: int) -> None:
    """Compares in constant time.

    Raises:
        DataLoss: Another key, or a file of another tenant, model, version, name or size.
    """
    if not hmac.compare_digest(found, commitment(key, salt, context, plain_size)):
        raise DataLoss(
            f"file {context.file_name!r} was not sealed for model {context.model!r} version {context.version} "
            "with this key; push the version again",
            fields={"file": context.file_name, "segment": "header"},
        )


def segment_cipher(key: Key, salt: bytes, context: Context, plain_size: int) -> AESGCM:
    """The cipher of one file's segments; the derived key is wiped as soon as the cipher holds it."""
    derived = derive(key, salt, SEGMENT_INFO + context.encode(plain_size), KEY_BYTES)
    try:
        return AESGCM(derived)
    finally:
        wipe(derived)


def derive(key: Key, salt: bytes, info: bytes, length: int) -> bytearray:
    """HKDF-SHA256 of a data key; the caller wipes the result.

    Raises:
        InvalidInput: The data key is not 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise InvalidInput(f"data_key must have {KEY_BYTES} bytes, got {len(key)}", fields={"field": "data_key"})
    out = bytearray(length)
    HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive_into(key, out)
    return out
