"""Who this agent is: its certificate, how it gets one with a join bundle, and its renewal."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from partywall.errors import InvalidInput, NotReady, PartywallError, Reason
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import agent_link_pb2_grpc
from partywall.wire.pipe import FramePipe
from partywall.wire.status import from_rpc_error
from partywall.wire.tls import client_context

ROUTER_NAME = "partywall-router"
"""The name in every router's certificate, whatever address is dialled."""
ENROL_TIMEOUT_S = 20.0
RENEW_AT = 2 / 3
"""Share of a certificate's life after which it is renewed."""
_FILES = ("agent.pem", "agent.key", "ca.pem")
_NEXT = "identity.next"
"""A whole identity, while its three files are being replaced."""
_SPENT = "joined"
"""SHA-256 of the join bundle that was spent last."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class AgentIdentity:
    """Certificate, key and the authority they come from, all PEM."""

    certificate_pem: bytes
    key_pem: bytes
    ca_pem: bytes

    def parts(self) -> tuple[bytes, bytes, bytes]:
        """In the order of the fields, and of the files."""
        return self.certificate_pem, self.key_pem, self.ca_pem

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.ca_pem, self.key_pem, self.certificate_pem)

    def renew_due(self, now: datetime) -> bool:
        """Whether two thirds of the certificate's life are over."""
        certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return now >= start + (end - start) * RENEW_AT

    def ended(self, now: datetime) -> bool:
        """Whether no router takes the certificate any more."""
        return now >= x509.load_pem_x509_certificate(self.certificate_pem).not_valid_after_utc


def channel(address: str, identity: AgentIdentity, max_message_bytes: int = -1) -> grpc.aio.Channel:
    """A mutually authenticated channel to a router's link port."""
    options = [
        ("grpc.ssl_target_name_override", ROUTER_NAME),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 3_000),
    ]
    return grpc.aio.secure_channel(address, identity.credentials(), options)


async def dial(address: str, identity: AgentIdentity) -> FramePipe:
    """A mutually authenticated connection to a router's port for frames.

    Raises:
        OSError: Nobody is there, or it is not this installation's router (ssl.SSLError).
    """
    host, _, port = address.rpartition(":")
    context = client_context(identity.certificate_pem, identity.key_pem, identity.ca_pem)
    _, pipe = await asyncio.get_running_loop().create_connection(
        FramePipe, host.strip("[]"), int(port), ssl=context, server_hostname=ROUTER_NAME
    )
    return pipe


def load(folder: Path) -> AgentIdentity | None:
    """The identity kept in `folder`, or None when this node has not joined, or its files are damaged.

    Where `save` was cut short, it is finished here.
    """
    kept, pending = _read(folder), _unpacked(folder / _NEXT)
    if pending is not None and (kept is None or _begins(kept) <= _begins(pending)):
        save(folder, pending)
        return pending
    (folder / _NEXT).unlink(missing_ok=True)
    if kept is None and any((folder / name).is_file() for name in _FILES):
        log.warning("certificate or key of this node is damaged; it must join again", folder=str(folder))
    return kept


def save(folder: Path, identity: AgentIdentity) -> None:
    """Keeps an identity. All of it is in one file before the first of the three is replaced, and until the last is: a
    certificate is never left with another's key."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(folder / _NEXT, json.dumps([part.decode() for part in identity.parts()]).encode())
    for name, data in zip(_FILES, identity.parts(), strict=True):
        _write(folder / name, data)
    (folder / _NEXT).unlink()


def _read(folder: Path) -> AgentIdentity | None:
    try:
        return _sound(AgentIdentity(*((folder / name).read_bytes() for name in _FILES)))
    except FileNotFoundError:
        return None


def _unpacked(path: Path) -> AgentIdentity | None:
    try:
        return _sound(AgentIdentity(*(part.encode() for part in json.loads(path.read_bytes()))))
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return None


def _sound(identity: AgentIdentity) -> AgentIdentity | None:
    """The identity, if all parts can be read and the key is the certificate's."""
    try:
        certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
        x509.load_pem_x509_certificate(identity.ca_pem)
        key = serialization.load_pem_private_key(identity.key_pem, password=None)
    except ValueError:
        return None
    return identity if certificate.public_key() == key.public_key() else None


def _begins(identity: AgentIdentity) -> datetime:
    return x509.load_pem_x509_certificate(identity.certificate_pem).not_valid_before_utc


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(path)


async def join(bundle: str, node: str) -> AgentIdentity:
    """Spends a join bundle (`partywall fleet token`) on a certificate for `node`.

    Raises:
        InvalidInput: The text is not a bundle.
        PartywallError: The router refused it (spent, expired, another node's), or could not be reached.
    """
    try:
        fields = json.loads(base64.urlsafe_b64decode(bundle.strip()))
        bootstrap = AgentIdentity(
            fields["certificate_pem"].encode(), fields["key_pem"].encode(), fields["ca_pem"].encode()
        )
        address, token = fields["address"], fields["token"]
    except (binascii.Error, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InvalidInput(
            "the join bundle cannot be read; paste all of what `partywall fleet token NODE` printed",
            fields={"field": "join"},
        ) from error
    return await _enrol(address, bootstrap, node, token)


async def renew(address: str, identity: AgentIdentity, node: str) -> AgentIdentity:
    """A fresh certificate on the strength of the present one."""
    return await _enrol(address, identity, node, "")


async def establish(folder: Path, bundle: str, node: str, now: datetime) -> AgentIdentity:
    """The identity this node goes by: the one it has, or one for a bundle it has not spent yet.

    A bundle stays in a service's environment long after it was spent, so a spent one is passed over. A new one counts
    even where there is a certificate: it may have ended while the node was off, or the node was forgotten.

    Raises:
        NotReady: It has not joined, or its certificate has ended; says how to join.
        PartywallError: The router refused the bundle and there is no certificate to go by.
    """
    identity = load(folder)
    mark = folder / _SPENT
    digest = hashlib.sha256(bundle.strip().encode()).hexdigest()
    if bundle and not (identity is not None and mark.is_file() and mark.read_text() == digest):
        try:
            identity = await join(bundle, node)
        except PartywallError as refused:
            if identity is None or identity.ended(now):
                raise
            log.warning("join bundle not taken; going by the certificate that is here", reason=refused.message)
        else:
            save(folder, identity)
            _write(mark, digest.encode())
    if identity is None or identity.ended(now):
        what = "has no certificate" if identity is None else "has a certificate that has ended"
        raise NotReady(
            f"this node {what} in {folder}: give it a new join bundle "
            "(on the router: partywall fleet token NODE; here: partywall agent --join BUNDLE)",
            reason=Reason.NO_CREDENTIAL,
        )
    return identity


async def _enrol(address: str, identity: AgentIdentity, node: str, token: str) -> AgentIdentity:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    request = link.EnrolRequest(node=node, token=token, csr_pem=csr.public_bytes(serialization.Encoding.PEM))
    try:
        async with channel(address, identity) as connection:
            answer = await agent_link_pb2_grpc.JoinStub(connection).Enrol(request, timeout=ENROL_TIMEOUT_S)
    except grpc.RpcError as failure:
        raise from_rpc_error(failure) from failure
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return AgentIdentity(answer.certificate_pem, key_pem, answer.ca_pem)
