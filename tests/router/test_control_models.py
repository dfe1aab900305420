"""The push flow, through the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from control_world import ADMIN, WEIGHTS, Ports, World, admin_port, begin_request, chunks, push, refused, seal
from push_support import FILE, begin, call, commit, upload

from isolation.vault.memory_blobs import MemoryBlobStore
from partywall.errors import (
    ArtifactRefused,
    Conflict,
    InvalidInput,
    NotFound,
    NotReady,
    QuotaExceeded,
    Reason,
    Unavailable,
)
from partywall.v1 import models_pb2 as pb
from partywall.v1 import tenants_pb2
from router.control.housekeeping import Housekeeper, KeyUse


@pytest.fixture
async def world() -> World:
    return await World().start()


@pytest.fixture
async def ports(world: World) -> AsyncIterator[Ports]:
    async with admin_port(world) as made:
        for name in ("acme", "globex"):
            await made.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(name=name), metadata=ADMIN)
        yield made


async def test_a_push_makes_a_live_pending_version(ports: Ports, world: World) -> None:
    model = await push(ports, "acme", "bert")
    assert (model.name, model.tenant, model.live_version, model.slo_ms) == ("bert", "acme", 1, 50)
    version = model.versions[0]
    assert (version.version, version.state) == (1, pb.VERSION_STATE_PENDING)
    entry = world.catalog.models()[0]
    stored = entry.versions[1]
    assert stored.resident
    record = world.catalog.data_key(stored.key_record_id)
    assert record is not None
    assert len(world.keys.unwrap(entry.model.tenant_id, stored.artifact_id, record.wrapped)) == 32
    sealed = await world.blobs.read(stored.artifact_id, FILE, 0, 1 << 20)
    assert len(sealed) == version.files[0].sealed_size
    assert WEIGHTS[:64] not in sealed
    assert world.catalog.uploads() == []
    assert "version.pushed" in world.audit.names


async def test_nothing_is_visible_before_the_commit(ports: Ports) -> None:
    begun = await begin(ports)
    await upload(ports, begun, seal(begun, "bert", FILE, WEIGHTS).data)
    assert isinstance(await refused(call(ports, "GetModel", name="bert")), NotFound)
    assert list((await call(ports, "ListModels")).models) == []


async def test_later_versions_wait_for_their_promotion(ports: Ports) -> None:
    await push(ports, "acme", "bert")
    second = await push(ports, "acme", "bert")
    assert (second.live_version, [v.version for v in second.versions]) == (1, [1, 2])
    third = await push(ports, "acme", "bert", promote=True)
    assert (third.live_version, third.previous_version) == (3, 1)


async def test_identity_needs_no_files(ports: Ports, world: World) -> None:
    begun = await begin(ports, {}, engine="identity")
    model = await commit(ports, begun)
    assert model.live_version == 1
    assert (await call(ports, "DeleteModel", name="bert")).versions_removed == 1
    assert world.catalog.garbage() == []


async def test_numbers_are_never_reused(ports: Ports) -> None:
    await push(ports, "acme", "bert")
    begun = await begin(ports)
    await call(ports, "AbortVersion", upload_id=begun.upload_id)
    assert (await push(ports, "acme", "bert")).versions[-1].version == 3
    await call(ports, "DeleteModel", name="bert")
    assert [v.version for v in (await push(ports, "acme", "bert")).versions] == [4]


@pytest.mark.parametrize(
    ("files", "manifest", "field"),
    [
        ({FILE: b"x"}, {"engine": "onnx"}, "manifest.engine"),
        ({FILE: b"x"}, {"engine": ""}, "manifest.engine"),
        ({FILE: b"x"}, {"share_percent": 101}, "manifest.share_percent"),
        ({FILE: b"x"}, {"max_batch": 1 << 20}, "manifest.max_batch"),
        ({FILE: b"x"}, {"memory_bytes": (1 << 64) - 1}, "manifest.memory_bytes"),
        ({FILE: b"x"}, {"options": {"a": "b" * 5000}}, "manifest.options"),
        ({FILE: b"x"}, {"options": {str(i): "" for i in range(65)}}, "manifest.options"),
        ({}, {}, "files"),
        ({f"f{i}.json": b"x" for i in range(65)}, {}, "files"),
        ({"../w.safetensors": b"x"}, {}, "files.name"),
        ({".hidden": b"x"}, {}, "files.name"),
        ({FILE: b""}, {}, "files"),
    ],
)
async def test_what_cannot_be_pushed_is_refused_at_once(
    ports: Ports, world: World, files: dict[str, bytes], manifest: dict[str, Any], field: str
) -> None:
    error = await refused(begin(ports, files, **manifest))
    assert isinstance(error, InvalidInput)
    assert error.fields["field"] == field
    assert world.catalog.uploads() == []


@pytest.mark.parametrize(
    "name", ["model.pt", "m.PTH", "a.pkl", "pytorch_model.bin", "x.pt2", "x.mar", "m.ckpt", "w.npz", "a.pickle.gz"]
)
async def test_files_that_can_run_code_are_refused_with_the_way_out(ports: Ports, name: str) -> None:
    error = await refused(begin(ports, {FILE: b"x", name: b"x"}))
    assert (type(error), error.reason) == (ArtifactRefused, Reason.UNSAFE_FORMAT)
    assert error.fields["file"] == name
    assert "safetensors" in error.message


async def test_a_name_twice_and_a_bad_model_name_are_refused(ports: Ports) -> None:
    request = begin_request("bert", {FILE: b"x"})
    request.files.add(name=FILE, plain_size=1)
    error = await refused(ports.models.BeginVersion(request, metadata=ports.as_tenant("acme")))
    assert "twice" in error.message
    request = begin_request("no/good", {FILE: b"x"})
    error = await refused(ports.models.BeginVersion(request, metadata=ports.as_tenant("acme")))
    assert error.fields["field"] == "model"


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


async def test_the_byte_quota_counts_versions_and_uploads(ports: Ports) -> None:
    quota = tenants_pb2.Quota(model_bytes=250)
    await ports.tenants.SetQuota(tenants_pb2.SetQuotaRequest(name="acme", quota=quota), metadata=ADMIN)
    await push(ports, "acme", "bert", {FILE: b"x" * 100})
    await begin(ports, {FILE: b"x" * 100})
    error = await refused(begin(ports, {FILE: b"x" * 51}))
    assert (type(error), error.reason) == (QuotaExceeded, Reason.MODEL_BYTES_EXCEEDED)
    assert error.fields["used"] == "200"
    await begin(ports, {FILE: b"x" * 50})


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


async def test_anothers_models_and_uploads_read_as_absent(ports: Ports) -> None:
    begun = await begin(ports)
    await push(ports, "acme", "secret")
    for method, fields in (
        ("GetModel", {"name": "secret"}),
        ("PromoteVersion", {"name": "secret", "version": 1}),
        ("RollbackModel", {"name": "secret"}),
        ("DeleteModel", {"name": "secret"}),
        ("SetResidency", {"name": "secret"}),
        ("ExplainModel", {"name": "secret"}),
        ("GetUpload", {"upload_id": begun.upload_id}),
        ("AbortVersion", {"upload_id": begun.upload_id}),
        ("CommitVersion", {"upload_id": begun.upload_id}),
    ):
        theirs = await refused(call(ports, method, "globex", **fields))
        key = "name" if "name" in fields else "upload_id"
        absent = await refused(call(ports, method, "globex", **{**fields, key: "absent"}))
        assert isinstance(theirs, NotFound)
        assert theirs.message.replace(fields[key], "absent") == absent.message
        assert theirs.reason == absent.reason
    assert len((await call(ports, "ListModels")).models) == 1


async def test_the_admin_port_wants_a_tenant(ports: Ports) -> None:
    missing = await refused(ports.models.ListModels(pb.ListModelsRequest(), metadata=ADMIN))
    assert isinstance(missing, InvalidInput)
    assert "x-partywall-tenant" in missing.message
    assert isinstance(await refused(call(ports, "ListModels", "nobody")), NotFound)
