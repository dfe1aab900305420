"""Questions between the processes of one router: one line in, one answer out, over sockets in a private folder."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import structlog
from prometheus_client.metrics_core import Metric

Family: TypeAlias = dict[str, Any]
"""One metric as JSON: name, documentation, type, samples as [name, labels, value]."""
Answer: TypeAlias = Callable[[str], object]
"""Gets the question's argument, answers what JSON can hold."""

ASK_TIMEOUT_S = 1.0
_MOST_BYTES = 64 << 20
log = structlog.get_logger(__name__)


def socket_of(folder: Path, index: int) -> Path:
    """Where process `index` answers."""
    return folder / f"{index}.sock"


class Answers:
    """Listens for questions of the other processes; the folder's mode keeps everybody else away."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        # Left behind by the process whose place this one takes.
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - a local file system's name
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                word, _, argument = (await reader.readline()).decode().strip().partition(" ")
                answer = self._answers.get(word)
                if answer is not None:
                    writer.write(json.dumps(answer(argument)).encode())
                    await writer.drain()
        except (TimeoutError, ConnectionError):
            pass
        except Exception:
            # The question may come again; the answer's defect must not end the process.
            log.exception("question failed")
        finally:
            writer.close()


async def ask(path: Path, question: str) -> Any:
    """One answer; None when the other process is away or does not know."""
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=_MOST_BYTES)
            try:
                writer.write(f"{question}\n".encode())
                return json.loads(await reader.read())
            finally:
                writer.close()
    except (TimeoutError, OSError, ValueError):
        return None


def ask_now(path: Path, question: str) -> Any:
    """As `ask`, for a thread without a loop; blocks up to a second."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(ASK_TIMEOUT_S)
            sock.connect(str(path))
            sock.sendall(f"{question}\n".encode())
            return json.loads(b"".join(iter(lambda: sock.recv(1 << 20), b"")))
    except (OSError, ValueError):
        return None


def families(metrics: Iterable[Metric]) -> list[Family]:
    """Metrics as JSON."""
    return [
        {
            "name": metric.name,
            "documentation": metric.documentation,
            "type": metric.type,
            "samples": [[sample.name, sample.labels, sample.value] for sample in metric.samples],
        }
        for metric in metrics
    ]
