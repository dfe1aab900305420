"""Bytes of the sealed format v1: the clear header, the canonical encoding, sizes, nonces.

A sealed file is a fixed-width clear header followed by AES-256-GCM segments in the STREAM construction (Hoang,
Reyhanitabar, Rogaway, Vizár: "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015):
the nonce carries the segment's index and whether it is the last one, so segments cannot be swapped, dropped or
appended. `docs/sealed-format.md` is the exact description.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from partywall.domain.names import check_file_name, check_model_name
from partywall.errors import DataLoss, InvalidInput

MAGIC: Final = b"\x89PWSEAL\n"
FORMAT_VERSION: Final = 1
ALGORITHM_AES_256_GCM: Final = 1
SEGMENT_BYTES: Final = 1 << 20
TAG_BYTES: Final = 16
SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
HEADER_BYTES: Final = 128
MAX_SEGMENTS: Final = 1 << 32
MAX_PLAIN_BYTES: Final = MAX_SEGMENTS * SEGMENT_BYTES
MAX_VERSION: Final = (1 << 32) - 1
_MAX_TENANT_ID_BYTES: Final = 128
# magic, fmt, alg, header_len, segment_bytes, reserved, plain_size, salt, commitment, key_record_id, reserved
_HEADER: Final = struct.Struct(">8sHHIIIQ32s32s16s16s")
_RESERVED_TAIL: Final = bytes(16)


def canonical(fields: Sequence[str | int]) -> bytes:
    """An injective encoding: u32 number of fields, then per field u32 length and bytes.

    Text is UTF-8; an integer is 8 bytes, unsigned. All integers are big-endian.
    """
    encoded = [f.to_bytes(8, "big") if isinstance(f, int) else f.encode() for f in fields]
    return len(encoded).to_bytes(4, "big") + b"".join(len(e).to_bytes(4, "big") + e for e in encoded)


@dataclass(frozen=True, slots=True)
class Context:
    """What a sealed file belongs to. It is bound into the file's key, never stored in the file.

    Raises:
        InvalidInput: A field is malformed.
    """

    tenant_id: str
    model: str
    version: int
    file_name: str

    def __post_init__(self) -> None:
        if not self.tenant_id or len(self.tenant_id.encode()) > _MAX_TENANT_ID_BYTES:
            raise InvalidInput(
                f"tenant_id must be 1 to {_MAX_TENANT_ID_BYTES} bytes of UTF-8", fields={"field": "tenant_id"}
            )
        check_model_name(self.model)
        check_file_name(self.file_name, "file_name")
        if not 1 <= self.version <= MAX_VERSION:
            raise InvalidInput(f"version must be 1 to {MAX_VERSION}, got {self.version}", fields={"field": "version"})

    def encode(self, plain_size: int) -> bytes:
        """The context as HKDF sees it, with the sizes and the format that it is valid for."""
        return canonical(
            [
                self.tenant_id,
                self.model,
                self.version,
                self.file_name,
                plain_size,
                SEGMENT_BYTES,
                FORMAT_VERSION,
            ]
        )


@dataclass(frozen=True, slots=True)
class Header:
    """The clear header: 128 bytes, all of them authenticated by every segment."""

    plain_size: int
    salt: bytes
    commitment: bytes
    key_record_id: uuid.UUID

    def pack(self) -> bytes:
        return _HEADER.pack(
            MAGIC,
            FORMAT_VERSION,
            ALGORITHM_AES_256_GCM,
            HEADER_BYTES,
            SEGMENT_BYTES,
            0,
            self.plain_size,
            self.salt,
            self.commitment,
            self.key_record_id.bytes,
            _RESERVED_TAIL,
        )


def parse_header(data: bytes | bytearray | memoryview, file_name: str) -> Header:
    """Reads a header; anything that format 1 does not define is refused.

    Args:
        data: The first bytes of the file; fewer than 128 is a truncated header, more are ignored.
        file_name: For the message.

    Raises:
        DataLoss: Not a sealed file, an unknown format, or a damaged header.
    """
    if len(data) < HEADER_BYTES:
        raise _damaged(file_name, f"its header has {len(data)} of {HEADER_BYTES} bytes")
    magic, fmt, alg, header_len, segment_bytes, reserved, plain_size, salt, commitment, record, tail = (
        _HEADER.unpack_from(data)
    )
    known = (
        (magic == MAGIC, "it does not start as a sealed file does"),
        (fmt == FORMAT_VERSION, f"its format is {fmt}, this reader knows {FORMAT_VERSION}"),
        (alg == ALGORITHM_AES_256_GCM, f"its algorithm is {alg}, format 1 has {ALGORITHM_AES_256_GCM}"),
        (header_len == HEADER_BYTES, f"its header length is {header_len}, not {HEADER_BYTES}"),
        (segment_bytes == SEGMENT_BYTES, f"its segment size is {segment_bytes}, not {SEGMENT_BYTES}"),
        (reserved == 0 and tail == _RESERVED_TAIL, "its reserved bytes are not zero"),
        (plain_size <= MAX_PLAIN_BYTES, f"its plain size {plain_size} is above {MAX_PLAIN_BYTES}"),
    )
    for holds, problem in known:
        if not holds:
            raise _damaged(file_name, problem)
    return Header(plain_size, salt, commitment, uuid.UUID(bytes=record))


def _damaged(file_name: str, problem: str) -> DataLoss:
    return DataLoss(
        f"file {file_name!r} cannot be opened: {problem}; push the version again",
        fields={"file": file_name, "segment": "header"},
    )


def header_aad(header: bytes) -> bytes:
    """Associated data of every segment: SHA-256 of the packed header."""
    return hashlib.sha256(header).digest()


def segment_count(plain_size: int) -> int:
    """Number of segments; an empty file has one, empty and final."""
    return max(1, -(-plain_size // SEGMENT_BYTES))


def segment_plain_bytes(index: int, plain_size: int) -> int:
    """Plaintext bytes in segment `index`."""
    return min(SEGMENT_BYTES, plain_size - index * SEGMENT_BYTES)


def segment_offset(index: int) -> int:
    """Where segment `index` starts in the sealed file."""
    return HEADER_BYTES + index * (SEGMENT_BYTES + TAG_BYTES)


def segment_nonce(index: int, last: bool) -> bytes:
    """Three zero bytes, the index as u64, one byte that is 1 for the last segment."""
    return b"\x00\x00\x00" + index.to_bytes(8, "big") + (b"\x01" if last else b"\x00")


def sealed_size(plain_size: int) -> int:
    """Bytes of the sealed file for `plain_size` bytes of plaintext.

    Raises:
        InvalidInput: The size is negative or above what the format holds.
    """
    if not 0 <= plain_size <= MAX_PLAIN_BYTES:
        raise InvalidInput(
            f"plain_size must be 0 to {MAX_PLAIN_BYTES} bytes, got {plain_size}", fields={"field": "plain_size"}
        )
    return HEADER_BYTES + plain_size + segment_count(plain_size) * TAG_BYTES


def parse_key_record_id(value: str) -> uuid.UUID:
    """The id of the stored wrapped key, which must be a UUID.

    Raises:
        InvalidInput: It is not one.
    """
    try:
        return uuid.UUID(value)
    except ValueError:
        raise InvalidInput(f"key_record_id {value!r} is not a UUID", fields={"field": "key_record_id"}) from None
