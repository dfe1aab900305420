"""A sealed artifact, opened into this process's own memory and nowhere else."""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from isolation.engine import missing_file
from partywall.domain.formats import HEAD_BYTES, code_kind, unsafe_suffix
from partywall.errors import ArtifactRefused, Reason
from partywall.sealed import Context, FileSource, SealedReader, wipe
from partywall.v1 import worker_pb2

_MOST_THREADS = 4


class SealedArtifact:
    """The files of one version behind their readers; an `isolation.engine.Artifact`. Close it after the load."""

    def __init__(self, folder: Path, contexts: list[tuple[Context, bytes]], key: bytearray) -> None:
        self._open = ExitStack()
        self._readers: dict[str, SealedReader] = {}
        self._threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        try:
            for context, header_sha256 in contexts:
                source = self._open.enter_context(FileSource(folder / context.file_name))
                self._readers[context.file_name] = SealedReader(source, key, context, header_sha256)
        except BaseException:
            self._open.close()
            raise
        finally:
            # The readers hold ciphers of their own; the key has no further use in this process.
            wipe(key)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._readers))

    def size_bytes(self, name: str) -> int:
        return self._reader(name).plain_size

    def read(self, name: str) -> memoryview:
        """As `Artifact.read` says; a MemoryError where the partition's cap is reached."""
        reader = self._reader(name)
        buffer = anonymous_memory(reader.plain_size)
        reader.open_into(buffer, self._threads)
        return buffer

    def head(self, name: str) -> bytes:
        """The first bytes, enough to tell what kind of file it is."""
        reader = self._reader(name)
        buffer = bytearray(min(HEAD_BYTES, reader.plain_size))
        reader.read_into(0, buffer)
        return bytes(buffer)

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reader(self, name: str) -> SealedReader:
        if name not in self._readers:
            raise missing_file(name, self.names)
        return self._readers[name]


def open_artifact(request: worker_pb2.LoadReplica, key: bytearray) -> SealedArtifact:
    """Opens and authenticates the files of a replica, and refuses those that would execute code. Wipes the key.

    Raises:
        ArtifactRefused: UNSAFE_FORMAT, before any engine sees a byte.
        DataLoss: A file is not the one that was committed.
        NotFound: A file is not in the folder.
    """
    contexts = [
        (Context(request.tenant_id, request.model, request.version, file.name), file.header_sha256)
        for file in request.files
    ]
    artifact = SealedArtifact(Path(request.sealed_dir), contexts, key)
    try:
        for name in artifact.names:
            refuse_code(name, artifact.head(name))
    except BaseException:
        artifact.close()
        raise
    return artifact


def refuse_code(name: str, head: bytes) -> None:
    """Refuses formats whose loading executes code, by what the file is and by what it is called.

    Raises:
        ArtifactRefused: UNSAFE_FORMAT, with what to do.
    """
    kind, suffix = code_kind(name, head), unsafe_suffix(name)
    if kind is None and suffix is not None:
        kind = f"a {suffix} file"
    if kind is not None:
        raise ArtifactRefused(
            f"file {name!r} is {kind}: loading it can execute code, so it is refused; export the weights with "
            "safetensors.torch.save_file and push the .safetensors file",
            reason=Reason.UNSAFE_FORMAT,
            fields={"file": name, "format": kind},
        )


def anonymous_memory(size_bytes: int) -> memoryview:
    """Private anonymous memory, kept out of core dumps; a MemoryError where there is no more."""
    if not size_bytes:
        return memoryview(bytearray())
    try:
        # The default would be shared memory, which the partition's cap does not count.
        area = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as failure:
        if failure.errno == errno.ENOMEM:
            raise MemoryError(f"no room for {size_bytes} bytes") from failure
        raise
    area.madvise(mmap.MADV_DONTDUMP)
    return memoryview(area)
