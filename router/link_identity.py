"""The link ports' certificate while a router runs: a long life sees it renewed, and no connection notices."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import grpc
import structlog

from partywall.clock import Clock
from partywall.errors import PartywallError
from partywall.wire.tls import load_identity, server_context
from router.control.pki import Identity

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 3600.0


class LinkIdentity:
    """Credentials of the link port and of the port for frames, from one certificate.

    At a handshake, once an hour at the most, `current` is asked for the certificate as it is now.
    """

    def __init__(self, first: Identity, current: Callable[[], Identity], ca_pem: bytes, clock: Clock) -> None:
        self._identity = first
        self._current = current
        self._ca_pem = ca_pem
        self._clock = clock
        self._looked_s = clock.monotonic()
        self.context: ssl.SSLContext = server_context(first.certificate_pem, first.key_pem, ca_pem)
        """For the port for frames; an agent comes there after a handshake with the link port."""

    def credentials(self) -> grpc.ServerCredentials:
        """For the link port; agents must show a certificate of ours."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._identity, self._ca_pem),
            self._fresh,  # type: ignore[arg-type]  # None, "no change", is missing in the stubs
            require_client_authentication=True,
        )

    def _fresh(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks, on a thread of its own, at each handshake; None: nothing has changed."""
        now_s = self._clock.monotonic()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return None
        self._looked_s = now_s
        try:
            identity = self._current()
        except (PartywallError, OSError) as error:
            log.warning("the link's certificate was not renewed; trying again", reason=str(error))
            return None
        if identity == self._identity:
            return None
        self._identity = identity
        load_identity(self.context, identity.certificate_pem, identity.key_pem)
        log.info("the link's certificate was renewed")
        return _configuration(identity, self._ca_pem)


def _configuration(identity: Identity, ca_pem: bytes) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(identity.key_pem, identity.certificate_pem)], ca_pem)
