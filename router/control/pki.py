"""The installation's own certificate authority: ECDSA P-256, names decided here and never by a request.

An agent is `spiffe://partywall/agent/NODE`, the holder of a join bundle `spiffe://partywall/join/NODE`. The router's
certificate carries, beside its addresses, the fixed name `ROUTER_NAME`, which agents expect whatever they dial.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from partywall.domain.names import check_name
from partywall.errors import InvalidInput

TRUST_DOMAIN = "spiffe://partywall"
ROUTER_NAME = "partywall-router"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
CA_LIFE = timedelta(days=3650)
ROUTER_LIFE = timedelta(days=397)
AGENT_LIFE = timedelta(hours=24)
# Clocks of two machines differ.
BACKDATE = timedelta(minutes=5)
MAX_CSR_BYTES = 16_384


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """A certificate and its key, both PEM."""

    certificate_pem: bytes
    key_pem: bytes


def agent_uri(node: str) -> str:
    """Who an agent is."""
    return f"{TRUST_DOMAIN}/agent/{node}"


def join_uri(node: str) -> str:
    """Who the holder of a join bundle is, until it has enrolled."""
    return f"{TRUST_DOMAIN}/join/{node}"


class Authority:
    """Signs the router's, the agents' and the joiners' certificates."""

    def __init__(self, identity: Identity) -> None:
        """Args: the CA's own certificate and key, as `create` made them."""
        self._certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
        key = serialization.load_pem_private_key(identity.key_pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidInput("ca/ca.key does not hold an elliptic-curve key; restore it or run init anew")
        self._key = key
        self.identity = identity

    @classmethod
    def create(cls, now: datetime) -> Authority:
        """A new authority, valid for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Partywall CA")])
        usage = _key_usage(signs_certificates=True)
        certificate = (
            _builder(name, name, key.public_key(), now, CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(Identity(_pem(certificate), _key_pem(key)))

    @property
    def ca_pem(self) -> bytes:
        """What the other side needs to trust this authority."""
        return self.identity.certificate_pem

    def router(self, hosts: Iterable[str], now: datetime) -> Identity:
        """A server certificate for the loopback names, `hosts` and the fixed name."""
        names = [_host_name(host) for host in dict.fromkeys((*LOOPBACK_HOSTS, *hosts))]
        return self._new(
            "router", [x509.DNSName(ROUTER_NAME), *names], ExtendedKeyUsageOID.SERVER_AUTH, ROUTER_LIFE, now
        )

    def agent(self, node: str, now: datetime, life: timedelta = AGENT_LIFE) -> Identity:
        """An agent's certificate with a key made here: for the node that shares the router's machine."""
        return self._new(node, [_uri(agent_uri(node))], ExtendedKeyUsageOID.CLIENT_AUTH, life, now)

    def joiner(self, node: str, now: datetime, life: timedelta) -> Identity:
        """What a join bundle carries."""
        return self._new(node, [_uri(join_uri(node))], ExtendedKeyUsageOID.CLIENT_AUTH, life, now)

    def sign_agent(self, key: ec.EllipticCurvePublicKey, node: str, now: datetime) -> bytes:
        """An agent's certificate for a key that was made there, PEM. Only the key comes from the request."""
        names = [_uri(agent_uri(node))]
        return _pem(self._sign(key, node, names, ExtendedKeyUsageOID.CLIENT_AUTH, AGENT_LIFE, now))

    def _new(
        self,
        subject: str,
        names: Sequence[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
        life: timedelta,
        now: datetime,
    ) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(key.public_key(), subject, names, purpose, life, now)
        return Identity(_pem(certificate), _key_pem(key))

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        subject: str,
        names: Sequence[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
        life: timedelta,
        now: datetime,
    ) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        return (
            _builder(name, self._certificate.subject, key, now, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def csr_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request whose signature proves that the caller holds the private one.

    Raises:
        InvalidInput: Not a PEM request, a wrong signature, or not P-256.
    """
    try:
        if len(csr_pem) > MAX_CSR_BYTES:
            raise ValueError(f"longer than {MAX_CSR_BYTES} bytes")
        request = x509.load_pem_x509_csr(csr_pem)
        proven = request.is_signature_valid
        key = request.public_key()
    except (ValueError, InvalidSignature) as failure:
        raise _bad_csr(str(failure)) from failure
    if not proven:
        raise _bad_csr("its signature does not match its key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad_csr("its key is not ECDSA P-256")
    return key


def make_csr(node: str) -> tuple[bytes, bytes]:
    """A fresh key and the request for its certificate: (key PEM, CSR PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return _key_pem(key), request.public_bytes(serialization.Encoding.PEM)


def time_left(certificate_pem: bytes, now: datetime) -> timedelta:
    """How long a certificate is still valid; negative once it has expired."""
    return x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc - now


def check_pem(identity: Identity) -> None:
    """Raises ValueError where certificate or key is not PEM."""
    x509.load_pem_x509_certificate(identity.certificate_pem)
    serialization.load_pem_private_key(identity.key_pem, password=None)


def uri_names(certificate_pem: bytes) -> list[str]:
    """The URIs that a certificate names its holder by."""
    extensions = x509.load_pem_x509_certificate(certificate_pem).extensions
    try:
        alternatives = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return alternatives.get_values_for_type(x509.UniformResourceIdentifier)


def issued_at(certificate_pem: bytes) -> datetime:
    """When a certificate of ours was signed, in whole seconds."""
    return x509.load_pem_x509_certificate(certificate_pem).not_valid_before_utc + BACKDATE


def _bad_csr(problem: str) -> InvalidInput:
    return InvalidInput(
        f"csr_pem is not a usable signing request ({problem}); send a PEM request signed by an ECDSA P-256 key",
        fields={"field": "csr_pem"},
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + life)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(check_name(host.lower(), "host"))


def _uri(value: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(value)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
