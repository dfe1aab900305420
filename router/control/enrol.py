"""How agents join: a one-time token bound to a node, and certificates from the installation's own authority.

Identity comes from the TLS handshake alone, never from a message or from metadata.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from partywall.domain.names import check_name
from partywall.errors import InvalidInput, PermissionDenied, Reason, Unauthenticated
from partywall.v1 import agent_link_pb2, agent_link_pb2_grpc
from router.control.catalog import Catalog
from router.control.catalog_transaction import CatalogTransaction
from router.control.control import Control, in_thread
from router.control.pki import TRUST_DOMAIN, Authority, csr_key, issued_at, uri_names
from router.control.records import JoinToken, MetaEntry
from router.control.rpc import Context

Role: TypeAlias = Literal["agent", "join"]
DEFAULT_TOKEN_LIFE_S = 900
MAX_TOKEN_LIFE_S = 86_400
SECRET_BYTES = 32
SPIFFE_PROPERTY = "peer_spiffe_id"
CERTIFICATE_PROPERTY = "x509_pem_cert"
FORGOTTEN = "forgotten/"


def peer_identity(context: Context) -> tuple[Role, str]:
    """Who the peer's certificate says it is: role and node name.

    Raises:
        Unauthenticated: No certificate of our authority, or not one with such a name.
    """
    names = context.auth_context().get(SPIFFE_PROPERTY, ())
    return _identity(name.decode("utf-8", "replace") for name in names)


def _identity(names: Iterable[str]) -> tuple[Role, str]:
    for name in names:
        path = name.removeprefix(f"{TRUST_DOMAIN}/")
        role, _, node = path.partition("/")
        if role == "agent" and node:
            return "agent", node
        if role == "join" and node:
            return "join", node
    raise Unauthenticated(
        "the link port takes agents' certificates only; join this node with `partywall fleet token NODE` and "
        "`partywall agent --join`",
        reason=Reason.NO_CREDENTIAL,
    )


def peer_issued_at(context: Context) -> datetime | None:
    """When the peer's certificate was signed; None where it shows none."""
    shown = next(iter(context.auth_context().get(CERTIFICATE_PROPERTY, ())), None)
    return issued_at(shown) if shown is not None else None


class AgentIdentity:
    """The node behind a link call. What was signed before a node was forgotten no longer counts, nor does it again when
    the node joins anew under its old name."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def __call__(self, context: Context) -> str:
        """The node name.

        Raises:
            Unauthenticated: No certificate of ours.
            PermissionDenied: A join bundle's certificate, or a node that was forgotten.
        """
        return self._agent(*peer_identity(context), peer_issued_at(context))

    def of_certificate(self, certificate_pem: bytes | None) -> str:
        """The same for the peer of a connection that is not gRPC's."""
        names = uri_names(certificate_pem) if certificate_pem is not None else ()
        return self._agent(*_identity(names), issued_at(certificate_pem) if certificate_pem is not None else None)

    def _agent(self, role: Role, node: str, issued: datetime | None) -> str:
        if role != "agent":
            raise PermissionDenied("a join bundle only enrols; the agent connects with the certificate it gets there")
        _require_standing(self._catalog, node, issued)
        return node


