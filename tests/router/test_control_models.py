"""Pushed models, through the wire: what a push makes, what is refused at once, and who sees it."""

from __future__ import annotations

from typing import Any

import pytest
from control_world import ADMIN, WEIGHTS, Ports, World, begin_request, push, refused, seal
from push_support import FILE, begin, call, commit, upload

from partywall.errors import ArtifactRefused, InvalidInput, NotFound, QuotaExceeded, Reason
from partywall.v1 import models_pb2 as pb
from partywall.v1 import tenants_pb2


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
        ({FILE: b"x"}, {"options": {}}, "manifest.options"),
        ({FILE: b"x"}, {"options": {"architecture": ""}}, "manifest.options"),
        ({FILE: b"x"}, {"share_percent": 101}, "manifest.share_percent"),
        ({FILE: b"x"}, {"max_batch": 1 << 20}, "manifest.max_batch"),
        ({FILE: b"x"}, {"memory_bytes": (1 << 64) - 1}, "manifest.memory_bytes"),
        ({FILE: b"x"}, {"options": {"architecture": "mlp", "a": "b" * 5000}}, "manifest.options"),
        ({FILE: b"x"}, {"options": {"architecture": "mlp"} | {str(i): "" for i in range(65)}}, "manifest.options"),
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


async def test_the_byte_quota_counts_versions_and_uploads(ports: Ports) -> None:
    quota = tenants_pb2.Quota(model_bytes=250)
    await ports.tenants.SetQuota(tenants_pb2.SetQuotaRequest(name="acme", quota=quota), metadata=ADMIN)
    await push(ports, "acme", "bert", {FILE: b"x" * 100})
    await begin(ports, {FILE: b"x" * 100})
    error = await refused(begin(ports, {FILE: b"x" * 51}))
    assert (type(error), error.reason) == (QuotaExceeded, Reason.MODEL_BYTES_EXCEEDED)
    assert error.fields["used"] == "200"
    await begin(ports, {FILE: b"x" * 50})


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
