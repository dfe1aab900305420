"""One instance on this machine: how router and agent are started, joined and asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partywall.cli.local.child import Launch
from partywall.cli.local.supervisor import Addresses
from partywall.cli.session import Connection
from partywall.cli.settings import local_address, read_secret
from partywall.client.endpoint import open_endpoint
from partywall.client.flow import FLEET
from partywall.errors import PartywallError
from partywall.v1 import fleet_pb2

_TOKEN_LIFETIME_S = 900
_PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class LocalInstance:
    """One instance on this machine: how its parts are started and asked."""

    data_dir: Path
    node: str
    listens: Mapping[str, str]
    router_options: tuple[str, ...]
    agent_options: tuple[str, ...]
    tls_cert: Path | None = None

    def router(self, addresses: Addresses | None) -> Launch:
        listens = self.listens if addresses is None else addresses
        argv = [*_partywall("router", self.data_dir), *self.router_options]
        for option, key in (("--listen", "public"), ("--admin-listen", "admin"), ("--link-listen", "link")):
            argv += [option, listens[key]]
        return Launch([*argv, "--metrics-listen", listens["metrics"]], {})

    def agent(self, addresses: Addresses) -> Launch:
        home = self.data_dir / "node"
        argv = [*_partywall("agent", home), "--node", self.node, "--router", local_address(addresses["link"])]
        argv += ["--blob-dir", str(self.data_dir / "blobs"), *self.agent_options]
        # The token is a secret: other users see command lines, not environments.
        # `init` makes a certificate for the node's usual name only.
        joined = _is_of_node(home / "agent.pem", self.node)
        return Launch(argv, {} if joined else {"PARTYWALL_AGENT_JOIN": self._join_bundle(addresses)})

    def agent_online(self, addresses: Addresses) -> bool:
        try:
            with self._operator(addresses) as connection:
                fleet = connection.call(FLEET["GetFleet"], fleet_pb2.GetFleetRequest(), idempotent=True)
        except PartywallError:
            return False
        return any(n.name == self.node and n.state == fleet_pb2.NODE_STATE_ONLINE for n in fleet.nodes)

    def _join_bundle(self, addresses: Addresses) -> str:
        request = fleet_pb2.CreateJoinTokenRequest(node=self.node, lifetime_s=_TOKEN_LIFETIME_S)
        with self._operator(addresses) as connection:
            bundle: str = connection.call(FLEET["CreateJoinToken"], request).bundle
            return bundle

    @contextmanager
    def _operator(self, addresses: Addresses) -> Iterator[Connection]:
        endpoint = open_endpoint(
            local_address(addresses["admin"]),
            credential=read_secret(self.data_dir / "admin.key", "admin_key_file"),
            tls_ca=self.tls_cert,
            server_name=_certificate_name(self.tls_cert) if self.tls_cert is not None else None,
        )
        connection = Connection(endpoint, _PROBE_TIMEOUT_S)
        try:
            yield connection
        finally:
            connection.close()


def _partywall(verb: str, data_dir: Path) -> list[str]:
    base = [sys.executable, "-m", "partywall.cli.main", verb]
    return [*base, "--data-dir", str(data_dir), "--parent-pid", str(os.getpid())]


def _certificate_name(path: Path) -> str | None:
    """A DNS name out of the certificate, which the loopback address of the probe would not match."""
    from cryptography import x509

    return next(iter(_names(path, x509.DNSName)), None)


def _is_of_node(path: Path, node: str) -> bool:
    from cryptography import x509

    return any(name.endswith(f"/agent/{node}") for name in _names(path, x509.UniformResourceIdentifier))


def _names(path: Path, kind: type[Any]) -> list[str]:
    """The certificate's other names of one kind; none where there is no certificate."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    return [str(name) for name in names.get_values_for_type(kind)]
