"""The sealing side: sources that lie, and uploads that go on after a break."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from pathlib import Path

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from partywall.errors import ArtifactRefused, InvalidInput, NotReady, Reason
from partywall.sealed import HEADER_BYTES, SEGMENT_BYTES, Context, MemorySource, SealedReader, Sealer
from partywall.sealed.format import segment_offset

KEY = bytes(range(32))
CONTEXT = Context("tenant-a", "digits", 3, "model.safetensors")
RECORD = str(uuid.UUID(int=7))
PLAIN = os.urandom(2 * SEGMENT_BYTES + 1000)


def sealer_for(size: int = len(PLAIN)) -> Sealer:
    return Sealer(size, KEY, CONTEXT, RECORD)


def take(sealer: Sealer, source: io.IOBase, offset: int, at_most: int) -> bytes:
    """Sealed bytes from `offset` until `at_most` are there, as a connection that breaks takes them."""
    taken = b""
    stream = sealer.stream(source, offset)  # type: ignore[arg-type]
    for view in stream:
        taken += bytes(view)
        if len(taken) >= at_most:
            break
    return taken[:at_most]


@pytest.mark.parametrize(
    ("size", "wrong", "words"),
    [(0, 1, "has more than the declared")]
    + [
        (size, wrong, words)
        for size in (1, SEGMENT_BYTES, len(PLAIN))
        for wrong, words in ((-1, "ends after"), (1, "has more than the declared"))
    ],
)
def test_source_of_another_size_never_completes(size: int, wrong: int, words: str) -> None:
    sealer = sealer_for(size)
    released: list[int] = []
    sealing = sealer.stream(io.BytesIO((PLAIN + b"x")[: size + wrong]))
    with pytest.raises(InvalidInput, match=words) as refused:
        released.extend(map(len, sealing))
    assert sum(released) < sealer.sealed_size
    assert refused.value.fields["field"] == "plain_size"
    with pytest.raises(NotReady) as unfinished:
        sealer.sealed_file()
    assert unfinished.value.reason is Reason.WRONG_STATE


def test_digests_are_those_of_the_bytes() -> None:
    sealer = sealer_for()
    sealed = b"".join(bytes(view) for view in sealer.stream(io.BytesIO(PLAIN)))
    file = sealer.sealed_file()
    assert file.name == CONTEXT.file_name
    assert (file.plain_size, file.sealed_size) == (len(PLAIN), len(sealed))
    assert file.sealed_sha256 == hashlib.sha256(sealed).digest()
    assert file.header_sha256 == hashlib.sha256(sealed[:HEADER_BYTES]).digest()


@examples(30)
@given(breaks=st.lists(st.integers(0, segment_offset(3)), max_size=4))
def test_going_on_at_any_offset_gives_one_valid_file(breaks: list[int]) -> None:
    sealer = sealer_for()
    source = io.BytesIO(PLAIN)
    arrived = b""
    for at_most in breaks:
        arrived += take(sealer, source, len(arrived), at_most)
    arrived += b"".join(bytes(view) for view in sealer.stream(source, len(arrived)))
    assert hashlib.sha256(arrived).digest() == sealer.sealed_file().sealed_sha256
    target = bytearray(len(PLAIN))
    SealedReader(MemorySource(arrived), KEY, CONTEXT).open_into(target)
    assert bytes(target) == PLAIN


def test_offset_that_was_never_reached_is_refused() -> None:
    sealer = sealer_for()
    take(sealer, io.BytesIO(PLAIN), 0, HEADER_BYTES + 1)
    for offset in (-1, segment_offset(1) + 1):
        with pytest.raises(InvalidInput, match="begin a new upload") as refused:
            next(sealer.stream(io.BytesIO(PLAIN), offset))
        assert refused.value.fields["reached"] == str(segment_offset(1))


def test_other_plaintext_under_a_used_nonce_never_leaves() -> None:
    sealer = sealer_for()
    take(sealer, io.BytesIO(PLAIN), 0, segment_offset(2))
    changed = bytearray(PLAIN)
    changed[SEGMENT_BYTES + 5] ^= 1
    stream = sealer.stream(io.BytesIO(bytes(changed)), segment_offset(0))
    assert len(next(stream)) == SEGMENT_BYTES + 16
    with pytest.raises(ArtifactRefused, match="changed while it was being pushed"):
        next(stream)


def test_file_that_was_touched_between_two_tries_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(PLAIN)
    sealer = sealer_for()
    with path.open("rb", buffering=0) as source:
        take(sealer, source, 0, segment_offset(1))
    os.utime(path, ns=(1, 1))
    with path.open("rb", buffering=0) as source, pytest.raises(ArtifactRefused, match="push again from the start"):
        next(sealer.stream(source, segment_offset(1)))


def test_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(PLAIN)
    sealer = sealer_for()
    with path.open("rb", buffering=0) as source:
        stream = sealer.stream(source)
        next(stream)
        os.utime(path, ns=(1, 1))
        with pytest.raises(ArtifactRefused):
            list(stream)


def test_buffers_are_reused() -> None:
    views = [view.obj for view in sealer_for().stream(io.BytesIO(PLAIN))]
    assert views[1] is views[2] is views[3]
