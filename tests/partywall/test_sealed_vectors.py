"""The committed vectors, both ways: the code writes these bytes and reads them."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from typing import Any

import make_sealed_vectors as maker
import pytest

from partywall.sealed import Context, MemorySource, SealedReader, Sealer

VECTORS: list[dict[str, Any]] = json.loads(maker.VECTORS.read_text())["vectors"]
by_name = pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])


def context_of(vector: dict[str, Any]) -> Context:
    return Context(vector["tenant_id"], vector["model"], vector["version"], vector["file_name"])


def seal_with_salt(vector: dict[str, Any]) -> tuple[bytes, Sealer]:
    """The private entry: a salt is never chosen by a caller."""
    sealer = Sealer.__new__(Sealer)
    sealer._start(
        vector["plain_size"],
        bytes.fromhex(vector["data_key"]),
        context_of(vector),
        str(uuid.UUID(hex=vector["key_record_id"])),
        bytes.fromhex(vector["salt"]),
    )
    source = io.BytesIO(maker.plaintext(vector["plain_size"]))
    return b"".join(bytes(view) for view in sealer.stream(source)), sealer


def test_committed_vectors_are_what_the_script_makes() -> None:
    assert json.loads(maker.VECTORS.read_text()) == maker.make()


@by_name
def test_sealing_gives_the_vector(vector: dict[str, Any]) -> None:
    sealed, sealer = seal_with_salt(vector)
    file = sealer.sealed_file()
    assert sealed[:128].hex() == vector["header"]
    assert len(sealed) == vector["sealed_size"] == file.sealed_size
    assert hashlib.sha256(sealed).hexdigest() == vector["sealed_sha256"] == file.sealed_sha256.hex()
    assert file.header_sha256.hex() == vector["header_sha256"]
    assert sealed[-16:].hex() == vector["last_tag"]
    assert vector["sealed"] in (None, sealed.hex())


@by_name
def test_reading_gives_the_plaintext(vector: dict[str, Any]) -> None:
    plain = maker.plaintext(vector["plain_size"])
    key = bytes.fromhex(vector["data_key"])
    record = bytes.fromhex(vector["key_record_id"])
    made = maker.seal(
        plain,
        key,
        bytes.fromhex(vector["salt"]),
        record,
        [vector["tenant_id"], vector["model"], vector["version"], vector["file_name"]],
    )
    reader = SealedReader(MemorySource(made), key, context_of(vector), bytes.fromhex(vector["header_sha256"]))
    target = bytearray(vector["plain_size"])
    assert reader.open_into(target) == vector["plain_size"]
    assert bytes(target) == plain
    assert reader.header.key_record_id == uuid.UUID(bytes=record)
