"""Blob stores: one contract for every side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from blob_support import ARTIFACT, CONFIG, CONFIG_DATA, FILES, UPLOAD, WEIGHTS, WEIGHTS_DATA, upload

from isolation.vault.blobs import BlobStore
from isolation.vault.local_blobs import LocalBlobStore
from isolation.vault.memory_blobs import MemoryBlobStore
from partywall.clock import VirtualClock
from partywall.domain.models import SealedFile
from partywall.errors import AlreadyExists, ArtifactRefused, Conflict, InvalidInput, NotFound
from partywall.sealed import HEADER_BYTES


@dataclass(frozen=True, slots=True)
class Side:
    store: BlobStore
    clock: VirtualClock


SIDES: dict[str, Callable[[Path, VirtualClock], BlobStore]] = {
    "local": lambda root, clock: LocalBlobStore(root, clock),
    "memory": lambda _, clock: MemoryBlobStore(clock=clock),
}


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Side:
    clock = VirtualClock()
    return Side(SIDES[request.param](tmp_path, clock), clock)


async def test_upload_becomes_an_artifact(side: Side) -> None:
    await upload(side.store)
    assert await side.store.received(UPLOAD, WEIGHTS.name) == WEIGHTS.sealed_size
    with pytest.raises(NotFound):
        await side.store.read(ARTIFACT, WEIGHTS.name, 0, 1)
    await side.store.commit(UPLOAD, ARTIFACT, FILES)
    assert await side.store.read(ARTIFACT, WEIGHTS.name, 0, 1 << 20) == WEIGHTS_DATA
    assert await side.store.read(ARTIFACT, WEIGHTS.name, 100, 7) == WEIGHTS_DATA[100:107]
    assert await side.store.read(ARTIFACT, WEIGHTS.name, len(WEIGHTS_DATA) + 5, 7) == b""
    assert await side.store.read(ARTIFACT, CONFIG.name, 0, 1 << 20) == CONFIG_DATA
    assert await side.store.received(UPLOAD, WEIGHTS.name) == 0
    with pytest.raises(NotFound, match="has no file"):
        await side.store.read(ARTIFACT, "other.json", 0, 1)


async def test_commit_whose_answer_was_lost_may_come_again(side: Side) -> None:
    await upload(side.store)
    for _ in range(2):
        await side.store.commit(UPLOAD, ARTIFACT, FILES)
    with pytest.raises(AlreadyExists):
        await side.store.commit(UPLOAD, ARTIFACT, FILES[:1])
    await upload(side.store, "upload-2")
    with pytest.raises(AlreadyExists, match="begin a new version"):
        await side.store.commit("upload-2", ARTIFACT, FILES)
    assert await side.store.read(ARTIFACT, WEIGHTS.name, 0, 1 << 20) == WEIGHTS_DATA


async def test_append_goes_on_only_where_the_file_ends(side: Side) -> None:
    await side.store.append(UPLOAD, WEIGHTS.name, 0, WEIGHTS_DATA[:1000])
    for offset in (0, 999, 1001):
        with pytest.raises(Conflict, match="go on at 1000") as refused:
            await side.store.append(UPLOAD, WEIGHTS.name, offset, b"x")
        assert refused.value.fields["received"] == "1000"
    assert await side.store.received(UPLOAD, WEIGHTS.name) == 1000


async def test_of_two_appends_at_one_offset_one_wins(side: Side) -> None:
    tries = await asyncio.gather(
        *(side.store.append(UPLOAD, WEIGHTS.name, 0, bytes([n]) * 1000) for n in range(4)), return_exceptions=True
    )
    assert sorted(t if isinstance(t, int) else -1 for t in tries) == [-1, -1, -1, 1000]
    assert all(isinstance(t, Conflict) for t in tries if not isinstance(t, int))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


ARRIVALS: dict[str, tuple[bytes, SealedFile, str]] = {
    "nothing": (b"", WEIGHTS, "has 0 bytes"),
    "cut off": (WEIGHTS_DATA[:-1], WEIGHTS, "has 50143 bytes, 50144 were declared; go on"),
    "too long": (WEIGHTS_DATA + b"x", WEIGHTS, "has 50145 bytes"),
    "not sealed": (bytes(len(WEIGHTS_DATA)), WEIGHTS, "is not a sealed file"),
    "a changed bit": (flipped(WEIGHTS_DATA, 9000), WEIGHTS, "sealed_sha256"),
    "a changed header": (flipped(WEIGHTS_DATA, 40), WEIGHTS, "header_sha256"),
    "another plain size": (
        WEIGHTS_DATA[: HEADER_BYTES - 97] + b"\x01" + WEIGHTS_DATA[HEADER_BYTES - 96 :],
        WEIGHTS,
        "plain bytes",
    ),
    "a lying sealed size": (WEIGHTS_DATA, replace(WEIGHTS, sealed_size=1), "were declared"),
    "a lying plain size": (WEIGHTS_DATA, replace(WEIGHTS, plain_size=1), "145 were declared"),
}


@pytest.mark.parametrize("name", ARRIVALS)
async def test_what_is_not_as_declared_is_refused(side: Side, name: str) -> None:
    data, declared, words = ARRIVALS[name]
    await side.store.append(UPLOAD, WEIGHTS.name, 0, data)
    with pytest.raises(ArtifactRefused, match=words) as refused:
        await side.store.commit(UPLOAD, ARTIFACT, [declared])
    assert refused.value.fields["file"] == WEIGHTS.name
    with pytest.raises(NotFound):
        await side.store.read(ARTIFACT, WEIGHTS.name, 0, 1)
    assert await side.store.received(UPLOAD, WEIGHTS.name) == len(data)


async def test_files_are_exactly_the_declared_ones(side: Side) -> None:
    await side.store.append(UPLOAD, WEIGHTS.name, 0, WEIGHTS_DATA)
    with pytest.raises(ArtifactRefused, match=r"'config.json' did not arrive"):
        await side.store.commit(UPLOAD, ARTIFACT, FILES)
    await side.store.append(UPLOAD, CONFIG.name, 0, CONFIG_DATA)
    with pytest.raises(ArtifactRefused, match=r"'config.json' arrived but is not declared"):
        await side.store.commit(UPLOAD, ARTIFACT, [WEIGHTS])
    for files in ([], [WEIGHTS, WEIGHTS]):
        with pytest.raises(InvalidInput, match="none twice"):
            await side.store.commit(UPLOAD, ARTIFACT, files)
    with pytest.raises(NotFound, match="begin a new version"):
        await side.store.commit("upload-9", ARTIFACT, FILES)
    await side.store.commit(UPLOAD, ARTIFACT, FILES)


async def test_aborted_upload_is_cleanly_absent(side: Side) -> None:
    await upload(side.store)
    for _ in range(2):
        await side.store.abort(UPLOAD)
    assert await side.store.received(UPLOAD, WEIGHTS.name) == 0
    with pytest.raises(NotFound):
        await side.store.commit(UPLOAD, ARTIFACT, FILES)
    # Begun again under the same id, old digests do not stick.
    await upload(side.store)
    await side.store.commit(UPLOAD, ARTIFACT, FILES)


async def test_delete_tells_the_bytes(side: Side) -> None:
    await upload(side.store)
    await side.store.commit(UPLOAD, ARTIFACT, FILES)
    assert await side.store.delete(ARTIFACT) == WEIGHTS.sealed_size + CONFIG.sealed_size
    assert await side.store.delete(ARTIFACT) == 0
    with pytest.raises(NotFound):
        await side.store.read(ARTIFACT, WEIGHTS.name, 0, 1)


async def test_sweep_takes_only_the_old_and_unwanted(side: Side) -> None:
    for name in ("kept", "orphan"):
        await upload(side.store, f"up-{name}")
        await side.store.commit(f"up-{name}", f"art-{name}", FILES)
        await upload(side.store, name)
    assert (await side.store.sweep({"art-kept"}, {"kept"}, 60.0)).bytes_removed == 0
    side.clock.advance(61)
    await upload(side.store, "young")
    report = await side.store.sweep({"art-kept"}, {"kept"}, 60.0)
    assert (report.artifacts, report.uploads) == (("art-orphan",), ("orphan",))
    assert report.bytes_removed == 2 * (WEIGHTS.sealed_size + CONFIG.sealed_size)
    for left in ("kept", "young"):
        assert await side.store.received(left, WEIGHTS.name) == WEIGHTS.sealed_size
    assert len(await side.store.read("art-kept", WEIGHTS.name, 0, 9)) == 9
    # An append is a touch: an upload that still moves is not old.
    side.clock.advance(59)
    await side.store.append("young", "more.json", 0, b"x")
    side.clock.advance(2)
    assert (await side.store.sweep({"art-kept"}, {"kept"}, 60.0)).uploads == ()


@pytest.mark.parametrize("bad", ["", ".", "..", "../up", "a/b", "/etc", ".trash-1", "a\0b", "x\n"])
async def test_no_name_leaves_the_folder(side: Side, bad: str) -> None:
    store = side.store
    calls: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: store.append(bad, "f", 0, b"x"),
        lambda: store.append(UPLOAD, bad, 0, b"x"),
        lambda: store.received(bad, "f"),
        lambda: store.received(UPLOAD, bad),
        lambda: store.commit(bad, ARTIFACT, FILES),
        lambda: store.commit(UPLOAD, bad, FILES),
        lambda: store.abort(bad),
        lambda: store.read(bad, "f", 0, 1),
        lambda: store.read(ARTIFACT, bad, 0, 1),
        lambda: store.delete(bad),
    )
    for call in calls:
        with pytest.raises(InvalidInput):
            await call()
    with pytest.raises(InvalidInput):
        store.local_dir(bad)
