"""One sealed file on its way, attempt by attempt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO

from partywall.client.artifact import LocalFile
from partywall.domain.models import SealedFile
from partywall.sealed import Sealer
from partywall.v1 import models_pb2

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PushProgress:
    """One step of an upload, in sealed bytes."""

    file: str
    sent_bytes: int
    total_bytes: int


OnProgress = Callable[[PushProgress], None]


class FileUpload:
    """One file on its way. Attempts follow each other; an older one stops as soon as a newer begins."""

    def __init__(
        self, file: LocalFile, sealer: Sealer, source: FileIO, upload_id: str, on_progress: OnProgress | None
    ) -> None:
        self._file = file
        self._sealer = sealer
        self._source = source
        self._upload_id = upload_id
        self._on_progress = on_progress
        # gRPC drains a broken attempt's iterator in a thread of its own: only the newest attempt may touch the sealer.
        self._lock = threading.Lock()
        self._newest = 0

    @property
    def sealed_size(self) -> int:
        return self._sealer.sealed_size

    def attempt(self, offset: int) -> Attempt:
        """The messages from `offset` on."""
        with self._lock:
            self._newest += 1
            return Attempt(self, self._newest, offset)

    def sealed_file(self) -> SealedFile:
        return self._sealer.sealed_file()

    def messages(self, number: int, offset: int) -> Iterator[models_pb2.UploadChunk]:
        first = models_pb2.UploadChunk(upload_id=self._upload_id, file=self._file.name, offset=offset)
        yield first
        sent = offset
        sealed = self._sealer.stream(self._source, offset)
        while True:
            with self._lock:
                if number != self._newest:
                    return
                view = next(sealed, None)
                pieces = [] if view is None else _pieces(view)
            if view is None:
                return
            for piece in pieces:
                yield models_pb2.UploadChunk(data=piece)
                sent += len(piece)
                self._report(sent)

    def _report(self, sent: int) -> None:
        if self._on_progress is not None:
            self._on_progress(PushProgress(self._file.name, sent, self.sealed_size))


class Attempt:
    """The messages of one attempt; `failure` is what went wrong on this side, if anything did."""

    def __init__(self, upload: FileUpload, number: int, offset: int) -> None:
        self._upload = upload
        self._number = number
        self._offset = offset
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[models_pb2.UploadChunk]:
        # Raised here it would only reach gRPC's own thread: the transport raises it when the call has ended.
        try:
            yield from self._upload.messages(self._number, self._offset)
        except Exception as failure:
            self.failure = failure


def _pieces(view: memoryview) -> list[bytes]:
    """At most 1 MiB each, of about one size: a sealed segment is 16 bytes more than that."""
    count = -(-len(view) // CHUNK_BYTES) or 1
    step = -(-len(view) // count) or 1
    return [bytes(view[at : at + step]) for at in range(0, len(view), step)]
