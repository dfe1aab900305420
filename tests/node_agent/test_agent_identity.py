"""How a node comes by its certificate: a bundle once, renewal, and a way back after it has ended."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from node_agent import identity as identities
from node_agent.epoch import EpochFile
from partywall.errors import InvalidInput, NotReady, PermissionDenied, Reason
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import agent_link_pb2_grpc
from partywall.wire.status import to_status
from router.control.pki import Authority, Identity, csr_key


def now() -> datetime:
    """gRPC checks certificates against the machine's clock."""
    return datetime.now(UTC)


@dataclass
class Router(agent_link_pb2_grpc.JoinServicer):
    """The side that signs: each token once."""

    authority: Authority
    port: int = 0
    spent: list[str] = field(default_factory=list)

    async def Enrol(self, request: link.EnrolRequest, context: Any) -> link.EnrolResponse:  # noqa: N802
        if request.token in self.spent:
            status = to_status(PermissionDenied("the join token was used before"))
            await context.abort(status.code, status.details, status.trailing_metadata)
        if request.token:
            self.spent.append(request.token)
        signed = self.authority.sign_agent(csr_key(request.csr_pem), request.node, now())
        return link.EnrolResponse(certificate_pem=signed, ca_pem=self.authority.ca_pem)

    def bundle(self, token: str) -> str:
        joiner = self.authority.joiner("n1", now(), timedelta(minutes=5))
        fields = {
            "node": "n1",
            "address": f"127.0.0.1:{self.port}",
            "token": token,
            "ca_pem": self.authority.ca_pem.decode(),
            "certificate_pem": joiner.certificate_pem.decode(),
            "key_pem": joiner.key_pem.decode(),
        }
        return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    made = Router(Authority.create(now()))
    own = made.authority.router((), now())
    server = grpc.aio.server()
    agent_link_pb2_grpc.add_JoinServicer_to_server(made, server)
    pair = (own.key_pem, own.certificate_pem)
    made.port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([pair], made.authority.ca_pem, require_client_auth=True)
    )
    await server.start()
    yield made
    await server.stop(None)


def keep(folder: Path, router: Router, identity: Identity) -> identities.AgentIdentity:
    kept = identities.AgentIdentity(identity.certificate_pem, identity.key_pem, router.authority.ca_pem)
    identities.save(folder, kept)
    return kept


async def test_a_bundle_is_spent_once_and_passed_over_afterwards(tmp_path: Path, router: Router) -> None:
    bundle, folder = router.bundle("first"), tmp_path / "node"
    joined = await identities.establish(folder, bundle, "n1", now())
    assert await identities.establish(folder, bundle, "n1", now()) == joined
    assert await identities.establish(folder, "", "n1", now()) == joined
    assert router.spent == ["first"]
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert b"first" not in path.read_bytes()


async def test_a_new_bundle_counts_beside_a_certificate_that_stands(tmp_path: Path, router: Router) -> None:
    """A node that was forgotten has one that nobody takes any more."""
    old = keep(tmp_path, router, router.authority.agent("n1", now()))
    fresh = await identities.establish(tmp_path, router.bundle("again"), "n1", now())
    assert fresh != old
    assert identities.load(tmp_path) == fresh


async def test_a_refused_bundle_leaves_a_good_certificate_in_use(tmp_path: Path, router: Router) -> None:
    old = keep(tmp_path, router, router.authority.agent("n1", now()))
    router.spent.append("used")
    assert await identities.establish(tmp_path, router.bundle("used"), "n1", now()) == old


async def test_a_node_that_was_off_for_days_joins_again(tmp_path: Path, router: Router) -> None:
    keep(tmp_path, router, router.authority.agent("n1", now() - timedelta(days=2)))
    with pytest.raises(NotReady, match=r"has ended.*fleet token") as caught:
        await identities.establish(tmp_path, "", "n1", now())
    assert caught.value.reason is Reason.NO_CREDENTIAL
    router.spent.append("used")
    with pytest.raises(PermissionDenied, match="used before"):
        await identities.establish(tmp_path, router.bundle("used"), "n1", now())
    fresh = await identities.establish(tmp_path, router.bundle("new"), "n1", now())
    assert not fresh.ended(now())


