"""Small parts of a router in several processes: settings on their way, ports held, questions answered."""

from __future__ import annotations

import asyncio
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from partywall.clock import VirtualClock
from partywall.errors import NotReady
from partywall.v1 import agent_link_pb2
from router.control.explain import Requests
from router.gateway.journal import Journal, Trace
from router.gateway.statistics import Statistics
from router.processes.answers import Answers, ask, ask_now, socket_of
from router.processes.member import decode, encode
from router.processes.parent import in_order
from router.processes.reserve import Reserved
from router.processes.siblings import Siblings
from router.processes.tally import Tally
from router.servers import Address
from router.settings import SHARED_CONNECTION_AGE_S, Rank, RouterSettings


def test_settings_arrive_as_they_were(tmp_path: Path) -> None:
    settings = RouterSettings(tmp_path, tls_cert=tmp_path / "c", max_deadline_s=7.5, processes=3)
    again = decode(encode(settings))
    assert again == settings
    # Enums are compared by identity where they are used.
    assert [type(again.front), type(again.placing)] == [type(settings.front), type(settings.placing)]
    ranked = replace(settings, rank=Rank(2, 3, ("a:1", "b:2", "c:3"), tmp_path / "run"))
    assert decode(encode(ranked)) == ranked


def test_connections_age_only_where_they_are_shared(tmp_path: Path) -> None:
    alone = RouterSettings(tmp_path)
    assert alone.public_connection_age_s == 0
    shared = replace(alone, rank=Rank(1, 2))
    assert shared.public_connection_age_s == SHARED_CONNECTION_AGE_S
    assert replace(shared, connection_age_s=0.0).public_connection_age_s == 0
    assert replace(alone, connection_age_s=9.0).public_connection_age_s == 9


def test_a_reserved_port_is_ours_to_listen_on_and_nobody_elses() -> None:
    reserved = Reserved(Address("127.0.0.1", 0))
    place = (reserved.address.host, reserved.address.port)
    try:
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(place)
        with socket.socket() as member:
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            member.bind(place)
            member.listen()
            with pytest.raises(NotReady, match="cannot listen"):
                Reserved(reserved.address)
            # The one that never listens gets no connection.
            for _ in range(8):
                with socket.create_connection(place, timeout=5) as caller:
                    member.settimeout(5)
                    accepted, peer = member.accept()
                    accepted.close()
                    assert peer == caller.getsockname()
    finally:
        reserved.close()


@pytest.mark.parametrize("host", ["203.0.113.9", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(NotReady, match="cannot listen"):
        Reserved(Address(host, 0))


async def test_questions_are_answered_and_bad_ones_harm_nobody(tmp_path: Path) -> None:
    def fail(argument: str) -> object:
        raise RuntimeError(argument)

    answers, path = Answers({"twice": lambda text: [text, text], "fail": fail}), socket_of(tmp_path, 1)
    await answers.start(path)
    try:
        assert await ask(path, "twice a b") == ["a b", "a b"]
        assert await ask(path, "fail x") is None
        assert await ask(path, "unknown") is None
        assert await asyncio.to_thread(ask_now, path, "twice c") == ["c", "c"]
        assert await asyncio.to_thread(ask_now, path, "unknown") is None
    finally:
        await answers.close()
    assert await ask(socket_of(tmp_path, 2), "twice a") is None
    assert ask_now(socket_of(tmp_path, 2), "twice a") is None


def served(statistics: Statistics, tenant_id: str, times: int) -> None:
    reply = agent_link_pb2.InferReply(queue_us=5, service_us=10, batch_requests=2)
    for at in range(times):
        statistics.served(tenant_id, "acme", "m", 1, 0.5, reply, 100, at)


async def test_a_tenants_counters_are_those_of_all_processes(tmp_path: Path) -> None:
    made = []
    for index, times in ((0, 2), (1, 5)):
        registry = CollectorRegistry()
        statistics = Statistics(registry)
        served(statistics, "t", times)
        served(statistics, "other", 1)
        made.append(Siblings(Rank(index, 2, (), tmp_path), statistics, registry, Journal(VirtualClock())))
    answers = Answers(made[1].answers())
    await answers.start(socket_of(tmp_path, 1))
    try:
        counters = await made[0].counters("t")
    finally:
        await answers.close()
    assert {key: c.success for key, c in counters.items()} == {("t", "m", 1): 7}
    assert counters["t", "m", 1].last_ms == 4
    assert counters["t", "m", 1].executions == pytest.approx(3.5)
    # The other one is away now: what this one knows is answered.
    assert (await made[0].counters("t"))["t", "m", 1].success == 2


async def test_what_all_processes_counted_and_remember(tmp_path: Path) -> None:
    clock = VirtualClock()
    made, journals = [], []
    for index, times in ((0, 2), (1, 5)):
        registry = CollectorRegistry()
        statistics = Statistics(registry)
        served(statistics, "t", times)
        journal = Journal(clock)
        clock.advance(1.0)
        journal.served("t", Trace(f"r{index}", "m", clock.monotonic(), 1), agent_link_pb2.InferReply(), 0.5)
        made.append(Siblings(Rank(index, 2, (), tmp_path), statistics, registry, journal))
        journals.append(journal)
    tally, requests = Tally(made[0].totals), Requests(journals[0], made[0])
    answers = Answers(made[1].answers())
    await answers.start(socket_of(tmp_path, 1))
    try:
        rows = [row for _, totals in await made[0].totals() for row in totals]
        assert sorted(rows) == [(("t", "m", 1), 2, 0), (("t", "m", 1), 5, 0)]
        await tally.refresh()
        assert [one.id for one in await requests.recent("t", "", False, 10)] == ["r1", "r0"]
        assert [one.id for one in await requests.recent("t", "m", False, 1)] == ["r1"]
        assert [one.id for one in await requests.find("t", "r1")] == ["r1"]
        assert await requests.find("other", "r1") == []
        assert await requests.recent("t", "", True, 10) == []
    finally:
        await answers.close()
    assert [one.id for one in await requests.recent("t", "", False, 10)] == ["r0"]


def test_a_process_that_is_stopped_while_it_starts_ended_in_order() -> None:
    assert in_order(0)
    assert in_order(-signal.SIGTERM)
    assert not any(in_order(code) for code in (1, -signal.SIGKILL, None))
