"""Pushing a version: seal on this machine, upload ciphertext, commit. A flow, as everything the client does.

An upload that breaks off goes on where the server has it, as long as this process lives: the same sealer seals on,
under the same salt (see `partywall.sealed.seal`). A push that fails leaves nothing visible on the server.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from partywall.client.artifact import LocalArtifact, LocalFile, unreadable
from partywall.client.flow import MODELS, Caller, Flow, Method, Sleep, Upload
from partywall.client.retry import never_executed
from partywall.client.uploading import FileUpload, OnProgress
from partywall.client.views import ModelInfo, model_info
from partywall.domain.models import Manifest, SealedFile, VersionState
from partywall.errors import (
    DataLoss,
    DeadlineExceeded,
    NotFound,
    NotReady,
    PartywallError,
    Reason,
    Unavailable,
)
from partywall.sealed import Context, DataKey, Sealer
from partywall.v1 import models_pb2
from partywall.wire.convert import manifest_to_proto, sealed_file_to_proto

_MAX_RESUMES = 5
_SLOWEST_UPLOAD_BYTES_PER_S = 256 << 10
_UPLOAD_FLOOR_S = 60.0
_FIRST_POLL_S = 0.1
_MAX_POLL_S = 1.0
_RESTART_S = 10.0
_NOT_RESUMABLE = frozenset({Reason.STORAGE_FULL})


@dataclass(frozen=True, slots=True)
class PushRequest:
    """What to push. `promote`: make it live as soon as it is ready."""

    model: str
    artifact: LocalArtifact
    manifest: Manifest
    promote: bool = False
    on_progress: OnProgress | None = None


def push_version(caller: Caller, request: PushRequest) -> Flow[tuple[ModelInfo, int]]:
    """Pushes and commits; returns the model and the number of the new version.

    Raises:
        PartywallError: What ended it; the upload was given up on the server too, as after any other exception.
    """
    begun = yield from call_restarting(caller, MODELS["BeginVersion"], _begin_request(request))
    with DataKey(begun.data_key) as key:
        begun.ClearField("data_key")
        try:
            files = yield from _push_files(caller, request, begun, key)
        except (Exception, KeyboardInterrupt, asyncio.CancelledError):
            # Whatever it was, the caller's own `on_progress` among it.
            yield from _abort(caller, begun.upload_id)
            raise
    model = yield from _commit(caller, request, begun, files)
    return model, begun.version


def wait_ready(caller: Caller, model: str, version: int, timeout_s: float) -> Flow[ModelInfo]:
    """Polls until a version is ready.

    Raises:
        NotReady: It failed; the message has the server's reason.
        DeadlineExceeded: It was not ready in time; the message has the last state.
    """
    deadline = caller.clock.monotonic() + timeout_s
    pause_s = _FIRST_POLL_S
    while True:
        info = yield from get_model(caller, model)
        found = info.version(version)
        if found is None:
            raise NotFound(f"version {version} of model {model!r} is gone; it was deleted meanwhile")
        if found.state is VersionState.READY:
            return info
        if found.state is VersionState.FAILED:
            raise NotReady(
                f"version {version} of model {model!r} failed to load: {found.reason or 'no reason given'}",
                reason=Reason.WRONG_STATE,
                fields={"model": model, "version": str(version)},
            )
        if caller.clock.monotonic() + pause_s > deadline:
            why = f" ({found.reason})" if found.reason else ""
            raise DeadlineExceeded(
                f"version {version} of model {model!r} is still {found.state.value}{why} after {timeout_s:g} s; "
                f"it goes on loading: look with `partywall explain {model}`",
                fields={"model": model, "version": str(version), "state": found.state.value},
            )
        yield Sleep(pause_s)
        pause_s = min(_MAX_POLL_S, pause_s * 1.5)


def call_restarting(caller: Caller, method: Method, request: Any, *, idempotent: bool = False) -> Flow[Any]:
    """A call that waits for a router that is being started again: nobody listens there for two or three seconds.

    Repeated only where the request certainly reached nobody, or may be repeated anyway, for at most ten seconds and
    never beyond the caller's time-out.

    Raises:
        PartywallError: As `Caller.call`; after the wait the last error.
    """
    start_s = caller.clock.monotonic()
    pause_s = _FIRST_POLL_S
    while True:
        passed_s = caller.clock.monotonic() - start_s
        try:
            answer = yield from caller.call(
                method, request, idempotent=idempotent, timeout_s=caller.timeout_s - passed_s
            )
        except Unavailable as error:
            again = error.reason is Reason.UNREACHABLE and (idempotent or never_executed(error))
            passed_s = caller.clock.monotonic() - start_s
            if not again or passed_s + pause_s >= min(_RESTART_S, caller.timeout_s):
                raise
        else:
            return answer
        yield Sleep(pause_s)
        pause_s = min(_MAX_POLL_S, pause_s * 1.5)


def get_model(caller: Caller, model: str) -> Flow[ModelInfo]:
    """One model with its versions."""
    answer = yield from caller.call(MODELS["GetModel"], models_pb2.GetModelRequest(name=model), idempotent=True)
    return model_info(answer)


def _begin_request(request: PushRequest) -> models_pb2.BeginVersionRequest:
    return models_pb2.BeginVersionRequest(
        model=request.model,
        manifest=manifest_to_proto(request.manifest),
        files=[models_pb2.FileDeclaration(name=f.name, plain_size=f.size) for f in request.artifact.files],
    )


def _push_files(caller: Caller, request: PushRequest, begun: Any, key: DataKey) -> Flow[list[SealedFile]]:
    done: list[SealedFile] = []
    for file in request.artifact.files:
        sealed = yield from _push_file(caller, request, begun, file, key)
        done.append(sealed)
    return done


def _push_file(caller: Caller, request: PushRequest, begun: Any, file: LocalFile, key: DataKey) -> Flow[SealedFile]:
    context = Context(begun.tenant_id, request.model, begun.version, file.name)
    sealer = Sealer(file.size, key.material, context, begun.key_record_id)
    try:
        with file.path.open("rb", buffering=0) as source:
            upload = FileUpload(file, sealer, source, begun.upload_id, request.on_progress)
            yield from _upload_resuming(caller, begun.upload_id, file.name, upload)
    except OSError as failure:
        raise unreadable(file.path, failure) from failure
    return sealer.sealed_file()


def _upload_resuming(caller: Caller, upload_id: str, name: str, upload: FileUpload) -> Flow[None]:
    timeout_s = _UPLOAD_FLOOR_S + upload.sealed_size / _SLOWEST_UPLOAD_BYTES_PER_S
    offset, resumes = 0, 0
    while True:
        try:
            answer = yield Upload(MODELS["UploadFile"], upload.attempt(offset), timeout_s)
            break
        except Unavailable as error:
            if error.reason in _NOT_RESUMABLE or resumes == _MAX_RESUMES:
                raise
        yield Sleep(min(_MAX_POLL_S, _FIRST_POLL_S * 2**resumes))
        received = yield from _received(caller, upload_id, name)
        # Only tries without any progress count.
        resumes = resumes + 1 if received <= offset else 0
        offset = received
    if answer.received != upload.sealed_size:
        raise DataLoss(
            f"the server has {answer.received} of {upload.sealed_size} bytes of file {name!r}; push again",
            fields={"file": name},
        )


def _received(caller: Caller, upload_id: str, name: str) -> Flow[int]:
    request = models_pb2.GetUploadRequest(upload_id=upload_id)
    state = yield from call_restarting(caller, MODELS["GetUpload"], request, idempotent=True)
    return next((file.received for file in state.files if file.name == name), 0)


def _commit(caller: Caller, request: PushRequest, begun: Any, files: list[SealedFile]) -> Flow[ModelInfo]:
    commit = models_pb2.CommitVersionRequest(
        upload_id=begun.upload_id, files=[sealed_file_to_proto(f) for f in files], promote=request.promote
    )
    try:
        return model_info((yield from call_restarting(caller, MODELS["CommitVersion"], commit)))
    except (Unavailable, DeadlineExceeded):
        # The answer was lost, perhaps not the commit: the model tells.
        info = yield from _committed(caller, request.model, begun.version)
        if info is not None:
            return info
        yield from _abort(caller, begun.upload_id)
        raise
    except PartywallError:
        yield from _abort(caller, begun.upload_id)
        raise


def _committed(caller: Caller, model: str, version: int) -> Flow[ModelInfo | None]:
    try:
        info = yield from get_model(caller, model)
    except PartywallError:
        return None
    return info if info.version(version) is not None else None


def _abort(caller: Caller, upload_id: str) -> Flow[None]:
    try:
        request = models_pb2.AbortVersionRequest(upload_id=upload_id)
        yield from caller.call(MODELS["AbortVersion"], request, idempotent=True, timeout_s=min(5.0, caller.timeout_s))
    except PartywallError:
        # The first error is the one to report; the server drops abandoned uploads by itself.
        return
