"""TLS, health, reflection, metrics: the ports as an operator sees them."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from e2e_instance import Instance, eventually
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import partywall

pytestmark = pytest.mark.e2e

OIP = "inference.GRPCInferenceService"


def self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    no_password = serialization.NoEncryption()
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password))
    return cert_path, key_path


@pytest.fixture(scope="module", params=["core", "aio"])
def secure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Instance, Path]]:
    """Over each of the servers that the public port may have."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = self_signed(folder)
    options = ("--front", request.param, "--reflection", "--drain-s", "2")
    made = Instance(folder, ("--tls-cert", str(cert), "--tls-key", str(key), *options))
    try:
        yield made.start(), cert
    finally:
        made.stop()


def channel(instance: Instance, cert: Path, port: str = "address") -> grpc.Channel:
    return grpc.secure_channel(instance.ready[port], grpc.ssl_channel_credentials(cert.read_bytes()))


def services(on: grpc.Channel) -> set[str]:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(reflection_pb2_grpc.ServerReflectionStub(on).ServerReflectionInfo(iter([request]), timeout=20))
    return {s.name for s in answer.list_services_response.service}


def test_tls_all_the_way(secure: tuple[Instance, Path], identity_folder: Path) -> None:
    instance, cert = secure
    tls = ("--tls-ca", str(cert))
    instance.run("tenants", "create", "acme", *tls)
    key = instance.json("keys", "issue", "acme", *tls)["key"]
    instance.push(key, "echo", identity_folder, "--engine", "identity", *tls)
    with partywall.Client(instance.address, api_key=key, tls_ca=cert) as c:
        x = np.arange(6, dtype=np.int64).reshape(2, 3)
        np.testing.assert_array_equal(c.infer("echo", {"x": x})["x"], x)
    with partywall.Client(instance.address, api_key=key) as plain, pytest.raises(partywall.errors.Unavailable):
        plain.infer("echo", {"x": x}, deadline_s=2.0)


def test_health_is_open_and_true(secure: tuple[Instance, Path]) -> None:
    instance, cert = secure
    for port in ("address", "admin_address"):
        with channel(instance, cert, port) as c:
            stub = health_pb2_grpc.HealthStub(c)
            for service in ("", OIP, "partywall.tls"):
                answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_renewed_certificate_needs_no_restart(secure: tuple[Instance, Path]) -> None:
    instance, cert = secure
    health = health_pb2.HealthCheckRequest(service="partywall.tls")
    with channel(instance, cert) as old:
        standing = health_pb2_grpc.HealthStub(old)
        standing.Check(health, timeout=20)
        self_signed(cert.parent)

        def shown() -> bool:
            with channel(instance, cert) as new, contextlib.suppress(grpc.RpcError):
                health_pb2_grpc.HealthStub(new).Check(health, timeout=20)
                return True
            return False

        assert eventually(shown)
        assert standing.Check(health, timeout=20).status == health_pb2.HealthCheckResponse.SERVING


def test_reflection(secure: tuple[Instance, Path], instance: Instance) -> None:
    opened, cert = secure
    with channel(opened, cert) as c:
        assert services(c) >= {OIP, "partywall.v1.Models"}
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=OIP)
        stub = reflection_pb2_grpc.ServerReflectionStub(c)
        answer = next(stub.ServerReflectionInfo(iter([request]), timeout=20))
        assert answer.file_descriptor_response.file_descriptor_proto
    with channel(opened, cert, "admin_address") as c:
        assert services(c) >= {"partywall.v1.Tenants", "partywall.v1.Fleet", "partywall.v1.Models"}
    with grpc.insecure_channel(instance.address) as c, pytest.raises(grpc.RpcError) as closed:
        services(c)
    assert closed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_admin_port_wants_its_own_key(secure: tuple[Instance, Path]) -> None:
    instance, cert = secure
    from partywall.v1 import tenants_pb2, tenants_pb2_grpc

    metadata = (("authorization", "Bearer pw_aaaaaaaa_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),)
    with channel(instance, cert, "admin_address") as c:
        stub = tenants_pb2_grpc.TenantsStub(c)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ListTenants(tenants_pb2.ListTenantsRequest(), metadata=metadata, timeout=20)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_metrics(secure: tuple[Instance, Path], identity_folder: Path) -> None:
    instance, cert = secure

    def scrape() -> str:
        with urllib.request.urlopen(f"http://{instance.ready['metrics_address']}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    tls = ("--tls-ca", str(cert))
    instance.run("tenants", "create", "meter", *tls)
    key = instance.json("keys", "issue", "meter", *tls)["key"]
    instance.push(key, "echo", identity_folder, "--engine", "identity", *tls)
    with partywall.Client(instance.address, api_key=key, tls_ca=cert) as c:
        for _ in range(3):
            c.infer("echo", {"x": np.zeros((1, 1), np.float32)})
        with pytest.raises(partywall.errors.NotFound):
            c.infer("absent", {"x": np.zeros((1, 1), np.float32)})
    text = eventually(lambda: (t := scrape()) and 'model="echo",outcome="OK",tenant="meter"' in t and t)
    assert 'partywall_requests_total{model="echo",outcome="OK",tenant="meter"} 3.0' in text
    assert 'partywall_requests_total{model="",outcome="MODEL_NOT_FOUND",tenant="meter"} 1.0' in text
    assert "partywall_agents 1.0" in text
    assert 'partywall_request_seconds_count{model="echo",tenant="meter"} 3.0' in text
    assert "absent" not in text
