"""The agent's side of a worker against a peer that the test plays itself."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from node_agent import frames
from node_agent.arena import INLINE_BYTES, Ring
from node_agent.channel import Channel, WorkerEnds
from node_agent.work import Batch, WorkItem
from node_agent.workers import WorkerHandle
from partywall.errors import InvalidInput, Reason, Unavailable
from partywall.v1 import agent_link_pb2, worker_pb2

LIMIT_S = 10.0


class Peer:
    """Plays the worker: reads whole messages, answers what the test says."""

    def __init__(self, ends: WorkerEnds) -> None:
        self.ends = ends
        self._reader = frames.FrameReader()
        self._bodies: list[bytes] = []

    async def receive(self) -> worker_pb2.ToWorker:
        loop = asyncio.get_running_loop()
        self.ends.socket.setblocking(False)
        while not self._bodies:
            self._bodies = self._reader.feed(await asyncio.wait_for(loop.sock_recv(self.ends.socket, 1 << 16), LIMIT_S))
        return worker_pb2.ToWorker.FromString(self._bodies.pop(0))

    def send(self, message: worker_pb2.FromWorker) -> None:
        self.ends.socket.send(frames.encode(message.SerializeToString()))


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Peer]]:
    channel, ends = Channel.create(1 << 20)
    yield channel, Peer(ends)
    channel.close()
    ends.socket.close()


def handle_of(
    channel: Channel, kills: list[tuple[int, int]] | None = None, exit_report_s: float = 0.01
) -> WorkerHandle:
    killed = [] if kills is None else kills
    loop = asyncio.get_running_loop()
    return WorkerHandle(
        "w", channel, lambda pid, sig: killed.append((pid, sig)), loop, 4242, exit_report_s=exit_report_s
    )


async def closed_reason(channel: Channel, action: Callable[[], object]) -> str:
    why: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    channel.attach(asyncio.get_running_loop(), lambda _: None, why.set_result)
    action()
    return await asyncio.wait_for(why, LIMIT_S)


async def test_more_than_the_socket_holds_arrives_in_order(pair: tuple[Channel, Peer]) -> None:
    channel, peer = pair
    worker = handle_of(channel)
    payload = bytes(INLINE_BYTES)
    for i in range(60):
        worker.submit(Batch(7, [WorkItem(i, payload)])).cancel()
    for i in range(60):
        message = await peer.receive()
        assert (message.run.handle, message.run.items[0].id) == (7, i)
        assert message.run.items[0].request.inline == payload


async def test_large_payloads_lie_in_the_arena_until_the_batch_is_done(pair: tuple[Channel, Peer]) -> None:
    channel, peer = pair
    worker = handle_of(channel)
    size = 400_000
    futures = [worker.submit(Batch(1, [WorkItem(i, bytes([i]) * size)])) for i in range(3)]
    offsets = []
    for i in range(3):
        payload = (await peer.receive()).run.items[0].request
        if payload.length:
            offsets.append(payload.offset)
            assert bytes(peer.ends.to_worker.read(payload.offset, size)) == bytes([i]) * size
        else:
            # The arena was full: it travelled in the message.
            assert payload.inline == bytes([i]) * size
    assert offsets == [0, size]
    for batch_id in (1, 2, 3):
        done = worker_pb2.BatchDone(batch_id=batch_id, handle=1, service_us=5)
        done.results.add(id=batch_id - 1).response.inline = b"ok"
        peer.send(worker_pb2.FromWorker(done=done))
    answers = await asyncio.wait_for(asyncio.gather(*futures), LIMIT_S)
    assert [a.results[0].response for a in answers] == [b"ok"] * 3
    worker.submit(Batch(1, [WorkItem(9, bytes(size))])).cancel()
    assert (await peer.receive()).run.items[0].request.offset == 0


async def test_results_are_copied_out_and_their_space_returned(pair: tuple[Channel, Peer]) -> None:
    channel, peer = pair
    worker = handle_of(channel)
    future = worker.submit(Batch(1, [WorkItem(1, b"q"), WorkItem(2, b"q")]))
    ring = Ring(peer.ends.from_worker)
    done = worker_pb2.BatchDone(batch_id=1, handle=1)
    answer = done.results.add(id=1).response
    answer.offset, answer.length = ring.write([b"a" * 50_000], 50_000) or 0, 50_000
    done.results.add(id=2).error.CopyFrom(agent_link_pb2.CallError(reason="INVALID_TENSOR", message="no"))
    done.arena_mark = ring.mark
    peer.send(worker_pb2.FromWorker(done=done))
    first, second = (await asyncio.wait_for(future, LIMIT_S)).results
    assert first.response == b"a" * 50_000
    assert isinstance(second.error, InvalidInput)
    assert peer.ends.from_worker.consumed == ring.mark


async def test_a_worker_that_points_outside_its_arena_is_done_for(pair: tuple[Channel, Peer]) -> None:
    channel, peer = pair
    kills: list[tuple[int, int]] = []
    worker = handle_of(channel, kills)
    future = worker.submit(Batch(1, [WorkItem(1, b"q")]))
    done = worker_pb2.BatchDone(batch_id=1)
    answer = done.results.add(id=1).response
    answer.offset, answer.length = 1 << 40, 100
    peer.send(worker_pb2.FromWorker(done=done))
    with pytest.raises(Unavailable, match="outside the arena") as lost:
        await asyncio.wait_for(future, LIMIT_S)
    assert lost.value.reason is Reason.WORKER_DIED
    ended = await asyncio.wait_for(worker.closed, LIMIT_S)
    assert ended.code is None
    assert kills == [(4242, signal.SIGKILL)]


@pytest.mark.parametrize(
    ("data", "text"),
    [(frames.encode(b"\xff\xff"), "unreadable"), (b"\xff\xff\xff\xff", "out of step"), (b"", "closed its socket")],
)
async def test_nonsense_ends_the_channel_once(pair: tuple[Channel, Peer], data: bytes, text: str) -> None:
    channel, peer = pair

    def talk() -> None:
        peer.ends.socket.send(data)
        peer.ends.socket.shutdown(socket.SHUT_RDWR)

    assert text in await closed_reason(channel, talk)
    channel.send(worker_pb2.ToWorker(stop=True))
    channel.close()


async def test_writing_to_a_dead_peer_ends_the_channel(pair: tuple[Channel, Peer]) -> None:
    channel, peer = pair

    def talk() -> None:
        peer.ends.socket.close()
        channel.send(worker_pb2.ToWorker(stop=True))

    assert "writing to the worker failed" in await closed_reason(channel, talk)


async def test_a_late_answer_to_a_cancelled_call_hurts_nobody(pair: tuple[Channel, Peer]) -> None:
    channel, peer = pair
    worker = handle_of(channel)
    worker.submit(Batch(1, [WorkItem(1, b"q")])).cancel()
    second = worker.submit(Batch(1, [WorkItem(2, b"q")]))
    for batch_id in (1, 1, 99, 2):
        peer.send(worker_pb2.FromWorker(done=worker_pb2.BatchDone(batch_id=batch_id)))
    assert (await asyncio.wait_for(second, LIMIT_S)).results == []


async def test_answers_before_the_end_still_count(pair: tuple[Channel, Peer]) -> None:
    channel, peer = pair
    worker = handle_of(channel, exit_report_s=60)
    answered, lost = (worker.submit(Batch(1, [WorkItem(i, b"q")])) for i in (1, 2))
    peer.send(worker_pb2.FromWorker(done=worker_pb2.BatchDone(batch_id=1)))
    peer.ends.socket.close()
    worker.on_exit(-9)
    worker.on_exit(0)
    assert (await answered).results == []
    with pytest.raises(Unavailable):
        await lost
    assert (await worker.closed).code == -9
    assert (await worker.stop(1)).code == -9


async def test_an_aborted_worker_fails_with_the_reason_it_was_aborted_for(pair: tuple[Channel, Peer]) -> None:
    """Killed, it closes its socket at once: that is how it ended, and not why."""
    channel, peer = pair
    worker = handle_of(channel)
    lost = worker.submit(Batch(1, [WorkItem(1, b"q")]))
    peer.ends.socket.close()
    worker.abort("its batch is stuck")
    with pytest.raises(Unavailable, match="its batch is stuck"):
        await lost
    assert (await worker.closed).message == "its batch is stuck"