async def test_without_certificate_and_bundle_it_says_how_to_join(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"has no certificate.*--join"):
        await identities.establish(tmp_path, "", "n1", now())
    for text in ("nonsense", base64.urlsafe_b64encode(b"{}").decode(), base64.urlsafe_b64encode(b"[1]").decode()):
        with pytest.raises(InvalidInput, match="fleet token"):
            await identities.establish(tmp_path, text, "n1", now())


async def test_renewal_is_due_at_two_thirds_and_needs_no_token(tmp_path: Path, router: Router) -> None:
    kept = keep(tmp_path, router, router.authority.agent("n1", now()))
    assert not kept.renew_due(now() + timedelta(hours=15))
    assert kept.renew_due(now() + timedelta(hours=17))
    fresh = await identities.renew(f"127.0.0.1:{router.port}", kept, "n1")
    assert fresh.key_pem != kept.key_pem
    assert "KEY" not in repr(fresh)


@pytest.mark.parametrize("name", ["agent.pem", "agent.key", "ca.pem"])
async def test_a_node_with_damaged_files_is_told_to_join_again(tmp_path: Path, router: Router, name: str) -> None:
    await identities.establish(tmp_path, router.bundle("first"), "n1", now())
    (tmp_path / name).write_bytes(b"\xff torn")
    with pytest.raises(NotReady, match="--join"):
        await identities.establish(tmp_path, "", "n1", now())
    again = await identities.establish(tmp_path, router.bundle("second"), "n1", now())
    assert not again.ended(now())


def test_an_epoch_file_that_holds_no_number_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "epoch"
    epoch = EpochFile(path)
    assert epoch.accept(7)
    assert EpochFile(path).seen == 7
    path.write_bytes(b"\xff\n")
    with pytest.raises(NotReady, match="remove it"):
        EpochFile(path)


CUT_SHORT = """
import os, sys
from pathlib import Path
from node_agent.identity import AgentIdentity, save

fresh, folder, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
identity = AgentIdentity(*((fresh / name).read_bytes() for name in ("agent.pem", "agent.key", "ca.pem")))
seen = 0

def stop(event, arguments):
    global seen
    # Whatever else the interpreter does at its end, measuring coverage for one, is no step.
    if event in ("os.rename", "os.remove") and str(arguments[0]).startswith(str(folder)):
        seen += 1
        if seen > last:
            os._exit(9)

sys.addaudithook(stop)
save(folder, identity)
"""


def signed(authority: Authority, at: datetime) -> identities.AgentIdentity:
    made = authority.agent("n1", at)
    return identities.AgentIdentity(made.certificate_pem, made.key_pem, authority.ca_pem)


@pytest.mark.parametrize("steps", range(6))
def test_a_kill_between_any_two_steps_leaves_one_whole_identity(tmp_path: Path, steps: int) -> None:
    authority = Authority.create(now())
    old, new = signed(authority, now() - timedelta(days=1)), signed(authority, now())
    identities.save(tmp_path / "node", old)
    identities.save(tmp_path / "fresh", new)
    command = [sys.executable, "-c", CUT_SHORT, str(tmp_path / "fresh"), str(tmp_path / "node"), str(steps)]
    done = subprocess.run(command, timeout=60, check=False)
    assert done.returncode == (9 if steps < 5 else 0)
    # Before the first step nothing of the new one is there; from then on it is the new one.
    assert identities.load(tmp_path / "node") == (old if steps == 0 else new)
    assert identities.load(tmp_path / "node") == (old if steps == 0 else new), "and so it stays"
    assert not (tmp_path / "node" / "identity.next").exists()


def test_a_certificate_with_anothers_key_is_damaged(tmp_path: Path) -> None:
    authority = Authority.create(now())
    identities.save(tmp_path, signed(authority, now()))
    (tmp_path / "agent.key").write_bytes(authority.agent("n1", now()).key_pem)
    assert identities.load(tmp_path) is None


def test_what_the_router_wrote_later_goes_before_what_was_left_over(tmp_path: Path) -> None:
    authority = Authority.create(now())
    left, later = signed(authority, now() - timedelta(days=2)), signed(authority, now())
    identities.save(tmp_path, later)
    (tmp_path / "identity.next").write_text(json.dumps([part.decode() for part in left.parts()]))
    assert identities.load(tmp_path) == later
    (tmp_path / "identity.next").write_text("{")
    assert identities.load(tmp_path) == later
