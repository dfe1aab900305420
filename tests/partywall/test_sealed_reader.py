"""Sealing and opening: round trips, sources, and what stays in the caller's memory."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from sealed_support import CONTEXT, KEY, PLAIN, SEALED, open_all, seal

from partywall.errors import InvalidInput, NotFound, Reason, Unavailable
from partywall.sealed import (
    HEADER_BYTES,
    SEGMENT_BYTES,
    Context,
    FileSource,
    MemorySource,
    SealedReader,
    seal_stream,
    sealed_size,
)
from partywall.sealed.format import canonical
from partywall.sealed.keys import DataKey


class DribblingSource(MemorySource):
    """Gives fewer bytes than asked, as a network does."""

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        return super().pread_into(offset, buffer[:70_001])


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
@pytest.mark.parametrize("size", [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES + 77])
def test_round_trip(size: int, threads: int | None) -> None:
    plain = PLAIN[:size]
    sealed = seal(plain)
    assert len(sealed) == sealed_size(size)
    reader = SealedReader(MemorySource(sealed), KEY, CONTEXT)
    target = bytearray(b"\xaa" * (size + 3))
    assert reader.open_into(target, threads) == size
    assert bytes(target) == plain + b"\xaa" * 3


@examples(40)
@given(data=st.data(), size=st.integers(0, len(PLAIN)))
def test_random_access_equals_a_slice(data: st.DataObject, size: int) -> None:
    reader = SealedReader(MemorySource(seal(PLAIN[:size])), KEY, CONTEXT)
    offset = data.draw(st.integers(0, size + 10), label="offset")
    length = data.draw(st.integers(0, size + 10), label="length")
    target = bytearray(length)
    count = reader.read_into(offset, target)
    assert bytes(target[:count]) == PLAIN[:size][offset : offset + length]
    assert not any(target[count:])


@examples(25)
@given(plain=st.binary(max_size=300), key=st.binary(min_size=32, max_size=32), version=st.integers(1, 2**32 - 1))
def test_any_key_and_version_round_trip(plain: bytes, key: bytes, version: int) -> None:
    context = replace(CONTEXT, version=version)
    assert open_all(seal(plain, key, context), context=context, key=key) == plain


def test_two_seals_of_one_file_share_no_byte_pattern() -> None:
    again = seal(PLAIN)
    assert again != SEALED
    assert again[HEADER_BYTES : HEADER_BYTES + 64] != SEALED[HEADER_BYTES : HEADER_BYTES + 64]


def test_dribbling_source_is_read_to_the_end() -> None:
    target = bytearray(len(PLAIN))
    SealedReader(DribblingSource(SEALED), KEY, CONTEXT).open_into(target, 2)
    assert bytes(target) == PLAIN


def test_file_source(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(SEALED)
    target = bytearray(len(PLAIN))
    with FileSource(path) as source:
        digest = hashlib.sha256(SEALED[:HEADER_BYTES]).digest()
        SealedReader(source, KEY, CONTEXT, digest).open_into(target, 2)
    assert bytes(target) == PLAIN
    source.close()
    with pytest.raises(Unavailable) as closed:
        source.pread_into(0, memoryview(bytearray(1)))
    assert closed.value.reason is Reason.STORE_UNAVAILABLE
    with pytest.raises(NotFound, match="not there"):
        FileSource(tmp_path / "absent")


def test_wrong_arguments_name_the_field() -> None:
    reader = SealedReader(MemorySource(SEALED), KEY, CONTEXT)
    for call, field in (
        (lambda: reader.open_into(bytearray(10)), "buffer"),
        (lambda: reader.open_into(bytearray(len(PLAIN)), 0), "threads"),
        (lambda: reader.read_into(-1, bytearray(1)), "offset"),
        (lambda: reader.read_into(0, memoryview(b"read-only")), "buffer"),
        (lambda: SealedReader(MemorySource(SEALED), bytes(31), CONTEXT), "data_key"),
        (lambda: Context("", "m", 1, "f"), "tenant_id"),
        (lambda: Context("t", "m/../n", 1, "f"), "model"),
        (lambda: Context("t", "m", 0, "f"), "version"),
        (lambda: Context("t", "m", 1, "../f"), "file_name"),
        (lambda: sealed_size(-1), "plain_size"),
        (lambda: DataKey(b"short"), "data_key"),
        (lambda: list(seal_stream(io.BytesIO(b""), 0, KEY, CONTEXT, "no-uuid")), "key_record_id"),
    ):
        with pytest.raises(InvalidInput) as refused:
            call()
        assert refused.value.fields["field"] == field


def test_canonical_encoding_is_injective_where_joining_is_not() -> None:
    assert canonical(["ab", "c"]) != canonical(["a", "bc"])
    assert canonical(["a"]) != canonical(["a", ""])
    assert canonical(["é", 258]).hex() == "0000000200000002c3a9000000080000000000000102"


def test_data_key_is_wiped_and_hidden() -> None:
    with DataKey(KEY) as key:
        assert bytes(key.material) == KEY
        assert KEY.hex() not in repr(key)
        reader = SealedReader(MemorySource(SEALED), key.material, CONTEXT)
    assert not any(key.material)
    # The reader has what it needs; the caller's copy may go.
    part = bytearray(16)
    reader.read_into(0, part)
    assert bytes(part) == PLAIN[:16]
