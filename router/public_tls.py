"""TLS of the ports that callers and operators reach: a certificate that may be replaced while the router runs.

Whoever renews certificates (an ACME client, a secret mounted into a container) writes new files. They are looked at
every other second; a pair that is whole and belongs together is shown from the next handshake on, and connections that
stand are not touched. Any other leaves the old one in use, with a warning and a metric that says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from partywall.errors import InvalidInput
from router.file_marks import mark_of
from router.servers import Address

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class TlsPair:
    """A chain and its key, checked to belong together."""

    certificate_pem: bytes
    key_pem: bytes
    expires_at: datetime

    @classmethod
    def read(cls, cert: Path, key: Path) -> TlsPair:
        """Both files, each read once: what was checked is what is used.

        Raises:
            InvalidInput: A file is not there or not PEM, or the key is another certificate's; names the option.
        """
        try:
            chain_pem = cert.read_bytes()
            chain = x509.load_pem_x509_certificates(chain_pem)
            certified = _public_bytes(chain[0].public_key())
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise _bad("--tls-cert", cert, error, "a PEM certificate chain") from error
        try:
            key_pem = key.read_bytes()
            own = _public_bytes(serialization.load_pem_private_key(key_pem, password=None).public_key())
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _bad("--tls-key", key, error, "a PEM key without a password") from error
        if own != certified:
            raise InvalidInput(
                f"--tls-key {str(key)!r} is not the key of the first certificate in {str(cert)!r}; give two files that "
                "belong together",
                fields={"field": "--tls-key"},
            )
        return cls(chain_pem, key_pem, chain[0].not_valid_after_utc)


class PublicTls:
    """The pair in use. `look` reads the files anew where they changed; gRPC asks for the pair at each handshake."""

    def __init__(self, cert: Path, key: Path) -> None:
        """
        Raises:
            InvalidInput: The files are not a pair.
        """
        self._cert, self._key = cert, key
        self._seen = self._marks()
        self.pair = TlsPair.read(cert, key)
        self.problem = ""
        """Why the files as they are now are not used; empty: they are."""

    @classmethod
    def of(cls, cert: Path | None, key: Path | None) -> PublicTls | None:
        """None where no TLS is asked for.

        Raises:
            InvalidInput: Only one of the two was given, or they are not a pair.
        """
        if cert is not None and key is not None:
            return cls(cert, key)
        if cert is not None or key is not None:
            raise InvalidInput("give both --tls-cert and --tls-key", fields={"field": "tls"})
        return None

    def credentials(self) -> grpc.ServerCredentials:
        """For one port; every handshake takes the pair that is in use then."""
        shown = self.pair

        def fresh() -> grpc.ServerCertificateConfiguration | None:
            # On a thread of gRPC's own; None: nothing has changed.
            nonlocal shown
            pair = self.pair
            if pair is shown:
                return None
            shown = pair
            return _configuration(pair)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(shown),
            fresh,  # type: ignore[arg-type]  # None, "no change", is missing in the stubs
        )

    def look(self) -> bool:
        """Takes what the files hold now, where they changed or did not do before. Answers whether the pair is new."""
        marks = self._marks()
        if marks == self._seen and not self.problem:
            return False
        self._seen = marks
        try:
            pair = TlsPair.read(self._cert, self._key)
        except InvalidInput as error:
            if error.message != self.problem:
                log.warning("new TLS files are not used; the certificate before stays in use", reason=error.message)
            self.problem = error.message
            return False
        self.problem = ""
        if pair == self.pair:
            return False
        self.pair = pair
        log.info("the TLS certificate was replaced", expires_at=pair.expires_at.isoformat())
        return True

    def _marks(self) -> tuple[tuple[int, ...], ...]:
        """What changes with a file's content, also where a link is turned to another file."""
        return tuple(mark_of(path) for path in (self._cert, self._key))


class TlsCollector(Collector):
    """When the certificate expires, and whether the files could be used when they were last looked at."""

    def __init__(self, tls: PublicTls) -> None:
        self._tls = tls

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "partywall_tls_expiry_timestamp_seconds",
            "When the certificate of the public port expires, seconds since 1970",
            self._tls.pair.expires_at.timestamp(),
        )
        yield GaugeMetricFamily(
            "partywall_tls_files_unusable",
            "1 where --tls-cert and --tls-key changed to what is not a pair, and the old one stays in use",
            float(bool(self._tls.problem)),
        )


def public_credentials(address: Address, tls: PublicTls | None, option: str) -> grpc.ServerCredentials | None:
    """TLS where it is given; plaintext on loopback only.

    Raises:
        InvalidInput: Plaintext on another address.
    """
    if tls is not None:
        return tls.credentials()
    if not address.loopback:
        raise InvalidInput(
            f"{option} {address.text} is not loopback, and API keys must not travel in the clear: "
            "add --tls-cert CERT --tls-key KEY, or listen on 127.0.0.1",
            fields={"field": option},
        )
    return None


def _configuration(pair: TlsPair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key_pem, pair.certificate_pem)])


def _bad(option: str, path: Path, error: Exception, wanted: str) -> InvalidInput:
    why = error.strerror if isinstance(error, OSError) else "it is something else"
    return InvalidInput(f"{option} {str(path)!r} cannot be read ({why}); give {wanted}", fields={"field": option})


def _public_bytes(key: Any) -> bytes:
    der, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    found: bytes = key.public_bytes(der, form)
    return found
