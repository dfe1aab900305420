"""Attacks on a sealed file: another context or key, changed, moved, cut. None opens, and nothing of it is given out."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from sealed_support import CONTEXT, KEY, PLAIN, SEALED, open_all, seal

from partywall.errors import DataLoss, Reason
from partywall.sealed import HEADER_BYTES, SEGMENT_BYTES, Context, MemorySource, SealedReader, parse_header
from partywall.sealed.format import TAG_BYTES, segment_offset
from partywall.sealed.keys import segment_cipher

SEALED_SEGMENT = SEGMENT_BYTES + TAG_BYTES


class StoppingSource(MemorySource):
    """Says it has all bytes and ends earlier, as a file that is cut while it is read."""

    def __init__(self, data: bytes, ends_at: int) -> None:
        super().__init__(data)
        self.ends_at = ends_at

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        return super().pread_into(offset, buffer[: max(0, self.ends_at - offset)])


# Who opens, with what: each is another key or another binding, and none opens.
@pytest.mark.parametrize(
    "context",
    [
        replace(CONTEXT, tenant_id="tenant-b"),
        replace(CONTEXT, model="digits2"),
        replace(CONTEXT, version=4),
        replace(CONTEXT, file_name="config.json"),
    ],
    ids=["tenant", "model", "version", "file"],
)
def test_relabelled_file_opens_nowhere(context: Context) -> None:
    with pytest.raises(DataLoss, match="was not sealed for") as refused:
        open_all(SEALED, context=context)
    assert refused.value.reason is Reason.SEAL_BROKEN
    # The binding is in the segments' key too, not only in the commitment.
    header = parse_header(SEALED, "x")
    encrypt = [
        segment_cipher(KEY, header.salt, c, header.plain_size).encrypt(bytes(12), bytes(32), None)
        for c in (CONTEXT, context)
    ]
    assert encrypt[0] != encrypt[1]


def test_other_key_opens_nothing() -> None:
    with pytest.raises(DataLoss, match="with this key"):
        open_all(SEALED, key=bytes(32))


def test_same_version_uploaded_twice_is_told_apart_by_the_header_hash() -> None:
    with pytest.raises(DataLoss, match="not the file that was committed"):
        SealedReader(MemorySource(seal(PLAIN)), KEY, CONTEXT, hashlib.sha256(SEALED[:HEADER_BYTES]).digest())


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def swap_segments(data: bytes) -> bytes:
    one, two = segment_offset(0), segment_offset(1)
    return data[:one] + data[two : two + SEALED_SEGMENT] + data[one:two] + data[two + SEALED_SEGMENT :]


def with_plain_size(data: bytes, plain_size: int) -> bytes:
    return data[:24] + struct.pack(">Q", plain_size) + data[32:]


def cut_with_smaller_claim(data: bytes) -> bytes:
    return with_plain_size(data[: segment_offset(2)], 2 * SEGMENT_BYTES)


def cut_with_smaller_claim_and_own_commitment(data: bytes) -> bytes:
    """What somebody who holds the data key could do: the last flag and the header's hash still refuse it."""
    from partywall.sealed.keys import commitment

    cut = cut_with_smaller_claim(data)
    return cut[:64] + commitment(KEY, data[32:64], CONTEXT, 2 * SEGMENT_BYTES) + cut[96:]


ATTACKS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "magic": (flip(0), "does not start as a sealed file"),
    "format": (flip(9), "its format is"),
    "algorithm": (flip(11), "its algorithm is"),
    "header length": (flip(15), "its header length is"),
    "segment size": (flip(19), "its segment size is"),
    "reserved": (flip(23), "reserved bytes"),
    "plain size": (flip(31), "its header says"),
    "huge plain size": (flip(24), "plain size"),
    "salt": (flip(40), "was not sealed for"),
    "commitment": (flip(70), "was not sealed for"),
    "key record": (flip(100), "segment 0 of 3"),
    "reserved tail": (flip(127), "reserved bytes"),
    "first byte of a segment": (flip(segment_offset(1)), "segment 1 of 3"),
    "middle of a segment": (flip(segment_offset(1) + 5000), "segment 1 of 3"),
    "tag": (flip(segment_offset(2) - 1), "segment 1 of 3"),
    "last byte": (lambda d: flip(len(d) - 1)(d), "segment 2 of 3"),
    "segments swapped": (swap_segments, "segment 0 of 3"),
    "last segment cut": (lambda d: d[: segment_offset(2)], "its header says"),
    "one byte cut": (lambda d: d[:-1], "its header says"),
    "header cut": (lambda d: d[:100], "100 of 128"),
    "nothing left": (lambda d: b"", "0 of 128"),
    "one byte more": (lambda d: d + b"\0", "its header says"),
    "cut, smaller claim": (cut_with_smaller_claim, "was not sealed for"),
    "cut, smaller claim, key known": (cut_with_smaller_claim_and_own_commitment, "segment 0 of 2"),
    "plaintext in its place": (lambda d: PLAIN, "does not start as a sealed file"),
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused(name: str, threads: int) -> None:
    attack, words = ATTACKS[name]
    with pytest.raises(DataLoss, match=words) as refused:
        open_all(attack(SEALED), threads)
    assert refused.value.reason is Reason.SEAL_BROKEN
    assert refused.value.fields["file"] == "model.safetensors"
    assert refused.value.fields["segment"] in {"header", "0", "1", "2"}


@examples(60)
@given(at=st.integers(0, len(SEALED) - 1), bit=st.integers(0, 7))
def test_no_single_bit_can_change(at: int, bit: int) -> None:
    changed = bytearray(SEALED)
    changed[at] ^= 1 << bit
    with pytest.raises(DataLoss):
        open_all(bytes(changed))


@pytest.mark.parametrize("threads", [1, 2])
def test_failed_segment_leaves_only_zeros(threads: int) -> None:
    broken = flip(segment_offset(1) + 9)(SEALED)
    reader = SealedReader(MemorySource(broken), KEY, CONTEXT)
    target = bytearray(b"\xff" * len(PLAIN))
    with pytest.raises(DataLoss, match="segment 1"):
        reader.open_into(target, threads)
    assert target[SEGMENT_BYTES : 2 * SEGMENT_BYTES] == bytes(SEGMENT_BYTES)
    part = bytearray(b"\xff" * 100)
    with pytest.raises(DataLoss):
        reader.read_into(SEGMENT_BYTES + 50, part)
    assert part == b"\xff" * 100
    assert reader.read_into(50, part) == 100
    assert bytes(part) == PLAIN[50:150]


def test_file_cut_while_it_is_read() -> None:
    reader = SealedReader(StoppingSource(SEALED, segment_offset(1) + 10), KEY, CONTEXT)
    with pytest.raises(DataLoss, match=f"ends at byte {segment_offset(1) + 10}") as refused:
        reader.open_into(bytearray(len(PLAIN)))
    assert refused.value.fields["segment"] == "1"