class Enrolment:
    """Makes join bundles, and certificates for those who hold one."""

    def __init__(self, control: Control, authority: Authority, link_address: Callable[[], str]) -> None:
        """Args: `link_address` is where agents dial, host:port, asked for at each bundle."""
        self._control = control
        self._authority = authority
        self._link_address = link_address

    async def create_token(self, node: str, lifetime_s: int) -> tuple[str, datetime]:
        """A join bundle and when it ends. `lifetime_s` 0: 15 minutes.

        Raises:
            InvalidInput: A bad node name or lifetime.
        """
        check_name(node, "node")
        if lifetime_s > MAX_TOKEN_LIFE_S:
            raise InvalidInput(
                f"lifetime_s must be at most {MAX_TOKEN_LIFE_S} (a day), got {lifetime_s}",
                fields={"field": "lifetime_s"},
            )
        life = timedelta(seconds=lifetime_s or DEFAULT_TOKEN_LIFE_S)
        now, secret = self._control.clock.now(), secrets.token_bytes(SECRET_BYTES)
        token = JoinToken(self._control.make_id(), node, hashlib.sha256(secret).digest(), now + life)
        joiner = await in_thread(self._authority.joiner, node, now, life)
        async with self._control.catalog.transaction() as tx:
            await tx.insert(token)
            await self._control.record("node.token_created", "", node=node, token=token.id)
        bundle = {
            "node": node,
            "address": self._link_address(),
            "token": f"{token.id}.{base64.urlsafe_b64encode(secret).rstrip(b'=').decode()}",
            "ca_pem": self._authority.ca_pem.decode(),
            "certificate_pem": joiner.certificate_pem.decode(),
            "key_pem": joiner.key_pem.decode(),
        }
        return base64.urlsafe_b64encode(json.dumps(bundle).encode()).decode(), token.expires_at

    async def enrol(self, role: Role, node: str, token: str, csr_pem: bytes, issued: datetime | None = None) -> bytes:
        """A certificate for `node`, 24 hours; a join token is used up by it, an agent renews without one.

        Args:
            issued: When the certificate was signed that the caller shows now.

        Raises:
            InvalidInput: The signing request is not usable; the token stays.
            PermissionDenied: The token is not known, not of this node, used or expired; or the node was forgotten.
        """
        key = csr_key(csr_pem)
        if role == "join":
            await self._use(token, node)
        else:
            _require_standing(self._control.catalog, node, issued)
        return await in_thread(self._authority.sign_agent, key, node, self._control.clock.now())

    async def _use(self, text: str, node: str) -> None:
        token_id, _, tail = text.partition(".")
        digest = hashlib.sha256(_decode(tail)).digest()
        now, catalog = self._control.clock.now(), self._control.catalog
        async with catalog.transaction() as tx:
            token = catalog.join_token(token_id)
            right = hmac.compare_digest(digest, token.digest if token is not None else bytes(SECRET_BYTES))
            if token is None or not right or token.node != node:
                raise _refused("is not known for this node")
            if token.used_at is not None:
                raise _refused("was used before")
            if now >= token.expires_at:
                raise _refused("has expired")
            await tx.update(replace(token, used_at=now))
            await self._control.record("node.enrolled", "", node=node, token=token.id)


class JoinService(agent_link_pb2_grpc.JoinServicer):
    """partywall.v1.Join, on the link port."""

    def __init__(self, enrolment: Enrolment, ca_pem: bytes) -> None:
        self._enrolment = enrolment
        self._ca_pem = ca_pem

    async def Enrol(self, request: agent_link_pb2.EnrolRequest, context: Any) -> agent_link_pb2.EnrolResponse:  # noqa: N802
        role, node = peer_identity(context)
        if request.node not in ("", node):
            raise PermissionDenied(
                f"the certificate is of node {node!r}, the request names {request.node[:80]!r}; use this node's own "
                "bundle",
                fields={"field": "node"},
            )
        certificate = await self._enrolment.enrol(role, node, request.token, request.csr_pem, peer_issued_at(context))
        return agent_link_pb2.EnrolResponse(certificate_pem=certificate, ca_pem=self._ca_pem)


async def mark_forgotten(tx: CatalogTransaction, catalog: Catalog, node: str, now: datetime) -> None:
    """Stores when a node was removed, so that what was signed for it before counts no longer."""
    mark = catalog.meta(FORGOTTEN + node)
    if mark is None:
        await tx.insert(MetaEntry(FORGOTTEN + node, now.isoformat()))
    else:
        await tx.update(replace(mark, value=now.isoformat()))


def _require_standing(catalog: Catalog, node: str, issued: datetime | None) -> None:
    mark = catalog.meta(FORGOTTEN + node)
    # Certificates tell whole seconds: one of the very second is refused too.
    if mark is not None and (issued is None or issued <= datetime.fromisoformat(mark.value)):
        raise PermissionDenied(
            f"node {node!r} was removed from this installation; join it again with `partywall fleet token {node}`"
        )


def _decode(tail: str) -> bytes:
    try:
        return base64.b64decode(tail + "=" * (-len(tail) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return b""


def _refused(problem: str) -> PermissionDenied:
    return PermissionDenied(
        f"the join token {problem}; make a new one with `partywall fleet token NODE`", fields={"field": "token"}
    )
