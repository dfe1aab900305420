"""Makes sealed_vectors.json from docs/sealed-format.md alone: an implementation of its own, plain and slow.

Run: python tests/partywall/make_sealed_vectors.py (writes beside this file)
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VECTORS = Path(__file__).with_name("sealed_vectors.json")
SEGMENT = 1048576
# Sealed bytes are written out in full up to this plain size, as digests above it.
FULL_BYTES = 64

CASES: tuple[tuple[str, str, str, int, str, int], ...] = (
    ("empty file", "6f9d3f0e-0c1b-4a57-9d0c-1f6a2f3b4c5d", "digits", 1, "manifest.json", 0),
    ("one byte", "6f9d3f0e-0c1b-4a57-9d0c-1f6a2f3b4c5d", "digits", 1, "config.json", 1),
    ("a few bytes", "acme", "MiniLM-L6.v2", 4294967295, "vocab.txt", 61),
    ("one byte below a segment", "acme", "digits", 2, "model.safetensors", SEGMENT - 1),
    ("exactly one segment", "acme", "digits", 2, "model.safetensors", SEGMENT),
    ("one byte above a segment", "acme", "digits", 2, "model.safetensors", SEGMENT + 1),
    ("three segments", "globex", "digits", 7, "model.safetensors", 2 * SEGMENT + 4711),
)


def plaintext(size: int) -> bytes:
    """Byte j is (j * 31 + j // 256) mod 256."""
    return bytes((j * 31 + (j >> 8)) & 0xFF for j in range(size))


def canonical(fields: list[str | int]) -> bytes:
    out = len(fields).to_bytes(4, "big")
    for field in fields:
        data = field.encode("utf-8") if isinstance(field, str) else field.to_bytes(8, "big")
        out += len(data).to_bytes(4, "big") + data
    return out


def hkdf_sha256_32(key: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block of output."""
    extracted = hmac.new(salt, key, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def seal(plain: bytes, key: bytes, salt: bytes, record_id: bytes, context: list[str | int]) -> bytes:
    bound = canonical([*context, len(plain), SEGMENT, 1])
    header = b"\x89PWSEAL\n" + bytes.fromhex("00010001000000800010000000000000")
    header += len(plain).to_bytes(8, "big") + salt
    header += hkdf_sha256_32(key, salt, b"partywall/v1/commit|" + bound) + record_id + bytes(16)
    cipher = AESGCM(hkdf_sha256_32(key, salt, b"partywall/v1/seg|" + bound))
    aad = hashlib.sha256(header).digest()
    starts = list(range(0, len(plain), SEGMENT)) or [0]
    out = header
    for index, start in enumerate(starts):
        nonce = bytes(3) + index.to_bytes(8, "big") + bytes([index == len(starts) - 1])
        out += cipher.encrypt(nonce, plain[start : start + SEGMENT], aad)
    return out


def make() -> dict[str, Any]:
    return {
        "format": "docs/sealed-format.md, version 1",
        "plaintext": "byte j is (j * 31 + j // 256) mod 256",
        "vectors": [_vector(number, case) for number, case in enumerate(CASES)],
    }


def _vector(number: int, case: tuple[str, str, str, int, str, int]) -> dict[str, Any]:
    name, tenant_id, model, version, file_name, size = case
    key = hashlib.sha256(f"partywall test vector key {number}".encode()).digest()
    salt = hashlib.sha256(f"partywall test vector salt {number}".encode()).digest()
    record_id = hashlib.sha256(f"partywall test vector record {number}".encode()).digest()[:16]
    sealed = seal(plaintext(size), key, salt, record_id, [tenant_id, model, version, file_name])
    return {
        "name": name,
        "data_key": key.hex(),
        "salt": salt.hex(),
        "key_record_id": record_id.hex(),
        "tenant_id": tenant_id,
        "model": model,
        "version": version,
        "file_name": file_name,
        "plain_size": size,
        "header": sealed[:128].hex(),
        "header_sha256": hashlib.sha256(sealed[:128]).hexdigest(),
        "sealed_size": len(sealed),
        "sealed_sha256": hashlib.sha256(sealed).hexdigest(),
        "sealed": sealed.hex() if size <= FULL_BYTES else None,
        "last_tag": sealed[-16:].hex(),
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(make(), indent=1) + "\n")
