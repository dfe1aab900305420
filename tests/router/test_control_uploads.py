"""Uploads, through the wire: broken off and gone on with, too much, twice, full disks, commits asked for again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from control_world import WEIGHTS, Ports, World, admin_port, chunks, refused, seal
from push_support import FILE, begin, call, commit, upload

from isolation.vault.memory_blobs import MemoryBlobStore
from partywall.errors import ArtifactRefused, Conflict, InvalidInput, NotFound, NotReady, Reason, Unavailable
from partywall.v1 import models_pb2 as pb
from router.control.housekeeping import Housekeeper, KeyUse


async def test_an_upload_goes_on_where_it_broke_off(ports: Ports) -> None:
    begun = await begin(ports)
    sealed = seal(begun, "bert", FILE, WEIGHTS)
    assert await upload(ports, begun, sealed.data[:1500]) == 1500
    status = await call(ports, "GetUpload", upload_id=begun.upload_id)
    assert (status.model, status.version) == ("bert", 1)
    assert [(f.name, f.plain_size, f.sealed_size, f.received) for f in status.files] == [
        (FILE, len(WEIGHTS), len(sealed.data), 1500)
    ]
    assert isinstance(await refused(commit(ports, begun, sealed.declaration)), ArtifactRefused)
    error = await refused(upload(ports, begun, sealed.data, offset=1000))
    assert isinstance(error, Conflict)
    assert error.fields["received"] == "1500"
    assert await upload(ports, begun, sealed.data, offset=1500) == len(sealed.data)
    assert (await commit(ports, begun, sealed.declaration)).live_version == 1


async def test_a_newer_stream_ends_the_older_one(ports: Ports) -> None:
    begun = await begin(ports)
    sealed = seal(begun, "bert", FILE, WEIGHTS)
    older = ports.models.UploadFile(metadata=ports.as_tenant("acme"))
    first, second = list(chunks(begun.upload_id, FILE, sealed.data, size=1000))[:2]
    await older.write(first)
    async with asyncio.timeout(10):
        while (await call(ports, "GetUpload", upload_id=begun.upload_id)).files[0].received < 1000:
            await asyncio.sleep(0)
    await older.write(second)
    assert isinstance(await refused(older), Conflict)
    assert await upload(ports, begun, sealed.data, offset=1000) == len(sealed.data)


async def test_more_bytes_than_announced_are_refused(ports: Ports) -> None:
    begun = await begin(ports)
    sealed = seal(begun, "bert", FILE, WEIGHTS)
    error = await refused(upload(ports, begun, sealed.data + b"x"))
    assert isinstance(error, InvalidInput)
    assert error.fields["sealed_size"] == str(len(sealed.data))


@pytest.mark.parametrize("stream", [[], [pb.UploadChunk(upload_id="nope", file=FILE)]])
async def test_streams_that_name_no_upload_are_refused(ports: Ports, stream: list[Any]) -> None:
    error = await refused(ports.models.UploadFile(iter(stream), metadata=ports.as_tenant("acme")))
    assert error.fields["field"] == "upload_id"


async def test_unannounced_files_are_refused(ports: Ports) -> None:
    begun = await begin(ports)
    error = await refused(upload(ports, begun, b"x", name="other.json"))
    assert isinstance(error, InvalidInput)
    assert FILE in error.message


async def test_a_full_disk_keeps_what_had_arrived(ports: Ports, world: World) -> None:
    world.blobs = MemoryBlobStore(capacity_bytes=2000)
    await world.start()
    async with admin_port(world) as full:
        begun = await begin(full)
        error = await refused(upload(full, begun, seal(begun, "bert", FILE, WEIGHTS).data))
        assert (type(error), error.reason) == (Unavailable, Reason.STORAGE_FULL)
        status = await call(full, "GetUpload", upload_id=begun.upload_id)
        assert status.files[0].received == 2000
        assert list((await call(full, "ListModels")).models) == []


@pytest.mark.parametrize("field", ["sealed_sha256", "header_sha256", "plain_size", "name"])
async def test_a_commit_of_other_files_is_refused_and_may_be_repeated(ports: Ports, field: str) -> None:
    begun = await begin(ports)
    sealed = seal(begun, "bert", FILE, WEIGHTS)
    await upload(ports, begun, sealed.data)
    wrong = {"sealed_sha256": bytes(32), "header_sha256": b"short", "plain_size": 1, "name": "x.safetensors"}[field]
    assert isinstance(await refused(commit(ports, begun, replace(sealed.declaration, **{field: wrong}))), InvalidInput)
    assert isinstance(await refused(commit(ports, begun, sealed.declaration, sealed.declaration)), InvalidInput)
    assert (await commit(ports, begun, sealed.declaration)).live_version == 1


async def test_a_commit_may_be_asked_for_again(ports: Ports) -> None:
    begun = await begin(ports)
    sealed = seal(begun, "bert", FILE, WEIGHTS)
    await upload(ports, begun, sealed.data)
    first = await commit(ports, begun, sealed.declaration)
    assert await commit(ports, begun, sealed.declaration) == first


async def test_a_commit_survives_a_store_that_was_away(ports: Ports, world: World) -> None:
    begun = await begin(ports)
    sealed = seal(begun, "bert", FILE, WEIGHTS)
    await upload(ports, begun, sealed.data)
    world.store.fail()
    assert isinstance(await refused(commit(ports, begun, sealed.declaration)), Unavailable)
    world.store.fail(False)
    assert (await commit(ports, begun, sealed.declaration)).live_version == 1


async def test_open_uploads_are_bounded(ports: Ports) -> None:
    for _ in range(32):
        await begin(ports)
    assert isinstance(await refused(begin(ports)), NotReady)


async def test_stale_uploads_are_swept_after_a_day(ports: Ports, world: World) -> None:
    begun = await begin(ports)
    await upload(ports, begun, seal(begun, "bert", FILE, WEIGHTS).data)
    keeper = Housekeeper(world.control, world.store, world.remover, world.uploads, KeyUse(world.control))
    world.clock.advance(timedelta(hours=23).total_seconds())
    await keeper.round()
    assert len(world.catalog.uploads()) == 1
    world.clock.advance(timedelta(hours=1).total_seconds())
    await keeper.round()
    assert world.catalog.uploads() == []
    assert await world.blobs.received(begun.upload_id, FILE) == 0
    assert isinstance(await refused(call(ports, "GetUpload", upload_id=begun.upload_id)), NotFound)
