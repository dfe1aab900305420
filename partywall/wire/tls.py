"""TLS contexts for connections of the loop's own, from PEM in memory."""

from __future__ import annotations

import os
import ssl


def server_context(certificate_pem: bytes, key_pem: bytes, ca_pem: bytes) -> ssl.SSLContext:
    """For a port that takes clients of our authority only; TLS 1.3."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    # Nobody resumes: each ticket would cost the handshake a message.
    context.num_tickets = 0
    return _filled(context, certificate_pem, key_pem, ca_pem)


def client_context(certificate_pem: bytes, key_pem: bytes, ca_pem: bytes) -> ssl.SSLContext:
    """For dialling such a port; the server's name is checked."""
    return _filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate_pem, key_pem, ca_pem)


def load_identity(context: ssl.SSLContext, certificate_pem: bytes, key_pem: bytes) -> None:
    """Shows another certificate from the next handshake on."""
    # The ssl module reads keys from files only: this one exists in memory and is gone when it is closed.
    fd = os.memfd_create("partywall-identity", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb") as file:
        file.write(certificate_pem + b"\n" + key_pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{fd}")


def _filled(context: ssl.SSLContext, certificate_pem: bytes, key_pem: bytes, ca_pem: bytes) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=ca_pem.decode())
    load_identity(context, certificate_pem, key_pem)
    return context
